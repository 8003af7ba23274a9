"""The table of faults and attacks (tests/table.txt): how each row went, with the figures that its tests told.

`tests/conftest.py` prints it at the end of a run of all tests. A test tells a figure with the fixture `figure`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

TABLE = Path(__file__).parents[1] / "table.txt"
FIGURE = "figure"  # the name of the property in a test's report


@dataclass(frozen=True)
class Row:
    """One fault or attack, and which tests are about it: (file, pattern of the rest of their ids)."""

    name: str
    what: str
    tests: tuple[tuple[str, str], ...]

    def has(self, node_id: str) -> bool:
        path, _, rest = node_id.partition("::")
        return any(path == wanted and fnmatchcase(rest, pattern) for wanted, pattern in self.tests)


def rows(file: Path = TABLE) -> list[Row]:
    """The rows of the file. Raises UsageError for a line that is none."""
    found = []
    for number, line in enumerate(file.read_text().splitlines(), start=1):
        if not line or line.startswith("#"):
            continue
        parts = [part.strip() for part in line.split("|")]
        if len(parts) != 3 or not all(parts):
            raise pytest.UsageError(f"{file.name}:{number}: a row is NAME | WHAT | PATH::PATTERN ...")
        # A test with parameters has them behind its name, one of a class its class before it.
        pairs = [test.partition("::")[::2] for test in parts[2].split()]
        tests = tuple((path, f"*{pattern.strip('*')}*" if pattern else "*") for path, pattern in pairs)
        found.append(Row(parts[0], parts[1], tests))
    return found


def told(reports: Iterable[pytest.TestReport], table: Sequence[Row]) -> list[str]:
    """The lines to print: a row's tests by outcome, and its figures below."""
    ran = {report.nodeid: report for report in reports if report.when == "call" or report.outcome != "passed"}
    lines = []
    for row in table:
        own = [report for node_id, report in sorted(ran.items()) if row.has(node_id)]
        outcomes = Counter(report.outcome for report in own)
        counts = ", ".join(f"{number} {outcome}" for outcome, number in sorted(outcomes.items()))
        lines.append(f"{row.name:4}{row.what}: {counts or 'NO TEST RAN'}")
        figures = [text for report in own for name, text in report.user_properties if name == FIGURE]
        lines += [f"      {figure}" for figure in dict.fromkeys(map(str, figures))]
    return lines


def not_shown(passed: Iterable[str], table: Sequence[Row]) -> list[str]:
    """A line for each row of which no test passed, given the ids of those that did."""
    ids = list(passed)
    missing = [row for row in table if not any(row.has(node_id) for node_id in ids)]
    return [f"tests/table.txt: no test of row {row.name} passed: {row.what}" for row in missing]
