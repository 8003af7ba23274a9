"""The services that ask for allocations by themselves, each in its own period, and what the service is told of them.

Called by the agent's loop between its passes, in its thread.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from balsam.domain.clock import Clock
from balsam.wire.sites import SitePatch

log = logging.getLogger(__name__)

NEVER_SEC = 3600.0


class Scaler(Protocol):
    """One of them. `said`: what it did last, or why it did nothing."""

    name: str
    period_sec: float
    said: str

    def run_once(self) -> bool:
        """One period: whether BatchJobs were asked for or ended. Raises ServiceAway, OSError."""
        ...


class Scaling:
    """Runs what is due. `facts`: what else people are to see of the Site's allocations."""

    def __init__(
        self,
        scalers: Sequence[Scaler],
        facts: Callable[[], dict[str, Any]],
        tell: Callable[[SitePatch], None],
        clock: Clock,
    ) -> None:
        self._scalers = scalers
        self._facts = facts
        self._tell = tell
        self._clock = clock
        self._due_at = {scaler.name: clock.monotonic() for scaler in scalers}
        self._told: dict[str, Any] | None = None

    @property
    def wait_sec(self) -> float:
        """Until the next one is due."""
        return min((at - self._clock.monotonic() for at in self._due_at.values()), default=NEVER_SEC)

    def run_due(self) -> bool:
        """Whether the service has BatchJobs to look at. Raises ServiceAway: what was not done stays due."""
        changed = False
        for scaler in self._scalers:
            if self._clock.monotonic() < self._due_at[scaler.name]:
                continue
            try:
                changed |= scaler.run_once()
            except OSError as error:
                log.error("%s: %s; trying again", scaler.name, error)
            self._due_at[scaler.name] = self._clock.monotonic() + scaler.period_sec
        self._tell_changes()
        return changed

    def _tell_changes(self) -> None:
        now = {scaler.name: scaler.said for scaler in self._scalers if scaler.said} | self._facts()
        if now != self._told:
            self._tell(SitePatch(scaling=now))
            self._told = now
