"""From blobs to files: what stands in one blob is read in one go, a large file goes on where an earlier try ended.

Used by the Site for inputs and by the SDK for results. Each file is verified by its own hash, whatever the service
says.
"""

import errno
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from balsam.transfer.base import PeerAway, PeerRefused
from balsam.transfer.descent import Refused
from balsam.transfer.destination import ChecksumMismatch, Destination
from balsam.transfer.manifest import BadManifest, Content, Entry, checked, decode
from balsam.transfer.pages import Page
from balsam.transfer.sending import SMALL_BYTES

GROUP_BYTES = 8 * 1024 * 1024
GROUP_FILES = 4096
_HELD = (errno.EAGAIN, errno.EMFILE, errno.ENFILE)  # gets better when the files of a page are let go of


class BlobSource(Protocol):
    """Where blobs come from."""

    def read(self, sha256: str, offset: int, length: int) -> Iterator[bytes]:
        """A part of a blob. Raises PeerAway when nobody answers, PeerRefused when the blob is not there."""
        ...


@dataclass(frozen=True, slots=True)
class Wanted:
    """One file to fetch. `key` says whose it is; the last of `parts` is its name at the destination."""

    key: int
    entry: Entry
    destination: Destination
    parts: Sequence[str]


Outcome = tuple[Wanted, Exception | None]
Progress = Callable[[int, int], object]  # key, bytes


def entries_of(content: Content, source: BlobSource) -> Iterator[Entry]:
    """The entries of a content, each checked. Raises BadManifest."""
    if content.entries is not None:
        for entry in content.entries:
            yield checked(entry)
        return
    if content.manifest is None:
        raise BadManifest("the content has neither entries nor a manifest")
    digest = hashlib.sha256()

    def verified() -> Iterator[bytes]:
        for piece in source.read(content.manifest or "", 0, content.manifest_bytes):
            digest.update(piece)
            yield piece

    yield from decode(verified())
    if digest.hexdigest() != content.manifest:
        raise BadManifest("the manifest that arrived is not the one that was sent")


def receive(
    source: BlobSource, wanted: Iterable[Wanted], progress: Progress = lambda key, size_bytes: None
) -> Iterator[Outcome]:
    """Fetch the files and say of each how it went. PeerAway ends it; the files up to there are in place.

    Files that are parts of one blob should come one after another, in the order of their offsets.
    """
    for group in _groups(wanted):
        if len(group.members) == 1:
            yield group.members[0], _attempt(partial(_receive_one, source, group.members[0], progress))
        else:
            yield from _receive_group(source, group, progress)


@dataclass(slots=True)
class _Group:
    """Files that stand in one blob, from `start` to `end`, and what needs no bytes among them."""

    members: list[Wanted] = field(default_factory=list)
    blob: str | None = None
    start: int = 0
    end: int = 0
    last: tuple[int, int] = (0, 0)  # offset and size
    largest_bytes: int = 0

    def takes(self, entry: Entry) -> bool:
        """Whether it is a neighbour, and small."""
        if not self.members:
            return True
        if len(self.members) >= GROUP_FILES:
            return False
        if entry.blob is None or self.blob is None:  # a large file stays alone, so that it is gone on with
            return max(entry.size_bytes, self.largest_bytes) <= SMALL_BYTES
        is_same = (entry.offset, entry.size_bytes) == self.last  # the same small input of many Jobs
        is_near = entry.offset + entry.size_bytes - self.start <= GROUP_BYTES
        return entry.blob == self.blob and (entry.offset >= self.end or is_same) and is_near

    def add(self, one: Wanted) -> None:
        entry = one.entry
        self.members.append(one)
        if entry.blob is None:
            return
        if self.blob is None:
            self.blob, self.start = entry.blob, entry.offset
        self.end = entry.offset + entry.size_bytes
        self.last = (entry.offset, entry.size_bytes)
        self.largest_bytes = max(self.largest_bytes, entry.size_bytes)

    def stream(self, source: BlobSource) -> "_Stream":
        pieces = iter(()) if self.blob is None else source.read(self.blob, self.start, self.end - self.start)
        return _Stream(pieces, self.start)


