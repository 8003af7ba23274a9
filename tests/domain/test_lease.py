"""Leases: ordered numbers, expiry as the service counts it, and the one-way end of the holder."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balsam.domain.lease import (
    ALLOCATION_GRACE_SEC,
    LEASE_GRACE_SEC,
    LEASE_MARGIN_SEC,
    LEASE_RENEW_SEC,
    LEASE_TTL_SEC,
    CallOrder,
    HeldLease,
    LeaseKind,
    call_order,
    is_expired,
)

NOW = datetime(2030, 1, 1, tzinfo=UTC)
HEARTBEAT, ALLOCATION = LeaseKind.HEARTBEAT, LeaseKind.ALLOCATION


@pytest.mark.parametrize(
    ("last", "number", "order"),
    [(0, 1, CallOrder.NEW), (4, 4, CallOrder.REPEAT), (4, 3, CallOrder.OLD), (4, 9, CallOrder.NEW)],
)
def test_s3_calls_are_compared_by_order(last: int, number: int, order: CallOrder) -> None:
    assert call_order(last, number) is order


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def expired(kind: LeaseKind, renewed: float, up: float = 1e6, ended: float | None = None) -> bool:
    return is_expired(
        kind,
        renewed_at=ago(renewed),
        allocation_ended_at=None if ended is None else ago(ended),
        service_up_since=ago(up),
        now=NOW,
    )


def test_a_heartbeat_lease_ends_ttl_and_grace_after_its_last_renewal() -> None:
    whole = LEASE_TTL_SEC + LEASE_GRACE_SEC
    assert not expired(HEARTBEAT, whole - 0.001)
    assert expired(HEARTBEAT, whole)


def test_l2_a_service_that_was_away_counts_from_its_own_start() -> None:
    whole = LEASE_TTL_SEC + LEASE_GRACE_SEC
    assert not expired(HEARTBEAT, renewed=10 * whole, up=whole - 1)
    assert expired(HEARTBEAT, renewed=10 * whole, up=whole)


def test_l2_an_allocation_lease_ends_only_when_the_scheduler_says_so() -> None:
    assert not expired(ALLOCATION, renewed=1e6)
    assert not expired(ALLOCATION, renewed=1e6, ended=ALLOCATION_GRACE_SEC - 0.001)
    assert expired(ALLOCATION, renewed=0, ended=ALLOCATION_GRACE_SEC)


def test_s6_the_holder_stops_before_the_service_grants_again() -> None:
    """Its ranks are dead at sent + ttl - margin; the service waits for received + ttl + grace."""
    lease = HeldLease(HEARTBEAT, sent_at=100.0)
    assert lease.until == 100.0 + LEASE_TTL_SEC - LEASE_MARGIN_SEC
    assert lease.until < 100.0 + LEASE_TTL_SEC + LEASE_GRACE_SEC
    assert LEASE_MARGIN_SEC < LEASE_TTL_SEC - LEASE_RENEW_SEC, "a renewal must be able to fail once"


def test_s6_the_end_of_a_lease_is_one_way() -> None:
    lease = HeldLease(HEARTBEAT, sent_at=0.0)
    assert lease.renewed(10.0)
    assert lease.until == 250.0
    assert not lease.is_over(249.9)
    assert lease.is_over(250.0)
    assert not lease.renewed(260.0), "a renewal after the end was accepted"
    assert lease.is_over(0.0)


def test_the_service_can_end_a_lease_at_once() -> None:
    lease = HeldLease(ALLOCATION, sent_at=0.0)
    assert lease.until is None
    assert not lease.is_over(1e12)
    lease.end()
    assert lease.is_over(0.0)


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1000)), max_size=30))
def test_the_deadline_never_comes_nearer_and_an_end_never_passes(steps: list[tuple[bool, float]]) -> None:
    lease = HeldLease(HEARTBEAT, sent_at=0.0)
    over = False
    for is_renewal, at in steps:
        before = lease.until
        if is_renewal:
            assert lease.renewed(at) is not over
        else:
            over = lease.is_over(at) or over
            assert lease.is_over(at) is over
        assert before is not None
        assert lease.until is not None
        assert lease.until >= before
