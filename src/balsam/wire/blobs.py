"""Messages about blobs: content of files that travels through the service, named by its SHA-256.

A blob is sent in pieces to an upload that the sender names; the piece that carries `sha256` completes it. A sender that
lost the connection asks for the upload and goes on at `received_bytes`.
"""

from typing import Annotated

from pydantic import Field, StringConstraints

from balsam.wire.base import Message

MAX_LOOK_UP = 10_000
MAX_BLOB_BYTES = 2**50
MAX_PIECE_BYTES = 256 * 1024 * 1024  # of an upload, in one call

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Size = Annotated[int, Field(ge=0, le=MAX_BLOB_BYTES)]


class BlobsLookUp(Message):
    """Which of these are there already? Those that are stay for an hour at least."""

    sha256: Annotated[list[Sha256], Field(max_length=MAX_LOOK_UP)]


class BlobsPresent(Message):
    """Those that need not be sent."""

    present: list[str]


class UploadPiece(Message):
    """Where the body of this call belongs. `sha256` of the whole completes the upload with this piece."""

    offset: Size
    size_bytes: Size  # of the whole
    sha256: Sha256 | None = None


class UploadState(Message):
    """How much of an upload is there; `complete`: it has become a blob."""

    received_bytes: int
    complete: bool = False


class BlobPart(Message):
    """Which part of a blob to read; without a length all from `offset` on."""

    offset: Size = 0
    length: Size | None = None


class BlobUsage(Message):
    """What a user's blobs take up, and the limits of the service."""

    used_bytes: int
    quota_bytes: int
    max_file_bytes: int
