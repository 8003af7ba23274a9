"""The back end of locations that rclone reaches: SFTP, S3, WebDAV, HTTP, and what a configuration of its own names.

rclone is told of the location by its environment and of secrets by files, so nothing secret stands in a command line.
It verifies what it moved by the hashes that the server knows, else by size. Its log, one JSON object a line, tells how
far it is and what went wrong with which file. Where the server can rename, files get their names there when they are
whole (`partials.py`).
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from balsam.transfer.partials import Partials, only
from balsam.transfer.program import Ended, run_program
from balsam.transfer.rclone_remote import Remote
from balsam.transfer.staged import Load, StagedBackend

MAX_SAID = 200
IN_PLACE = "written in its place: with rclone before 1.63 a file there may be seen before it is whole"
_PARTIAL_NAMES = (1, 63)  # since when rclone writes under another name first
_VERSION = re.compile(r"rclone v(\d+)\.(\d+)")
_DENIED = re.compile(r"permission.denied|forbidden|\b403\b", re.IGNORECASE)
_NO_DIRECTORY = 3  # rclone's exit status
_QUIET = ("--retries=1", "--low-level-retries=3", "--contimeout=20s", "--timeout=60s")
_FLAGS = (
    *("--use-json-log", "--log-level=INFO", "--stats=1s", "--stats-log-level=INFO"),
    *("--ignore-times", "--no-traverse", *_QUIET),
)


class RcloneBackend(StagedBackend):
    """TransferBackend of one location that rclone reaches."""

    def __init__(self, data: Path, spool: Path, remote: Remote) -> None:
        super().__init__(data, spool)
        self._remote = remote
        self._partials = Partials(data)
        self._in_place: set[str] = set()  # places where the server could not rename to

    def push(self, load: Load) -> Ended:
        if why := self._remote.push_problem:
            return Ended(1, [why])
        if not self._remote.can_rename:
            return self._push_in_place(load, list(load.shipment.places))
        ended = Ended(0, [])
        direct = [place for place in load.shipment.places if place in self._in_place]
        if renamed := [place for place in load.shipment.places if place not in self._in_place]:
            ended = self._push_and_rename(load, renamed)
        if direct:
            ended = _both(ended, self._push_in_place(load, direct))
            self._in_place.difference_update(direct)
        return ended

    def _push_in_place(self, load: Load, places: Sequence[str]) -> Ended:
        if not self._remote.shows_whole and self._writes_in_place(load):
            load.shipment.notes.update(dict.fromkeys(places, IN_PLACE))
        return self._move(load, str(load.shipment.folder), self._remote.target, places)

    def _writes_in_place(self, load: Load) -> bool:
        """Whether this rclone gives a file its name before it is whole."""
        said: list[bytes] = []
        run_program(["rclone", "version"], self._remote.environment(), b"", said.append, load.is_wanted)
        return is_before(b" ".join(said).decode(errors="replace"), _PARTIAL_NAMES)

    def _push_and_rename(self, load: Load, places: Sequence[str]) -> Ended:
        """Send to a directory of ours at the far end, then rename what is whole. An order that is not whole leaves
        nothing under its name."""
        with self._partials.new(lambda path: self._purge(load, path)) as partial:
            sent = self._move(load, str(load.shipment.folder), self._remote.below(partial), places)
            missing = {load.shipment.place_of(path) for path in load.shipment.left()}
            whole = [place for place in places if place not in missing]
            if not whole and any(_DENIED.search(line) for line in sent.said):
                return self._push_in_place(load, places)  # no directory may be made there
            if not whole:
                return sent
            if self._remote.rename_replaces:
                checked = self._in_the_way(load, partial, whole)
                sent = _both(sent, checked.ended)
                load.shipment.held_back |= checked.places
                whole = [place for place in whole if place not in checked.places]
            if not whole:
                return sent
            renamed = self._move(load, self._remote.below(partial), self._remote.twin_target, whole, is_news=False)
            if renamed.code:
                left = self._places_left(load, partial, whole)
                load.shipment.held_back |= left
                self._in_place |= left
        return _both(sent, renamed)

    def _move(self, load: Load, source: str, target: str, places: Sequence[str], *, is_news: bool = True) -> Ended:
        words = ["move", "--create-empty-src-dirs", "--server-side-across-configs", source, target]
        if len(places) == len(load.shipment.places):
            return self._rclone(load, words, b"", is_news=is_news)
        return self._rclone(load, [*words, "--filter-from=-"], only(places), is_news=is_news)

    def _in_the_way(self, load: Load, partial: str, places: Sequence[str]) -> "_Listed":
        """Places of which a file would take the place of a directory; all of them when that can't be found out."""
        depth = max(place.count("/") + 1 for place in [*places, *load.shipment.directories()])
        there = self._list(load, self._remote.target, "--dirs-only", places, f"--max-depth={depth + 1}")
        if there.ended.code == _NO_DIRECTORY:
            return _Listed(Ended(0, []), set())
        if there.ended.code:
            return _Listed(there.ended, set(places))
        taken = {path for path in there.places if not (load.shipment.folder / path).is_dir()}
        if not taken:
            return _Listed(Ended(0, []), set())
        ours = self._list(load, self._remote.below(partial), "--files-only", places)
        if ours.ended.code:
            return _Listed(ours.ended, set(places))
        said = [f"{path}: is a directory there" for path in sorted(taken & ours.places)]
        owners = {load.shipment.place_of(path) for path in taken & ours.places}
        return _Listed(Ended(int(bool(said)), said), {place for place in owners if place is not None})

    def _places_left(self, load: Load, partial: str, places: Sequence[str]) -> set[str]:
        """Places of which something is still in a directory at the far end; all when that can't be found out."""
        left = self._list(load, self._remote.below(partial), "--files-only", places)
        found = {load.shipment.place_of(path) for path in left.places}
        return set(places) if left.ended.code else {place for place in found if place is not None}

    def _list(self, load: Load, source: str, kind: str, places: Sequence[str], *words: str) -> "_Listed":
        """The paths of one kind in these places."""
        found: set[str] = set()

        def hear(line: bytes) -> None:  # an array, of which each line is one object
            if line.startswith(b"{"):
                found.add(_path(line))

        program = ["rclone", *_QUIET, "lsjson", "--recursive", kind, "--no-modtime", "--filter-from=-", *words, source]
        ended = run_program(program, self._remote.environment(), only(places), hear, load.is_wanted)
        return _Listed(ended, found)

    def _purge(self, load: Load, path: str) -> bool:
        """Remove a directory at the far end; whether it is gone."""
        words = ["rclone", *_QUIET, "purge", self._remote.below(path)]
        ended = run_program(words, self._remote.environment(), b"", lambda _: None, load.is_wanted)
        return ended.code in (0, _NO_DIRECTORY)

    def pull(self, load: Load) -> Ended:
        """Whatever is a file in one go; then, one by one, what turned out to be a directory."""
        folder = load.shipment.folder
        ended = Ended(0, [])
        files = [place for place in load.shipment.places if _may_be_file(load, place)]
        if files:
            listed = "".join(f"{place}\n" for place in files).encode()
            words = ["copy", "--files-from-raw=-", self._remote.target, str(folder)]
            ended = self._rclone(load, words, listed)
        if load.recursive:
            ended = Ended(0, [])  # what was no file is told of below
            for place in load.shipment.places:
                if load.is_wanted() and not (folder / place).is_file():
                    words = ["copy", "--create-empty-src-dirs", self._remote.below(place), str(folder / place)]
                    ended = _both(ended, self._rclone(load, words, b"", place))
        return ended

    def _rclone(
        self, load: Load, words: Sequence[str], given: bytes, below: str = "", *, is_news: bool = True
    ) -> Ended:
        """`is_news`: what it moves was not moved before."""
        log = _Log(load.moved if is_news else _nothing, f"{below}/" if below else "")
        environment = self._remote.environment()
        program = ["rclone", *_FLAGS, *words]
        ended = run_program(program, environment, given, log.hear, load.is_wanted, hears_stderr=True)
        return Ended(ended.code, log.said)


