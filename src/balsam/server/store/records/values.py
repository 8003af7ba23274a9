"""What columns of every kind hold: times as integer microseconds since 1970 UTC, and JSON objects."""

from datetime import UTC, datetime, timedelta
from typing import Any

Json = dict[str, Any]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_FIRST = (datetime.min.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND
_LAST = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND


def micros(moment: datetime) -> int:
    """Microseconds since 1970 of an aware time.

    The last hours of the calendar, and the first, are out of it in UTC where a zone is far from that. They count as its
    ends: what could be stored and not be read would be in the way of every list.
    """
    since = moment - _EPOCH
    us = (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
    return us if _FIRST <= us <= _LAST else min(max(us, _FIRST), _LAST)


def moment(us: int) -> datetime:
    """The aware UTC time of a number of microseconds."""
    return _EPOCH + timedelta(microseconds=us)


def moment_or_none(us: int | None) -> datetime | None:
    return None if us is None else moment(us)
