"""Server-sent events that reconnect by themselves.

`hello` is the first event of every connection: whoever sees it reads the state anew, because what was pushed in
between is lost. A stream is a hint with data; nobody's correctness rests on it.
"""

import json
import logging
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Self

from balsam.client.transport.link import LinkError, OpenReply

logger = logging.getLogger("balsam.client")


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One event: its name (`balsam.wire.stream.StreamEvent` has the known ones) and its data, JSON text."""

    name: str
    data: str

    def json(self) -> Any:
        """The data, parsed; None when there is none."""
        return json.loads(self.data) if self.data else None


class EventParser:
    """Bytes in, events out; takes any cut of the stream.

    >>> parser = EventParser()
    >>> list(parser.feed(b"event: hello")), list(parser.feed(b"\\ndata: {}\\n\\n: ping\\n\\n"))
    ([], [ServerEvent(name='hello', data='{}')])
    """

    def __init__(self) -> None:
        self._rest = b""
        self._name = ""
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> Iterator[ServerEvent]:
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for raw in lines:
            line = raw.removesuffix(b"\r").decode("utf-8", errors="replace")
            if line:
                self._field(line)
            elif self._name or self._data:
                yield ServerEvent(self._name or "message", "\n".join(self._data))
                self._name, self._data = "", []

    def _field(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            self._name = value
        elif name == "data":
            self._data.append(value)


class EventStream(Iterator[ServerEvent]):
    """Iterate to receive; `close` from any thread ends the iteration promptly. Usable as a context manager.

    `connected` is True from `hello` on, until the connection breaks. An error that waiting does not mend (401, 403,
    404, 409) is raised out of the iteration.
    """

    def __init__(self, connect: Callable[[], OpenReply], pause: Callable[[bool], None]) -> None:
        self.connected = False
        self.on_drop: Callable[[], None] | None = None  # called in the reader's thread when a connection has ended
        self._connect = connect
        self._pause = pause
        self._closed = threading.Event()
        self._reply: OpenReply | None = None
        self._events = self._receive()
        _streams.add(self)

    @property
    def closed(self) -> bool:
        return self._closed.is_set()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> ServerEvent:
        return next(self._events)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the iteration, also one that waits in another thread."""
        self._closed.set()
        self.connected = False
        if self._reply is not None:
            self._reply.abort()

    def drop_after_fork(self) -> None:
        reply, self._reply = self._reply, None
        self._closed = threading.Event()
        self._closed.set()
        self.connected = False
        if reply is not None:
            reply.drop()

    def wait_closed(self, timeout_sec: float) -> bool:
        """Sleep, but no longer than until `close`. True when closed."""
        return self._closed.wait(timeout_sec)

    def _receive(self) -> Iterator[ServerEvent]:
        from balsam.wire.stream import StreamEvent  # with the messages, which a call without a stream needs not

        while not self._closed.is_set():
            greeted = False
            try:
                self._reply = self._connect()
                if self._closed.is_set():  # `close` could not abort what was not there yet
                    self._reply.abort()
                for event in self._events_of(self._reply):
                    greeted = greeted or event.name == StreamEvent.HELLO
                    self.connected = greeted
                    yield event
            except LinkError as error:
                logger.debug("event stream broke: %s", error)
            finally:
                self.connected = False
            if self._closed.is_set():
                return
            if greeted and self.on_drop is not None:
                self.on_drop()
            self._pause(greeted)

    def _events_of(self, reply: OpenReply) -> Iterator[ServerEvent]:
        parser = EventParser()
        for chunk in reply.chunks():
            for event in parser.feed(chunk):
                if self._closed.is_set():
                    return
                yield event


_streams: "weakref.WeakSet[EventStream]" = weakref.WeakSet()


def _drop_in_child() -> None:
    for stream in list(_streams):
        stream.drop_after_fork()


os.register_at_fork(after_in_child=_drop_in_child)
