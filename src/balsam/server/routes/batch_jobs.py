"""BatchJobs: allocations that users ask for and agents report on."""

from balsam.domain.scopes import Scope
from balsam.server.auth import tokens
from balsam.server.auth.needs import SITE, USER, USER_OR_SITE, USER_SITE_OR_JOB
from balsam.server.routes.call import Call
from balsam.server.routes.endpoint import Routes
from balsam.server.usecases import batch_job_lists, batch_jobs
from balsam.wire.base import Deleted
from balsam.wire.batch_jobs import (
    BatchJobCreate,
    BatchJobPatch,
    BatchJobQuery,
    BatchJobsChanged,
    BatchJobsPage,
    BatchJobsPatch,
    BatchJobsPatched,
    BatchJobsSelect,
    BatchJobsUpdate,
    BatchJobView,
)
from balsam.wire.limits import MAX_BODY_BYTES
from balsam.wire.sites import JobTokenCreate, SiteToken

routes = Routes("batch-jobs", reads=Scope.JOBS_READ, writes=Scope.JOBS_WRITE)


@routes.search("/batch-jobs", needs=USER_SITE_OR_JOB)
async def list_batch_jobs(call: Call, query: BatchJobQuery) -> BatchJobsPage:
    """A page of BatchJobs."""
    return await call.read(lambda tx: batch_job_lists.list_batch_jobs(tx, call.principal, query))


@routes.post("/batch-jobs", needs=USER_OR_SITE, status=201)
async def create_batch_job(call: Call, body: BatchJobCreate) -> BatchJobView:
    """Ask a Site for an allocation. A Site's agent asks so for its elastic queue."""
    return await call.create(BatchJobView, lambda tx: batch_jobs.create_batch_job(tx, call.principal, body, call.now))


@routes.patch("/batch-jobs", needs=USER_OR_SITE)
async def patch_batch_jobs(call: Call, body: BatchJobsPatch) -> BatchJobsPatched:
    """Several reports of an agent at once; each is applied or named in `refused`."""
    return await call.write(lambda tx: batch_jobs.patch_batch_jobs(tx, call.principal, body, call.now))


@routes.post("/batch-jobs/update", needs=USER, body_limit=MAX_BODY_BYTES)
async def update_batch_jobs(call: Call, body: BatchJobsUpdate) -> BatchJobsChanged:
    """The same change to every BatchJob that the filter selects."""
    return await batch_job_lists.update_selected(call.service.store, call.principal, body, call.now)


@routes.post("/batch-jobs/delete", needs=USER, body_limit=MAX_BODY_BYTES)
async def delete_batch_jobs(call: Call, body: BatchJobsSelect) -> Deleted:
    """Delete the records of BatchJobs that ended; the others are asked to end and named in `skipped`."""
    return await batch_job_lists.delete_selected(call.service.store, call.principal, body, call.now)


@routes.get("/batch-jobs/{batch_job_id}", needs=USER_SITE_OR_JOB)
async def get_batch_job(call: Call, batch_job_id: int) -> BatchJobView:
    """One BatchJob."""
    return await call.read(lambda tx: batch_jobs.get_batch_job(tx, call.principal, batch_job_id))


@routes.patch("/batch-jobs/{batch_job_id}", needs=USER_OR_SITE)
async def patch_batch_job(call: Call, batch_job_id: int, body: BatchJobPatch) -> BatchJobView:
    """Change one BatchJob: users ask for its end, agents report what the scheduler says."""
    return await call.write(lambda tx: batch_jobs.patch_batch_job(tx, call.principal, batch_job_id, body, call.now))


@routes.delete("/batch-jobs/{batch_job_id}", needs=USER)
async def delete_batch_job(call: Call, batch_job_id: int) -> Deleted:
    """Ask for the end of a live BatchJob, or delete the record of one that has ended."""
    return await call.write(lambda tx: batch_jobs.delete_batch_job(tx, call.principal, batch_job_id, call.now))


@routes.post("/batch-jobs/{batch_job_id}/token", needs=SITE, status=201)
async def issue_launcher_token(call: Call, batch_job_id: int) -> SiteToken:
    """A token for the launcher of this BatchJob; it dies with the BatchJob."""
    secret = tokens.mint("launcher")
    return await call.write(
        lambda tx: batch_jobs.issue_launcher_token(tx, call.principal, batch_job_id, secret, call.now)
    )


@routes.post("/batch-jobs/{batch_job_id}/job-token", needs=SITE, status=201)
async def issue_job_token(call: Call, batch_job_id: int, body: JobTokenCreate) -> SiteToken:
    """A token for the code of the Jobs that run in this BatchJob; it dies with the BatchJob."""
    secret = tokens.mint("job")
    return await call.write(
        lambda tx: batch_jobs.issue_job_token(tx, call.principal, batch_job_id, body, secret, call.now)
    )
