"""Whether the wall clock has gone with time lately. For sweeps that remove what has an age: a clock that jumps
forward makes everything old at once, and what is removed does not come back when the clock does (S13)."""

from datetime import timedelta

from balsam.domain.clock import Clock

MAX_DRIFT = timedelta(seconds=30)


class Steadiness:
    """Ask it each time; it compares with the time before.

    >>> from balsam.testing.clock import FakeClock
    >>> clock = FakeClock()
    >>> steadiness = Steadiness(clock, timedelta(hours=1))
    >>> clock.jump(86_400)
    >>> steadiness.has_lasted()
    False
    >>> clock.advance(3600)
    >>> steadiness.has_lasted()
    True
    """

    def __init__(self, clock: Clock, wanted: timedelta) -> None:
        self._clock = clock
        self._wanted_sec = wanted.total_seconds()
        self._now, self._monotonic = clock.now(), clock.monotonic()
        self._jumped_at = float("-inf")

    def has_lasted(self) -> bool:
        """Whether the clock has not jumped for the wanted time."""
        now, monotonic = self._clock.now(), self._clock.monotonic()
        passed = timedelta(seconds=monotonic - self._monotonic)
        if abs(now - self._now - passed) > MAX_DRIFT:
            self._jumped_at = monotonic
        self._now, self._monotonic = now, monotonic
        return monotonic - self._jumped_at >= self._wanted_sec
