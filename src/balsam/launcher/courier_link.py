"""The loop's end of the courier: starts it, sends orders without ever waiting, cuts its messages into lines.

JSON lines. The first is the errand (see `courier.Errand`). Orders: `{"do": "acquire", "request"}`,
`{"do": "records", "records"}`, `{"do": "close", "reason"}`. Messages, by their `is`: opened {session, sent_at} |
refused {reason} | granted {reply} | acquire_refused {acquire_seq, reason} | reported {acked_seq, fenced [[job, token]],
cancel} | renewed {sent_at, cancel} | work | cancel {job_ids} | closing | ended {reason} | closed.
"""

import contextlib
import json
import os
import socket
import sys
from collections.abc import Mapping
from typing import Any, Protocol

from balsam.launcher.process import Child, close_child, kill, spawn_worker

_READ_BYTES = 1 << 18


class CourierLink(Protocol):
    """What the loop needs of a courier; tests and measurements put one in that answers by itself."""

    def fileno(self) -> int:
        """To be watched for reading."""
        ...

    @property
    def wants_to_send(self) -> bool:
        """Something is left to send: watch for writing too, and call `flush` then."""
        ...

    def send(self, order: Mapping[str, Any]) -> None:
        """Give an order."""
        ...

    def send_records(self, records: list[bytes]) -> None:
        """Give records for delivery, each as JSON."""
        ...

    def flush(self) -> None:
        """Send what can be sent without waiting."""
        ...

    def receive(self) -> list[dict[str, Any]] | None:
        """Messages that arrived; None when the courier is gone."""
        ...

    def close(self) -> None:
        """End it."""
        ...


class CourierProcess:
    """A courier in a process of its own."""

    def __init__(self, errand: Mapping[str, Any]) -> None:
        """Raises SpawnError."""
        ours, theirs = socket.socketpair()
        self._sock = ours
        ours.setblocking(False)
        try:
            argv = [sys.executable, "-m", "balsam.launcher.courier", str(theirs.fileno())]
            self._child: Child = spawn_worker(argv, theirs.fileno())
        finally:
            theirs.close()
        self._in = b""
        self._out = bytearray()
        self.send(errand)

    def fileno(self) -> int:
        return self._sock.fileno()

    @property
    def pidfd(self) -> int:
        return self._child.pidfd

    @property
    def wants_to_send(self) -> bool:
        return bool(self._out)

    def send(self, order: Mapping[str, Any]) -> None:
        self._out += json.dumps(order, separators=(",", ":")).encode() + b"\n"
        self.flush()

    def send_records(self, records: list[bytes]) -> None:
        self._out += b'{"do":"records","records":[' + b",".join(records) + b"]}\n"
        self.flush()

    def flush(self) -> None:
        # A courier that is gone is noticed by reading.
        with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
            while self._out:
                del self._out[: self._sock.send(self._out)]

    def receive(self) -> list[dict[str, Any]] | None:
        try:
            data = self._sock.recv(_READ_BYTES)
        except BlockingIOError:
            return []
        except ConnectionResetError:
            return None
        if not data:
            return None
        *lines, self._in = (self._in + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def close(self) -> None:
        """Kill it: whatever it had not delivered is in the outbox."""
        self._sock.close()
        kill(self._child.group)
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PIDFD, self._child.pidfd, os.WEXITED)
        close_child(self._child)
