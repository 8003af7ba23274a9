"""From files to blobs: large files one by one, small ones many to a blob.

`Sender` takes the files of several transfers after another, so that a thousand Jobs with a small result each cost a few
uploads. Every file is read once and hashed on the way. Memory: one pack and one piece, whatever the sizes are.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from balsam.transfer.base import PeerRefused
from balsam.transfer.descent import Refused
from balsam.transfer.manifest import EMPTY_SHA256, MAX_BLOBS, Content, Entry, ManifestWriter
from balsam.transfer.sources import PIECE_BYTES, Selection, SourceFile

SMALL_BYTES = 256 * 1024
PACK_BYTES = 4 * 1024 * 1024
PACK_FILES = 4096
_LAST_BLOBS = 4  # a file, the packs before and after it, the manifest
Reader = Callable[[int], Iterator[bytes]]
Progress = Callable[[int], None]


class BlobSink(Protocol):
    """Where blobs go. Each may raise PeerAway when nobody answers, PeerRefused when it is no use to try again."""

    def send_bytes(self, sha256: str, content: bytes) -> None:
        """Send a whole blob, unless it is there already."""
        ...

    def send_stream(self, name: str, size_bytes: int, read: Reader) -> str:
        """Send what `read` gives from an offset on; its SHA-256. `name` is the same for the same content of a file, so
        that an interrupted upload is gone on with."""
        ...


@dataclass(frozen=True, slots=True)
class Packed:
    """A small file that waits for its pack to be sent."""

    writer: ManifestWriter
    path: str
    size_bytes: int
    mode: int
    sha256: str
    offset: int


class Sender:
    """Sends files: `send` each transfer, then `finish` it. `flush` sends what waits for company in a pack."""

    def __init__(self, sink: BlobSink, flushed: Callable[[], None] = lambda: None) -> None:
        """`flushed` is called whenever what waited is with the sink."""
        self._sink = sink
        self._flushed = flushed
        self._pack = bytearray()
        self._packed: list[Packed] = []

    def send(self, selection: Selection, name: str, progress: Progress = lambda size_bytes: None) -> ManifestWriter:
        """Send the files of one transfer; what is small is on its way after the next `flush` only.

        `name` tells the uploads of this transfer from others; `progress` hears of bytes that were read. Raises
        FileChanged, OSError, Refused, and what the sink raises.
        """
        writer = ManifestWriter()
        try:
            for file in selection.files:
                self._send_file(writer, file, name, progress)
        except BaseException:
            self.forget(writer)
            raise
        return writer

    def holds(self, writer: ManifestWriter) -> bool:
        """Whether a file of this transfer waits in the pack."""
        return any(packed.writer is writer for packed in self._packed)

    def forget(self, writer: ManifestWriter) -> None:
        """A transfer was given up."""
        self._packed = [packed for packed in self._packed if packed.writer is not writer]
        if not self._packed:
            self._pack.clear()
        writer.close()

    def finish(self, writer: ManifestWriter, is_tree: bool) -> Content:
        """The content of a transfer, all of whose files were sent. A long list is sent as a blob of its own."""
        if self.holds(writer):
            self.flush()
        blobs = tuple(writer.blobs)
        content = Content(is_tree, writer.files, writer.size_bytes, writer.entries, blobs=blobs)
        if content.entries is None:
            name, size_bytes = self._send_manifest(writer)
            content = Content(is_tree, writer.files, writer.size_bytes, None, name, size_bytes, (*blobs, name))
        writer.close()
        return content

    def flush(self) -> None:
        """Send the pack that is being filled."""
        if not self._packed:
            return
        content, packed = bytes(self._pack), self._packed
        name = packed[0].sha256 if packed[0].size_bytes == len(content) else hashlib.sha256(content).hexdigest()
        self._sink.send_bytes(name, content)
        self._pack, self._packed = bytearray(), []
        for one in packed:
            one.writer.add(Entry(one.path, one.size_bytes, one.mode, one.sha256, name, one.offset))
        self._flushed()

    def _send_file(self, writer: ManifestWriter, file: SourceFile, name: str, progress: Progress) -> None:
        if len(writer.blobs) > MAX_BLOBS - _LAST_BLOBS:
            text = f"more than {MAX_BLOBS - _LAST_BLOBS:,} files of more than {SMALL_BYTES:,} bytes"
            raise Refused(f"{text} can't travel as one directory; pack them, or make it several transfers")
        if file.is_directory or file.size_bytes == 0:
            writer.add(Entry(file.path, 0, file.mode, EMPTY_SHA256))
        elif file.size_bytes <= SMALL_BYTES:
            self._pack_file(writer, file)
            progress(file.size_bytes)
        else:
            self.flush()  # the small ones before it shall not wait
            send = self._send_whole if file.size_bytes <= PACK_BYTES else self._send_large
            digest = send(file, name, progress)
            writer.add(Entry(file.path, file.size_bytes, file.mode, digest, digest))

    def _pack_file(self, writer: ManifestWriter, file: SourceFile) -> None:
        content = b"".join(file.pieces())
        file.check_unchanged()
        if len(self._pack) + len(content) > PACK_BYTES or len(self._packed) >= PACK_FILES:
            self.flush()
        digest = hashlib.sha256(content).hexdigest()
        self._packed.append(Packed(writer, file.path, len(content), file.mode, digest, len(self._pack)))
        self._pack += content

    def _send_whole(self, file: SourceFile, name: str, progress: Progress) -> str:
        content = b"".join(file.pieces())
        file.check_unchanged()
        digest = hashlib.sha256(content).hexdigest()
        self._sink.send_bytes(digest, content)
        progress(len(content))
        return digest

    def _send_large(self, file: SourceFile, name: str, progress: Progress) -> str:
        status = file.status
        version = f"{name}\0{file.path}\0{status.st_size}\0{status.st_mtime_ns}\0{status.st_ino}"
        key = hashlib.sha256(version.encode(errors="surrogateescape")).hexdigest()

        def read(offset: int) -> Iterator[bytes]:
            for piece in file.pieces(offset):
                progress(len(piece))
                yield piece

        try:
            digest = self._sink.send_stream(key, file.size_bytes, read)
        except PeerRefused:
            file.check_unchanged()  # then that is why
            raise
        file.check_unchanged()
        return digest

    def _send_manifest(self, writer: ManifestWriter) -> tuple[str, int]:
        lines = writer.lines()
        digest, size_bytes = hashlib.sha256(), 0
        while piece := lines.read(PIECE_BYTES):
            digest.update(piece)
            size_bytes += len(piece)

        def read(offset: int) -> Iterator[bytes]:
            lines.seek(offset)
            while piece := lines.read(PIECE_BYTES):
                yield piece

        return self._sink.send_stream(digest.hexdigest(), size_bytes, read), size_bytes
