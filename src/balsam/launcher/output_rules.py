"""Monitors at work on one file: lines out of its bytes, and which rules they meet. Pure; the reader does the reading.

A line is what a newline or a carriage return ends, or so many characters of it: a progress bar has lines, too. Called
by `output_reader.py` alone, which also sees to it that no pattern takes too long.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from balsam.domain.monitors import Monitor

LONGEST_LINE = 8192
SHOWN_CHARACTERS = 200
# Between what stands between numbers, so that neither `info` nor `nano` is one. `1.#IND` and `1.#QNAN` are Windows'.
_NOT_FINITE = re.compile(
    r"(?:^|[\s,;:=()\[\]{}|])[-+]?(?:nan|inf|infinity|1\.#(?:ind|qnan|snan|inf))(?:$|[\s,;:=()\[\]{}|])", re.IGNORECASE
)


class Met(NamedTuple):
    """A rule was met: words for people, and where."""

    monitor: str
    message: str
    data: dict[str, Any]


class Lines:
    """Lines of what is fed in pieces, each with the number of newlines before it and one; empty ones are left out."""

    def __init__(self) -> None:
        self._begun = b""
        self._number = 1

    def feed(self, data: bytes) -> list[tuple[int, str]]:
        """(number, text) of the lines that are complete by now."""
        found: list[tuple[int, str]] = []
        *ended, self._begun = (self._begun + data).split(b"\n")
        for line in ended:
            self._take(line, found)
            self._number += 1
        written_over, returned, rest = self._begun.rpartition(b"\r")
        if returned:
            self._take(written_over, found)
        whole = len(rest) - len(rest) % LONGEST_LINE
        self._take(rest[:whole], found)
        self._begun = rest[whole:]
        return found

    def rest(self) -> list[tuple[int, str]]:
        """The line that nothing ended."""
        found: list[tuple[int, str]] = []
        self._take(self._begun, found)
        self._begun = b""
        return found

    def _take(self, line: bytes, found: list[tuple[int, str]]) -> None:
        for part in line.split(b"\r"):
            pieces = (part[start : start + LONGEST_LINE] for start in range(0, len(part), LONGEST_LINE))
            found.extend((self._number, piece.decode(errors="replace")) for piece in pieces)


@dataclass(slots=True)
class Rule:
    """One monitor at work. `silent_sec`: since the file grew, or had a line with the pattern."""

    name: str
    monitor: Monitor
    search: Callable[[str], object] | None
    silent_sec: float = 0.0

    @classmethod
    def of(cls, name: str, monitor: Monitor) -> "Rule":
        """Raises re.error."""
        pattern = _NOT_FINITE if monitor.not_finite else monitor.pattern
        return cls(name, monitor, None if pattern is None else re.compile(pattern).search)

    def read(self, lines: Sequence[tuple[int, str]], from_start: bool) -> Met | None:
        """Judge lines. `from_start`: their numbers are those of the file."""
        if self.search is None:
            return None
        for number, text in lines:
            if self.search(text):
                if self.monitor.stalled_sec is None:
                    return self._met(number if from_start else None, text)
                self.silent_sec = 0.0
        return None

    def wait(self, passed_sec: float, has_changed: bool) -> Met | None:
        """Time passed, in which the file changed or did not. To be called after `read` of all that is new in it."""
        limit = self.monitor.stalled_sec
        if limit is None:
            return None
        if has_changed and self.search is None:
            self.silent_sec = 0.0
            return None
        self.silent_sec += passed_sec
        return self._stalled(limit) if self.silent_sec >= limit else None

    def _met(self, number: int | None, text: str) -> Met:
        where = f"{self.monitor.file}, line {number}" if number is not None else self.monitor.file
        what = "a number that is none" if self.monitor.not_finite else f"{self.monitor.pattern!r}"
        shown = text[:SHOWN_CHARACTERS].replace("\0", "\ufffd")
        data: dict[str, Any] = {"file": self.monitor.file, "text": shown}
        if number is not None:
            data["line"] = number
        return Met(self.name, f"monitor {self.name}: {where} has {what}: {shown}", data)

    def _stalled(self, limit: int) -> Met:
        file = self.monitor.file
        what = f"{file} has not changed" if self.search is None else f"{file} had no line with {self.monitor.pattern!r}"
        return Met(self.name, f"monitor {self.name}: {what} for {limit} s", {"file": file, "stalled_sec": limit})


def rules_by_file(monitors: Mapping[str, Monitor]) -> dict[str, dict[str, Monitor]]:
    """Each file is read once, whatever the number of rules on it."""
    found: dict[str, dict[str, Monitor]] = {}
    for name, monitor in monitors.items():
        found.setdefault(monitor.file, {})[name] = monitor
    return found
