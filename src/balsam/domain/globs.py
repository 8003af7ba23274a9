"""Patterns of file names below a directory, as Apps give them in `cleanup_files`.

`*`, `?` and `[abc]` match within one name, hidden ones too; `**` stands for any number of directories. Only the text is
looked at; the Site walks the workdir with it. The service checks patterns when an App is synced.
"""

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass

MAX_PATTERN_LENGTH = 256
_ANY_DEPTH = "**"


class BadPattern(ValueError):
    """A pattern that could leave its directory, or names nothing; the text says why."""


@dataclass(frozen=True, slots=True)
class Glob:
    """A pattern, one part for each directory level.

    >>> glob = Glob.parse("run*/**/*.tmp")
    >>> [glob.matches(path.split("/")) for path in ("run1/a.tmp", "run1/x/y/a.tmp", "a.tmp", "run1/a.out")]
    [True, True, False, False]
    >>> glob.may_lie_below(["run1", "x"]), glob.may_lie_below(["other"])
    (True, False)
    """

    parts: tuple[re.Pattern[str] | None, ...]  # None: any number of directories

    @classmethod
    def parse(cls, pattern: str) -> "Glob":
        """Raises BadPattern."""
        if len(pattern) > MAX_PATTERN_LENGTH:
            raise BadPattern(f"it has {len(pattern)} characters; at most {MAX_PATTERN_LENGTH} are allowed")
        if any(ord(char) < 32 or ord(char) == 127 for char in pattern):
            raise BadPattern(f"{pattern!r} has a control character")
        names = [name for name in pattern.split("/") if name not in ("", ".")]
        if pattern.startswith("/"):
            raise BadPattern(f"{pattern!r} is absolute; it must be relative to the Job's workdir")
        if ".." in names:
            raise BadPattern(f"{pattern!r} contains '..'; it must stay inside the Job's workdir")
        if not names:
            raise BadPattern(f"{pattern!r} names no file")
        if names[-1] == _ANY_DEPTH:
            names.append("*")
        return cls(tuple(None if name == _ANY_DEPTH else re.compile(fnmatch.translate(name)) for name in names))

    def matches(self, path: Sequence[str]) -> bool:
        """Whether a file has such a path."""
        return len(self.parts) in self._reached(path)

    def may_lie_below(self, directory: Sequence[str]) -> bool:
        """Whether a file somewhere below the directory could match."""
        return any(place < len(self.parts) for place in self._reached(directory))

    def _reached(self, path: Sequence[str]) -> set[int]:
        """How many parts can be used up by the names so far."""
        places = self._passed({0})
        for name in path:
            onward: set[int] = set()
            for place in places:
                if place == len(self.parts):
                    continue
                part = self.parts[place]
                if part is None:
                    onward.add(place)
                elif part.match(name):
                    onward.add(place + 1)
            places = self._passed(onward)
        return places

    def _passed(self, places: set[int]) -> set[int]:
        """With the parts that need no name."""
        passed = set(places)
        for place in sorted(places):
            while place < len(self.parts) and self.parts[place] is None:
                place += 1
                passed.add(place)
        return passed
