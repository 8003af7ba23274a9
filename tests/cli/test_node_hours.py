"""Budgets of Sites in words, whatever an agent, which may be somebody else's, tells of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from balsam.cli.node_hours import node_hours
from balsam.cli.watch import View

BUDGET = {"used": 1.5, "promised": 2, "max_node_hours": 9}


def said(scaling: Any) -> list[str]:
    return list(node_hours(SimpleNamespace(name="polaris", scaling=scaling)))  # type: ignore[arg-type]


def test_each_budget_is_one_sentence() -> None:
    assert said({"node_hours": {"site": BUDGET, "climate": BUDGET}}) == [
        "node-hours of Site polaris: 1.5 used, 2 promised, of 9",
        "node-hours of climate at Site polaris: 1.5 used, 2 promised, of 9",
    ]


@pytest.mark.parametrize("told", [[], "many", {"site": 5}, {"site": {"used": 1}}, {"site": {**BUDGET, "used": "1"}}])
def test_what_is_no_budget_is_passed_over(told: Any) -> None:
    assert said({"node_hours": told}) == []


def test_what_is_said_below_a_list_draws_nothing_on_the_terminal() -> None:
    (sentence,) = said({"node_hours": {"\x1b[2J\u202egnp": BUDGET}})
    assert "\x1b" in sentence
    assert View("", sentence).note.isprintable()
