"""A TCP proxy on loopback whose connections can be broken, and which takes no new ones until it is healed."""

from __future__ import annotations

import contextlib
import socket
import threading

from tests.testbed.loopback_proxy import LoopbackProxy


class StoppingProxy(LoopbackProxy):
    """Forwards to a port; `cut` breaks everything, `heal` lets new connections through."""

    def __init__(self, to_port: int) -> None:
        super().__init__(to_port)
        self._open: set[socket.socket] = set()
        self._is_cut = False
        self._lock = threading.Lock()

    def __exit__(self, *_: object) -> None:
        self.cut()
        super().__exit__()

    def cut(self) -> None:
        with self._lock:
            self._is_cut = True
            for side in self._open:
                with contextlib.suppress(OSError):
                    side.shutdown(socket.SHUT_RDWR)
            self._open.clear()

    def heal(self) -> None:
        self._is_cut = False

    def take(self, client: socket.socket) -> None:
        with self._lock:
            if self._is_cut:
                client.close()
                return
            server = self.connect()
            self._open |= {client, server}
        for source, target in ((client, server), (server, client)):
            threading.Thread(target=self._pump, args=(source, target), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(65_536):
                target.sendall(piece)
        for side in (source, target):
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)
