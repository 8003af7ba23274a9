"""Which files a path means, and reading them: one file, a directory, or a pattern.

Used where files are sent: by the Site for a Job's workdir (`Contained`: links out of it are refused, S15) and by the
SDK for the user's own files (`Free`). Files are opened one after another; nothing is listed that is not needed.
"""

import fnmatch
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from balsam.domain.transfers import WHOLE_WORKDIR, is_pattern
from balsam.transfer.descent import NoPlainFile, Refused, open_parts, parts_of

PIECE_BYTES = 1024 * 1024
MAX_SKIPPED = 20
OURS = ".balsam-"  # files of ours that are not complete yet; see destination.py
_ANY_DEPTH = "**"
Parts = tuple[str, ...]
Ids = frozenset[tuple[int, int]]


class FileChanged(Exception):
    """The file was written while it was read; what was read is of no use."""


class NothingThere(FileNotFoundError):
    """There is nothing to send; the text says what was looked for."""


class Root(Protocol):
    """A directory to send from."""

    def parts(self, path: str) -> Parts:
        """The names of a path below it. Raises Refused when it would lead out."""
        ...

    def open(self, parts: Sequence[str]) -> AbstractContextManager[tuple[int, os.stat_result]]:
        """A file or directory below it. Raises Refused, OSError."""
        ...


@dataclass(frozen=True, slots=True)
class Contained:
    """An open workdir: nothing outside of it is reached."""

    handle: int

    def parts(self, path: str) -> Parts:
        return tuple(parts_of(path, "path"))

    def open(self, parts: Sequence[str]) -> AbstractContextManager[tuple[int, os.stat_result]]:
        return open_parts(self.handle, parts)


@dataclass(frozen=True, slots=True)
class Free:
    """A directory of the user's own, whose links are the user's own as well."""

    path: Path

    def parts(self, path: str) -> Parts:
        return tuple(part for part in path.split("/") if part not in ("", "."))

    @contextmanager
    def open(self, parts: Sequence[str]) -> Iterator[tuple[int, os.stat_result]]:
        place = os.path.join(self.path, *parts)  # noqa: PTH118 - names may be any bytes
        if not stat.S_ISREG(os.stat(place).st_mode) and not stat.S_ISDIR(os.stat(place).st_mode):  # noqa: PTH116
            raise NoPlainFile(f"{place} is neither a file nor a directory")
        handle = os.open(place, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            yield handle, os.fstat(handle)
        finally:
            os.close(handle)


@dataclass(slots=True)
class SourceFile:
    """A file to send, open until the next one is asked for. `path` is its place in what is sent; a directory that is
    empty has one as well, which ends with /."""

    path: str
    handle: int
    status: os.stat_result

    @property
    def size_bytes(self) -> int:
        return 0 if self.is_directory else self.status.st_size

    @property
    def mode(self) -> int:
        return stat.S_IMODE(self.status.st_mode) & 0o777

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.status.st_mode)

    def pieces(self, offset: int = 0) -> Iterator[bytes]:
        """The content from `offset` on, as long as it was when it was opened. Raises FileChanged when it is shorter."""
        while offset < self.status.st_size:
            piece = os.pread(self.handle, min(PIECE_BYTES, self.status.st_size - offset), offset)
            if not piece:
                raise FileChanged(f"{self.path} became shorter while it was read")
            yield piece
            offset += len(piece)

    def check_unchanged(self) -> None:
        """Raises FileChanged when it was written since it was opened."""
        now = os.fstat(self.handle)
        if (now.st_size, now.st_mtime_ns) != (self.status.st_size, self.status.st_mtime_ns):
            raise FileChanged(f"{self.path} was changed while it was read")


@dataclass(slots=True)
class Selection:
    """What a path means. Iterate `files` once; `skipped` names what is neither a file nor a directory. `size_bytes` is
    that of a single file."""

    is_tree: bool
    files: Iterator[SourceFile]
    skipped: list[str] = field(default_factory=list)
    size_bytes: int | None = None


