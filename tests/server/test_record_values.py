"""Times as the tables keep them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from balsam.server.store.records import micros, moment

_ZONES = st.integers(-(24 * 60 - 1), 24 * 60 - 1).map(lambda minutes: timezone(timedelta(minutes=minutes)))
_FIRST, _LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


@given(st.datetimes(timezones=_ZONES))
def test_a_time_is_the_same_whatever_its_zone(at: datetime) -> None:
    kept = micros(at)
    try:
        expected = at.astimezone(UTC)
    except OverflowError:  # beyond the calendar's ends in UTC, which it then counts as
        expected = _FIRST if at.year == 1 else _LAST
    assert moment(kept) == expected
