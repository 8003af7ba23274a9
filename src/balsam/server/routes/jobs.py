"""Jobs: bulk create, list, change, verbs over a filter, and the stream of their states."""

from typing import Annotated

from pydantic import Field

from balsam.domain.scopes import Scope
from balsam.domain.states import JobState
from balsam.server.auth.needs import USER_OR_SITE, USER_SITE_OR_JOB
from balsam.server.broker import Mailbox
from balsam.server.routes.call import Call, Raw
from balsam.server.routes.endpoint import Routes
from balsam.server.routes.streams import EventStream
from balsam.server.usecases import change, explain, jobs, results, selection, submit
from balsam.wire.base import Deleted, Message
from balsam.wire.jobs import (
    JobCounts,
    JobExplanation,
    JobFilter,
    JobGroups,
    JobGroupsQuery,
    JobQuery,
    JobsCancel,
    JobsChanged,
    JobsCreate,
    JobsCreated,
    JobsPage,
    JobsPatch,
    JobsSelect,
    JobsUpdate,
    JobView,
)
from balsam.wire.limits import MAX_BODY_BYTES
from balsam.wire.results import ResultsPage, ResultsQuery, ResultView

routes = Routes("jobs", reads=Scope.JOBS_READ, writes=Scope.JOBS_WRITE)


class JobsQuery(JobQuery):
    """A page of Jobs; `with_count=false` leaves out the number of all matches."""

    with_count: bool = True


class StateFilter(Message):
    """Which states a stream tells of; all when not given."""

    state: Annotated[list[JobState], Field(max_length=len(JobState))] | None = None


@routes.post("/jobs", needs=USER_SITE_OR_JOB, status=201, body_limit=MAX_BODY_BYTES)
async def create_jobs(call: Call, body: JobsCreate) -> JobsCreated:
    """Create up to 10,000 Jobs, all or none."""
    return await call.create(JobsCreated, lambda tx: submit.submit_jobs(tx, call.principal, body, call.now))


@routes.search("/jobs", needs=USER_SITE_OR_JOB)
async def list_jobs(call: Call, query: JobsQuery) -> Raw[JobsPage]:
    """A page of Jobs; follow `after` with the last id for the next one."""
    return Raw(await call.read(lambda tx: jobs.jobs_page_text(tx, call.principal, query, query.with_count)))


@routes.patch("/jobs", needs=USER_OR_SITE, body_limit=MAX_BODY_BYTES)
async def patch_jobs(call: Call, body: JobsPatch) -> JobsChanged:
    """Different changes to different Jobs, all or none."""
    return await call.create(JobsChanged, lambda tx: change.patch_jobs(tx, call.principal, body, call.now))


@routes.search("/jobs/counts", needs=USER_SITE_OR_JOB)
async def count_jobs(call: Call, query: JobFilter) -> JobCounts:
    """Number of Jobs in each state."""
    return await call.read(lambda tx: jobs.count_jobs(tx, call.principal, query))


@routes.search("/jobs/groups", needs=USER_SITE_OR_JOB)
async def group_jobs(call: Call, query: JobGroupsQuery) -> JobGroups:
    """Number of Jobs by a value: an App, a tag, a parameter."""
    return await call.read(lambda tx: jobs.group_jobs(tx, call.principal, query))


@routes.get("/jobs/stream", needs=USER_SITE_OR_JOB, media_type="text/event-stream")
async def job_stream(call: Call, query: StateFilter) -> EventStream:
    """Server-sent events: hello, then `states` with the newest state of each Job that changed; to a Site of its own.

    A person's stream ends when others share something with them, or no more; the next one tells of what they see then.
    """

    async def allowed() -> None:
        return None

    states = None if query.state is None else frozenset(query.state)
    site_id = call.principal.site_id
    if call.principal.kind in ("site", "job") and site_id is not None:
        # Of code that runs at the Site: any number of its processes may wait for Jobs, not only the one agent.
        box = Mailbox([("site_jobs", site_id)], states)
        return EventStream(call, box, ("site_jobs", site_id), allowed, per_holder=False)
    user_id = call.principal.user_id
    topics = await call.read(lambda tx: jobs.heard(tx, call.principal))
    box = Mailbox([("access", user_id), *topics], states)
    return EventStream(call, box, ("user", user_id), allowed)


@routes.get("/jobs/results", needs=USER_SITE_OR_JOB)
async def list_results(call: Call, query: ResultsQuery) -> ResultsPage:
    """Results of several Jobs; those that did not fit into the answer are to be asked for again."""
    return await call.read(lambda tx: results.list_results(tx, call.principal, query))


@routes.post("/jobs/update", needs=USER_OR_SITE, body_limit=MAX_BODY_BYTES)
async def update_jobs(call: Call, body: JobsUpdate) -> JobsChanged:
    """The same change to every Job that the filter selects."""
    return await selection.update_selected(call.service.store, call.principal, body, call.now)


@routes.post("/jobs/cancel", needs=USER_SITE_OR_JOB, body_limit=MAX_BODY_BYTES)
async def cancel_jobs(call: Call, body: JobsCancel) -> JobsChanged:
    """Cancel: at once when the Job does not run, else after its end was observed."""
    return await selection.cancel_selected(call.service.store, call.principal, body, call.now)


@routes.post("/jobs/retry", needs=USER_OR_SITE, body_limit=MAX_BODY_BYTES)
async def retry_jobs(call: Call, body: JobsSelect) -> JobsChanged:
    """Run FAILED and CANCELLED Jobs again."""
    return await selection.retry_selected(call.service.store, call.principal, body, call.now)


@routes.post("/jobs/delete", needs=USER_OR_SITE, body_limit=MAX_BODY_BYTES)
async def delete_jobs(call: Call, body: JobsSelect) -> Deleted:
    """Delete Jobs with their events; those that run, or that others wait for, are named in `skipped`."""
    return await selection.delete_selected(call.service.store, call.principal, body, call.now)


@routes.get("/jobs/{job_id}", needs=USER_SITE_OR_JOB)
async def get_job(call: Call, job_id: int) -> Raw[JobView]:
    """One Job."""
    return Raw(await call.read(lambda tx: jobs.get_job_text(tx, call.principal, job_id)))


@routes.get("/jobs/{job_id}/result", needs=USER_SITE_OR_JOB)
async def get_result(call: Call, job_id: int) -> ResultView:
    """What the last attempt of a Job returned or raised, or why it failed."""
    return await call.read(lambda tx: results.get_result(tx, call.principal, job_id))


@routes.get("/jobs/{job_id}/explain", needs=USER_SITE_OR_JOB)
async def explain_job(call: Call, job_id: int) -> JobExplanation:
    """Why a Job is where it is, and what to do about it."""
    return await call.read(lambda tx: explain.explain_job(tx, call.principal, job_id, call.now))
