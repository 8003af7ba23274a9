"""BatchJobs: allocations that users ask for, and whose fate the Site's agent reports.

The service checks what it knows of the Site's limits, so that a mistake is said at once; the Site checks again with its
own settings before it submits anything (S15).
"""

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from typing import Any

from balsam.domain.lifecycle import Refused, decide_batch_job
from balsam.domain.partitions import filter_tag_problems, partition_tag_problems
from balsam.domain.roles import Role
from balsam.domain.scopes import Scope
from balsam.domain.states import BATCH_JOB_ENDED, BatchJobState
from balsam.server.errors import Conflict, Forbidden, Invalid, ServiceError
from balsam.server.principal import Principal
from balsam.server.store.protocol import ReadTx, Tx, Wake
from balsam.server.store.records import BatchJobRow, SessionRow, SiteRow, TokenRow, micros
from balsam.server.usecases.accounts import add_token, revoke
from balsam.server.usecases.limits import BadJson, json_text
from balsam.server.usecases.scope import find_batch_job, find_site
from balsam.server.usecases.sessions import is_closing
from balsam.server.usecases.views import batch_job_view
from balsam.wire.base import Deleted, ErrorDetail
from balsam.wire.batch_jobs import (
    BatchJobCreate,
    BatchJobPatch,
    BatchJobsPatch,
    BatchJobsPatched,
    BatchJobView,
)
from balsam.wire.sites import JobTokenCreate, QueueLimits, SiteToken

_WAITING = (BatchJobState.PENDING_SUBMISSION, BatchJobState.QUEUED)
_MAY_DRAIN = (BatchJobState.RUNNING, BatchJobState.UNKNOWN)


def get_batch_job(tx: ReadTx, principal: Principal, batch_job_id: int) -> BatchJobView:
    return batch_job_view(tx, find_batch_job(tx, principal, batch_job_id, Role.VIEWER))


def create_batch_job(tx: Tx, principal: Principal, message: BatchJobCreate, now: datetime) -> BatchJobView:
    """Ask for an allocation. Raises Invalid naming what the Site does not allow and what it does."""
    principal.require("user", "site")
    site = find_site(tx, principal, message.site_id, Role.SUBMITTER)
    faults = [ErrorDetail(where=where, message=why) for where, why in _problems(tx, site, message)]
    if faults:
        raise Invalid(faults)
    partitions = None if message.partitions is None else [part.model_dump(mode="json") for part in message.partitions]
    row = BatchJobRow(
        id=tx.new_id(BatchJobRow),
        site_id=site.id,
        owner_id=site.owner_id,
        submitter_id=principal.user_id,
        num_nodes=message.num_nodes,
        wall_time_min=message.wall_time_min,
        job_mode=message.job_mode,
        queue=message.queue,
        project=message.project,
        optional_params=message.optional_params,
        filter_tags=message.filter_tags,
        partitions=partitions,
        scheduler_id=None,
        state=BatchJobState.PENDING_SUBMISSION,
        status_info={},
        created_at=micros(now),
        start_time=None,
        end_time=None,
        ended_at=None,
    )
    tx.put(row)
    tx.wake(Wake("site", site.id, "batch_jobs", {}))
    return batch_job_view(tx, row)


def _problems(tx: ReadTx, site: SiteRow, message: BatchJobCreate) -> Iterator[tuple[str, str]]:
    yield from _queue_problems(tx, site, message)
    if message.project not in site.allowed_projects:
        allowed = ", ".join(site.allowed_projects) or _none(site, "projects")
        yield "project", f"Site {site.name!r} has no project {message.project!r}; it allows: {allowed}"
    for name in message.optional_params:
        if name not in site.optional_batch_job_params:
            known = ", ".join(site.optional_batch_job_params) or "none"
            yield f"optional_params.{name}", f"Site {site.name!r} does not take it; it takes: {known}"
    for why in filter_tag_problems(message.filter_tags):
        yield "filter_tags", why
    if message.partitions is None:
        return
    total = sum(part.num_nodes for part in message.partitions)
    if total != message.num_nodes:
        yield "partitions", f"they have {total} nodes together, the BatchJob has {message.num_nodes}; make them equal"
    for index, part in enumerate(message.partitions):
        for why in partition_tag_problems(part.filter_tags):
            yield f"partitions[{index}].filter_tags", why


