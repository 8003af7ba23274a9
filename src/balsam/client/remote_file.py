"""A file of a Job's workdir as Python knows files, and what is wrong with it in Python's own terms.

Called by `Job.open`, `Job.tail` and the other readers of workdirs.
"""

import io
from collections.abc import Callable
from typing import Any

from balsam.client.errors import Forbidden, NotFound
from balsam.wire.limits import MAX_FILE_READ_BYTES


class RemoteFile(io.RawIOBase):
    """A file of a workdir as Python's io reads it. `part` reads from an offset on, and tells the size."""

    def __init__(self, part: Callable[[str, int, int], tuple[bytes, int, int]], name: str) -> None:
        super().__init__()
        self._part = part
        self._name = name
        self._position = 0
        _, _, self._size_bytes = part(name, 0, 1)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size_bytes}[whence]
        if base + offset < 0:
            raise ValueError(f"there is nothing before the beginning of {self._name!r}")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any, /) -> int:
        view = memoryview(buffer).cast("B")
        piece, _, self._size_bytes = self._part(self._name, self._position, min(len(view), MAX_FILE_READ_BYTES))
        view[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)


def file_error(error: NotFound | Forbidden, name: str) -> Exception:
    """Errors about the file in Python's own terms; those about the Job as they are."""
    if isinstance(error, Forbidden):
        return PermissionError(f"{name!r}: {error}")
    if any(problem.where == "path" for problem in error.details):
        return FileNotFoundError(f"there is no {name!r} in the workdir")
    return error
