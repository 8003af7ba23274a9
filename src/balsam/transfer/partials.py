"""Directories at the far end of a location in which files are until they are whole, and what rclone is told of them.

Used by `rclone.py` where the server can rename: nothing half-written stands under its name there, whatever breaks and
whichever rclone it is. Each try has a directory of its own, because a program that a dead agent left behind may still
write into that of an earlier one; all of a Site are below one, which is removed when no try is under way.
"""

import hashlib
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from balsam.transfer.sources import OURS

_SPECIAL = str.maketrans({" ": "[ ]", **{char: f"\\{char}" for char in "\\*?[]{}"}})  # blanks at an end get lost


class Partials:
    """Those of one location. `data`, the directory of the workdirs, tells the Sites of one location from each other."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._lock = threading.Lock()
        self._under_way = 0
        self._is_clean = False  # an earlier agent may have left something

    @contextmanager
    def new(self, purge: Callable[[str], bool]) -> Iterator[str]:
        """The path of a directory for one try, below the location's. `purge` removes one, and says if it is gone."""
        folder = self._folder()
        with self._lock:
            if not self._is_clean and not self._under_way:
                purge(folder)
            self._under_way += 1
        try:
            yield f"{folder}/{secrets.token_hex(4)}"
        finally:
            with self._lock:
                self._under_way -= 1
                self._is_clean = not self._under_way and purge(folder)

    def _folder(self) -> str:
        """The same for every agent of the Site, on whichever host."""
        told = f"{self._data}\0{self._data.stat().st_ino}"
        return f"{OURS}partial-{hashlib.sha256(told.encode(errors='surrogateescape')).hexdigest()[:12]}"


def only(places: Sequence[str]) -> bytes:
    """rclone's filter for these files and directories, with all that is in them.

    >>> print(only(["out/a b"]).decode(), end="")
    + /out/a[ ]b
    + /out/a[ ]b/**
    - *
    """
    lines = [f"+ {path}\n" for place in places for path in _below(place.translate(_SPECIAL))]
    return "".join([*lines, "- *\n"]).encode()


def _below(place: str) -> tuple[str, ...]:
    return (f"/{place}", f"/{place}/**") if place else ("/**",)
