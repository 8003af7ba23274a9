"""Facts on their way: numbered into the outbox, handed to the courier, forgotten when the service has them.

Used by the loop. Paced: at once when the launcher is idle or was silent for a while, else every 50 ms or 200 facts
(a stream of short Jobs would otherwise cost a write and a call for each). While the disk is full, or too much is not
delivered, facts wait in memory and no new Job is started (F10, L2).
"""

import logging
from collections.abc import Mapping
from typing import Any

from balsam.client.outbox import Outbox, OutboxError
from balsam.launcher.courier_link import CourierLink
from balsam.launcher.machine_messages import Record

log = logging.getLogger("balsam.launcher")

PACE_SEC = 0.05
MOST_WAITING = 200
TRY_AGAIN_SEC = 1.0
LONGEST_MESSAGE = 8000
# Results are kept in memory until the service has them; above so much no Job is started that would add to them.
MOST_PENDING_BYTES = 64 * 1024 * 1024


class Reports:
    """The facts of one Session."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._waiting: list[dict[str, Any]] = []
        self._next_flush = 0.0
        self._disk_works = True
        self._is_flooded = False

    @property
    def works(self) -> bool:
        """Whether what Jobs bring can be kept."""
        return self._disk_works and not self._is_flooded

    @property
    def undelivered(self) -> int:
        """Facts that the service has not confirmed."""
        return len(self._waiting) + len(self._outbox.unacked)

    def add(self, record: Record, at: str) -> None:
        """Take a fact; `at` is a time for people."""
        fact: dict[str, Any] = {
            "job_id": record.job_id,
            "token": record.token,
            "event": record.outcome.value,
            "at": at,
        }
        if record.return_code is not None:
            fact["return_code"] = record.return_code
        if record.failure is not None:
            fact["failure"] = record.failure.value
        if record.message:
            fact["message"] = record.message[:LONGEST_MESSAGE]
        if record.data:
            fact["data"] = record.data
        if record.result is not None:
            fact["result"] = record.result
        if record.changes:
            fact["changes"] = record.changes
        if record.restarts:
            fact["restarts"] = record.restarts
        self._waiting.append(fact)

    def due(self, idle: bool) -> float | None:
        """When to call `flush`; None: nothing waits."""
        if not self._waiting:
            return None
        return 0.0 if self._disk_works and (idle or len(self._waiting) >= MOST_WAITING) else self._next_flush

    def flush(self, now: float, courier: CourierLink | None) -> None:
        """Write what waits and hand it to the courier."""
        if not self._waiting:
            return
        try:
            written = self._outbox.append(self._waiting)
        except OutboxError as error:
            if self._disk_works:
                log.error("%s; no Job is started until results can be kept again", error)
            self._disk_works, self._next_flush = False, now + TRY_AGAIN_SEC
            return
        if not self._disk_works:
            log.warning("results can be kept again")
        self._disk_works, self._next_flush = True, now + PACE_SEC
        self._waiting = []
        if self._outbox.pending_bytes > MOST_PENDING_BYTES and not self._is_flooded:
            self._is_flooded = True
            log.warning(
                "%d bytes of results wait for the service; no Job is started until it took some", MOST_PENDING_BYTES
            )
        if courier is not None:
            courier.send_records(written)

    def hand_over(self, courier: CourierLink) -> None:
        """A new courier: give it everything that is not confirmed."""
        if self._outbox.unacked:
            courier.send_records(self._outbox.unacked)

    def confirmed(self, message: Mapping[str, Any]) -> None:
        """The service has everything up to there."""
        self._outbox.ack(message["acked_seq"])
        if self._outbox.pending_bytes < MOST_PENDING_BYTES // 2:
            self._is_flooded = False

    def close(self, delivered: bool) -> None:
        """The file stays unless all of it was `delivered` and the Session closed: others take it from there."""
        self._outbox.close(remove=delivered and not self.undelivered)
