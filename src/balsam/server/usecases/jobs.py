"""Reading Jobs: one, a page of many, numbers by state."""

from balsam.server.principal import Principal
from balsam.server.store.protocol import ReadTx
from balsam.server.store.selections import PageWindow
from balsam.server.usecases.filters import job_selection
from balsam.server.usecases.scope import own_job
from balsam.server.usecases.views import job_views
from balsam.wire.jobs import JobCounts, JobFilter, JobQuery, JobsPage, JobView


def list_jobs(tx: ReadTx, principal: Principal, message: JobQuery, with_count: bool = True) -> JobsPage:
    """A page of the caller's Jobs, and how many there are: a kept number when only Site, App, state are asked for."""
    selection = job_selection(tx, principal, message)
    window = PageWindow(
        order_by=message.ordering.lstrip("-"),
        descending=message.ordering.startswith("-"),
        limit=message.limit,
        offset=message.offset,
        after=message.after if message.ordering in ("id", "-id") else None,
    )
    rows = tx.job_page(selection, window) if message.limit else []
    return JobsPage(count=tx.job_count(selection) if with_count else None, results=job_views(tx, rows))


def get_job(tx: ReadTx, principal: Principal, job_id: int) -> JobView:
    return job_views(tx, [own_job(tx, principal, job_id)])[0]


def count_jobs(tx: ReadTx, principal: Principal, message: JobFilter) -> JobCounts:
    """Jobs in each state that has any."""
    return JobCounts(counts=tx.job_counts(job_selection(tx, principal, message)))
