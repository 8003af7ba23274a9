"""The clock that every component is given instead of reading time by itself.

Rules take `now` as an argument; components take a `Clock`. Tests and the simulation pass a clock of their own, which is
what makes a lease, a sweep or a wall time testable without waiting.
"""

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Wall-clock time for records, monotonic time for deadlines (S13: no deadline depends on the wall clock)."""

    def now(self) -> datetime:
        """Aware UTC time, for records that people read."""
        ...

    def monotonic(self) -> float:
        """Seconds from an arbitrary start; never goes back, on Linux comparable between processes of one boot."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()
