"""From blobs to files: what stands in one blob is read in one go, a large file goes on where an earlier try ended.

Used by the Site for inputs and by the SDK for results. Each file is verified by its own hash, whatever the service
says.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from balsam.transfer.base import PeerRefused
from balsam.transfer.descent import Refused
from balsam.transfer.destination import ChecksumMismatch, Destination
from balsam.transfer.manifest import BadManifest, Content, Entry, checked, decode

GROUP_BYTES = 8 * 1024 * 1024
GROUP_FILES = 4096


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
        if len(group) == 1:
            yield group[0], _attempt(partial(_receive_one, source, group[0], progress))
            continue
        first, last = group[0].entry, group[-1].entry
        length = last.offset + last.size_bytes - first.offset
        stream = _Stream(source.read(first.blob or "", first.offset, length), first.offset)
        for one in group:
            yield one, _attempt(partial(_receive_part, stream, one, progress))


def _groups(wanted: Iterable[Wanted]) -> Iterator[list[Wanted]]:
    """Neighbours in one blob together, as far as they are small."""
    group: list[Wanted] = []
    for one in wanted:
        if group and not _joins(group, one.entry):
            yield group
            group = []
        group.append(one)
    if group:
        yield group


def _joins(group: Sequence[Wanted], entry: Entry) -> bool:
    first, last = group[0].entry, group[-1].entry
    return (
        entry.blob is not None
        and entry.blob == first.blob
        and (entry.offset >= last.offset + last.size_bytes or _same_place(entry, last))
        and entry.offset + entry.size_bytes - first.offset <= GROUP_BYTES
        and len(group) < GROUP_FILES
    )


def _same_place(entry: Entry, other: Entry) -> bool:
    """The same small input of many Jobs."""
    return (entry.offset, entry.size_bytes) == (other.offset, other.size_bytes)


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


def _receive_part(stream: "_Stream", one: Wanted, progress: Progress) -> None:
    entry = one.entry
    content = stream.take(entry.offset, entry.size_bytes)
    with one.destination.file(one.parts, entry.size_bytes, entry.mode, entry.sha256) as file:
        file.write(content[file.received_bytes :])
        progress(one.key, entry.size_bytes)
        file.finish()


class _Stream:
    """A part of a blob that arrives in pieces of any size, taken in parts that follow each other."""

    def __init__(self, pieces: Iterator[bytes], offset: int) -> None:
        self._pieces = pieces
        self._position = offset
        self._rest = b""
        self._last = (-1, b"")
        self._refused: PeerRefused | None = None

    def take(self, offset: int, length: int) -> bytes:
        """The bytes from `offset` on, which is where the last ones were taken, or not before their end."""
        if self._last[0] != offset or len(self._last[1]) != length:
            self._read(offset - self._position)
            self._last = (offset, self._read(length))
        return self._last[1]

    def _read(self, length: int) -> bytes:
        found = [self._rest]
        have = len(self._rest)
        while have < length:
            piece = self._next()
            if not piece:
                break
            found.append(piece)
            have += len(piece)
        content = b"".join(found)
        self._rest = content[length:]
        self._position += min(length, have)
        return content[:length]

    def _next(self) -> bytes:
        if self._refused is not None:
            raise self._refused
        try:
            return next(self._pieces, b"")
        except PeerRefused as error:
            self._refused = error
            raise
