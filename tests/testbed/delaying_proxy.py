"""A TCP proxy on loopback on which every byte arrives late by the same time, as over a long line; nothing is slower."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time

_PIECE = 65_536


class DelayingProxy:
    """Forwards to a port. A connection that can't be passed on is closed, as the service's own would be refused."""

    def __init__(self, to_port: int, one_way_sec: float) -> None:
        self._to_port = to_port
        self._one_way_sec = one_way_sec
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._accept, daemon=True)

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def __enter__(self) -> DelayingProxy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._to_port))
            except OSError:
                client.close()
                continue
            for source, target in ((client, server), (server, client)):
                late: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
                threading.Thread(target=self._take, args=(source, late), daemon=True).start()
                threading.Thread(target=self._give, args=(target, late), daemon=True).start()

    def _take(self, source: socket.socket, late: queue.SimpleQueue[tuple[float, bytes]]) -> None:
        piece = b"-"
        while piece:
            try:
                piece = source.recv(_PIECE)
            except OSError:
                piece = b""
            late.put((time.monotonic() + self._one_way_sec, piece))

    def _give(self, target: socket.socket, late: queue.SimpleQueue[tuple[float, bytes]]) -> None:
        """Pieces at their time; an empty one is the end."""
        with contextlib.suppress(OSError):
            while True:
                due, piece = late.get()
                time.sleep(max(0.0, due - time.monotonic()))
                if not piece:
                    break
                target.sendall(piece)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)
