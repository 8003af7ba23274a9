"""Connections that give nothing are ended, too many are told when to come back, and others do not notice."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn

from balsam.server import connections
from balsam.server.connections import guarded
from balsam.server.errors import TooMany
from balsam.server.limits import Crowd
from balsam.server.settings import ConnectionLimits

BIG = b"x" * (32 * 1024 * 1024)


async def answer(scope: Any, receive: Any, send: Any) -> None:
    content = BIG if scope["path"] == "/big" else b"well"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(content))]})
    await send({"type": "http.response.body", "body": content})


@contextlib.contextmanager
def server(limits: ConnectionLimits) -> Iterator[int]:
    """uvicorn with these limits, in a thread; its port."""
    config = uvicorn.Config(answer, loop="asyncio", http=guarded(limits), lifespan="off", log_config=None, ws="none")
    running = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=lambda: asyncio.run(running.serve(sockets=[listener])))
        thread.start()
        try:
            yield int(listener.getsockname()[1])
        finally:
            running.should_exit = True
            thread.join(30)


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=30)


def ask(sock: socket.socket, path: str = "/") -> bytes:
    sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    found = b""
    while not found.endswith(b"well") and (piece := sock.recv(4096)):
        found += piece
    return found


def test_one_connection_too_many_is_503_and_the_others_go_on() -> None:
    limits = ConnectionLimits(total=10, per_address=2)
    with server(limits) as port:
        with connect(port) as first, connect(port) as second:
            assert b"well" in ask(first) and b"well" in ask(second)
            with connect(port) as third:
                refused = third.recv(4096)
            assert b"503" in refused and b"Retry-After: 5" in refused
            assert b"well" in ask(first)
        eventually_empty(limits)
        with connect(port) as again:
            assert b"well" in ask(again)


def eventually_empty(limits: ConnectionLimits) -> None:
    event = threading.Event()
    for _ in range(300):
        if limits.count == 0:
            break
        event.wait(0.02)
    assert limits.count == 0 and not limits.by_address


@pytest.mark.slow
def test_headers_that_do_not_come_end_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEADERS_SEC", 0.1)
    with server(ConnectionLimits(10, None)) as port, connect(port) as silent, connect(port) as slow:
        slow.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX-")
        assert ended(silent) and ended(slow)
        with connect(port) as used:
            assert b"well" in ask(used)
            used.sendall(b"GET / HTTP/1.1\r\n")  # the second request of a connection as well
            assert ended(used)


def ended(sock: socket.socket) -> bool:
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


def test_an_answer_that_nobody_reads_ends_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "UNREAD_SEC", 0.1)
    limits = ConnectionLimits(10, None)
    with server(limits) as port, connect(port) as lazy:
        lazy.sendall(b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n")
        eventually_empty(limits)


def test_requests_of_one_account_at_once() -> None:
    crowd = Crowd(2)
    crowd.enter(1)
    crowd.enter(1)
    with pytest.raises(TooMany, match="at once"):
        crowd.enter(1)
    crowd.enter(2)
    crowd.leave(1)
    crowd.enter(1)
    endless = Crowd(None)
    for _ in range(1000):
        endless.enter(1)
