"""How much to ask the service for, and when. Part of the machine; no I/O, no clock.

What can run now is asked for at once. Beyond that, as many Jobs are held in reserve as end within a second (at most
300): a stream of short Jobs never waits for the service, and long Jobs are left for other launchers. After an
empty answer nothing is asked until the service hints at work, more room than was asked for is free, or 15 s passed.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

MOST_IN_RESERVE = 300
MOST_AT_ONCE = 512
RESERVE_WINDOW_SEC = 1.0
# The pace of the first ends is believed after so long: a stream of short Jobs is up to speed in a few answers.
SHORTEST_WINDOW_SEC = 0.1
POLL_SEC = 15.0
# A large Job is granted only when its whole footprint is asked for; so often it gets that chance.
LARGE_TURN_SEC = 30.0
REFUSED_DELAY_SEC = 5.0
LONGEST_DELAY_SEC = 300.0
_EPSILON = 1e-6


class Room(NamedTuple):
    """What is free now, less what the `queued` Jobs that wait here will take. Nodes as a footprint: a packed Job is a
    fraction of one."""

    free_nodes: float
    total_nodes: int
    free_cores: int
    queued: int


@dataclass(frozen=True, slots=True)
class Portion:
    """How much to ask for."""

    max_jobs: int
    max_aggregate_nodes: float


@dataclass(slots=True)
class Appetite:
    """The state of asking: one request at a time."""

    in_flight: Portion | None = None
    _hinted: bool = True
    _fed_up_at: float | None = None  # free nodes that were asked for when the answer was empty
    _poll_at: float = 0.0
    _not_before: float = 0.0
    _delay: float = 0.0
    _large_turn_at: float = 0.0
    _ended: deque[tuple[float, float]] = field(default_factory=deque)
    _began: float = 0.0  # when Jobs came after a time in which none ended

    def ended(self, now: float, footprint: float) -> None:
        """A Job ended; the pace of ends decides the reserve."""
        self._ended.append((now, footprint))
        if len(self._ended) > MOST_IN_RESERVE:
            self._ended.popleft()

    def hint(self) -> None:
        """The service has work, or knows of some."""
        self._hinted = True

    def portion(self, now: float, room: Room) -> Portion | None:
        """What to ask for now; None: nothing. The caller sends it and sets `in_flight`."""
        if self.in_flight is not None or now < self._not_before:
            return None
        while self._ended and self._ended[0][0] < now - RESERVE_WINDOW_SEC:
            self._ended.popleft()
        reserve = self._reserve(now)
        has_room = room.free_nodes > _EPSILON and room.free_cores > 0
        if not has_room and room.queued >= (reserve + 1) // 2:
            return None
        more_room = self._fed_up_at is not None and room.free_nodes > self._fed_up_at + _EPSILON
        if self._fed_up_at is not None and not (self._hinted or more_room or now >= self._poll_at):
            return None
        short = max(0, reserve - room.queued)
        nodes = room.free_nodes if has_room else 0.0
        if short:
            nodes += sum(footprint for _, footprint in self._ended) * short / len(self._ended)
        if has_room and now >= self._large_turn_at:
            self._large_turn_at = now + LARGE_TURN_SEC
            nodes = max(nodes, float(room.total_nodes))
        jobs = (room.free_cores if has_room else 0) + short
        if jobs == 0:
            return None
        return Portion(min(jobs, MOST_AT_ONCE), nodes)

    def sent(self, portion: Portion) -> None:
        """The request is on its way."""
        self.in_flight = portion
        self._hinted = False

    def answered(self, now: float, room: Room, usable: int, unusable: int) -> None:
        """`usable` Jobs came, and `unusable` ones, which were given back."""
        self.in_flight = None
        if usable and not self._ended:
            self._began = now
        # Jobs that wait here and are started one by one leave no more room than there was.
        self._fed_up_at = None if usable else max(0.0, room.free_nodes)
        self._poll_at = now + POLL_SEC
        if unusable and not usable:
            self._wait_longer(now)
        elif usable:
            self._delay = 0.0

    def refused(self, now: float) -> None:
        """The service refused to answer."""
        self.in_flight = None
        self._wait_longer(now)

    def wake_at(self) -> float:
        """When to look again without any other event."""
        return max(self._not_before, self._poll_at)

    def _reserve(self, now: float) -> int:
        """How many Jobs end within a second, by the pace of the last ones."""
        span = min(RESERVE_WINDOW_SEC, max(SHORTEST_WINDOW_SEC, now - self._began))
        return min(MOST_IN_RESERVE, int(len(self._ended) * RESERVE_WINDOW_SEC / span))

    def _wait_longer(self, now: float) -> None:
        self._delay = min(max(REFUSED_DELAY_SEC, self._delay * 2), LONGEST_DELAY_SEC)
        self._not_before = now + self._delay
        self._hinted = True
