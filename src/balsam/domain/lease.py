"""Session rules, for both ends: the service that grants and the launcher that holds.

Service: when is a Session expired, is a numbered call new. Holder: until when may the ranks live. The two sides never
compare clocks: the service counts on its own time from the last renewal it received, the holder on monotonic time from
the moment it *sent* the last renewal that was acknowledged, which is earlier (S6, S13).
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

LEASE_TTL_SEC = 300.0
LEASE_RENEW_SEC = 60.0
LEASE_MARGIN_SEC = 60.0  # >= time to kill (SIGTERM + SIGKILL) + one renewal that timed out
LEASE_GRACE_SEC = 30.0
ALLOCATION_GRACE_SEC = 2.0


class LeaseKind(StrEnum):
    """`allocation`: ends with its allocation. `heartbeat`: ends when it is not renewed."""

    ALLOCATION = "allocation"
    HEARTBEAT = "heartbeat"


class SessionPurpose(StrEnum):
    """What a Session's Jobs are held for."""

    RUN = "run"  # a launcher runs them
    PROCESSING = "processing"  # the Site's agent runs their hooks


class CallOrder(StrEnum):
    """How a numbered call relates to the last one seen."""

    NEW = "new"
    REPEAT = "repeat"
    OLD = "old"


def call_order(last: int, number: int) -> CallOrder:
    """S3: ordered compare. Equality alone would let a delayed duplicate of an older call act again."""
    if number > last:
        return CallOrder.NEW
    return CallOrder.REPEAT if number == last else CallOrder.OLD


def is_expired(
    kind: LeaseKind,
    *,
    renewed_at: datetime,
    allocation_ended_at: datetime | None,
    service_up_since: datetime,
    now: datetime,
) -> bool:
    """Whether the service may take the Jobs of a Session away.

    heartbeat: ttl + grace after the last renewal, counted at the earliest from the service's own start (L2: it may
    have been the one who was away). allocation: only when the scheduler said that the allocation ended, plus a grace
    in which late results arrive.
    """
    if kind is LeaseKind.ALLOCATION:
        return allocation_ended_at is not None and now >= allocation_ended_at + timedelta(seconds=ALLOCATION_GRACE_SEC)
    counted_from = max(renewed_at, service_up_since)
    return now >= counted_from + timedelta(seconds=LEASE_TTL_SEC + LEASE_GRACE_SEC)


@dataclass(slots=True)
class HeldLease:
    """The holder's end of a lease: monotonic seconds, one-way.

    >>> lease = HeldLease(LeaseKind.HEARTBEAT, sent_at=100.0)
    >>> lease.until
    340.0
    >>> lease.is_over(341.0), lease.renewed(sent_at=345.0), lease.is_over(346.0)
    (True, False, True)
    """

    kind: LeaseKind
    sent_at: float
    ttl_sec: float = LEASE_TTL_SEC
    margin_sec: float = LEASE_MARGIN_SEC
    _over: bool = False

    @property
    def until(self) -> float | None:
        """When the ranks must be dead, or None: an allocation lease lasts as long as the allocation."""
        return None if self.kind is LeaseKind.ALLOCATION else self.sent_at + self.ttl_sec - self.margin_sec

    def is_over(self, now: float) -> bool:
        """Whether the lease ended. Once true it stays true, whatever the service says later (S6)."""
        if self.until is not None and now >= self.until:
            self._over = True
        return self._over

    def end(self) -> None:
        """The service said that the lease is gone."""
        self._over = True

    def renewed(self, sent_at: float) -> bool:
        """Count from the *send* time of a renewal that was acknowledged. False when the lease was over already."""
        if not self._over:
            self.sent_at = max(self.sent_at, sent_at)
        return not self._over
