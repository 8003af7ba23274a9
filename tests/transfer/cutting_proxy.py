"""A TCP proxy on loopback that cuts connections after so many bytes, and lies about none of them."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

_PIECE = 65_536


@dataclass
class CuttingProxy:
    """`cuts` are used up in order: each is (direction, bytes), "up" or "down"; the connection that has carried so many
    is reset. `carried` counts bytes by direction."""

    port: int
    cuts: list[tuple[str, int]] = field(default_factory=list)
    carried: dict[str, int] = field(default_factory=lambda: {"up": 0, "down": 0})
    cut_count: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _listener: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))
    _open: list[socket.socket] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self.port))
            self._open += [client, server]
            for source, target, direction in ((client, server, "up"), (server, client, "down")):
                threading.Thread(target=self._pump, args=(source, target, direction), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, direction: str) -> None:
        carried = 0
        with contextlib.suppress(OSError):
            while piece := source.recv(_PIECE):
                cut = self._cut_for(direction)
                if cut is not None and carried + len(piece) >= cut:
                    target.sendall(piece[: cut - carried])
                    with self._lock:
                        self.cuts.pop(0)
                        self.cut_count += 1
                    break
                target.sendall(piece)
                carried += len(piece)
                self.carried[direction] += len(piece)
        for sock in (target, source):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)  # what was passed on arrives; wakes the other direction
        with contextlib.suppress(OSError):
            source.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            source.close()  # a reset: who is still sending must not wait for room

    def _cut_for(self, direction: str) -> int | None:
        with self._lock:
            return self.cuts[0][1] if self.cuts and self.cuts[0][0] == direction else None

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in self._open:
            sock.close()


@contextmanager
def cutting_proxy(port: int, *cuts: tuple[str, int]) -> Iterator[CuttingProxy]:
    proxy = CuttingProxy(port, list(cuts))
    thread = threading.Thread(target=proxy.serve, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.close()
        thread.join(10)