def _none(site: SiteRow, what: str) -> str:
    """Why a Site allows no queues or projects: its settings.yml has none, or nobody has heard of them."""
    if site.allowed_queues or site.allowed_projects:
        return f"none; its owner puts them into scheduler.allowed_{what} of its settings.yml, then: balsam site sync"
    return "none yet: its agent tells them when it starts"


def _queue_problems(tx: ReadTx, site: SiteRow, message: BatchJobCreate) -> Iterator[tuple[str, str]]:
    if message.queue not in site.allowed_queues:
        allowed = ", ".join(site.allowed_queues) or _none(site, "queues")
        yield "queue", f"Site {site.name!r} has no queue {message.queue!r}; it allows: {allowed}"
        return
    limits = QueueLimits.model_validate(site.allowed_queues[message.queue])
    where = f"queue {message.queue!r} of Site {site.name!r}"
    if message.num_nodes > limits.max_nodes:
        yield "num_nodes", f"{where} allows at most {limits.max_nodes} nodes, {message.num_nodes} are asked for"
    if message.wall_time_min > limits.max_walltime:
        yield (
            "wall_time_min",
            f"{where} allows at most {limits.max_walltime} minutes, {message.wall_time_min} are asked for",
        )
    if limits.max_queued_jobs:
        waiting = tx.find(BatchJobRow, site_id=site.id, state=_WAITING, queue=message.queue)
        if len(waiting) >= limits.max_queued_jobs:
            yield "queue", f"{where} takes at most {limits.max_queued_jobs} waiting BatchJobs, and has {len(waiting)}"


def patch_batch_job(
    tx: Tx, principal: Principal, batch_job_id: int, message: BatchJobPatch, now: datetime
) -> BatchJobView:
    """A user asks for deletion; the agent reports what the scheduler says. Raises Conflict for an impossible move."""
    principal.require("user", "site")
    row = find_batch_job(tx, principal, batch_job_id, Role.SUBMITTER)
    given = message.model_dump(exclude_unset=True, exclude_none=True)
    check_given(principal, given)
    _check_changeable(row, given)
    target: BatchJobState | None = given.pop("state", None)
    changes: dict[str, Any] = {
        name: micros(value) if isinstance(value, datetime) else value for name, value in given.items()
    }
    if target is not None and _moves(row, target) and not _is_older_than_its_launcher(row, target):
        changes["state"] = target
        if target in BATCH_JOB_ENDED:
            changes["ended_at"] = micros(now)
    after = replace(row, **changes)
    if after != row:
        tx.put(after)
        _follow_up(tx, principal, row, after, now)
    return batch_job_view(tx, after)


def check_given(principal: Principal, given: dict[str, Any]) -> None:
    """Raises Forbidden for what only the agent reports, Invalid for what can't be."""
    if principal.kind == "user":
        state = given.get("state")
        if state not in (None, BatchJobState.PENDING_DELETION):
            raise Forbidden(
                f"only the Site's agent reports that a BatchJob is {state}; you can ask for pending_deletion"
            )
        if foreign := sorted(given.keys() - {"state", "filter_tags", "draining"}):
            raise Forbidden(f"only the Site's agent reports {', '.join(foreign)}")
    for why in filter_tag_problems(given.get("filter_tags", {})):
        raise Invalid([ErrorDetail(where="filter_tags", message=why)])
    try:
        json_text(given.get("status_info", {}), "status_info")
    except BadJson as error:
        raise Invalid([ErrorDetail(where="status_info", message=str(error))]) from None


def _check_changeable(row: BatchJobRow, given: dict[str, Any]) -> None:
    """The launcher is given its tags at submission: a later change would do nothing. What does not run has no Jobs that
    an end could wait for."""
    changes = given.get("filter_tags", row.filter_tags) != row.filter_tags
    if changes and row.state is not BatchJobState.PENDING_SUBMISSION:
        raise Conflict(
            "already_submitted",
            f"BatchJob {row.id} is {row.state}: its filter_tags went to the scheduler with it and can't be changed;"
            " ask for another BatchJob with the tags you want",
        )
    if given.get("draining") and not row.draining and row.state not in _MAY_DRAIN:
        raise Conflict(
            "not_running",
            f"BatchJob {row.id} is {row.state}: only one that runs can be drained; `balsam queue rm` ends it",
        )


def _moves(row: BatchJobRow, target: BatchJobState) -> bool:
    try:
        return decide_batch_job(row.state, target)
    except Refused as error:
        raise Conflict("illegal_move", f"BatchJob {row.id}: {error}") from None


