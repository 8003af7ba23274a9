"""What the scheduler says of this Site's allocations, carried into the ledger.

Called by `batch_jobs`. One question per pass for all of them. Absence from one listing is not an end (S12); what the
scheduler calls unknown stays as it was.
"""

import logging
from dataclasses import dataclass

from balsam.domain.clock import Clock
from balsam.domain.states import BatchJobState
from balsam.platform.scheduler.base import Scheduler, SchedulerJob, SchedulerState, SchedulerUnavailable
from balsam.site.crash_points import crash_point
from balsam.site.ledger import Entry, Ledger, Phase

log = logging.getLogger(__name__)

# S12: how often and for how long an allocation must be missing from listings that succeeded before it counts as ended.
MISSES = 3
MISSING_SEC = 120.0
CANCEL_AGAIN_SEC = 60.0
_STATES = {SchedulerState.QUEUED: BatchJobState.QUEUED, SchedulerState.RUNNING: BatchJobState.RUNNING}


@dataclass(slots=True)
class _Missing:
    times: int
    since: float


class Allocations:
    """The allocations of the ledger's entries. One thread calls it."""

    def __init__(self, ledger: Ledger, scheduler: Scheduler, clock: Clock) -> None:
        self._ledger = ledger
        self._scheduler = scheduler
        self._clock = clock
        self._missing: dict[int, _Missing] = {}
        self._cancelled_at: dict[int, float] = {}

    @property
    def any_open(self) -> bool:
        """Whether there is anything to ask the scheduler about."""
        return any(entry.phase is Phase.SUBMITTED for entry in self._ledger)

    def find(self, entry: Entry) -> str | None:
        """The scheduler's id of what was submitted under the entry's name (S11). Raises SchedulerUnavailable."""
        return self._scheduler.find(entry.name)

    def cancel(self, entry: Entry) -> bool:
        """Ask for the end of an allocation, and again when it was not heard. Whether it was asked now.

        Raises SchedulerUnavailable.
        """
        now = self._clock.monotonic()
        last = self._cancelled_at.get(entry.batch_job_id)
        if entry.scheduler_id is None or (last is not None and now - last < CANCEL_AGAIN_SEC):
            return False
        log.info("BatchJob %d: ending allocation %s", entry.batch_job_id, entry.scheduler_id)
        self._scheduler.cancel(entry.scheduler_id)
        crash_point("after-cancel-before-record")
        self._cancelled_at[entry.batch_job_id] = now
        return True

    def poll(self) -> None:
        """Ask the scheduler once and follow what it says; nothing changes when it does not answer."""
        followed = [entry for entry in self._ledger if entry.phase is Phase.SUBMITTED]
        if not followed:
            return
        try:
            jobs = self._scheduler.jobs()
            unlisted = [e.scheduler_id for e in followed if e.scheduler_id and e.scheduler_id not in jobs]
            jobs = {**jobs, **self._scheduler.history(unlisted)} if unlisted else jobs
        except SchedulerUnavailable as error:
            log.warning("the scheduler does not answer: %s; states stay as they were", error)
            return
        for entry in followed:
            job = jobs.get(entry.scheduler_id or "")
            if job is None:
                self._missed(entry)
                continue
            self._missing.pop(entry.batch_job_id, None)
            if job.state.is_over:
                self._ended(entry, job)
            else:
                self._follow(entry, job)

    def _missed(self, entry: Entry) -> None:
        now = self._clock.monotonic()
        missing = self._missing.setdefault(entry.batch_job_id, _Missing(0, now))
        missing.times += 1
        if missing.times >= MISSES and now - missing.since >= MISSING_SEC:  # S12
            del self._missing[entry.batch_job_id]
            entry.over(
                BatchJobState.FINISHED, Phase.ENDED, self._clock.now(), "the scheduler has not listed it for long"
            )
            self._ledger.note(entry)

    def _follow(self, entry: Entry, job: SchedulerJob) -> None:
        before = (entry.state, entry.start_time, entry.status_info)
        self._take_facts(entry, job)
        entry.state = _STATES.get(job.state, entry.state)
        if (entry.state, entry.start_time, entry.status_info) != before:
            self._ledger.note(entry)

    def _ended(self, entry: Entry, job: SchedulerJob) -> None:
        self._take_facts(entry, job)
        now = self._clock.now()
        entry.end_time = (job.end_time or now).isoformat()
        if job.exit_code is not None:
            entry.status_info = {**entry.status_info, "exit_code": job.exit_code}
        if job.state is SchedulerState.FAILED:
            entry.complain(job.reason or "the scheduler says that it failed", now)
        entry.over(BatchJobState.FINISHED, Phase.ENDED, now)
        self._ledger.note(entry)

    def _take_facts(self, entry: Entry, job: SchedulerJob) -> None:
        if job.start_time is not None:
            entry.start_time = job.start_time.isoformat()
        if job.reason:
            entry.status_info = {**entry.status_info, "scheduler": job.reason}
