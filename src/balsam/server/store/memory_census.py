"""Counting over the whole service by looking at each row: what `ReadTx.census` answers in memory."""

from collections import Counter
from collections.abc import Iterable

from balsam.domain.states import DONE_STATES, JobState, TransferState
from balsam.server.store.records import JobRow, TransferItemRow
from balsam.server.store.selections import Backlog, Census

_DUE = (TransferState.PENDING, TransferState.ACTIVE, TransferState.INACTIVE)


def census(jobs: Iterable[JobRow], items: Iterable[TransferItemRow]) -> Census:
    """See the protocol."""
    jobs = sorted(jobs, key=lambda job: job.id)
    first: dict[tuple[int, JobState], int] = {}
    oldest: dict[JobState, int] = {}
    for job in jobs:
        if job.state not in DONE_STATES and first.setdefault((job.site_id, job.state), job.id) == job.id:
            oldest[job.state] = min(job.created_at, oldest.get(job.state, job.created_at))
    backlog: dict[tuple[str, str], Backlog] = {}
    for item in items:
        if item.state in _DUE:
            key = (item.direction.value, item.state.value)
            before = backlog.get(key, Backlog(0, item.created_at))
            backlog[key] = Backlog(before.count + 1, min(before.oldest_at, item.created_at))
    return Census(Counter(job.state for job in jobs), oldest, backlog)
