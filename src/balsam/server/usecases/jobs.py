"""Reading Jobs: one, a page of many, numbers by state."""

from typing import Any

from balsam.server.errors import Invalid
from balsam.server.principal import Principal
from balsam.server.store.conditions import groups
from balsam.server.store.protocol import ReadTx
from balsam.server.store.records import AppRow
from balsam.server.usecases.filters import job_selection
from balsam.server.usecases.paging import page_window
from balsam.server.usecases.scope import own_job
from balsam.server.usecases.views import job_views
from balsam.wire.base import ErrorDetail
from balsam.wire.jobs import JobCounts, JobFilter, JobGroup, JobGroups, JobGroupsQuery, JobQuery, JobsPage, JobView
from balsam.wire.lookups import JOB_FIELDS, Kind, Lookup

MAX_GROUPS = 10_000


def list_jobs(tx: ReadTx, principal: Principal, message: JobQuery, with_count: bool = True) -> JobsPage:
    """A page of the caller's Jobs, and how many there are: a kept number when only Site, App, state are asked for."""
    selection = job_selection(tx, principal, message)
    window = page_window(message, message.ordering)
    rows = tx.job_page(selection, window) if message.limit else []
    return JobsPage(count=tx.job_count(selection) if with_count else None, results=job_views(tx, rows))


def get_job(tx: ReadTx, principal: Principal, job_id: int) -> JobView:
    return job_views(tx, [own_job(tx, principal, job_id)])[0]


def count_jobs(tx: ReadTx, principal: Principal, message: JobFilter) -> JobCounts:
    """Jobs in each state that has any."""
    return JobCounts(counts=tx.job_counts(job_selection(tx, principal, message)))


def group_jobs(tx: ReadTx, principal: Principal, message: JobGroupsQuery) -> JobGroups:
    """Numbers of Jobs by a value. Raises Invalid for a field that can't be counted by, and for too many values."""
    fault = _problem_of(message)
    if fault is not None:
        raise Invalid([ErrorDetail(where="by", message=fault)])
    selection = job_selection(tx, principal, message)
    if message.by == "app_name":
        found = _by_name(tx, tx.job_groups(selection, "app_id", (), MAX_GROUPS + 1))
    else:
        found = tx.job_groups(selection, message.by, tuple(message.path), MAX_GROUPS + 1)
    if len(found) > MAX_GROUPS:
        why = f"more than {MAX_GROUPS} different values; count by something that more Jobs have in common"
        raise Invalid([ErrorDetail(where="by", message=why)])
    return JobGroups(groups=[JobGroup(value=value, count=number) for value, number in found])


def _problem_of(message: JobGroupsQuery) -> str | None:
    if JOB_FIELDS.get(message.by) is Kind.TIME:
        return f"Jobs can't be counted by {message.by}, which is a time; filter by spans of it instead"
    probe = Lookup(field=message.by, path=message.path, op="eq", value=None)
    return probe.problem_of_field(JOB_FIELDS)


def _by_name(tx: ReadTx, by_app: list[tuple[Any, int]]) -> list[tuple[Any, int]]:
    """Apps of the same name at several Sites are one group."""
    names = {app.id: app.name for app in tx.find(AppRow, id=tuple(app_id for app_id, _ in by_app))}
    return groups(((names[app_id], number) for app_id, number in by_app), MAX_GROUPS + 1)
