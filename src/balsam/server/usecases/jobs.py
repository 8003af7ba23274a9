"""Reading Jobs: one, a page of many, numbers by state."""

from typing import Any

from balsam.domain.roles import Role, campaign_key
from balsam.server.errors import Invalid
from balsam.server.principal import Principal
from balsam.server.store.conditions import groups
from balsam.server.store.protocol import ReadTx, Topic
from balsam.server.store.records import AppRow
from balsam.server.usecases.filters import job_selections
from balsam.server.usecases.job_texts import job_text, page_text
from balsam.server.usecases.paging import page_window
from balsam.server.usecases.scope import find_shown_job, parts
from balsam.server.usecases.several import job_counts, job_groups, job_page
from balsam.server.usecases.views import user_names
from balsam.wire.base import ErrorDetail
from balsam.wire.jobs import JobCounts, JobFilter, JobGroup, JobGroups, JobGroupsQuery, JobQuery, JobsPage, JobView
from balsam.wire.kinds import JOB_FIELDS, Kind
from balsam.wire.lookups import Lookup

MAX_GROUPS = 10_000
_COLUMNS = {"app_name": "app_id", "submitted_by": "submitter_id"}  # what is kept of what has a name


def jobs_page_text(tx: ReadTx, principal: Principal, message: JobQuery, with_count: bool = True) -> bytes:
    """A page of what the caller may see, and how many: a kept number when only Site, App, state are asked for.

    The JSON of a JobsPage.
    """
    selections = job_selections(tx, principal, message, Role.VIEWER)
    window = page_window(message, message.ordering)
    rows = job_page(tx, selections, window) if message.limit else []
    return page_text(sum(map(tx.job_count, selections)) if with_count else None, rows)


def list_jobs(tx: ReadTx, principal: Principal, message: JobQuery, with_count: bool = True) -> JobsPage:
    """The same for those who look into it."""
    return JobsPage.model_validate_json(jobs_page_text(tx, principal, message, with_count))


def heard(tx: ReadTx, principal: Principal) -> list[tuple[Topic, int]]:
    """The topics of a caller's stream of Jobs: everything they may see."""
    topics: list[tuple[Topic, int]] = []
    for part in parts(tx, principal, Role.VIEWER):
        if part.tags:
            topics += [("campaign", campaign_key(part.owner_id, name)) for _, name in part.tags]
        elif part.site_ids is None:
            topics.append(("jobs", part.owner_id))
        else:
            topics += [("site_jobs", site_id) for site_id in part.site_ids]
    return topics


def get_job_text(tx: ReadTx, principal: Principal, job_id: int) -> bytes:
    """The JSON of a JobView."""
    return job_text(find_shown_job(tx, principal, job_id))


def get_job(tx: ReadTx, principal: Principal, job_id: int) -> JobView:
    """The same for those who look into it."""
    return JobView.model_validate_json(get_job_text(tx, principal, job_id))


def count_jobs(tx: ReadTx, principal: Principal, message: JobFilter) -> JobCounts:
    """Jobs in each state that has any."""
    return JobCounts(counts=job_counts(tx, job_selections(tx, principal, message, Role.VIEWER)))


def group_jobs(tx: ReadTx, principal: Principal, message: JobGroupsQuery) -> JobGroups:
    """Numbers of Jobs by a value. Raises Invalid for a field that can't be counted by, and for too many values."""
    fault = _problem_of(message)
    if fault is not None:
        raise Invalid([ErrorDetail(where="by", message=fault)])
    selections = job_selections(tx, principal, message, Role.VIEWER)
    column = _COLUMNS.get(message.by, message.by)
    found = job_groups(tx, selections, column, tuple(message.path), MAX_GROUPS + 1)
    if message.by in _COLUMNS:
        found = _by_name(tx, message.by, found)
    if len(found) > MAX_GROUPS:
        why = f"more than {MAX_GROUPS} different values; count by something that more Jobs have in common"
        raise Invalid([ErrorDetail(where="by", message=why)])
    return JobGroups(groups=[JobGroup(value=value, count=number) for value, number in found])


def _problem_of(message: JobGroupsQuery) -> str | None:
    if JOB_FIELDS.get(message.by) is Kind.TIME:
        return f"Jobs can't be counted by {message.by}, which is a time; filter by spans of it instead"
    probe = Lookup(field=message.by, path=message.path, op="eq", value=None)
    return probe.problem_of_field(JOB_FIELDS)


def _by_name(tx: ReadTx, by: str, by_id: list[tuple[Any, int]]) -> list[tuple[Any, int]]:
    """Apps of the same name at several Sites are one group."""
    ids = {number for number, _ in by_id}
    if by == "submitted_by":
        names = user_names(tx, ids)
    else:
        names = {app.id: app.name for app in tx.find(AppRow, id=tuple(ids))}
    return groups(((names[number], count) for number, count in by_id), MAX_GROUPS + 1)
