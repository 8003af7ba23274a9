"""A clock that stands still until a test moves it; for every component that takes a `Clock`."""

import threading
from datetime import UTC, datetime, timedelta

START = datetime(2030, 1, 1, tzinfo=UTC)


class FakeClock:
    """Implements `balsam.domain.clock.Clock`. Safe to use from several threads.

    >>> clock = FakeClock()
    >>> clock.advance(90)
    >>> clock.now().isoformat(), clock.monotonic()
    ('2030-01-01T00:01:30+00:00', 90.0)
    """

    def __init__(self, start: datetime = START, monotonic: float = 0.0) -> None:
        self._lock = threading.Lock()
        self._now = start
        self._monotonic = monotonic

    def now(self) -> datetime:
        with self._lock:
            return self._now

    def monotonic(self) -> float:
        with self._lock:
            return self._monotonic

    def advance(self, seconds: float) -> None:
        """Let time pass: wall clock and monotonic clock. `seconds` must not be negative."""
        if seconds < 0:
            raise ValueError(f"time can't pass backwards ({seconds} s); use jump() for a wrong wall clock")
        with self._lock:
            self._now += timedelta(seconds=seconds)
            self._monotonic += seconds

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward or back while the monotonic clock goes on (S13)."""
        with self._lock:
            self._now += timedelta(seconds=seconds)