def _groups(wanted: Iterable[Wanted]) -> Iterator[_Group]:
    """Neighbours in one blob together, as far as they are small."""
    group = _Group()
    for one in wanted:
        if not group.takes(one.entry):
            yield group
            group = _Group()
        group.add(one)
    if group.members:
        yield group


def _receive_group(source: BlobSource, group: _Group, progress: Progress) -> Iterator[Outcome]:
    """A page at a time. Nothing is waited for while files are held: two clients that collect the same results in
    another order would wait for each other."""
    stream = group.stream(source)
    with Page[Wanted]() as page:
        for one in group.members:
            try:
                error = _attempt(partial(_receive_part, stream, one, page, progress))
                if isinstance(error, OSError) and error.errno in _HELD and not page.is_empty:
                    yield from page.settle()
                    error = _attempt(partial(_receive_part, stream, one, page, progress))
            except PeerAway:
                yield from page.settle()
                raise
            if error is not None:
                page.note(one, error)
            if page.is_full:
                yield from page.settle()
        yield from page.settle()


def _attempt(work: Callable[[], None]) -> Exception | None:
    """What went wrong with one file. It does not hinder the others."""
    try:
        work()
    except (OSError, Refused, ChecksumMismatch, PeerRefused) as error:
        return error
    return None


def _receive_one(source: BlobSource, one: Wanted, progress: Progress) -> None:
    entry = one.entry
    if entry.is_directory:
        one.destination.directory(one.parts)
        return
    with one.destination.file(one.parts, entry.size_bytes, entry.mode, entry.sha256) as file:
        progress(one.key, file.received_bytes)
        left = entry.size_bytes - file.received_bytes
        if left and entry.blob is not None:
            for piece in source.read(entry.blob, entry.offset + file.received_bytes, left):
                file.write(piece)
                progress(one.key, len(piece))
        file.finish()


def _receive_part(stream: "_Stream", one: Wanted, page: Page[Wanted], progress: Progress) -> None:
    entry = one.entry
    if entry.is_directory:
        one.destination.directory(one.parts)
        page.note(one, None)
        return
    content = stream.take(entry.offset, entry.size_bytes) if entry.size_bytes else b""
    file = one.destination.file(one.parts, entry.size_bytes, entry.mode, entry.sha256, waits=page.is_empty)
    try:
        file.write(content[file.received_bytes :])
        file.check()
    except BaseException:
        file.close()
        raise
    page.add(one, file)
    progress(one.key, entry.size_bytes)


class _Stream:
    """A part of a blob that arrives in pieces of any size, taken in parts that follow each other."""

    def __init__(self, pieces: Iterator[bytes], offset: int) -> None:
        self._pieces = pieces
        self._position = offset
        self._piece = b""
        self._used = 0  # of the piece
        self._last = (-1, b"")
        self._refused: PeerRefused | None = None

    def take(self, offset: int, length: int) -> bytes:
        """The bytes from `offset` on, which is where the last ones were taken, or not before their end."""
        if self._last[0] != offset or len(self._last[1]) != length:
            self._read(offset - self._position)
            self._last = (offset, self._read(length))
        return self._last[1]

    def _read(self, length: int) -> bytes:
        if len(self._piece) - self._used < length:
            found = [self._piece[self._used :]]
            have = len(found[0])
            while have < length and (more := self._next()):
                found.append(more)
                have += len(more)
            self._piece, self._used = b"".join(found), 0
        content = self._piece[self._used : self._used + length]
        self._used += len(content)
        self._position += len(content)
        return content

    def _next(self) -> bytes:
        if self._refused is not None:
            raise self._refused
        try:
            return next(self._pieces, b"")
        except PeerRefused as error:
            self._refused = error
            raise
