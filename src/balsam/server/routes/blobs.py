"""Blobs: which are there, uploads in pieces, reading parts. Bodies stream through in constant memory."""

from http import HTTPStatus
from typing import Annotated

from pydantic import Field

from balsam.domain.scopes import Scope
from balsam.server.auth.needs import USER, USER_SITE_OR_JOB
from balsam.server.blobs.storage import BlobGone, BlobReader
from balsam.server.blobs.uploads import Complete
from balsam.server.errors import Invalid, NotFound, ServiceError
from balsam.server.limits import BodyStream
from balsam.server.routes.blob_content import BlobContent
from balsam.server.routes.call import Call
from balsam.server.routes.endpoint import Routes
from balsam.server.store.records import BlobRow
from balsam.server.usecases import blobs
from balsam.wire.base import ErrorDetail
from balsam.wire.blobs import MAX_PIECE_BYTES, BlobPart, BlobsLookUp, BlobsPresent, BlobUsage, UploadPiece, UploadState

routes = Routes("blobs", reads=Scope.JOBS_READ, writes=Scope.JOBS_WRITE)

MAX_NAME = 128
# Said only: `_checked_name` says better what is wrong.
UploadName = Annotated[str, Field(json_schema_extra={"pattern": f"^[A-Za-z0-9._-]{{1,{MAX_NAME}}}$"})]


@routes.post("/blobs/look-up", needs=USER_SITE_OR_JOB)
async def look_up_blobs(call: Call, body: BlobsLookUp) -> BlobsPresent:
    """Which of these blobs the caller need not send. They are kept for an hour from now on."""
    found = await call.write(lambda tx: blobs.look_up(tx, call.principal, body.sha256, call.now))
    return BlobsPresent(present=found)


@routes.get("/blobs/usage", needs=USER)
async def blob_usage(call: Call) -> BlobUsage:
    """What the caller's blobs take up, and the limits."""
    return await call.read(lambda tx: blobs.usage(tx, call.principal, call.service.settings.blob_limits))


@routes.get("/blobs/uploads/{name}", needs=USER_SITE_OR_JOB, scope=Scope.JOBS_WRITE)
async def upload_state(call: Call, name: UploadName) -> UploadState:
    """How far an upload is: where to go on after the connection was lost."""
    sender = blobs.sender_of(call.principal)
    return UploadState(received_bytes=call.service.uploads.received_bytes(sender, _checked_name(name)))


@routes.put("/blobs/uploads/{name}", needs=USER_SITE_OR_JOB, body_limit=MAX_PIECE_BYTES)
async def upload_piece(call: Call, name: UploadName, body: BodyStream, query: UploadPiece) -> UploadState:
    """A piece of a file, from `offset` on. With `sha256` it is the last one: the blob is there when this is answered.

    409 `upload_offset` says that the piece belongs elsewhere: ask how far the upload is.
    """
    uploads, sender = call.service.uploads, blobs.sender_of(call.principal)
    _checked_name(name)
    if query.offset + (body.announced_bytes or 0) > query.size_bytes:
        raise Invalid([ErrorDetail(where="offset", message="the body would reach beyond size_bytes")])

    async def admit(reserved: int) -> None:
        limits = call.service.settings.blob_limits
        await call.read(lambda tx: blobs.admit(tx, call.principal, query.size_bytes, reserved, limits))

    await uploads.weigh(sender, name, admit)
    upload = uploads.begin(sender, name, query.size_bytes)
    await uploads.append(upload, query.offset, body)
    if query.sha256 is None:
        return UploadState(received_bytes=upload.received_bytes)
    await _record(call, await uploads.complete(upload, query.sha256))
    return UploadState(received_bytes=query.size_bytes, complete=True)


@routes.delete("/blobs/uploads/{name}", needs=USER_SITE_OR_JOB, status=204)
async def drop_upload(call: Call, name: UploadName) -> None:
    """Give an upload up; its space is free at once."""
    call.service.uploads.drop(blobs.sender_of(call.principal), _checked_name(name))


@routes.get("/blobs/{sha256}", needs=USER_SITE_OR_JOB, media_type="application/octet-stream")
async def read_blob(call: Call, sha256: str, query: BlobPart) -> BlobContent:
    """The bytes of a blob, or a part of them."""
    row = await call.read(lambda tx: blobs.readable(tx, call.principal, sha256))
    if query.offset > row.size_bytes:
        raise Invalid([ErrorDetail(where="offset", message=f"the blob has {row.size_bytes} bytes")])
    rest = row.size_bytes - query.offset
    length = rest if query.length is None else min(rest, query.length)
    return BlobContent(call, await _open(call, row), query.offset, length)


async def _open(call: Call, row: BlobRow) -> BlobReader:
    uploads = call.service.uploads
    try:
        return await uploads.run(lambda: uploads.storage.open(row.place))
    except BlobGone:
        raise NotFound from None


async def _record(call: Call, complete: Complete) -> None:
    """Make the blob known. The storage holds it already: what can't be recorded is removed from there again, unless it
    may be recorded all the same; then the daily search for what no row knows of decides."""
    uploads = call.service.uploads
    sha256, size, place = complete.sha256, complete.size_bytes, complete.place
    try:
        row = await call.write(lambda tx: blobs.record(tx, call.principal, sha256, size, place, call.now))
    except ServiceError as error:
        if error.status != HTTPStatus.SERVICE_UNAVAILABLE:
            await uploads.run(lambda: uploads.storage.remove(place))
        raise
    if row.place != place:
        await uploads.run(lambda: uploads.storage.remove(place))


def _checked_name(name: str) -> str:
    if not 0 < len(name) <= MAX_NAME or not all((char.isalnum() and char.isascii()) or char in "._-" for char in name):
        message = f"an upload's name has 1 to {MAX_NAME} letters, digits, dots, dashes and underscores"
        raise Invalid([ErrorDetail(where="name", message=message)])
    return name
