"""The bytes of a blob as an answer: sent in pieces, in constant memory, one read ahead in a thread."""

import asyncio

from balsam.server.blobs.storage import BlobReader
from balsam.server.routes.call import Call, Receive, Scope, Send

PIECE_BYTES = 1024 * 1024


class BlobContent:
    """An ASGI response that sends a part of a blob; one piece is read ahead while another one is sent."""

    def __init__(self, call: Call, reader: BlobReader, offset: int, length: int) -> None:
        self._call = call
        self._reader = reader
        self._offset = offset
        self._end = offset + length

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers, ahead = self._headers(), asyncio.ensure_future(self._read())
        try:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            while self._offset < self._end:
                piece = await asyncio.shield(ahead)
                self._offset += len(piece)
                ahead = asyncio.ensure_future(self._read())
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            await asyncio.wait([ahead])  # a thread may still read: the file must be open so long
            self._reader.close()
            if not ahead.cancelled():
                ahead.exception()  # told already, or of no interest to a client that is gone

    async def _read(self) -> bytes:
        offset, wanted = self._offset, min(PIECE_BYTES, self._end - self._offset)
        if not wanted:
            return b""
        piece = await self._call.service.uploads.run(lambda: self._reader.read(offset, wanted))
        if not piece:
            raise OSError(f"a blob ends at {offset}, before its size")
        return piece

    def _headers(self) -> list[tuple[bytes, bytes]]:
        return [
            (b"content-type", b"application/octet-stream"),
            (b"content-length", str(self._end - self._offset).encode()),
            (b"content-disposition", b"attachment"),
            (b"cache-control", b"no-store"),
            (b"x-content-type-options", b"nosniff"),
            (b"x-request-id", self._call.request_id.encode()),
        ]