def _is_older_than_its_launcher(row: BatchJobRow, target: BatchJobState) -> bool:
    """The agent's word of the submission, which arrives after the launcher's Session has made it running."""
    return target is BatchJobState.QUEUED and row.state is BatchJobState.RUNNING and row.scheduler_id is None


def _follow_up(tx: Tx, principal: Principal, before: BatchJobRow, after: BatchJobRow, now: datetime) -> None:
    if after.state in BATCH_JOB_ENDED and before.state not in BATCH_JOB_ENDED:
        # A launcher's token dies with its BatchJob; what it left in its outbox is delivered by the agent.
        revoke(tx, tx.find(TokenRow, batch_job_id=after.id), now)
    if after.state is BatchJobState.PENDING_DELETION and before.state is not after.state:
        for session in tx.find(SessionRow, batch_job_id=after.id, ended_at=None):
            tx.wake(Wake("session", session.id, "closing", {}))
    elif after.draining and not before.draining:
        for session in tx.find(SessionRow, batch_job_id=after.id, ended_at=None):
            if is_closing(tx, session):
                tx.wake(Wake("session", session.id, "closing", {}))
    if principal.kind == "user":
        tx.wake(Wake("site", after.site_id, "batch_jobs", {}))


def patch_batch_jobs(tx: Tx, principal: Principal, message: BatchJobsPatch, now: datetime) -> BatchJobsPatched:
    """Apply each report by itself; what is refused is named and hinders nothing else."""
    results: list[BatchJobView] = []
    refused: dict[int, str] = {}
    for batch_job_id, patch in message.patches.items():
        try:
            results.append(patch_batch_job(tx, principal, batch_job_id, patch, now))
        except ServiceError as error:
            refused[batch_job_id] = error.message
    return BatchJobsPatched(results=results, refused=refused)


def delete_batch_job(tx: Tx, principal: Principal, batch_job_id: int, now: datetime) -> Deleted:
    """Remove the record of a BatchJob that ended; ask for the end of one that lives."""
    principal.require("user")
    row = find_batch_job(tx, principal, batch_job_id, Role.SUBMITTER)
    if row.state not in BATCH_JOB_ENDED:
        patch_batch_job(tx, principal, row.id, BatchJobPatch(state=BatchJobState.PENDING_DELETION), now)
        return Deleted(deleted=0, skipped=[row.id], reason="it is asked to end; delete it again once it is finished")
    if tx.find(SessionRow, batch_job_id=row.id, ended_at=None):
        raise Conflict("sessions_open", f"BatchJob {row.id} has ended a moment ago; its Sessions are being closed")
    tx.remove(BatchJobRow, row.id)
    return Deleted(deleted=1)


def issue_launcher_token(tx: Tx, principal: Principal, batch_job_id: int, secret: str, now: datetime) -> SiteToken:
    """The token of a BatchJob's launcher. Raises Conflict when the BatchJob has ended."""
    row = _open_batch_job(tx, principal, batch_job_id)
    label = f"launcher of BatchJob {row.id}"
    add_token(tx, row.owner_id, "launcher", secret, label, now, site_id=row.site_id, batch_job_id=row.id)
    return SiteToken(token=secret)


def issue_job_token(
    tx: Tx, principal: Principal, batch_job_id: int, message: JobTokenCreate, secret: str, now: datetime
) -> SiteToken:
    """The token for code of the Jobs in a BatchJob. Raises Conflict when the BatchJob has ended."""
    row = _open_batch_job(tx, principal, batch_job_id)
    label = f"Jobs of BatchJob {row.id}"
    scopes = {Scope.JOBS_WRITE, Scope.SITES_ADMIN} if message.may_sync_apps else {Scope.JOBS_WRITE}
    add_token(tx, row.owner_id, "job", secret, label, now, site_id=row.site_id, batch_job_id=row.id, scopes=scopes)
    return SiteToken(token=secret)


def _open_batch_job(tx: ReadTx, principal: Principal, batch_job_id: int) -> BatchJobRow:
    """The BatchJob, whose tokens live as long as it does."""
    principal.require("user", "site")
    row = find_batch_job(tx, principal, batch_job_id, Role.SUBMITTER)
    if row.state in BATCH_JOB_ENDED:
        raise Conflict("batch_job_ended", f"BatchJob {row.id} is {row.state}; it gets no token any more")
    return row
