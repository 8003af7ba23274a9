"""The back end of locations that rclone reaches: SFTP, S3, WebDAV, HTTP, and what a configuration of its own names.

rclone is told of the location by its environment and of secrets by files, so nothing secret stands in a command line.
It verifies what it moved by the hashes that the server knows, else by size. Its log, one JSON object a line, tells how
far it is and what went wrong with which file.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from balsam.transfer.program import Ended, run_program
from balsam.transfer.rclone_remote import Remote
from balsam.transfer.staged import Load, StagedBackend

MAX_SAID = 200
_FLAGS = (
    *("--use-json-log", "--log-level=INFO", "--stats=1s", "--stats-log-level=INFO"),
    *("--ignore-times", "--no-traverse", "--retries=1", "--low-level-retries=3", "--contimeout=20s", "--timeout=60s"),
)


class RcloneBackend(StagedBackend):
    """TransferBackend of one location that rclone reaches."""

    def __init__(self, data: Path, spool: Path, remote: Remote) -> None:
        super().__init__(data, spool)
        self._remote = remote

    def push(self, load: Load) -> Ended:
        if why := self._remote.push_problem:
            return Ended(1, [why])
        return self._rclone(load, ["move", "--create-empty-src-dirs", str(load.shipment.folder), self._remote.target])

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

    def _rclone(self, load: Load, words: Sequence[str], given: bytes = b"", below: str = "") -> Ended:
        log = _Log(load, f"{below}/" if below else "")
        environment = self._remote.environment()
        program = ["rclone", *_FLAGS, *words]
        ended = run_program(program, environment, given, log.hear, load.is_wanted, hears_stderr=True)
        return Ended(ended.code, log.said)


def _may_be_file(load: Load, place: str) -> bool:
    """A path that ends with / is a directory; a name with a newline can't be listed."""
    orders = load.shipment.places[place]
    return bool(place) and "\n" not in place and not all(order.remote_path.endswith("/") for order in orders)


def _both(first: Ended, second: Ended) -> Ended:
    return Ended(first.code or second.code, [*first.said, *second.said][:MAX_SAID])


class _Log:
    """Reads rclone's log. `said` are complaints; `below` is where the names in it begin."""

    def __init__(self, load: Load, below: str) -> None:
        self._load = load
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
            self._load.moved(self._below + path, size_bytes - self._known.get(path, 0))
            self._known[path] = size_bytes


def _sizes(found: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """The files under way, with the bytes moved so far."""
    stats = found.get("stats")
    under_way = stats.get("transferring") if isinstance(stats, dict) else None
    for one in under_way if isinstance(under_way, list) else ():
        if isinstance(one, dict) and isinstance(one.get("bytes"), int):
            yield str(one.get("name", "")), one["bytes"]
