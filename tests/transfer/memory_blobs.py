"""Blobs in a dictionary, and the far end of `client:` over them."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from balsam.testing.transfer_conformance import contents
from balsam.transfer.base import Order, Outcome, PeerRefused, TransferBackend
from balsam.transfer.destination import Destination, open_directory
from balsam.transfer.manifest import Content
from balsam.transfer.receiving import Wanted, entries_of, receive
from balsam.transfer.sending import Reader, Sender
from balsam.transfer.service import ServiceBackend
from balsam.transfer.sources import Free, select


class MemoryBlobs:
    """The service's part of transfers. `calls` counts what was asked of it."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.calls: list[str] = []

    def send_bytes(self, sha256: str, content: bytes) -> None:
        self.calls.append("send")
        assert hashlib.sha256(content).hexdigest() == sha256
        self.kept[sha256] = content

    def send_stream(self, name: str, size_bytes: int, read: Reader) -> str:
        self.calls.append("send")
        content = b"".join(read(0))
        assert len(content) == size_bytes
        sha256 = hashlib.sha256(content).hexdigest()
        self.kept[sha256] = content
        return sha256

    def read(self, sha256: str, offset: int, length: int) -> Iterator[bytes]:
        self.calls.append("read")
        if sha256 not in self.kept:
            raise PeerRefused(f"there is no blob {sha256}", is_final=True)
        content = self.kept[sha256][offset : offset + length]
        for start in range(0, len(content), 70_000):
            yield content[start : start + 70_000]


class ClientFar:
    """The machine that submits, over blobs in memory."""

    def __init__(self) -> None:
        self.blobs = MemoryBlobs()

    def backend(self, data: Path) -> TransferBackend:
        return ServiceBackend(data, self.blobs)

    def give(self, files: Mapping[str, bytes], *, is_tree: bool) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as place:
            for path, content in files.items():
                target = os.path.join(place, path)
                os.makedirs(os.path.dirname(target), exist_ok=True)
                Path(target).write_bytes(content)
            sender = Sender(self.blobs)
            name = "." if is_tree else next(iter(files))
            selection = select(Free(Path(place)), name, recursive=is_tree)
            content_of = sender.finish(sender.send(selection, "give"), selection.is_tree)
        return {"remote_path": f"/home/ada/{name}", "content": content_of}

    def take(self, name: str) -> dict[str, Any]:
        return {"remote_path": f"/home/ada/{name}"}

    def taken(self, order: Order, outcome: Outcome) -> dict[str, bytes]:
        assert outcome.content is not None, outcome.error
        return fetched(self.blobs, outcome.content)


def fetched(blobs: MemoryBlobs, content: Content) -> dict[str, bytes]:
    """What a client would write."""
    with tempfile.TemporaryDirectory() as place, open_directory(Path(place), make=False) as root:
        with Destination(root) as destination:
            wanted = (Wanted(1, entry, destination, entry.parts) for entry in entries_of(content, blobs))
            for _, error in receive(blobs, wanted):
                assert error is None, error
        return contents(Path(place))
