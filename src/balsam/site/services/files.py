"""Looking at files of a Job's workdir for others: list, stat, read, follow; bounded in size and rate.

The agent's stream thread hands requests in; threads of this object answer them, so that a slow or hanging file system
keeps nobody else waiting. Requests above the rate are answered `busy`; those above the queue's length are dropped and
said in the log (S16).
"""

import base64
import logging
import os
import queue
import stat
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from balsam.domain.clock import Clock
from balsam.site.service import ServiceAway
from balsam.site.services.following import Following
from balsam.transfer.descent import Refused, open_inside, open_workdir
from balsam.wire.limits import MAX_FILE_READ_BYTES
from balsam.wire.sites import FileEntry, FileReply, FileRequest

log = logging.getLogger(__name__)

MAX_ENTRIES = 5_000
MAX_LISTING_BYTES = 3_000_000  # the service takes 4 MiB
# A file system may hold times that no calendar has: of year 5 and of year 9987.
EARLIEST_SEC, LATEST_SEC = -62_000_000_000.0, 253_000_000_000.0
MAX_WAITING = 64
THREADS = 2
# One reader that follows a file polls a few times a second; this leaves room for dozens of them.
REQUESTS_PER_SEC = 50.0
BURST = 100.0


class Files:
    """Answers FileRequests. `reply` sends an answer and may raise ServiceAway."""

    def __init__(self, data: Path, reply: Callable[[str, FileReply], None], clock: Clock) -> None:
        self._data = data
        self._reply = reply
        self._waiting: queue.Queue[FileRequest | None] = queue.Queue(MAX_WAITING)
        self._rate = Rate(REQUESTS_PER_SEC, BURST, clock)
        self._following = Following(self._look_for_more, reply, clock)
        self._threads = [
            threading.Thread(target=self._serve, name=f"balsam-files-{number}", daemon=True)
            for number in range(THREADS)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()
        self._following.start()

    def close(self) -> None:
        """No more answers. A thread in the middle of a request is left to end with the process."""
        self._following.close()
        for _ in self._threads:
            try:
                self._waiting.put_nowait(None)
            except queue.Full:
                return

    def ask(self, request: FileRequest) -> None:
        """Take a request; returns at once."""
        if request.op == "follow":
            self._following.ask(request)
            return
        try:
            self._waiting.put_nowait(request)
        except queue.Full:
            log.warning("more than %d file requests wait; request %s is dropped", MAX_WAITING, request.id)

    def answer(self, request: FileRequest) -> FileReply:
        """The answer to one request; never raises."""
        if not self._rate.allows():
            return FileReply(error=f"busy: this Site answers {REQUESTS_PER_SEC:g} file requests per second; try again")
        return self._opened(request, _look) or FileReply(error="not_found")

    def _look_for_more(self, request: FileRequest) -> FileReply | None:
        """What a followed file has that was not told yet; None while that is nothing."""
        return self._opened(request, _read_more)

    def _opened(
        self, request: FileRequest, look: "Callable[[FileRequest, int, os.stat_result], FileReply | None]"
    ) -> FileReply | None:
        """What `look` finds at an open file or directory, or why it can't be opened; None when there is none."""
        try:
            with (
                open_workdir(self._data, request.workdir) as workdir,
                open_inside(workdir, request.path) as (handle, status),
            ):
                return look(request, handle, status)
        except FileNotFoundError:
            return None
        except Refused as error:
            log.warning("file request for Job %d refused: %s", request.job_id, error)
            return FileReply(error=f"refused: {error}")
        except (OSError, ValueError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            return FileReply(error=f"{request.path or request.workdir} can't be read at the Site: {reason}")

    def _serve(self) -> None:
        while (request := self._waiting.get()) is not None:
            try:
                self._reply(request.id, self.answer(request))
            except ServiceAway:
                continue
            except Exception:
                log.exception("file request %s failed", request.id)


def _look(request: FileRequest, handle: int, status: os.stat_result) -> FileReply:
    is_dir = stat.S_ISDIR(status.st_mode)
    if request.op == "stat":
        return FileReply(entries=[_entry(request.path or ".", status)], size_bytes=status.st_size)
    if request.op == "list":
        if not is_dir:
            return FileReply(error=f"{request.path} is not a directory")
        return _list(request.path, handle)
    if is_dir:
        return FileReply(error=f"{request.path or '.'} is a directory")
    return _read(request, handle, status.st_size)


def _list(path: str, handle: int) -> FileReply:
    entries: list[FileEntry] = []
    left = MAX_LISTING_BYTES
    with os.scandir(handle) as found:
        for item in found:
            if len(entries) >= MAX_ENTRIES:
                return FileReply(error=f"{path or '.'} has more than {MAX_ENTRIES} entries; ask for them by name")
            try:
                status = item.stat(follow_symlinks=False)
            except FileNotFoundError:  # gone meanwhile
                continue
            name = os.fsencode(item.name).decode(errors="replace")
            entries.append(_entry(f"{path}/{name}" if path not in ("", ".") else name, status))
            left -= len(entries[-1].model_dump_json().encode()) + 1
            if left < 0:
                return FileReply(error=f"{path or '.'} has too many long names to list; ask for them by name")
    return FileReply(entries=sorted(entries, key=lambda one: one.path))


def _read(request: FileRequest, handle: int, size: int) -> FileReply:
    offset = max(0, size + request.offset) if request.offset < 0 else request.offset
    data = os.pread(handle, min(request.max_bytes, MAX_FILE_READ_BYTES), offset) if offset < size else b""
    return FileReply(data=base64.b64encode(data), offset=offset, size_bytes=size)


def _read_more(request: FileRequest, handle: int, status: os.stat_result) -> FileReply | None:
    if stat.S_ISDIR(status.st_mode):
        return FileReply(error=f"{request.path or '.'} is a directory")
    file_id, offset = f"{status.st_dev:x}-{status.st_ino:x}", request.offset
    if request.file_id not in ("", file_id) or status.st_size < offset:
        offset = 0
    data = os.pread(handle, min(request.max_bytes, MAX_FILE_READ_BYTES), offset)
    if not data and offset == request.offset:
        return None
    return FileReply(data=base64.b64encode(data), offset=offset, size_bytes=status.st_size, file_id=file_id)


def _entry(path: str, status: os.stat_result) -> FileEntry:
    return FileEntry(
        path=path,
        size_bytes=status.st_size,
        is_dir=stat.S_ISDIR(status.st_mode),
        modified_at=datetime.fromtimestamp(min(max(status.st_mtime, EARLIEST_SEC), LATEST_SEC), UTC),
    )


class Rate:
    """A token bucket on the monotonic clock. Safe to use from several threads."""

    def __init__(self, per_sec: float, burst: float, clock: Clock) -> None:
        self._per_sec = per_sec
        self._burst = burst
        self._clock = clock
        self._left = burst
        self._at = clock.monotonic()
        self._lock = threading.Lock()

    def allows(self) -> bool:
        """Take one; False when there is none."""
        with self._lock:
            now = self._clock.monotonic()
            self._left = min(self._burst, self._left + (now - self._at) * self._per_sec)
            self._at = now
            if self._left < 1.0:
                return False
            self._left -= 1.0
            return True
