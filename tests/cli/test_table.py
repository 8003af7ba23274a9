"""Tables, JSON and text as people and programs get them."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balsam.cli import table
from balsam.cli.output import json_wanted, plain, print_json
from balsam.cli.table import NARROWEST, fit, table_text
from tests.cli.commands import Terminal

COLUMNS = ("ID", "App", "State", "Tags", "Changed")
WHEN = datetime(2026, 11, 26, 5, 40, 22, 8512, tzinfo=UTC)
ROWS = [
    (7, "Say", "JOB_FINISHED", {"kind": "x", "n": 3}, WHEN),
    (12345, "Hello\x1b[31m\nworld", "FAILED", "", None),
]
PIPED = """\
ID     App               State         Tags        Changed
7      Say               JOB_FINISHED  kind=x n=3  2026-11-26T05:40:22Z
12345  Hello\N{REPLACEMENT CHARACTER}[31m world  FAILED                    -"""


def on_terminal(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setattr("sys.stdout", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(table.shutil, "get_terminal_size", lambda: os.terminal_size((columns, 24)))


def test_piped_it_is_whole_plain_and_the_same_every_time() -> None:
    assert table_text(COLUMNS, ROWS) == PIPED
    assert table_text(COLUMNS, ROWS) == PIPED


def test_piped_a_wide_cell_is_not_cut() -> None:
    assert "x" * 1000 in table_text(("A",), [("x" * 1000,)])


def test_no_rows_are_no_table() -> None:
    assert table_text(COLUMNS, []) == ""


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_on_a_terminal_it_is_cut_to_the_width(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    on_terminal(monkeypatch, columns)
    rows = [(1, "A" * 50, "FAILED", "B" * 300, WHEN), (2, "漢字" * 40, "RUNNING", "c", WHEN)]
    lines = [click.unstyle(line) for line in table_text(COLUMNS, rows).split("\n")]
    assert all(table_width(line) <= columns for line in lines)
    assert "…" in lines[1] and "FAILED" in lines[1]


def table_width(line: str) -> int:
    from rich.cells import cell_len

    return cell_len(line)


def test_on_a_terminal_times_are_ages(monkeypatch: pytest.MonkeyPatch) -> None:
    on_terminal(monkeypatch, 80)
    shown = table_text(("Changed",), [(datetime.now(UTC) - timedelta(hours=3),)])
    assert click.unstyle(shown).split() == ["Changed", "3", "h"]


def test_colours_stand_for_states_and_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    on_terminal(monkeypatch, 80)
    rows = [("FAILED",), ("no state",)]
    assert table_text(("State",), rows).split("\n") == ["\x1b[1mState\x1b[0m", "\x1b[31mFAILED\x1b[0m", "no state"]
    for name, value in (("NO_COLOR", "1"), ("TERM", "dumb")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            assert "\x1b" not in table_text(("State",), rows)


@given(st.lists(st.integers(0, 500), min_size=1, max_size=12), st.integers(20, 300))
def test_fit_keeps_narrow_columns_and_fills_the_room(widths: list[int], room: int) -> None:
    fitted = fit(widths, room)
    assert all(new <= old for new, old in zip(fitted, widths, strict=True))
    assert all(new == old for new, old in zip(fitted, widths, strict=True) if old <= NARROWEST)
    if sum(widths) <= room:
        assert fitted == widths
    assert sum(fitted) <= room or max(fitted) <= NARROWEST


@given(st.text())
def test_no_control_character_survives(text: str) -> None:
    assert all(char in "\n\t" or char.isprintable() for char in plain(text))


@given(st.text())
def test_json_carries_any_text_and_no_terminal_obeys_it(text: str) -> None:
    shown = printed({"text": text})
    assert json.loads(shown) == {"text": text}
    assert all(char == "\n" or char.isprintable() for char in shown)


def printed(value: object) -> str:
    out = Terminal()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", out)
        print_json(value)
    return out.getvalue()


def test_json_is_asked_for_before_a_double_dash_only() -> None:
    assert json_wanted(["balsam", "job", "ls", "--json"])
    assert not json_wanted(["balsam", "job", "ls", "--", "--json"])
