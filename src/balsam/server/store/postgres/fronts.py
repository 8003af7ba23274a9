"""Where the Jobs begin that can still be granted, as one process remembers it for a moment.

What was granted stays in the indexes until the next vacuum: an acquire that began at the front would pass over every
Job of the last minute once more. Used by tx.py, in the writer's thread. Promises: no Job that this process made
grantable is missed; one that another process did is missed until its wake is heard, and for FRESH_SEC at the longest.
Whoever finds fewer Jobs than wanted looks from the beginning.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from balsam.domain.lifecycle import AWAITED_HOOKS
from balsam.server.store.protocol import Wake
from balsam.server.store.records import JobShape
from balsam.server.store.sql_runnable import Place

FRESH_SEC = 1.0
MANY_PASSED = 1000  # granted Jobs behind a place, after which it moves on

Key = tuple[str, tuple[int, ...]]  # of a walk: where it looks, and for what


@dataclass(slots=True)
class Front:
    """The places of all people who have Jobs there, and how long the shortest of each one's Jobs takes.

    `of_hooks`: Jobs that wait for a hook; else those that wait to be run.
    """

    of_hooks: bool
    places: dict[int, Place]
    shortest: dict[int, int]
    looked_at: float = field(default_factory=time.monotonic)
    passed: int = 0


class Fronts:
    """Those of all Sites."""

    def __init__(self) -> None:
        self._of_sites: dict[int, dict[Key, Front]] = {}
        self._doubted: set[int | None] = set()  # by another thread: Sites, or None for all of them

    def find(self, site_id: int, key: Key) -> Front | None:
        """What is remembered and still fresh."""
        front = self._of_sites.get(site_id, {}).get(key)
        return front if front is not None and time.monotonic() - front.looked_at < FRESH_SEC else None

    def keep(self, site_id: int, key: Key, front: Front) -> None:
        """Remember what was just looked for."""
        self._of_sites.setdefault(site_id, {})[key] = front

    def granted(self, site_id: int, number: int) -> None:
        """So many Jobs are left behind."""
        for front in self._of_sites.get(site_id, {}).values():
            front.passed += number

    def submitted(self, shape: JobShape) -> None:
        """There are new Jobs, with higher ids than all before. Those of somebody known, and not above what is known of
        them, come after the place."""
        fronts = self._of_sites.get(shape.site_id, {})
        of_hooks = shape.decision.after.state in AWAITED_HOOKS
        person = shape.submitter_id
        for key, front in list(fronts.items()):
            if front.of_hooks is not of_hooks:
                continue
            place = front.places.get(person)
            if place is None or -shape.priority < place.level:
                del fronts[key]
            else:
                front.shortest[person] = min(front.shortest[person], shape.wall_time_min)

    def forget(self, site_id: int) -> None:
        """Some Job there can be granted, wherever it stands."""
        self._of_sites.pop(site_id, None)

    def forget_all(self) -> None:
        self._of_sites.clear()

    def hear(self, wakes: Iterable[Wake]) -> None:
        """Wakes of other processes; called in any thread."""
        for wake in wakes:
            if wake.topic == "wakes":
                self._doubted.add(None)
            elif wake.topic == "work" or (wake.topic == "site" and wake.event == "hooks"):
                self._doubted.add(wake.key)

    def heed(self) -> None:
        """Forget what was doubted; called before each transaction."""
        while self._doubted:
            site_id = self._doubted.pop()
            if site_id is None:
                self.forget_all()
            else:
                self.forget(site_id)
