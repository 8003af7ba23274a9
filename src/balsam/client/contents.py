"""Contents of transfers as messages carry them, and as `transfer` works with them."""

from balsam.transfer.manifest import Content, Entry
from balsam.wire.transfers import ContentEntry, SentContent, TransferContent


def to_wire(content: Content) -> SentContent:
    """What was sent, for the service."""
    entries = None
    if content.entries is not None:
        entries = [
            ContentEntry(
                path=entry.path,
                size_bytes=entry.size_bytes,
                mode=entry.mode,
                sha256=entry.sha256,
                blob=entry.blob,
                offset=entry.offset,
            )
            for entry in content.entries
        ]
    return SentContent(
        is_tree=content.is_tree,
        files=content.files,
        size_bytes=content.size_bytes,
        entries=entries,
        manifest=content.manifest,
        manifest_bytes=content.manifest_bytes,
        blobs=list(content.blobs),
    )


def from_wire(content: TransferContent) -> Content:
    """What is to be fetched. Its entries are checked by whoever carries them out."""
    entries = None
    if content.entries is not None:
        entries = tuple(
            Entry(one.path, one.size_bytes, one.mode, one.sha256, one.blob, one.offset) for one in content.entries
        )
    return Content(
        content.is_tree, content.files, content.size_bytes, entries, content.manifest, content.manifest_bytes
    )
