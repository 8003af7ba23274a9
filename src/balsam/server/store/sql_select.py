"""Which rows a selection means, in SQL that is driven by an index at a million Jobs.

Used by sql_read. Each selection is read through the narrowest index it allows (the `driver`), and the other
conditions are checked on the rows found. Selections by Site and state are read as one ordered stream per (site, state)
and merged, because no single index gives them in order of id.
"""

# ruff: noqa: S608 - the texts are put together from names of our own; every value is a parameter

from dataclasses import dataclass, field, replace
from typing import Any

from balsam.server.store.codec import STATE_NUMBERS, tag_number
from balsam.server.store.records import EVENT_SEQ_BITS
from balsam.server.store.selections import EventSelection, JobSelection
from balsam.server.store.sql_conditions import EVENTS, JOBS, condition_sql
from balsam.server.store.sql_database import listed

_ANY = "IN (SELECT value FROM json_each(?))"
EVENTS_OF_JOB = f"e.id > (j.id << {EVENT_SEQ_BITS}) AND e.id < ((j.id + 1) << {EVENT_SEQ_BITS})"
DATA_HAS = "EXISTS (SELECT 1 FROM json_each(e.data) d WHERE d.key = ? AND CAST(d.value AS TEXT) = ?)"


@dataclass(slots=True)
class Query:
    """FROM and WHERE under construction; `params` follow the order of the question marks, `key` is the Job's id."""

    source: str = "jobs"
    conditions: list[str] = field(default_factory=list)
    params: list[Any] = field(default_factory=list)
    key: str = "jobs.id"

    def add(self, condition: str, *params: Any) -> None:
        self.conditions.append(condition)
        self.params.extend(params)

    @property
    def where(self) -> str:
        return " AND ".join(self.conditions) or "TRUE"


def driver_of(selection: JobSelection) -> str:
    """The condition that is looked up; the rest is checked row by row."""
    if selection.ids is not None:
        return "ids"
    if selection.parent_ids is not None:
        return "parents"
    if selection.batch_job_ids is not None:
        return "batch_jobs"
    if selection.tags:
        return "tags"
    if selection.failures is not None:
        return "failures"
    if selection.updated_after is not None:
        return "updated"
    if selection.app_ids is not None:
        return "apps"
    return "states" if selection.states is not None or selection.site_ids is not None else "owner"


def job_query(selection: JobSelection, driver: str) -> Query:
    """Every condition of the selection, read through `driver`. The owner is always one of them (S14)."""
    query = Query()
    _DRIVERS[driver](query, selection)
    owned = "jobs.owner_id = ?" if driver in _BY_OWNER else "+jobs.owner_id = ?"
    query.add(owned, selection.owner_id)
    _check_lists(query, selection, driver)
    if selection.updated_before is not None:
        query.add("jobs.last_update < ?", selection.updated_before)
    if selection.updated_after is not None:
        query.add("jobs.last_update > ?", selection.updated_after)
    if selection.workdir_contains is not None:
        query.add("instr(jobs.workdir, ?) > 0", selection.workdir_contains)
    if selection.pending_file_cleanup is not None:
        query.add(f"jobs.pending_file_cleanup = {int(selection.pending_file_cleanup)}")  # a partial index has it
    for condition in selection.conditions:
        text, params = condition_sql(condition, JOBS)
        query.add(text, *params)
    return query


def stream_query(selection: JobSelection, site_id: int, state: int) -> Query:
    """One (site, state) stream of a selection, ordered by id."""
    rest = JobSelection(
        owner_id=selection.owner_id,
        app_ids=selection.app_ids,
        submitter_ids=selection.submitter_ids,
        updated_before=selection.updated_before,
        workdir_contains=selection.workdir_contains,
        pending_file_cleanup=selection.pending_file_cleanup,
        conditions=selection.conditions,
    )
    query = job_query(rest, "none")
    query.source = "jobs INDEXED BY " + ("jobs_to_clean" if selection.pending_file_cleanup else "jobs_by_state")
    query.conditions.insert(0, "jobs.site_id = ? AND jobs.state = ?")
    query.params[:0] = [site_id, state]
    return query


def counts_suffice(selection: JobSelection) -> bool:
    """Whether the kept counters answer a count: nothing is asked but owner, Site, App and state."""
    plain = replace(
        JobSelection(selection.owner_id),
        site_ids=selection.site_ids,
        app_ids=selection.app_ids,
        states=selection.states,
    )
    return selection == plain


def _check_lists(query: Query, selection: JobSelection, driver: str) -> None:
    lists = {"apps": ("app_id", selection.app_ids), "sites": ("site_id", selection.site_ids)}
    lists |= {"batch_jobs": ("batch_job_id", selection.batch_job_ids), "ids": ("id", selection.ids)}
    lists |= {"submitters": ("submitter_id", selection.submitter_ids)}
    for name, (column, values) in lists.items():
        if values is not None and driver != name:
            query.add(f"+jobs.{column} {_ANY}", listed(values))
    if selection.states is not None:
        query.add(f"+jobs.state {_ANY}", listed(STATE_NUMBERS[state] for state in selection.states))
    if selection.failures is not None and driver != "failures":
        query.add(f"+jobs.failure {_ANY}", listed(selection.failures))
    if selection.parent_ids is not None and driver != "parents":
        parents = f"SELECT 1 FROM job_parents p WHERE p.parent_id {_ANY} AND p.child_id = jobs.id"
        query.add(f"EXISTS ({parents})", listed(selection.parent_ids))
    for key, value in selection.tags[1 if driver == "tags" else 0 :]:
        tag = tag_number(selection.owner_id, key, value)
        query.add("EXISTS (SELECT 1 FROM job_tags o WHERE o.tag = ? AND o.job_id = jobs.id)", tag)


