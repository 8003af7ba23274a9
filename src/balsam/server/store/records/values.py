"""What columns of every kind hold: times as integer microseconds since 1970 UTC, and JSON objects."""

from datetime import UTC, datetime, timedelta
from typing import Any

Json = dict[str, Any]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def micros(moment: datetime) -> int:
    """Microseconds since 1970 of an aware time."""
    return (moment - _EPOCH) // _MICROSECOND


def moment(us: int) -> datetime:
    """The aware UTC time of a number of microseconds."""
    return _EPOCH + timedelta(microseconds=us)


def moment_or_none(us: int | None) -> datetime | None:
    return None if us is None else moment(us)
