"""A Session's results on disk, in order, until the service has them.

Written by the launcher that holds the Session; read by its successor or the Site's agent, who deliver what a dead
launcher left. One line per record with a checksum. It promises: a record that `append` returned from survives the death
of every process at once, and the loss of power after `sync`; a torn tail is cut off and told; after a failed `append`
the file is as before, and the same records may be appended again (S1, F9, F10).
"""

import errno
import json
import logging
import os
import re
import zlib
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

logger = logging.getLogger("balsam.outbox")

PATTERN = "session-*.outbox"
FORMAT = 1
# Delivered records are dropped from the file once they fill so much of it.
COMPACT_BYTES = 4 * 1024 * 1024
# What goes into one report: far below the service's limits for the size of a body and the number of records.
BATCH_RECORDS = 1000
BATCH_BYTES = 8 * 1024 * 1024
_COMPACT = json.JSONEncoder(separators=(",", ":"))
_LINE = re.compile(rb"([0-9a-f]{8}) (.*)\Z", re.DOTALL)


class OutboxError(OSError):
    """The outbox can't be written or read; the text says which file and why. Nothing was added."""


@dataclass(frozen=True, slots=True)
class OutboxContents:
    """What an outbox holds. `header` is what its writer said of itself; `torn`: the tail was damaged and left out."""

    session_id: int
    header: Mapping[str, Any]
    records: list[dict[str, Any]]
    torn: bool


def outbox_path(directory: Path, session_id: int) -> Path:
    """Where a Session's outbox is.

    >>> outbox_path(Path("/site/qsubmit/balsam-1-2"), 7).name
    'session-7.outbox'
    """
    return directory / f"session-{session_id}.outbox"


def encode(record: Mapping[str, Any]) -> bytes:
    """A record as the JSON that goes to the file and over the wire alike."""
    return _COMPACT.encode(record).encode()


def batch_length(sizes: Iterable[int], most: int = BATCH_RECORDS, most_bytes: int = BATCH_BYTES) -> int:
    """How many of the next records, of these sizes in bytes, go into one report; at least one.

    >>> batch_length([300, 300, 300], most_bytes=700), batch_length([9000], most_bytes=700)
    (2, 1)
    """
    count, room = 0, most_bytes
    for size_bytes in sizes:
        room -= size_bytes
        if count and (room < 0 or count == most):
            break
        count += 1
    return count


def bare(record: Mapping[str, Any], why: str) -> dict[str, Any]:
    """What must arrive of a record that the service refuses as it is: what became of the Job. `why` is told with it."""
    kept = {name: record[name] for name in ("seq", "job_id", "token", "event", "at", "return_code") if name in record}
    message = f"the service refused what was told with this: {why}"[:1000]
    if "result" in record:
        kept["result"] = {"error": {"type": "ResultRefused", "message": message}}
    return {**kept, "message": message}


class Outbox:
    """The writing end. One process, one thread. Records are numbered from 1 by `seq`, without gaps."""

    def __init__(self, path: Path, session_id: int, header: Mapping[str, Any] | None = None) -> None:
        """Create the file. Raises OutboxError, also when it is there already: a Session has one writer."""
        self.path = path
        self.session_id = session_id
        self._header = _frame(encode({"format": FORMAT, "session_id": session_id, **(header or {})}))
        self._pending: deque[tuple[int, bytes]] = deque()
        self.pending_bytes = 0
        self._seq = 0
        self._acked = 0
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            self._fd = os.open(path, flags, 0o600)
        except OSError as error:
            raise _trouble(path, error) from error
        self._size = 0
        try:
            self._write(self._header)
            self.sync()
            _sync_directory(path.parent)
        except OSError as error:
            os.close(self._fd)
            path.unlink(missing_ok=True)
            raise error if isinstance(error, OutboxError) else _trouble(path, error) from error

    @property
    def unacked(self) -> list[bytes]:
        """JSON of the records that the service has not confirmed, in order."""
        return [text for _, text in self._pending]

    def append(self, records: Iterable[Mapping[str, Any]]) -> list[bytes]:
        """Number the records (`seq`), write them, return their JSON. Raises OutboxError; then none was added."""
        numbered = [(seq, encode({"seq": seq, **record})) for seq, record in enumerate(records, self._seq + 1)]
        self._write(b"".join(_frame(text) for _, text in numbered))
        self._seq += len(numbered)
        self._pending += numbered
        self.pending_bytes += sum(len(text) for _, text in numbered)
        return [text for _, text in numbered]

    def sync(self) -> None:
        """Make it safe against the loss of power. Raises OutboxError."""
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            raise _trouble(self.path, error) from error

    def ack(self, seq: int) -> None:
        """The service has everything up to `seq`."""
        if seq <= self._acked:
            return
        self._acked = seq
        while self._pending and self._pending[0][0] <= seq:
            self.pending_bytes -= len(self._pending.popleft()[1])
        if self._size >= COMPACT_BYTES and self.pending_bytes < self._size // 2:
            self._compact()

    def close(self, remove: bool = False) -> None:
        """Close the file; `remove` it when everything was delivered."""
        os.close(self._fd)
        if remove:
            self.path.unlink(missing_ok=True)

    def _write(self, data: bytes) -> None:
        try:
            written = 0
            while written < len(data):
                written += os.pwrite(self._fd, data[written:], self._size + written)
        except OSError as error:
            # What was written of it would stand there as a torn line until the next try writes over it.
            with suppress(OSError):
                os.ftruncate(self._fd, self._size)
            raise _trouble(self.path, error) from error
        self._size += len(data)

    def _compact(self) -> None:
        """Replace the file by one of what is not delivered; on failure the old one stays."""
        fresh = self.path.with_suffix(".new")
        data = self._header + b"".join(_frame(text) for _, text in self._pending)
        fd = -1
        try:
            fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            if os.write(fd, data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fdatasync(fd)
            os.rename(fresh, self.path)  # noqa: PTH104 - beside the other system calls
        except OSError as error:
            logger.warning("%s is not made smaller now: %s", self.path, error.strerror)
            if fd >= 0:
                os.close(fd)
                fresh.unlink(missing_ok=True)
            return
        os.close(self._fd)
        self._fd, self._size = fd, len(data)
        try:
            _sync_directory(self.path.parent)  # a loss of power would bring the old file back, without what comes now
        except OSError as error:
            logger.warning("%s is not safe against the loss of power: %s", self.path, error.strerror)


def read_outbox(path: Path) -> OutboxContents:
    """Read what a writer left, up to the first damaged line. Raises OutboxError when there is not even a header."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _trouble(path, error) from error
    *lines, rest = data.split(b"\n")
    good: list[dict[str, Any]] = []
    torn = bool(rest)
    for line in lines:
        content = _unframe(line)
        if content is None:
            torn = True
            break
        good.append(content)
    if not good or not isinstance(good[0].get("session_id"), int):
        raise OutboxError(errno.EILSEQ, f"{path} has no readable header; nothing of it can be delivered")
    if torn:
        logger.warning("%s: its tail was damaged; %d records before that are good", path, len(good) - 1)
    return OutboxContents(good[0]["session_id"], good[0], good[1:], torn)


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _frame(text: bytes) -> bytes:
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _unframe(line: bytes) -> dict[str, Any] | None:
    match = _LINE.match(line)
    if match is None or int(match[1], 16) != zlib.crc32(match[2]):
        return None
    content = json.loads(match[2])
    return content if isinstance(content, dict) else None


def _trouble(path: Path, error: OSError) -> OutboxError:
    return OutboxError(error.errno, f"{path} can't be used: {error.strerror}")
