"""Connections that cost the service something and give nothing are ended: too many, too slow to ask, too slow to read.

`run.serve` gives `guarded` to uvicorn. A connection over a limit is answered 503 with Retry-After and closed, one whose
request does not arrive is closed, and so is one whose answers are not fetched (S16). Requests are not looked at here.
"""

import asyncio
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from balsam.server.settings import ConnectionLimits

HEADERS_SEC = 30.0  # from the first byte, or the connection, to the end of the headers
FIRST_REQUEST_SEC = 1.0  # while a service makes room for its successor
UNREAD_SEC = 60.0  # how long an answer may wait for its reader
BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nContent-Length: 0\r\nCache-Control: no-store\r\n"
    b"Connection: close\r\n\r\n"
)


class GuardedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with these limits."""

    limits: ClassVar[ConnectionLimits]

    def __init__(self, *words: Any, **given: Any) -> None:
        super().__init__(*words, **given)
        self._address = ""
        self._admitted = False
        self._has_asked = False
        self._asking: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._address = self.client[0] if self.client else ""
        self._admitted = self.limits.admit(self._address)
        if not self._admitted:
            transport.write(BUSY)
            transport.close()
            return
        self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        _cancel(self._asking)
        _cancel(self._unread)
        if self._admitted:
            self._admitted = False
            self.limits.leave(self._address)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._admitted:
            return
        if self._asking is None and (self.cycle is None or self.cycle.response_complete):
            self._await_headers()
        super().data_received(data)

    def on_headers_complete(self) -> None:
        _cancel(self._asking)
        self._asking = None
        self._has_asked = True
        super().on_headers_complete()
        if self.limits.draining:
            self.cycle.keep_alive = False

    def shutdown(self) -> None:
        if self.limits.draining and self._admitted and not self._has_asked:
            # It has just come, and its request is on the way: closed now, it would find nobody.
            self.loop.call_later(FIRST_REQUEST_SEC, self._close_unused)
            return
        super().shutdown()

    def _close_unused(self) -> None:
        if not self._has_asked:
            self.transport.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self._unread or self.loop.call_later(UNREAD_SEC, self._give_up)

    def resume_writing(self) -> None:
        _cancel(self._unread)
        self._unread = None
        super().resume_writing()

    def _await_headers(self) -> None:
        self._asking = self.loop.call_later(HEADERS_SEC, self._give_up)

    def _give_up(self) -> None:
        self.transport.abort()


def guarded(limits: ConnectionLimits) -> type[asyncio.Protocol]:
    """The protocol of one service's connections."""

    class Guarded(GuardedProtocol):
        pass

    Guarded.limits = limits
    return Guarded


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
