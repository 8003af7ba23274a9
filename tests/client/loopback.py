"""A small real HTTP server on loopback whose answers a test scripts; it records what it received."""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Received:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


Answer = Callable[["Handler"], None]


@dataclass
class Script:
    """`answers` are used up in order, then `default` goes on."""

    default: Answer
    answers: list[Answer] = field(default_factory=list)
    received: list[Received] = field(default_factory=list)
    url: str = ""
    port: int = 0


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    script: Script

    def handle_any(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        body = self.rfile.read(length)
        headers = {key.lower(): value for key, value in self.headers.items()}
        self.script.received.append(Received(self.command, self.path, headers, body))
        answer = self.script.answers.pop(0) if self.script.answers else self.script.default
        answer(self)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any  # noqa: N815

    def log_message(self, *args: object) -> None:
        pass


def reply(status: int = 200, content: Any = None, headers: dict[str, str] | None = None, delay: float = 0) -> Answer:
    def answer(handler: Handler) -> None:
        if delay:
            time.sleep(delay)
        data = b"" if content is None else json.dumps(content).encode()
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(data)

    return answer


def error(status: int, code: str, message: str, details: list[dict[str, str]] | None = None, **headers: str) -> Answer:
    body = {"error": {"code": code, "message": message, "details": details or [], "request_id": "r1"}}
    return reply(status, body, {name.replace("_", "-"): value for name, value in headers.items()})


def hang_up(handler: Handler) -> None:
    """The request was read, and no answer comes."""
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)


def drip(handler: Handler) -> None:
    """One byte every 50 ms, for ever."""
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(b" ")
            time.sleep(0.05)
    except OSError:
        handler.close_connection = True


def events(*texts: str, stay: threading.Event | None = None) -> Answer:
    """Server-sent events, then the end of the stream, or silence until `stay` is set."""

    def answer(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Connection", "close")
        handler.end_headers()
        for text in texts:
            handler.wfile.write(text.encode())
        handler.wfile.flush()
        if stay is not None:
            stay.wait(30)
        handler.close_connection = True

    return answer


class Server(ThreadingHTTPServer):
    daemon_threads = True
    open_connections: set[socket.socket]

    def process_request(self, request: Any, client_address: Any) -> None:
        self.open_connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.open_connections.discard(request)
        super().shutdown_request(request)

    def hang_up_on_all(self) -> None:
        for connection in list(self.open_connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # clients hang up on purpose here


@contextmanager
def serving(script: Script, port: int = 0, tls: ssl.SSLContext | None = None) -> Iterator[Script]:
    handler = type("ScriptedHandler", (Handler,), {"script": script})
    server = Server(("127.0.0.1", port), handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.open_connections = set()
    script.port = server.server_address[1]
    script.url = f"{'https' if tls else 'http'}://127.0.0.1:{script.port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield script
    finally:
        server.shutdown()
        server.server_close()
        server.hang_up_on_all()
        thread.join()
