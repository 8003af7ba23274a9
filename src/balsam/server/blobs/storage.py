"""Where complete blobs are kept: one protocol, on disk beside the database by default, an S3 bucket by setting (s3.py).

Called by `Uploads` and by the sweep, in threads that may block. A place is given out once and never used again, so
removing an old copy can't hit a new one of the same content.
"""

import errno
import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from balsam.server.errors import Unavailable

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class BlobGone(Exception):
    """The place holds nothing (any more)."""


class BlobReader(Protocol):
    """One open blob."""

    def read(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset` on."""
        ...

    def close(self) -> None: ...


class BlobStorage(Protocol):
    """Holds blobs by place. Methods block; OSError when the storage can't be reached or written."""

    def keep(self, partial: Path, place: str) -> None:
        """Take over a complete file; durable when it returns (S1)."""
        ...

    def open(self, place: str) -> BlobReader:
        """Raises BlobGone."""
        ...

    def remove(self, place: str) -> None:
        """Give the space back; no error when nothing is there."""
        ...

    def places(self) -> Iterator[tuple[str, datetime]]:
        """Everything that is kept, and since when: to find what nobody knows of."""
        ...


def new_place(owner_id: int, sha256: str, unique: str) -> str:
    """A place for a new copy of a content."""
    return f"{owner_id}/{sha256[:2]}/{sha256}.{unique}"


def full_disk(directory: Path) -> Unavailable:
    """What is answered when there is no room."""
    return Unavailable(f"the disk of the service is full ({directory}); nothing of this file was kept", status=507)


class DiskStorage:
    """Blobs as files in a directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def keep(self, partial: Path, place: str) -> None:
        target = self._directory / place
        made = [folder for folder in target.relative_to(self._directory).parents if not self._has(folder)]
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.utime(partial)  # its age counts from when it became complete
        os.replace(partial, target)  # noqa: PTH105 - one system call
        for folder in (target.parent, *(self._directory / folder.parent for folder in made)):
            _sync(folder)

    def _has(self, folder: Path) -> bool:
        return (self._directory / folder).exists()

    def open(self, place: str) -> BlobReader:
        try:
            return _OpenFile(os.open(self._directory / place, os.O_RDONLY | os.O_CLOEXEC))
        except FileNotFoundError as error:
            raise BlobGone(place) from error

    def remove(self, place: str) -> None:
        (self._directory / place).unlink(missing_ok=True)

    def places(self) -> Iterator[tuple[str, datetime]]:
        for path in self._directory.glob("*/*/*"):
            try:
                kept_since = datetime.fromtimestamp(path.stat().st_mtime, UTC)
            except FileNotFoundError:  # removed meanwhile
                continue
            yield str(path.relative_to(self._directory)), kept_since


class _OpenFile:
    """A blob that is a file."""

    def __init__(self, handle: int) -> None:
        self._handle = handle

    def read(self, offset: int, length: int) -> bytes:
        return os.pread(self._handle, length, offset)

    def close(self) -> None:
        os.close(self._handle)


def free_bytes(directory: Path) -> int:
    """What may still be written there."""
    return shutil.disk_usage(directory).free


def _sync(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