def select(root: Root, path: str, recursive: bool) -> Selection:
    """The files that `path` means below `root`. Raises NothingThere, IsADirectoryError, Refused, OSError.

    A path that exists is meant as it is written, also when it looks like a pattern. A pattern's `*`, `?` and `[...]`
    match within one name and no leading dot, `**` any number of directories; matching directories count only when
    `recursive`.
    """
    parts = root.parts(path) if path != WHOLE_WORKDIR else ()
    try:
        with root.open(parts) as (_, status):
            is_directory = stat.S_ISDIR(status.st_mode)
    except FileNotFoundError:
        if not is_pattern(path):
            raise NothingThere(f"there is no {path}") from None
        return _matching(root, parts, path, recursive)
    if not is_directory:
        return Selection(False, _one(root, parts), size_bytes=status.st_size)
    if not recursive:
        raise IsADirectoryError(f"{path} is a directory; only a slot with `recursive` takes one")
    selection = Selection(True, iter(()))
    selection.files = _tree(root, parts, len(parts), selection.skipped, frozenset())
    return selection


def _matching(root: Root, parts: Parts, pattern: str, recursive: bool) -> Selection:
    fixed = next(index for index, part in enumerate(parts) if is_pattern(part))
    selection = Selection(True, iter(()))
    selection.files = _matches(root, parts[:fixed], parts[fixed:], fixed, recursive, selection.skipped)
    first = next(selection.files, None)
    if first is None:
        raise NothingThere(f"nothing matches {pattern}")
    selection.files = _with_first(first, selection.files)
    return selection


def _with_first(first: SourceFile, rest: Iterator[SourceFile]) -> Iterator[SourceFile]:
    yield first
    yield from rest


def _one(root: Root, parts: Parts) -> Iterator[SourceFile]:
    with root.open(parts) as (handle, status):
        yield SourceFile(parts[-1], handle, status)


def _matches(
    root: Root, place: Parts, pattern: Parts, base: int, recursive: bool, skipped: list[str], above: Ids = frozenset()
) -> Iterator[SourceFile]:
    """Files below `place` that match the rest of the pattern."""
    head, rest = pattern[0], pattern[1:]
    if head == _ANY_DEPTH:
        yield from _matches(root, place, rest or ("*",), base, recursive, skipped, above)
    for name, is_directory, ids in _names(root, place, skipped, above):
        if head == _ANY_DEPTH:
            if is_directory and not name.startswith("."):
                yield from _matches(root, (*place, name), pattern, base, recursive, skipped, ids)
        elif not _fits(name, head):
            continue
        elif rest:
            if is_directory:
                yield from _matches(root, (*place, name), rest, base, recursive, skipped, ids)
        elif not is_directory:
            yield from _file(root, (*place, name), base)
        elif recursive:
            yield from _tree(root, (*place, name), base, skipped, above)


def _fits(name: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern) and (pattern.startswith(".") or not name.startswith("."))


def _tree(root: Root, place: Parts, base: int, skipped: list[str], above: Ids) -> Iterator[SourceFile]:
    """Everything below a directory."""
    is_empty = True
    for name, is_directory, ids in _names(root, place, skipped, above):
        is_empty = False
        if is_directory:
            yield from _tree(root, (*place, name), base, skipped, ids)
        else:
            yield from _file(root, (*place, name), base)
    if is_empty and len(place) > base:
        with root.open(place) as (handle, status):
            yield SourceFile("/".join(place[base:]) + "/", handle, status)


def _file(root: Root, place: Parts, base: int) -> Iterator[SourceFile]:
    with root.open(place) as (handle, status):
        yield SourceFile("/".join(place[base:]), handle, status)


def _names(root: Root, place: Parts, skipped: list[str], above: Ids) -> Iterator[tuple[str, bool, Ids]]:
    """(name, whether it is a directory, directories on the way there) of what is in a directory.

    A link counts as what it leads to. What is neither file nor directory, and a link to nothing, is skipped and noted.
    """
    with root.open(place) as (handle, status):
        here = (status.st_dev, status.st_ino)
        if here in above:
            raise Refused(f"{'/'.join(place)} is a directory that contains itself, by a link")
        ids = above | {here}
        with os.scandir(handle) as found:
            for item in found:
                if item.name.startswith(OURS):
                    continue
                try:
                    yield item.name, _is_directory(root, place, item), ids
                except (NoPlainFile, FileNotFoundError):
                    if len(skipped) < MAX_SKIPPED:
                        skipped.append("/".join((*place, item.name)))


def _is_directory(root: Root, place: Parts, item: "os.DirEntry[str]") -> bool:
    if item.is_dir(follow_symlinks=False):
        return True
    if item.is_file(follow_symlinks=False):
        return False
    with root.open((*place, item.name)) as (_, status):
        return stat.S_ISDIR(status.st_mode)
