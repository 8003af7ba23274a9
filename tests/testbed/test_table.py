"""The table of faults and attacks names tests that are there, and says of each row how they went."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from tests.testbed.table import FIGURE, Row, not_shown, rows, told

ROOT = Path(__file__).parents[2]
CONFORMANCE = ROOT / "src" / "balsam" / "testing"


def names_in(path: Path) -> set[str]:
    """Of the tests of a file, and of the suites that its classes inherit."""
    text = path.read_text()
    if "Conformance" in text:
        text += "".join(suite.read_text() for suite in CONFORMANCE.glob("*conformance*.py"))
    return {
        found[1] for found in re.finditer(r"^(?: *(?:async )?def )?((?:test_|Test)\w+)(?:\(| =)", text, re.MULTILINE)
    }


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.name)
def test_what_a_row_names_is_there(row: Row) -> None:
    for path, pattern in row.tests:
        assert any(fnmatchcase(name, pattern) for name in names_in(ROOT / path)), f"{path} has no {pattern}"


def report(name: str, outcome: str, *figures: str, when: str = "call") -> pytest.TestReport:
    properties = [(FIGURE, figure) for figure in figures]
    return pytest.TestReport(
        f"tests/a/test_b.py::{name}",
        ("tests/a/test_b.py", 1, name),
        {},
        outcome,  # type: ignore[arg-type]
        None,
        when,  # type: ignore[arg-type]
        user_properties=properties,
    )


def test_a_row_tells_how_its_tests_went_and_their_figures_once(tmp_path: Path) -> None:
    file = tmp_path / "table.txt"
    file.write_text(
        "# a remark\n\nF1 | all | tests/a/test_b.py\nF2 | one | tests/a/test_b.py::test_y*\nF3 | no | x.py\n"
    )
    ran = [
        report("test_x[1]", "passed", "3 kills"),
        report("test_x[1]", "passed", "3 kills", when="teardown"),
        report("test_x[2]", "passed", "3 kills", "5 s"),
        report("test_y", "failed", when="setup"),
    ]
    assert told(ran, rows(file)) == [
        "F1  all: 1 failed, 2 passed",
        "      3 kills",
        "      5 s",
        "F2  one: 1 failed",
        "F3  no: NO TEST RAN",
    ]


def test_a_row_of_which_nothing_passed_is_named(tmp_path: Path) -> None:
    file = tmp_path / "table.txt"
    file.write_text("F1 | all | tests/a/test_b.py\nF2 | one | tests/a/test_b.py::test_y*\nF3 | no | x.py\n")
    assert not_shown(["tests/a/test_b.py::test_y[1]"], rows(file)) == ["tests/table.txt: no test of row F3 passed: no"]
    assert not_shown(["tests/a/test_b.py::test_x", "x.py::test_y"], rows(file)) == [
        "tests/table.txt: no test of row F2 passed: one"
    ]


def test_a_line_that_is_no_row_is_named(tmp_path: Path) -> None:
    file = tmp_path / "table.txt"
    file.write_text("F1 | all\n")
    with pytest.raises(pytest.UsageError, match=r"table\.txt:1: a row is NAME"):
        rows(file)
