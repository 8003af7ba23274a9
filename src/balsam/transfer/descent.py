"""Opening files below a directory, and nothing outside of it.

Used for a Job's workdir by whoever looks into it for somebody far away. The service may lie and the Job's own processes
may plant links (S15), so names are never handed to the kernel as a path: each part is opened relative to the directory
before it without following links. A link that stays inside is followed by hand, one that leaves is refused, and a name
swapped between look and use changes nothing.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from balsam.domain.paths import BadPath, contained

MAX_LINKS = 20
MAX_PATH = 4096
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Without O_NONBLOCK a FIFO planted as `job.out` would hold the reader for ever.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class Refused(Exception):
    """The file may not be looked at; the text says why."""


class NoPlainFile(Refused):
    """Neither a file nor a directory."""


@contextmanager
def open_workdir(data: Path, workdir: str, *, make: bool = False) -> Iterator[int]:
    """A descriptor of the workdir, which `make` makes if need be. Raises Refused, FileNotFoundError, OSError.

    The data directory itself may be reached over links, as the Site's owner made it; below it none is followed.
    """
    here = os.open(data, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in parts_of(workdir, "workdir"):
            deeper = _make_directory(name, here) if make else _open_directory(name, here)
            os.close(here)
            here = deeper
        yield here
    finally:
        os.close(here)


@contextmanager
def open_inside(workdir: int, path: str) -> Iterator[tuple[int, os.stat_result]]:
    """Descriptor and status of a regular file or directory at `path` in the workdir ("" or ".": itself).

    Raises Refused, FileNotFoundError, OSError.
    """
    with open_parts(workdir, parts_of(path, "path") if path not in ("", ".") else []) as found:
        yield found


@contextmanager
def open_parts(workdir: int, parts: Sequence[str]) -> Iterator[tuple[int, os.stat_result]]:
    """As `open_inside`, for a path that is taken apart already: names as a directory tells them."""
    walk = _Walk(workdir)
    try:
        walk.enter([*parts])
        walk.forget_way()
        yield walk.here, os.fstat(walk.here)
    finally:
        walk.close()


@contextmanager
def make_directories(root: int, parts: Sequence[str]) -> Iterator[int]:
    """A descriptor of a directory below `root`, made if need be. No link is followed. Raises Refused, OSError."""
    here = os.dup(root)
    try:
        for name in parts:
            deeper = _make_directory(name, here)
            os.close(here)
            here = deeper
        yield here
    finally:
        os.close(here)


def parts_of(path: str, what: str) -> list[str]:
    """The names of a relative path that somebody else wrote. Raises Refused when it would lead out."""
    try:
        return [*PurePosixPath(contained(path, what, max_length=MAX_PATH)).parts]
    except BadPath as error:
        raise Refused(str(error)) from error


class _Walk:
    """A way down from the workdir: the directories entered so far, and the file at its end."""

    def __init__(self, root: int) -> None:
        self._stack = [os.dup(root)]
        self._links = 0

    @property
    def here(self) -> int:
        return self._stack[-1]

    def enter(self, parts: list[str]) -> None:
        while parts:
            name = parts.pop(0)
            if name == "..":  # only out of a link's target; what the caller names has none
                self._leave()
                continue
            found = os.stat(name, dir_fd=self.here, follow_symlinks=False)
            if stat.S_ISLNK(found.st_mode):
                parts[:0] = self._target(name)
            elif stat.S_ISDIR(found.st_mode):
                self._stack.append(_open_directory(name, self.here))
            elif parts:
                raise NotADirectoryError(f"{name} is not a directory")
            else:
                self._stack.append(_open_file(name, self.here))

    def forget_way(self) -> None:
        """Close all but the end: whoever walks through a deep tree has one of these open for each level."""
        while len(self._stack) > 1:
            os.close(self._stack.pop(0))

    def close(self) -> None:
        while self._stack:
            os.close(self._stack.pop())

    def _leave(self) -> None:
        if len(self._stack) == 1:
            raise Refused("a link leads out of the workdir")
        os.close(self._stack.pop())

    def _target(self, name: str) -> list[str]:
        self._links += 1
        if self._links > MAX_LINKS:
            raise Refused(f"more than {MAX_LINKS} links on the way to the file")
        target = os.readlink(name, dir_fd=self.here)
        if target.startswith("/"):
            raise Refused(f"{name} is a link to an absolute path, which is not followed")
        return [part for part in target.split("/") if part not in ("", ".")]


def _open_directory(name: str, parent: int) -> int:
    try:
        return os.open(name, _DIRECTORY, dir_fd=parent)
    except OSError as error:
        if _is_link(name, parent):
            raise Refused(f"{name} is a link, which is not followed here") from error
        raise


def _make_directory(name: str, parent: int) -> int:
    try:
        return _open_directory(name, parent)
    except FileNotFoundError:
        with suppress(FileExistsError):
            os.mkdir(name, dir_fd=parent)
    return _open_directory(name, parent)


def _open_file(name: str, parent: int) -> int:
    """Only a regular file: opening a device may have effects. Looked at before and after, as names can be swapped."""
    if not stat.S_ISREG(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
        raise NoPlainFile(f"{name} is neither a file nor a directory")
    handle = os.open(name, _FILE, dir_fd=parent)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise NoPlainFile(f"{name} is neither a file nor a directory")
    return handle


def _is_link(name: str, parent: int) -> bool:
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
    except OSError:
        return False
