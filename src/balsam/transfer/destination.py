"""Putting files where they belong: whole, verified and at once, or not at all.

A file is written under a name of ours beside its place, hashed on the way, flushed and renamed. A write that failed
leaves nothing and gives its space back; one that was interrupted is gone on with at the next try, when the same content
is put in the same place. No link is followed below the directory that the caller opened.
"""

import errno
import fcntl
import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from balsam.transfer.descent import make_directories
from balsam.transfer.hashing import HashBeside

_PIECE_BYTES = 1024 * 1024
_MOST_FOLDERS = 1000  # whose renames are not durable yet
_RESUMABLE_BYTES = 1024 * 1024  # smaller ones begin anew
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)  # some network file systems
_NEW = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


class ChecksumMismatch(Exception):
    """What arrived is not what was sent."""


class Destination:
    """A directory in which files are put one by one. Use as a context manager: at its end renames are durable."""

    def __init__(self, root: int) -> None:
        """`root` stays the caller's."""
        self._root = root
        self._umask = _umask()
        self._written: set[tuple[str, ...]] = set()

    def file(
        self, parts: Sequence[str], size_bytes: int, mode: int, sha256: str, *, waits: bool = True
    ) -> "IncomingFile":
        """Begin, or go on with, a file at this place. Raises Refused, OSError, IsADirectoryError.

        While somebody else writes it this waits, or raises BlockingIOError.
        """
        folder, name = tuple(parts[:-1]), parts[-1]
        with make_directories(self._root, folder) as handle:
            permissions = (0o777 if mode & stat.S_IXUSR else 0o666) & ~self._umask
            self._note(folder)
            return IncomingFile(os.dup(handle), name, size_bytes, permissions, sha256, waits=waits)

    def link(self, parts: Sequence[str], handle: int) -> bool:
        """Put a hard link of an open file there, in place of what is there; False where the system doesn't let it."""
        folder, name = tuple(parts[:-1]), parts[-1]
        with make_directories(self._root, folder) as place:
            temporary = f".balsam-{hashlib.sha256(os.fsencode(name)).hexdigest()[:32]}.link"
            with suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=place)
            try:
                os.link(f"/proc/self/fd/{handle}", temporary, dst_dir_fd=place, follow_symlinks=True)
            except OSError:
                return False
            try:
                os.rename(temporary, name, src_dir_fd=place, dst_dir_fd=place)
            except OSError:
                os.unlink(temporary, dir_fd=place)
                raise
            with suppress(FileNotFoundError):  # two names of one file: the system leaves both as they are
                os.unlink(temporary, dir_fd=place)
        self._note(folder)
        return True

    def directory(self, parts: Sequence[str]) -> None:
        """Make an empty directory."""
        with make_directories(self._root, parts):
            self._note(tuple(parts[:-1]))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._make_durable()

    def _note(self, folder: tuple[str, ...]) -> None:
        """Something is put into this directory. What was put into others before is made durable when they are many."""
        if folder not in self._written and len(self._written) >= _MOST_FOLDERS:
            self._make_durable()
        self._written.add(folder)

    def _make_durable(self) -> None:
        for folder in self._written:
            with suppress(FileNotFoundError), make_directories(self._root, folder) as handle:
                os.fsync(handle)
        self._written.clear()


class IncomingFile:
    """One file on its way. `write` from `received_bytes` on, then `finish`, or its three steps; `close` in any case."""

    def __init__(
        self, folder: int, name: str, size_bytes: int, permissions: int, sha256: str, *, waits: bool = True
    ) -> None:
        """`folder` is closed with the file."""
        self._folder = folder
        self._name = name
        self._size_bytes = size_bytes
        self._sha256 = sha256
        self._permissions = permissions
        # The same content in the same place has the same name, whoever tries next.
        self._partial = f".balsam-{hashlib.sha256(os.fsencode(name) + sha256.encode()).hexdigest()[:32]}.part"
        self._handle = -1
        self.received_bytes = 0
        self._hashed = HashBeside()
        try:
            self._handle = self._locked(waits)
            self._take_over()
        except BaseException:
            self.close()
            raise

    def write(self, piece: bytes) -> None:
        """Append. Raises OSError, after which the file is gone and its space free."""
        if self.received_bytes + len(piece) > self._size_bytes:
            self.remove()
            raise ChecksumMismatch(f"more than the {self._size_bytes} bytes of {self._name!r} arrived")
        try:
            view = memoryview(piece)
            while view:
                view = view[os.write(self._handle, view) :]
        except OSError:
            self.remove()
            raise
        self._hashed.update(piece)
        self.received_bytes += len(piece)

    def finish(self) -> None:
        """Verify, make durable, rename. Raises ChecksumMismatch, OSError; the file is gone then."""
        self.check()
        self.make_durable()
        self.put()

    def check(self) -> None:
        """Raises ChecksumMismatch; the file is gone then."""
        if self.received_bytes != self._size_bytes or self._hashed.hexdigest() != self._sha256:
            self.remove()
            raise ChecksumMismatch(f"what arrived of {self._name!r} is not what was sent")

    def make_durable(self) -> None:
        """Raises OSError; the file is gone then."""
        try:
            os.fchmod(self._handle, self._permissions)
            os.fsync(self._handle)
        except OSError:
            self.remove()
            raise

    def put(self) -> None:
        """Give it its name. Raises OSError; the file is gone then."""
        try:
            os.rename(self._partial, self._name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        except OSError:
            self.remove()
            raise

    def remove(self) -> None:
        """Give it up, and its space back."""
        with suppress(OSError):
            os.unlink(self._partial, dir_fd=self._folder)
        with suppress(OSError):
            os.ftruncate(self._handle, 0)

    def close(self) -> None:
        """Let go of it; what arrived stays for the next try."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
        if self._folder >= 0:
            os.close(self._folder)
            self._folder = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _locked(self, waits: bool) -> int:
        """The partial file, of which this is the only writer: another process may be collecting the same result."""
        while True:
            handle = os.open(self._partial, _NEW, 0o600, dir_fd=self._folder)
            try:
                _lock(handle, waits)
                if self._is_in_place(handle):
                    return handle
            except BaseException:
                os.close(handle)
                raise
            os.close(handle)  # the other one has finished it, and renamed it away

    def _is_in_place(self, handle: int) -> bool:
        try:
            there = os.stat(self._partial, dir_fd=self._folder, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(there, os.fstat(handle))

    def _take_over(self) -> None:
        """Go on with what an interrupted try left, when it is worth it."""
        have = os.fstat(self._handle).st_size
        if self._size_bytes < _RESUMABLE_BYTES or have > self._size_bytes:
            if have:
                os.ftruncate(self._handle, 0)
            return
        while self.received_bytes < have:
            piece = os.pread(self._handle, _PIECE_BYTES, self.received_bytes)
            self._hashed.update(piece)
            self.received_bytes += len(piece)
        os.lseek(self._handle, have, os.SEEK_SET)


@contextmanager
def open_directory(path: Path, *, make: bool) -> Iterator[int]:
    """A descriptor of a directory of the user's own, over the user's own links; with its parents when made."""
    if make:
        path.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield handle
    finally:
        os.close(handle)


def _lock(handle: int, waits: bool) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if waits else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise


def _umask() -> int:
    """The process's umask. Read from /proc where that exists: `os.umask` would change it for other threads."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    except OSError:
        pass
    return 0o022
