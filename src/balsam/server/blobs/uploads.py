"""Uploads: content that arrives in pieces, is hashed on the fly, and becomes a blob only when its hash is right.

Called by `routes/blobs.py` in the event loop; disk and hash work runs in threads of its own. It promises: what arrived
before a connection broke stays and can be gone on from, also after a restart of the service and through another of its
processes, which share the directory; nothing can be read before it is whole and verified; a full disk gives back what
was written; memory does not grow with the size of a file.
"""

import asyncio
import errno
import hashlib
import logging
import os
import secrets
from collections.abc import AsyncIterable, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from balsam.server.blobs.storage import FULL, BlobStorage, free_bytes, full_disk, new_place
from balsam.server.errors import Conflict, Invalid, ServiceError, TooMany, Unavailable

if TYPE_CHECKING:
    from hashlib import _Hash

log = logging.getLogger("balsam.server")

THREADS = 4
WRITE_BYTES = 1024 * 1024
FLUSH_BYTES = 16 * 1024 * 1024
MAX_OPEN = 256  # uploads of one user that were begun and not completed
SUFFIX = ".part"
T = TypeVar("T")
Sender = tuple[int, int]  # owner, and the Site (0: the user)


@dataclass(slots=True)
class Upload:
    """One upload: what is on disk, and the hash of it."""

    path: Path
    sender: Sender
    size_bytes: int
    received_bytes: int = 0
    hashed: "_Hash" = field(default_factory=hashlib.sha256)
    hashed_bytes: int = 0
    turn: int = 0  # of the newest request: an older one whose connection is dead must not write any more
    writing: "asyncio.Future[None] | None" = None
    catching_up: "asyncio.Future[None] | None" = None
    completing: bool = False


@dataclass(frozen=True, slots=True)
class Complete:
    """A verified blob in the storage."""

    sha256: str
    size_bytes: int
    place: str


