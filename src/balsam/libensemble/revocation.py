"""The end of an allocation, asked for and watched in a thread of its own; and the end of all that an executor began.

`BalsamExecutor.revoke_allocation` makes a Revocation; its `with` block ends by the functions. The SDK repeats its calls
for a long time while the service can't be reached; the thread lets the caller stop waiting on time, and still brings
the request to the service once that is back.
"""

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from balsam.api import BalsamError, NotConfigured
from balsam.domain.states import DONE_STATES, JobState
from balsam.libensemble.log import MANAGER_WARNING, logger

HEARD_SEC = 10.0
GONE_SEC = 60.0
ENDED = ("finished", "submit_failed")
ACTIVE = ("pending_submission", "queued", "running", "unknown", "pending_deletion")


class Revocation(threading.Thread):
    """Asks for the deletion, then looks until the allocation is over; `objects` is the manager of BatchJobs."""

    def __init__(self, allocation: Any, objects: Any) -> None:
        super().__init__(name="balsam-revocation", daemon=True)
        self.progress = "the service can't be reached; this goes on trying in the background while the process lives"
        self.id = allocation.id
        self._allocation = allocation
        self._objects = objects
        self._given_up = threading.Event()
        self._over = False
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._ask_and_watch()
        except BaseException as error:  # raised again in the caller's thread
            self._error = error

    def is_over(self, timeout: float) -> bool:
        """Whether the allocation is over; waits for that up to `timeout` seconds, and raises what went wrong."""
        self.join(timeout)
        self._given_up.set()
        if self._error is not None:
            raise self._error
        return self._over

    def _ask_and_watch(self) -> None:
        request = self._objects.get(id=self._allocation.id)
        if not _has_ended(request):
            request.cancel()
        self.progress = "its deletion is recorded, and is done once the site's agent runs (`balsam site start`)"
        pause = 0.05
        self._allocation.refresh_from_db()
        while not _has_ended(self._allocation):
            if self._given_up.wait(pause):
                return
            pause = min(pause * 1.5, 1.0)
            self._allocation.refresh_from_db()
        self._over = True


def _has_ended(allocation: Any) -> bool:
    state = str(allocation.state)
    # Without an id it never reached the scheduler, so that only the service's word for an end counts.
    return state in ENDED or (allocation.scheduler_id is not None and state not in ACTIVE)


def cancel_tasks(objects: Any, tags: Mapping[str, str]) -> int:
    """Kill the Jobs with these tags that are not done, and say how many. `objects` is the manager of Jobs."""
    not_done = [state for state in JobState if state not in DONE_STATES]
    query = objects.filter(tags=dict(tags), state=not_done)
    return int(objects.cancel(query, "its executor was left", deadline_sec=HEARD_SEC))


def end_tasks(objects: Any, tags: Mapping[str, str]) -> None:
    """As `cancel_tasks`; warns when it is not heard."""
    words = " ".join(f"--tag {key}={value}" for key, value in tags.items())
    try:
        count = cancel_tasks(objects, tags)
    except NotConfigured:  # so nothing was submitted, as with dry runs alone
        return
    except BalsamError as error:
        logger.log(MANAGER_WARNING, f"Tasks were left behind: {error}; end them later by: balsam job cancel {words}")
    else:
        logger.info(f"{count} tasks were not done and are killed")


def end_allocations(revocations: Sequence[Revocation]) -> None:
    """Ask for the end of all, then wait for it together. Warns of those that are not seen to end."""
    for revocation in revocations:
        revocation.start()
    deadline = time.monotonic() + GONE_SEC
    for revocation in revocations:
        try:
            if not revocation.is_over(max(0.0, deadline - time.monotonic())):
                logger.log(MANAGER_WARNING, f"Allocation {revocation.id} was not seen to end; {revocation.progress}")
        except BalsamError as error:
            logger.log(MANAGER_WARNING, f"Allocation {revocation.id} may run on: {error}")
