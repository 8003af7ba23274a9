"""What TCP proxies of tests have in common: a port of their own on loopback, and the thread that takes connections."""

from __future__ import annotations

import socket
import threading
from typing import Self


class LoopbackProxy:
    """Stands before `to_port` within a `with`; a subclass says in `take` what becomes of a connection."""

    def __init__(self, to_port: int) -> None:
        self._to_port = to_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._accept, daemon=True)

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def take(self, client: socket.socket) -> None:
        raise NotImplementedError

    def connect(self) -> socket.socket:
        """A connection to what the proxy stands before."""
        return socket.create_connection(("127.0.0.1", self._to_port))

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.take(client)
