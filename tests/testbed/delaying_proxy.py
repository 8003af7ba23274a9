"""A TCP proxy on loopback on which every byte arrives late by the same time, as over a long line; nothing is slower."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time

from tests.testbed.loopback_proxy import LoopbackProxy

_PIECE = 65_536


class DelayingProxy(LoopbackProxy):
    """Forwards to a port. A connection that can't be passed on is closed, as the service's own would be refused."""

    def __init__(self, to_port: int, one_way_sec: float) -> None:
        super().__init__(to_port)
        self._one_way_sec = one_way_sec

    def take(self, client: socket.socket) -> None:
        try:
            server = self.connect()
        except OSError:
            client.close()
            return
        for source, target in ((client, server), (server, client)):
            late: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
            threading.Thread(target=self._hear, args=(source, late), daemon=True).start()
            threading.Thread(target=self._give, args=(target, late), daemon=True).start()

    def _hear(self, source: socket.socket, late: queue.SimpleQueue[tuple[float, bytes]]) -> None:
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