@dataclass(frozen=True, slots=True)
class _Listed:
    """What a look at the far end found. `ended` with a code: it failed, or what was found is an error."""

    ended: Ended
    places: set[str]


def is_before(said: str, version: tuple[int, int]) -> bool:
    """Whether what `rclone version` says is known to be older.

    >>> is_before("rclone v1.60.1-DEV", (1, 63)), is_before("rclone v1.63.0", (1, 63)), is_before("rclone", (1, 63))
    (True, False, False)
    """
    found = _VERSION.search(said)
    return found is not None and (int(found[1]), int(found[2])) < version


def _may_be_file(load: Load, place: str) -> bool:
    """A path that ends with / is a directory; a name with a newline can't be listed."""
    orders = load.shipment.places[place]
    return bool(place) and "\n" not in place and not all(order.remote_path.endswith("/") for order in orders)


def _both(first: Ended, second: Ended) -> Ended:
    return Ended(first.code or second.code, [*first.said, *second.said][:MAX_SAID])


class _Log:
    """Reads rclone's log. `said` are complaints; `below` is where the names in it begin."""

    def __init__(self, moved: Callable[[str, int], object], below: str) -> None:
        self._moved = moved
        self._below = below
        self._known: dict[str, int] = {}
        self.said: list[str] = []

    def hear(self, line: bytes) -> None:
        found: Any = None
        with suppress(ValueError):
            found = json.loads(line)
        if not isinstance(found, dict):  # a word of its own before it knew how to log
            found = {"level": "error", "msg": line.decode(errors="replace").strip()}
        if not found.get("msg"):
            return
        if found.get("level") in ("error", "critical", "fatal", "emergency") and len(self.said) < MAX_SAID:
            name = str(found.get("object", ""))
            self.said.append(f"{self._below}{name}: {found.get('msg')}" if name else str(found.get("msg")))
        for path, size_bytes in _sizes(found):
            self._moved(self._below + path, size_bytes - self._known.get(path, 0))
            self._known[path] = size_bytes


def _path(line: bytes) -> str:
    """Of one line that `rclone lsjson` prints."""
    return str(json.loads(line.rstrip(b","))["Path"])


def _nothing(path: str, size_bytes: int) -> None:
    """Bytes that count for nobody."""


def _sizes(found: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """The files under way, with the bytes moved so far."""
    stats = found.get("stats")
    under_way = stats.get("transferring") if isinstance(stats, dict) else None
    for one in under_way if isinstance(under_way, list) else ():
        if isinstance(one, dict) and isinstance(one.get("bytes"), int):
            yield str(one.get("name", "")), one["bytes"]
