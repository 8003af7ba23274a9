"""What was sent: the entries of a file or tree, and in which blobs their bytes are.

A short list travels inside the messages, a long one as a blob of JSON lines, the manifest, written and read one line at
a time: a million files need no more memory than ten. What is read was written by somebody else, so every line is
checked: no path leaves the place that the tree is put in.
"""

import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import IO

EMPTY_SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
MAX_INLINE = 32
MAX_BLOBS = 100_000
MAX_LINE_BYTES = 64 * 1024
_SPOOL_BYTES = 256 * 1024
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_MAX_SIZE = 2**50


class BadManifest(ValueError):
    """This is no list of entries that could be carried out; the text says what is wrong."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One file: `size_bytes` of `blob` from `offset` on. A path that ends with / is an empty directory.

    `path` is relative and names may be any bytes (as `os.fsdecode` gives them). An empty file has no blob.
    """

    path: str
    size_bytes: int
    mode: int
    sha256: str
    blob: str | None = None
    offset: int = 0

    @property
    def parts(self) -> list[str]:
        return self.path.rstrip("/").split("/")

    @property
    def is_directory(self) -> bool:
        return self.path.endswith("/")


@dataclass(frozen=True, slots=True)
class Content:
    """A file (`is_tree` false, one entry) or a tree. `entries` is None when they are in the blob `manifest`.

    `blobs` are all that it needs, the manifest included; known where it was sent.
    """

    is_tree: bool
    files: int
    size_bytes: int
    entries: tuple[Entry, ...] | None
    manifest: str | None = None
    manifest_bytes: int = 0
    blobs: tuple[str, ...] = ()


@dataclass(slots=True)
class ManifestWriter:
    """Takes entries one by one. `close` when done with."""

    files: int = 0
    size_bytes: int = 0
    blobs: dict[str, None] = field(default_factory=dict)
    _entries: list[Entry] | None = field(default_factory=list)
    _lines: IO[bytes] = field(default_factory=lambda: tempfile.SpooledTemporaryFile(_SPOOL_BYTES))  # noqa: SIM115

    def add(self, entry: Entry) -> None:
        self._lines.write(encode(entry))
        self.files += not entry.is_directory
        self.size_bytes += entry.size_bytes
        if entry.blob is not None:
            self.blobs[entry.blob] = None
        if self._entries is not None:
            self._entries.append(entry)
            if len(self._entries) > MAX_INLINE or not _is_text(entry.path):
                self._entries = None

    @property
    def entries(self) -> tuple[Entry, ...] | None:
        """All of them, when they are few enough to travel inside a message."""
        return None if self._entries is None else tuple(self._entries)

    def lines(self) -> IO[bytes]:
        """The manifest, at its beginning."""
        self._lines.seek(0)
        return self._lines

    def close(self) -> None:
        self._lines.close()


def encode(entry: Entry) -> bytes:
    """One line. Names that are not UTF-8 survive it."""
    fields = [entry.path, entry.size_bytes, entry.mode, entry.sha256, entry.blob, entry.offset]
    return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


def decode(chunks: Iterable[bytes]) -> Iterator[Entry]:
    """The entries of a manifest that arrives in pieces. Raises BadManifest."""
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield _decoded(line)
        if len(rest) > MAX_LINE_BYTES:
            raise BadManifest(f"a line of the manifest has more than {MAX_LINE_BYTES} bytes")
    if rest:
        raise BadManifest("the manifest ends in the middle of a line")


def checked(entry: Entry) -> Entry:
    """The same entry. Raises BadManifest when it can't be carried out, or would lead out of its place."""
    if any(part in ("", ".", "..") or "\0" in part for part in entry.parts):
        raise BadManifest(f"the path {entry.path!r} can't be used: it must be relative and stay where it is put")
    if not 0 <= entry.size_bytes <= _MAX_SIZE or not 0 <= entry.offset <= _MAX_SIZE or not 0 <= entry.mode <= 0o777:
        raise BadManifest(f"{entry.path!r} has a size, offset or mode that can't be")
    if not _SHA256.match(entry.sha256) or not (entry.blob is None or _SHA256.match(entry.blob)):
        raise BadManifest(f"{entry.path!r} has a hash that is none")
    if (entry.blob is None) != (entry.size_bytes == 0) or (entry.is_directory and entry.size_bytes):
        raise BadManifest(f"{entry.path!r} has {entry.size_bytes} bytes and {'no' if not entry.blob else 'a'} blob")
    return entry


def _decoded(line: bytes) -> Entry:
    try:
        path, size_bytes, mode, sha256, blob, offset = json.loads(line)
    except (ValueError, TypeError) as error:
        raise BadManifest(f"a line of the manifest can't be read: {error}") from None
    numbers = all(type(number) is int for number in (size_bytes, mode, offset))
    texts = isinstance(path, str) and isinstance(sha256, str) and isinstance(blob, str | None)
    if not numbers or not texts or not _is_name(path):
        raise BadManifest("a line of the manifest has fields that are no entry")
    return checked(Entry(path, size_bytes, mode, sha256, blob, offset))


def _is_text(path: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in path)


def _is_name(path: str) -> bool:
    """Whether the system can make a file of this name at all."""
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        return False
    return True
