"""A child process of the launcher's own to which lines go and from which lines come, over a socket; nothing waits.

The loop's end of the courier and of the hub. The child gets the number of its descriptor as its last argument.
"""

import contextlib
import os
import select
import socket
from collections.abc import Sequence

from balsam.launcher.process import Child, close_child, kill, spawn_worker

LONGEST_END_SEC = 1.0
_READ_BYTES = 1 << 18


class LineLink:
    """The process and the socket to it."""

    def __init__(self, argv: Sequence[str]) -> None:
        """Raises SpawnError."""
        self._sock, theirs = socket.socketpair()
        self._sock.setblocking(False)
        try:
            self._child: Child = spawn_worker([*argv, str(theirs.fileno())], theirs.fileno())
        finally:
            theirs.close()
        self._in = b""
        self._out = bytearray()

    def fileno(self) -> int:
        """To be watched for reading."""
        return self._sock.fileno()

    @property
    def pidfd(self) -> int:
        """Readable once the process ended."""
        return self._child.pidfd

    @property
    def wants_to_send(self) -> bool:
        """Something is left to send: watch for writing too, and call `flush` then."""
        return bool(self._out)

    def send_line(self, line: bytes) -> None:
        """Send a line, as far as that needs no waiting."""
        self._out += line
        self._out += b"\n"
        self.flush()

    def flush(self) -> None:
        """Send what can be sent without waiting."""
        # A process that is gone is noticed by reading.
        with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
            while self._out:
                del self._out[: self._sock.send(self._out)]

    def receive_lines(self) -> list[bytes] | None:
        """Lines that arrived; None when the process is gone."""
        try:
            data = self._sock.recv(_READ_BYTES)
        except BlockingIOError:
            return []
        except ConnectionResetError:
            return None
        if not data:
            return None
        *lines, self._in = (self._in + data).split(b"\n")
        return lines

    def close(self) -> None:
        """Kill it. One that a file system holds in spite of that is left to whoever started us."""
        self._sock.close()
        kill(self._child.group)
        poll = select.poll()
        poll.register(self._child.pidfd, select.POLLIN)
        if poll.poll(LONGEST_END_SEC * 1000):
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PIDFD, self._child.pidfd, os.WEXITED)
        close_child(self._child)
