"""What the scheduler says of this Site's allocations, carried into the ledger.

Called by `batch_jobs`. One question per pass for all of them. Absence from one listing is not an end (S12), and an
allocation that nobody vouches for is `unknown`: neither running nor finished, with since when and why.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from balsam.domain.clock import Clock
from balsam.domain.states import BatchJobState
from balsam.platform.scheduler.base import Scheduler, SchedulerJob, SchedulerState, SchedulerUnavailable
from balsam.site.crash_points import crash_point
from balsam.site.ledger import Entry, Ledger, Phase

log = logging.getLogger(__name__)

# S12: how often and for how long an allocation must be missing from listings that succeeded before it counts as ended.
MISSES = 3
MISSING_SEC = 120.0
# So long the scheduler's last word counts when it says nothing.
SILENT_SEC = 60.0
# So long an allocation may wait for what will not come before it is ended.
HOPELESS_SEC = 30.0
CANCEL_AGAIN_SEC = 60.0
# Between two questions to a scheduler that has to be polled, whatever happens: login nodes are shared.
GAP_SEC = 2.0
EXPECTED_START_STEP_SEC = 300.0
_STATES = {SchedulerState.QUEUED: BatchJobState.QUEUED, SchedulerState.RUNNING: BatchJobState.RUNNING}


@dataclass(slots=True)
class _Sight:
    """What was last seen of an allocation, in monotonic seconds; `heard` is when, for people."""

    heard_at: float
    heard: datetime
    misses: int = 0
    missing_since: float = 0.0
    hopeless_since: float | None = None
    cancelled_at: float | None = None


class Allocations:
    """The allocations of the ledger's entries. One thread calls it.

    `on_life` hears of each look at a living allocation, `on_end` of each end; `last_words` are facts of one whose
    batch script failed. `is_polled`: the scheduler does not tell of changes by itself.
    """

    def __init__(
        self,
        ledger: Ledger,
        scheduler: Scheduler,
        clock: Clock,
        on_life: Callable[[Entry, SchedulerJob], None] = lambda entry, job: None,
        on_end: Callable[[Entry, SchedulerJob], None] = lambda entry, job: None,
        last_words: Callable[[Entry], Mapping[str, Any]] = lambda entry: {},
    ) -> None:
        self._ledger = ledger
        self._scheduler = scheduler
        self._clock = clock
        self._on_life = on_life
        self._on_end = on_end
        self._last_words = last_words
        self._sights: dict[int, _Sight] = {}
        self._asked_at: float | None = None
        self.is_polled = False

    @property
    def any_open(self) -> bool:
        """Whether there is anything to ask the scheduler about."""
        return any(entry.phase is Phase.SUBMITTED for entry in self._ledger)

    def cancel(self, entry: Entry) -> bool:
        """Ask for the end of an allocation, and again when it was not heard. Whether it was asked now.

        Raises SchedulerUnavailable.
        """
        now, sight = self._clock.monotonic(), self._sight(entry)
        last = sight.cancelled_at
        if entry.scheduler_id is None or (last is not None and now - last < CANCEL_AGAIN_SEC):
            return False
        log.info("BatchJob %d: ending allocation %s", entry.batch_job_id, entry.scheduler_id)
        self._scheduler.cancel(entry.scheduler_id)
        crash_point("after-cancel-before-record")
        sight.cancelled_at = now
        return True

    def poll(self) -> bool:
        """Ask the scheduler once and follow what it says; False when it was asked a moment ago and is left alone."""
        followed = [entry for entry in self._ledger if entry.phase is Phase.SUBMITTED]
        now = self._clock.monotonic()
        if followed and self.is_polled and self._asked_at is not None and now - self._asked_at < GAP_SEC:
            return False
        self._asked_at = now
        if followed:
            self._poll(followed)
        return True

    def _poll(self, followed: list[Entry]) -> None:
        try:
            listed = self._scheduler.jobs()
        except SchedulerUnavailable as error:
            log.warning("the scheduler does not answer: %s", error)
            for entry in followed:
                self._unheard(entry, f"the scheduler does not answer: {error}")
            return
        unlisted = []
        for entry in followed:
            job = self._own(entry, listed)
            if job is None:
                unlisted.append(entry)
            else:
                self._heard(entry, job)
        if unlisted:
            self._look_up(unlisted)
        self._end_doubles(listed.values())

    def _own(self, entry: Entry, jobs: Mapping[str, SchedulerJob]) -> SchedulerJob | None:
        """The job of an entry. An id may have been given out again: the name decides."""
        if entry.scheduler_id is None:
            named = (job for job in jobs.values() if job.name == entry.allocation_name)
            job = min(named, key=lambda one: one.state.is_over, default=None)
            entry.scheduler_id = job.scheduler_id if job else None
            return job
        job = jobs.get(entry.scheduler_id)
        return job if job is not None and job.name == entry.allocation_name else None

    def _look_up(self, entries: list[Entry]) -> None:
        """Ask accounting for what is not listed. Only an end counts: an allocation that lives is listed."""
        try:
            known = self._scheduler.history([entry.scheduler_id for entry in entries if entry.scheduler_id])
        except SchedulerUnavailable as error:
            log.warning("accounting does not answer: %s", error)
            for entry in entries:
                self._unheard(entry, f"it is not listed, and accounting does not answer: {error}")
            return
        for entry in entries:
            job = self._own(entry, known)
            if job is not None and job.state.is_over:
                self._heard(entry, job)
            else:
                self._missed(entry)

    def _end_doubles(self, jobs: Iterable[SchedulerJob]) -> None:
        """A submission that was taken twice: only the one that is known stays (S11)."""
        known = {entry.allocation_name: entry for entry in self._ledger if entry.scheduler_id is not None}
        for job in jobs:
            entry = known.get(job.name)
            if entry is None or job.state.is_over or job.scheduler_id == entry.scheduler_id:
                continue
            log.error("BatchJob %d has a second allocation, %s; ending it", entry.batch_job_id, job.scheduler_id)
            try:
                self._scheduler.cancel(job.scheduler_id)
            except SchedulerUnavailable as error:
                log.warning("allocation %s can't be ended now: %s", job.scheduler_id, error)

    # What was heard of one

    def _heard(self, entry: Entry, job: SchedulerJob) -> None:
        sight = self._sight(entry)
        sight.heard_at, sight.heard, sight.misses = self._clock.monotonic(), self._clock.now(), 0
        if job.state.is_over:
            self._ended(entry, job)
        elif job.state is SchedulerState.UNKNOWN:
            self._lost_sight_of(entry, job.reason or "the scheduler does not know its state")
        else:
            self._follow(entry, job)

    def _missed(self, entry: Entry) -> None:
        now, sight = self._clock.monotonic(), self._sight(entry)
        sight.missing_since = sight.missing_since if sight.misses else now
        sight.misses += 1
        if sight.misses >= MISSES and now - sight.missing_since >= MISSING_SEC:  # S12
            entry.over(
                BatchJobState.FINISHED, Phase.ENDED, self._clock.now(), "the scheduler has not listed it for long"
            )
            self._ledger.note(entry)
            self._sights.pop(entry.batch_job_id)
        else:
            self._unheard(entry, "the scheduler does not list it")

    def _unheard(self, entry: Entry, why: str) -> None:
        sight = self._sight(entry)
        if self._clock.monotonic() - sight.heard_at >= SILENT_SEC:
            self._lost_sight_of(entry, f"{why}; last heard of at {sight.heard:%H:%M:%S} UTC")

    def _lost_sight_of(self, entry: Entry, why: str) -> None:
        before = (entry.state, entry.status_info)
        since = entry.status_info.get("unknown_since") or self._clock.now().isoformat(timespec="seconds")
        entry.state = BatchJobState.UNKNOWN
        entry.tell(scheduler=why, unknown_since=since)
        if (entry.state, entry.status_info) != before:
            log.warning("BatchJob %d is unknown: %s", entry.batch_job_id, why)
            self._ledger.note(entry)

    def _follow(self, entry: Entry, job: SchedulerJob) -> None:
        before = (entry.state, entry.start_time, entry.status_info)
        self._take_facts(entry, job)
        entry.tell(unknown_since=None)
        entry.state = _STATES[job.state]
        self._on_life(entry, job)
        if _lost_its_script(entry, job):
            self._end_without_launcher(entry, job)
        if job.is_hopeless:
            self._give_up(entry, job)
        else:
            self._sight(entry).hopeless_since = None
        if (entry.state, entry.start_time, entry.status_info) != before:
            self._ledger.note(entry)

    def _end_without_launcher(self, entry: Entry, job: SchedulerJob) -> None:
        """The loss of a node ends no allocation, but that of the node with the launcher: nobody uses the others."""
        if "error" not in entry.status_info:
            why = f"NODE_FAIL: {job.script_node}, where its launcher ran, is lost; the other nodes are given back"
            entry.complain(why, self._clock.now())
        self._try_to_cancel(entry)

    def _give_up(self, entry: Entry, job: SchedulerJob) -> None:
        """It waits for what will not come: say so and end it, rather than let people wait with it."""
        now, sight = self._clock.monotonic(), self._sight(entry)
        if sight.hopeless_since is None:
            sight.hopeless_since = now
        if now - sight.hopeless_since < HOPELESS_SEC:
            return
        if "error" not in entry.status_info:
            why = f"the scheduler would let it wait for ever ({job.reason}); ask for one within the limits of its queue"
            entry.complain(why, self._clock.now())
        self._try_to_cancel(entry)

    def _try_to_cancel(self, entry: Entry) -> None:
        try:
            self.cancel(entry)
        except SchedulerUnavailable as error:
            log.warning("BatchJob %d can't be ended now: %s", entry.batch_job_id, error)

    def _ended(self, entry: Entry, job: SchedulerJob) -> None:
        self._take_facts(entry, job)
        now = self._clock.now()
        entry.end_time = (job.end_time or now).isoformat()
        entry.tell(exit_code=job.exit_code)
        if job.state is SchedulerState.FAILED:
            entry.complain(job.reason or "the scheduler says that it failed", now)
            if job.exit_code and not entry.deleting:
                entry.tell(**self._last_words(entry))
        elif job.state is SchedulerState.CANCELLED and not entry.deleting and "error" not in entry.status_info:
            entry.complain(job.reason or "it was cancelled at the scheduler", now)
        entry.over(BatchJobState.FINISHED, Phase.ENDED, now)
        self._ledger.note(entry)
        self._sights.pop(entry.batch_job_id, None)
        self._on_end(entry, job)

    def _take_facts(self, entry: Entry, job: SchedulerJob) -> None:
        if job.start_time is not None:
            entry.start_time = job.start_time.isoformat()
        entry.tell(scheduler=job.reason, expected_start=_expected_start(entry, job))

    def _sight(self, entry: Entry) -> _Sight:
        new = _Sight(self._clock.monotonic(), self._clock.now())
        return self._sights.setdefault(entry.batch_job_id, new)


def _lost_its_script(entry: Entry, job: SchedulerJob) -> bool:
    """Whether the node of its batch script is gone. A front end is none of the nodes either, but then none is gone."""
    if job.state is not SchedulerState.RUNNING or not job.script_node or not job.node_names:
        return False
    return job.script_node not in job.node_names and len(job.node_names) < entry.num_nodes


def _expected_start(entry: Entry, job: SchedulerJob) -> str | None:
    """The scheduler's guess, told anew only when it moved a good deal: it moves with every look."""
    told = entry.status_info.get("expected_start")
    if job.expected_start is None or told is None:
        return job.expected_start.isoformat() if job.expected_start else None
    moved = abs((job.expected_start - datetime.fromisoformat(told)).total_seconds())
    return job.expected_start.isoformat() if moved >= EXPECTED_START_STEP_SEC else str(told)
