"""The circuit breaker: after several instant failures in a row nothing is submitted for a while, and people are told.

A job-template.sh that does not work, or an account that has run out, would otherwise send one allocation after the
other through the queue. Counted for each queue and project. After a pause one BatchJob is let through to try; a
restarted agent, which has read the repaired template, tries at once.
"""

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta

from balsam.domain.batch_job import status_reason
from balsam.domain.clock import Clock
from balsam.platform.scheduler.base import SchedulerJob, SchedulerState
from balsam.site.ledger import Entry

log = logging.getLogger(__name__)

FAILURES = 3
INSTANT_SEC = 60.0
PAUSE_SEC = 600.0
LONGEST_PAUSE_SEC = 4 * 3600.0
MAX_DOUBLINGS = 30


@dataclass(slots=True)
class _Row:
    """Failures in a row, what they were, and until when (monotonic; `at` for people) nothing is submitted."""

    failures: int = 0
    said: str = ""
    until: float = 0.0
    at: str = ""


class Breaker:
    """Counts instant failures. One thread calls it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._rows: dict[tuple[str, str], _Row] = {}

    def hold(self, entry: Entry) -> str | None:
        """Why the BatchJob is not to be submitted now; None when it may."""
        row = self._rows.get(_key(entry))
        if row is None or row.failures < FAILURES:
            return None
        if self._clock.monotonic() < row.until:
            return (
                f"{row.said}; repair what is wrong, and try at once with `balsam site sync`; else one more is tried at "
                f"{row.at}"
            )
        self._pause(row)  # this one is the trial, the others wait for it
        return None

    def pause(self, queue: str, project: str) -> str:
        """Why nothing should be asked for now; empty when it may, also for the trial after a pause."""
        row = self._rows.get((queue, project))
        if row is None or row.failures < FAILURES or self._clock.monotonic() >= row.until:
            return ""
        return f"{row.said}; one more is tried at {row.at}"

    def lives(self, entry: Entry, job: SchedulerJob) -> None:
        """An allocation was seen alive: one that runs for long enough ends the row."""
        runs = job.state is SchedulerState.RUNNING and job.start_time is not None
        if runs and _lasted_sec(job, self._clock.now()) >= INSTANT_SEC:
            self._rows.pop(_key(entry), None)

    def ended(self, entry: Entry, job: SchedulerJob) -> None:
        """An allocation ended: badly and at once, or not. That somebody cancelled or took it says nothing."""
        if job.state is SchedulerState.CANCELLED or job.was_taken or entry.deleting:
            return
        if job.state is SchedulerState.FAILED and _lasted_sec(job, job.end_time) < INSTANT_SEC:
            why = status_reason(entry.status_info) or "no reason was told"
            self.failed(entry, f"ended within {INSTANT_SEC:g} s of its start ({why})")
        else:
            self._rows.pop(_key(entry), None)

    def failed(self, entry: Entry, what: str) -> None:
        """A submission that was refused, or an allocation that came to nothing."""
        row = self._rows.setdefault(_key(entry), _Row())
        row.failures += 1
        row.said = (
            f"{row.failures} BatchJobs in a row came to nothing in queue {entry.queue!r} with project "
            f"{entry.project!r}; the last, {entry.batch_job_id}, {what}"
        )
        if row.failures >= FAILURES:
            log.error("%s", row.said)
            self._pause(row)

    def _pause(self, row: _Row) -> None:
        pause_sec = min(PAUSE_SEC * 2 ** min(row.failures - FAILURES, MAX_DOUBLINGS), LONGEST_PAUSE_SEC)
        row.until = self._clock.monotonic() + pause_sec
        row.at = f"{self._clock.now() + timedelta(seconds=pause_sec):%Y-%m-%d %H:%M} UTC"


def _key(entry: Entry) -> tuple[str, str]:
    return entry.queue, entry.project


def _lasted_sec(job: SchedulerJob, until: datetime | None) -> float:
    return (until - job.start_time).total_seconds() if job.start_time and until else 0.0
