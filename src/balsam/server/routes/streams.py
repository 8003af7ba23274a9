"""Server-sent events: `hello` once the subscription is in place, then what the mailbox holds, a comment every 15 s.

A stream ends when the client goes, the service stops, the token is revoked or expires, or its Session ends. The client
connects again and reads the state; a stream is a hint (wire/stream.py).
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence

from balsam.server.broker import HELLO, Mailbox
from balsam.server.errors import ServiceError, Unavailable
from balsam.server.routes.call import Call, Receive, Scope, Send

PING_SEC = 15.0
PING = b": ping\n\n"

Allowed = Callable[[], Awaitable[object]]  # raises ServiceError when the stream may not go on


class EventStream:
    """An ASGI response that sends what comes into a mailbox.

    `per_holder`: there is one process that listens, so a new stream of the same owner takes the place of the oldest;
    by default so for everybody but users.
    """

    def __init__(
        self,
        call: Call,
        box: Mailbox,
        owner: Hashable,
        allowed: Allowed,
        first: Sequence[bytes] = (),
        *,
        per_holder: bool | None = None,
    ) -> None:
        self._call = call
        self._allowed = allowed
        self._box = box
        self._owner = owner
        self._first = b"".join([HELLO, *first])
        self._per_holder = call.principal.kind != "user" if per_holder is None else per_holder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        broker, box = self._call.service.broker, self._box
        broker.open(box, self._owner, per_holder=self._per_holder)
        gone = asyncio.create_task(_until_gone(receive, box))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self._headers()})
            await send({"type": "http.response.body", "body": self._first, "more_body": True})
            await self._send_all(send)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            gone.cancel()
            broker.release(box, self._owner)

    async def _send_all(self, send: Send) -> None:
        box, loop = self._box, asyncio.get_running_loop()
        turn = self._call.service.broker.turn_of(self._call.principal.user_id)
        check_at = loop.time() + PING_SEC
        while True:
            await box.wait(PING_SEC)
            async with turn:
                content, doubted = box.take(), box.doubted
                box.doubted = False
            if content or not (box.closed or doubted):
                await send({"type": "http.response.body", "body": content or PING, "more_body": True})
            if box.closed:
                return
            if doubted or loop.time() >= check_at:
                if not await self._still_allowed():
                    return
                check_at = loop.time() + PING_SEC

    async def _still_allowed(self) -> bool:
        try:
            await self._call.authenticate()
            await self._allowed()
        except Unavailable:
            return True
        except ServiceError:
            return False
        return True

    def _headers(self) -> list[tuple[bytes, bytes]]:
        return [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-store"),
            (b"x-accel-buffering", b"no"),
            (b"x-content-type-options", b"nosniff"),
            (b"x-request-id", self._call.request_id.encode()),
        ]


async def _until_gone(receive: Receive, box: Mailbox) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    box.close()
