"""A reader of server-sent events for tests: connects in a thread, keeps what came, and when."""

from __future__ import annotations

import json
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import httpx2

from tests.services import RunningService


@dataclass
class Listener:
    """`with Listener(service, path, token) as stream: stream.wait("states")`."""

    service: RunningService
    path: str
    token: str | None = None
    events: list[tuple[str, Any, float]] = field(default_factory=list)
    comments: int = 0
    ended: str = ""  # "" while open, "clean" or the error
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._changed = threading.Condition()
        self._socket: socket.socket | None = None
        self._client = self.service.client(self.token)
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Listener:
        self._thread.start()
        self.wait("hello")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Closing the client does not wake a thread that reads; the end of the connection does.
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._client.close()

    def _read(self) -> None:
        try:
            with self._client.stream("GET", self.path) as reply:
                self.status, self.headers = reply.status_code, dict(reply.headers)
                self._socket = reply.extensions["network_stream"].get_extra_info("socket")
                name = ""
                for line in reply.iter_lines():
                    if line.startswith("event: "):
                        name = line[7:]
                    elif line.startswith("data: "):
                        self._add(name, json.loads(line[6:]))
                    elif line.startswith(":"):
                        self.comments += 1
            end = "clean"
        except (httpx2.HTTPError, httpx2.StreamError, OSError, RuntimeError) as error:
            end = repr(error)
        with self._changed:
            self.ended = end
            self._changed.notify_all()

    def _add(self, name: str, data: Any) -> None:
        with self._changed:
            self.events.append((name, data, time.perf_counter()))
            self._changed.notify_all()

    def wait(self, name: str, after: int = 0, timeout_sec: float = 10.0) -> Any:
        """Data of the first event of this name beyond the first `after` events."""
        with self._changed:
            self._changed.wait_for(lambda: self._find(name, after) or self.ended, timeout_sec)
            found = self._find(name, after)
            assert found, (
                f"no {name!r} came in {timeout_sec} s; came: {self.events}, end: {self.ended!r}, {self.status}"
            )
            return found[0]

    def _find(self, name: str, after: int) -> tuple[Any] | None:
        return next(((data,) for found, data, _ in self.events[after:] if found == name), None)

    def wait_end(self, timeout_sec: float = 10.0) -> str:
        with self._changed:
            assert self._changed.wait_for(lambda: self.ended, timeout_sec), f"still open after {timeout_sec} s"
            return self.ended
