"""`balsam job create --each`: which Jobs a series has, without a service."""

from __future__ import annotations

from typing import Any

import click
import pytest

from balsam.cli.job_series import jobs_of, parse_each


def each(*given: str) -> dict[str, list[str]]:
    return parse_each(click.Context(click.Command("x")), click.Option(["--each"]), given)


def test_values_are_ranges_and_words() -> None:
    assert each("seed=1-3,7,x", "kind=a-b,8-5,") == {"seed": ["1", "2", "3", "7", "x"], "kind": ["a-b", "8-5", ""]}
    assert each("n=08-11") == {"n": ["08", "09", "10", "11"]}
    assert each("text=a=b") == {"text": ["a=b"]}
    assert each() == {}


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (("seed",), "'seed' is not PARAM=VALUES"),
        (("seed=",), "is not PARAM=VALUES"),
        (("=1-3",), "is not PARAM=VALUES"),
        (("seed=1", "seed=2"), "seed is there twice"),
        (("seed=1-100001",), "these are 100001 Jobs; one command creates at most 100000"),
        (("a=1-1000", "b=1-1000"), "these are 1000000 Jobs"),
        (("a=1-999999999999999999",), "these are 999999999999999999 Jobs"),
    ],
)
def test_what_is_no_series_is_refused(given: tuple[str, ...], why: str) -> None:
    with pytest.raises(click.BadParameter, match=why):
        each(*given)


def test_every_combination_has_its_own_workdir_tags_and_files() -> None:
    fields: dict[str, Any] = {
        "workdir": "scan/{kind}/{seed}/{other}",
        "parameters": {"steps": "10"},
        "tags": {"kind": "{kind}", "plain": "x"},
        "transfers": {"result": "client:/home/me/{kind}-{seed}.dat"},
        "num_nodes": 2,
    }
    made = list(jobs_of(each("kind=a,b", "seed=1-2"), fields))
    assert [one["workdir"] for one in made] == [f"scan/{kind}/{seed}/{{other}}" for kind in "ab" for seed in (1, 2)]
    assert made[2] == {
        "workdir": "scan/b/1/{other}",
        "parameters": {"steps": "10", "kind": "b", "seed": "1"},
        "tags": {"kind": "b", "plain": "x"},
        "transfers": {"result": "client:/home/me/b-1.dat"},
        "num_nodes": 2,
    }
    assert fields["tags"] == {"kind": "{kind}", "plain": "x"}


def test_a_workdir_that_several_would_share_is_refused() -> None:
    fields = {"workdir": "scan/{seed}", "parameters": {}}
    with pytest.raises(click.BadParameter, match=r"put \{kind\} into it, as in scan/\{seed\}/\{kind\}"):
        list(jobs_of(each("seed=1-2", "kind=a,b"), fields))
    assert [one["workdir"] for one in jobs_of(each("seed=1-2", "kind=a"), fields)] == ["scan/1", "scan/2"]
