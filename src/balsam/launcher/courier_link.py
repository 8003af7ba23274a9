"""The loop's end of the courier: starts it, sends orders without ever waiting, cuts its messages into lines.

JSON lines. The first is the errand (see `courier.Errand`). Orders: `{"do": "acquire", "request"}`,
`{"do": "records", "count"}` followed by a line for each record, `{"do": "close", "reason"}`. Messages, by their `is`:
opened {session, sent_at} | refused {reason} | granted {reply} | acquire_refused {acquire_seq, reason} |
reported {acked_seq, fenced [[job, token]], cancel} | renewed {sent_at, cancel} | work | cancel {job_ids} | closing |
ended {reason} | closed.
"""

import json
import sys
from collections.abc import Mapping
from typing import Any, Protocol

from balsam.launcher.line_link import LineLink


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
    """A courier in a process of its own, which waits for its errand."""

    def __init__(self) -> None:
        """Raises SpawnError."""
        self._link = LineLink([sys.executable, "-m", "balsam.launcher.courier"])

    def fileno(self) -> int:
        return self._link.fileno()

    @property
    def pidfd(self) -> int:
        return self._link.pidfd

    @property
    def wants_to_send(self) -> bool:
        return self._link.wants_to_send

    def send(self, order: Mapping[str, Any]) -> None:
        self._link.send_line(json.dumps(order, separators=(",", ":")).encode())

    def send_records(self, records: list[bytes]) -> None:
        self._link.send_line(b"\n".join((b'{"do":"records","count":%d}' % len(records), *records)))

    def flush(self) -> None:
        self._link.flush()

    def receive(self) -> list[dict[str, Any]] | None:
        lines = self._link.receive_lines()
        return None if lines is None else [json.loads(line) for line in lines]

    def close(self) -> None:
        """Kill it: whatever it had not delivered is in the outbox."""
        self._link.close()


class Couriers:
    """Sends couriers on errands: first the one that waits for one, then new ones."""

    def __init__(self, waiting: CourierProcess | None = None) -> None:
        self._waiting = waiting

    def __call__(self, errand: Mapping[str, Any]) -> CourierLink:
        """Raises SpawnError."""
        courier, self._waiting = self._waiting or CourierProcess(), None
        courier.send(errand)
        return courier