def _by_ids(query: Query, selection: JobSelection) -> None:
    query.add(f"jobs.id {_ANY}", listed(selection.ids or ()))


def _by_parents(query: Query, selection: JobSelection) -> None:
    children = f"SELECT child_id FROM job_parents WHERE parent_id {_ANY}"
    query.add(f"jobs.id IN ({children})", listed(selection.parent_ids or ()))


def _by_batch_jobs(query: Query, selection: JobSelection) -> None:
    query.source = "jobs INDEXED BY jobs_by_batch_job"
    query.add(f"jobs.batch_job_id {_ANY}", listed(selection.batch_job_ids or ()))


def _by_tags(query: Query, selection: JobSelection) -> None:
    key, value = selection.tags[0]
    query.source, query.key = "job_tags t CROSS JOIN jobs ON jobs.id = t.job_id", "t.job_id"
    query.add("t.tag = ?", tag_number(selection.owner_id, key, value))


def _by_failures(query: Query, selection: JobSelection) -> None:
    query.source = "jobs INDEXED BY jobs_by_failure"
    if selection.failures is not None and len(selection.failures) == 1:
        query.add("jobs.failure = ?", selection.failures[0].value)  # the index gives these in order of id
    else:
        query.add(f"jobs.failure {_ANY}", listed(selection.failures or ()))


def _by_update(query: Query, selection: JobSelection) -> None:
    query.source = "jobs INDEXED BY jobs_by_update"


def _by_apps(query: Query, selection: JobSelection) -> None:
    query.source = "jobs INDEXED BY jobs_by_app"
    query.add(f"jobs.app_id {_ANY}", listed(selection.app_ids or ()))


def _by_owner(query: Query, selection: JobSelection) -> None:
    query.source = "jobs INDEXED BY jobs_by_owner"


def _nothing(query: Query, selection: JobSelection) -> None:
    pass


_BY_OWNER = frozenset({"failures", "owner", "updated"})  # indexes that begin with the owner
_DRIVERS = {
    "ids": _by_ids,
    "parents": _by_parents,
    "batch_jobs": _by_batch_jobs,
    "tags": _by_tags,
    "failures": _by_failures,
    "updated": _by_update,
    "apps": _by_apps,
    "owner": _by_owner,
    "none": _nothing,
}


def event_query(selection: EventSelection, *, by_time: bool = False) -> Query:
    """The events of a selection: by id, through the Jobs they belong to, or through the owner's time line.

    `by_time`: the Jobs are so many that the time line is read, and of each event it is looked up whether its Job is
    one of them.
    """
    query = Query("events e INDEXED BY events_by_time", key="e.id")
    jobs = None if by_time else _jobs_of(selection)
    if selection.ids is not None:
        query.source = "events e"
        query.add(f"e.id {_ANY}", listed(selection.ids))
        if jobs is not None:
            query.add(f"e.id >> {EVENT_SEQ_BITS} IN ({jobs[0]})", *jobs[1])
    elif by_time:
        its = job_query(selection.jobs, "none")
        found = f"SELECT 1 FROM jobs WHERE jobs.id = e.id >> {EVENT_SEQ_BITS} AND {its.where}"
        query.add(f"EXISTS ({found})", *its.params)
    elif jobs is not None:
        inner, params = jobs
        query.source = f"({inner}) j CROSS JOIN events e ON {EVENTS_OF_JOB}"
        query.params.extend(params)
    owned = "e.owner_id = ?" if "INDEXED" in query.source else "+e.owner_id = ?"
    query.add(owned, selection.owner_id)
    if selection.before is not None:
        query.add("e.timestamp < ?", selection.before)
    if selection.after is not None:
        query.add("e.timestamp > ?", selection.after)
    for column, state in (("from_state", selection.from_state), ("to_state", selection.to_state)):
        if state is not None:
            query.add(f"e.{column} = ?", STATE_NUMBERS[state])
    for key, value in selection.data:
        query.add(DATA_HAS, key, value)
    for condition in selection.conditions:
        text, params = condition_sql(condition, EVENTS)
        query.add(text, *params)
    return query


def _jobs_of(selection: EventSelection) -> tuple[str, list[Any]] | None:
    """The Jobs that the selection speaks of, or None when it speaks of none in particular."""
    jobs = selection.jobs
    if jobs == JobSelection(selection.owner_id):
        return None
    driver = driver_of(jobs)
    query = job_query(jobs, "owner" if driver == "states" else driver)
    return f"SELECT jobs.id AS id FROM {query.source} WHERE {query.where}", query.params