class Uploads:
    """The uploads of one service. Lives in the event loop."""

    def __init__(
        self,
        directory: Path,
        storage: BlobStorage,
        reserve_bytes: int,
        unique: Callable[[], str] = lambda: secrets.token_hex(4),
    ) -> None:
        self.storage = storage
        self._directory = directory
        self._reserve_bytes = reserve_bytes
        self._unique = unique
        self._open: dict[Path, Upload] = {}
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="blobs")
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    async def weigh(self, sender: Sender, name: str, admit: Callable[[int], Awaitable[None]]) -> None:
        """Before `begin`: have `admit` weigh an upload that is not open in this life of the service. It is given what
        the others of the user will take up, and again when more of them were begun meanwhile."""
        path = self._path(sender, name)
        while self._known(path) is None:
            reserved = self._reserved_bytes(sender, path)
            await admit(reserved)
            if self._reserved_bytes(sender, path) <= reserved:
                return

    def received_bytes(self, sender: Sender, name: str) -> int:
        """How much of an upload is there; 0 of one that never began."""
        path = self._path(sender, name)
        upload = self._known(path)
        return _size(path) if upload is None else upload.received_bytes

    def begin(self, sender: Sender, name: str, size_bytes: int) -> Upload:
        """The upload of this name, begun or gone on with. Raises TooMany, Unavailable when the disk is full."""
        path = self._path(sender, name)
        upload = self._known(path)
        if upload is None:
            if len(self._of(sender[0]) - {path}) >= MAX_OPEN:
                raise TooMany(f"more than {MAX_OPEN} unfinished uploads of one user; complete or drop some")
            received = self._create(path)
            if free_bytes(self._directory) - (size_bytes - received) < self._reserve_bytes:
                path.unlink()
                raise full_disk(self._directory)
            upload = self._open[path] = Upload(path, sender, size_bytes, received)
        if upload.completing:
            raise Unavailable(f"the upload {name!r} is just being completed; ask again in a moment", retry_after_sec=1)
        if upload.size_bytes != size_bytes or upload.received_bytes > size_bytes:
            self._drop(upload)
            message = f"the upload {name!r} was begun for {upload.size_bytes} bytes; it is dropped, begin again at 0"
            raise Conflict("upload_offset", message)
        return upload

    async def append(self, upload: Upload, offset: int, pieces: AsyncIterable[bytes]) -> None:
        """Write the pieces. What arrived stays when the connection breaks. Raises Conflict `upload_offset`."""
        upload.turn += 1
        turn = upload.turn
        await self._settle(upload)
        if offset != upload.received_bytes:
            message = f"{upload.received_bytes} bytes of this upload are here; go on from there, not from {offset}"
            raise Conflict("upload_offset", message)
        await self._catch_up(upload)
        waiting: list[bytes] = []
        size = 0
        try:
            async for piece in pieces:
                waiting.append(piece)
                size += len(piece)
                if size >= WRITE_BYTES:
                    await self._write(upload, turn, waiting, size)
                    waiting, size = [], 0
        finally:
            if upload.turn == turn:
                if waiting:
                    await self._write(upload, turn, waiting, size)
                await self._settle(upload)

    async def complete(self, upload: Upload, sha256: str) -> Complete:
        """Verify and hand over to the storage. Raises ServiceError `checksum_mismatch`: the upload is dropped then."""
        await self._settle(upload)
        await self._catch_up(upload)
        if upload.received_bytes != upload.size_bytes:
            message = f"{upload.received_bytes} of {upload.size_bytes} bytes are here; send the rest first"
            raise Conflict("upload_offset", message)
        if (found := upload.hashed.hexdigest()) != sha256:
            self._drop(upload)
            message = f"what arrived has the SHA-256 {found}, not {sha256}; it is dropped, send it again"
            raise ServiceError(422, "checksum_mismatch", message)
        place = new_place(upload.sender[0], sha256, self._unique())
        upload.completing = True
        try:
            await self.run(lambda: self._hand_over(upload.path, place))
        finally:
            self._open.pop(upload.path, None)
        return Complete(sha256, upload.size_bytes, place)

    def drop(self, sender: Sender, name: str) -> None:
        """Forget an upload and give its space back."""
        path = self._path(sender, name)
        upload = self._open.get(path)
        if upload is not None:
            self._drop(upload)
        else:
            path.unlink(missing_ok=True)

    async def run(self, work: Callable[[], T]) -> T:
        """Something that blocks, in one of the threads."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def forget_idle(self, before: datetime) -> int:
        """Drop uploads that nothing was added to since. Called by the sweep, in its thread; returns how many."""
        number = 0
        for path in self._directory.glob(f"*{SUFFIX}"):
            with suppress(FileNotFoundError):  # it was completed meanwhile
                if path.stat().st_mtime < before.timestamp():
                    self._open.pop(path, None)
                    path.unlink()
                    number += 1
        return number

    def stop(self) -> None:
        """No more work in threads. What arrived stays on disk."""
        self._pool.shutdown()

    def _known(self, path: Path) -> Upload | None:
        """The upload as this process knows it; None when it knows none, or another process went on with it."""
        upload = self._open.get(path)
        if upload is None or upload.writing is not None or upload.completing or _size(path) == upload.received_bytes:
            return upload
        upload.turn += 1
        del self._open[path]
        return None

    def _reserved_bytes(self, sender: Sender, besides: Path) -> int:
        """What the uploads of a user will take up; of those through other processes, what they take up by now."""
        return sum(
            _size(path) if (upload := self._open.get(path)) is None else upload.size_bytes
            for path in self._of(sender[0]) - {besides}
        )

    def _of(self, owner_id: int) -> set[Path]:
        """The uploads of a user, through whichever process."""
        return set(self._directory.glob(f"{owner_id}-*{SUFFIX}"))

    def _path(self, sender: Sender, name: str) -> Path:
        digest = hashlib.sha256(name.encode()).hexdigest()[:40]
        return self._directory / f"{sender[0]}-{sender[1]}-{digest}{SUFFIX}"

    async def _write(self, upload: Upload, turn: int, pieces: list[bytes], size: int) -> None:
        """Begin to write, after the write before it; its outcome is seen by the next one, or by `_settle`."""
        if upload.turn != turn:
            raise Conflict("upload_offset", "another request goes on with this upload; ask how far it is")
        await self._settle(upload)
        if upload.received_bytes + size > upload.size_bytes:
            self._drop(upload)
            raise Invalid(f"more than the {upload.size_bytes} bytes that were announced came; the upload is dropped")
        position = upload.received_bytes
        upload.received_bytes += size
        upload.writing = asyncio.ensure_future(self.run(lambda: _write_and_hash(upload, pieces, position)))

    async def _settle(self, upload: Upload) -> None:
        """Wait for the write that is under way. A write that failed drops the upload and frees its space."""
        writing = upload.writing
        if writing is None:
            return
        try:
            await writing
        except OSError as error:
            self._drop(upload)
            if isinstance(error, FileNotFoundError):
                raise Conflict("upload_offset", "this upload was dropped meanwhile; begin again at 0") from error
            raise self._refusal(error) from error
        finally:
            if upload.writing is writing:
                upload.writing = None

    async def _catch_up(self, upload: Upload) -> None:
        """Hash what an earlier life of the service received. All who wait for it wait for the same: a client that lost
        patience comes again meanwhile, and twice at once would be the hash of nothing."""
        if upload.hashed_bytes >= upload.received_bytes:
            return
        if upload.catching_up is None:
            upload.catching_up = asyncio.ensure_future(self.run(lambda: _hash_rest(upload)))
        catching_up = upload.catching_up
        try:
            await asyncio.shield(catching_up)
        except OSError as error:
            if error.errno not in (None, errno.ENOENT):
                raise self._refusal(error) from error
            self._drop(upload)
            raise Conflict("upload_offset", "what was here of this upload is gone; begin again at 0") from error
        finally:
            if catching_up.done() and upload.catching_up is catching_up:
                upload.catching_up = None

    def _drop(self, upload: Upload) -> None:
        upload.turn += 1
        self._open.pop(upload.path, None)
        upload.path.unlink(missing_ok=True)

    def _create(self, path: Path) -> int:
        """Make the file, if it is not there; its size."""
        try:
            handle = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._refusal(error) from error
        try:
            return os.fstat(handle).st_size
        finally:
            os.close(handle)

    def _hand_over(self, path: Path, place: str) -> None:
        try:
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
            self.storage.keep(path, place)
        except OSError as error:
            if error.errno in FULL:
                path.unlink(missing_ok=True)
            raise self._refusal(error) from error

    def _refusal(self, error: OSError) -> Unavailable:
        if error.errno in FULL:
            return full_disk(self._directory)
        log.error("a file can't be kept in %s: %s", self._directory, error)
        return Unavailable("the service can't write files now; see its log")


def _size(path: Path) -> int:
    """0 of a file that is not there (any more)."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _write_and_hash(upload: Upload, pieces: Sequence[bytes], position: int) -> None:
    handle = os.open(upload.path, os.O_WRONLY | os.O_CLOEXEC)
    start = position
    try:
        for piece in pieces:
            view = memoryview(piece)
            while view:
                written = os.pwrite(handle, view, position)
                position += written
                view = view[written:]
            upload.hashed.update(piece)
            upload.hashed_bytes += len(piece)
        _begin_to_flush(handle, start // FLUSH_BYTES * FLUSH_BYTES, position // FLUSH_BYTES * FLUSH_BYTES)
    finally:
        os.close(handle)


def _begin_to_flush(handle: int, start: int, end: int) -> None:
    """The disk gets on with what is complete while the rest arrives; else the last word waits for all of it.

    Linux begins to write what is said to be needed no more and waits for nothing; the flush at the end sees its errors.
    """
    if end > start:
        os.posix_fadvise(handle, start, end - start, os.POSIX_FADV_DONTNEED)


def _hash_rest(upload: Upload) -> None:
    with upload.path.open("rb", buffering=0) as stream:
        stream.seek(upload.hashed_bytes)
        while upload.hashed_bytes < upload.received_bytes:
            piece = stream.read(min(WRITE_BYTES, upload.received_bytes - upload.hashed_bytes))
            if not piece:
                raise OSError(f"{upload.path} is shorter than it was")
            upload.hashed.update(piece)
            upload.hashed_bytes += len(piece)
