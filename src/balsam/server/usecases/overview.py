"""What somebody sees first: Jobs by state at each Site, what runs there, and why Jobs wait or have failed.

Counts are kept numbers. Of each kind of trouble one Job is looked at closely, the oldest that waits or the newest that
failed: its reason is the reason of most of them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from balsam.domain.failure import Failure
from balsam.domain.states import DONE_STATES, BatchJobState, JobState
from balsam.server.principal import Principal
from balsam.server.store.protocol import ReadTx
from balsam.server.usecases.batch_job_lists import list_batch_jobs
from balsam.server.usecases.explain import explain_job
from balsam.server.usecases.jobs import count_jobs, group_jobs, list_jobs
from balsam.server.usecases.sites import list_sites
from balsam.wire.batch_jobs import BatchJobQuery
from balsam.wire.jobs import JobExplanation, JobFilter, JobGroupsQuery, JobQuery
from balsam.wire.sites import SiteFilter, SiteView

MAX_EXPLAINED = 12  # Jobs that are looked at closely; the rest is counted
_WAITING = tuple(state for state in JobState if state not in DONE_STATES and state is not JobState.RUNNING)
_LIVE = [BatchJobState.PENDING_SUBMISSION, BatchJobState.QUEUED, BatchJobState.RUNNING, BatchJobState.UNKNOWN]


@dataclass(frozen=True, slots=True)
class SiteCounts:
    """A Site, its Jobs by state, and its allocations that have not ended."""

    site: SiteView
    jobs: dict[JobState, int]
    allocations: dict[BatchJobState, int]


@dataclass(frozen=True, slots=True)
class Trouble:
    """Jobs of one Site in one state, or of one kind of failure, and what is said of one of them."""

    state: JobState
    failure: Failure | None
    site: SiteView | None
    count: int
    example: JobExplanation


@dataclass(frozen=True, slots=True)
class Overview:
    """`more_waiting`: groups of waiting Jobs that were not looked at."""

    sites: list[SiteCounts]
    waiting: list[Trouble]
    failing: list[Trouble]
    more_waiting: int


def overview(tx: ReadTx, principal: Principal, now: datetime) -> Overview:
    """Of everything that the caller may see."""
    sites = [_counts(tx, principal, site) for site in list_sites(tx, principal, SiteFilter(), now).results]
    groups = [(one.site, state, one.jobs[state]) for one in sites for state in _WAITING if one.jobs.get(state)]
    groups.sort(key=lambda group: -group[2])
    waiting = list(_waiting(tx, principal, groups[:MAX_EXPLAINED], now))
    failing = list(_failing(tx, principal, now))
    return Overview(sites, waiting, failing, max(0, len(groups) - MAX_EXPLAINED))


def _counts(tx: ReadTx, principal: Principal, site: SiteView) -> SiteCounts:
    jobs = count_jobs(tx, principal, JobFilter(site_id=[site.id])).counts
    allocations: dict[BatchJobState, int] = {}
    for row in list_batch_jobs(tx, principal, BatchJobQuery(site_id=[site.id], state=_LIVE)).results:
        allocations[row.state] = allocations.get(row.state, 0) + 1
    return SiteCounts(site, {JobState(state): number for state, number in jobs.items()}, allocations)


def _waiting(
    tx: ReadTx, principal: Principal, groups: Iterable[tuple[SiteView, JobState, int]], now: datetime
) -> Iterable[Trouble]:
    for site, state, number in groups:
        query = JobQuery(site_id=[site.id], state=[state], limit=1)
        for job in list_jobs(tx, principal, query, with_count=False).results:
            yield Trouble(state, None, site, number, explain_job(tx, principal, job.id, now))


def _failing(tx: ReadTx, principal: Principal, now: datetime) -> Iterable[Trouble]:
    failed = [JobState.FAILED]
    for group in group_jobs(tx, principal, JobGroupsQuery(by="failure", state=failed)).groups:
        failure = None if group.value is None else Failure(str(group.value))
        query = JobQuery(state=failed, failure=None if failure is None else [failure], ordering="-id", limit=1)
        for job in list_jobs(tx, principal, query, with_count=False).results:
            yield Trouble(JobState.FAILED, failure, None, group.count, explain_job(tx, principal, job.id, now))
