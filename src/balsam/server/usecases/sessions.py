"""Sessions: open a lease, renew it, close it; and what the end of a lease means for the Jobs it held."""

from dataclasses import replace
from datetime import datetime
from enum import Enum, auto

from balsam.domain.lease import LEASE_TTL_SEC, LeaseKind, SessionPurpose
from balsam.domain.lifecycle import Request
from balsam.domain.roles import Role
from balsam.domain.states import BATCH_JOB_ENDED, Actor, BatchJobState, JobEvent, JobState
from balsam.server.errors import Conflict, Invalid, SessionEnded
from balsam.server.principal import Principal
from balsam.server.store.protocol import ReadTx, Tx, Wake
from balsam.server.store.records import BatchJobRow, SessionRow, micros
from balsam.server.usecases.scope import find_batch_job, find_session, find_site, find_sites
from balsam.server.usecases.transitions import Transitions
from balsam.server.usecases.views import session_view
from balsam.wire.base import ErrorDetail
from balsam.wire.sessions import RenewReply, SessionClose, SessionCreate, SessionsPage, SessionView

WAITING = frozenset({BatchJobState.PENDING_SUBMISSION, BatchJobState.QUEUED})
CLOSING = BATCH_JOB_ENDED | {BatchJobState.PENDING_DELETION}


class Ending(Enum):
    """How a Session comes to its end by its BatchJob's."""

    NOT = auto()
    AFTER_ITS_JOBS = auto()
    AT_ONCE = auto()


def list_sessions(tx: ReadTx, principal: Principal) -> SessionsPage:
    """Open Sessions that the caller may see."""
    sites = tuple(site.id for site in find_sites(tx, principal))
    rows = [
        row
        for row in tx.find(SessionRow, site_id=sites, ended_at=None)
        if principal.kind != "launcher" or principal.batch_job_id == row.batch_job_id
    ]
    return SessionsPage(count=len(rows), results=[session_view(row) for row in rows])


def get_session(tx: ReadTx, principal: Principal, session_id: int) -> SessionView:
    return session_view(find_session(tx, principal, session_id, Role.VIEWER))


def check_stream(tx: ReadTx, principal: Principal, session_id: int) -> SessionView:
    """The Session whose stream the caller may hear. Raises SessionEnded."""
    return session_view(open_session_of(tx, principal, session_id))


def open_session_of(tx: ReadTx, principal: Principal, session_id: int) -> SessionRow:
    """The caller's Session. Raises SessionEnded once it is over: that is for good (S6)."""
    session = find_session(tx, principal, session_id, Role.OWNER)
    if session.ended_at is not None:
        raise SessionEnded(session.id)
    return session


def open_session(tx: Tx, principal: Principal, message: SessionCreate, now: datetime) -> SessionView:
    """Open a lease at a Site, for the launcher of a BatchJob that has not ended, or for the hooks its agent runs."""
    site = find_site(tx, principal, message.site_id, Role.OWNER)
    if message.purpose is SessionPurpose.PROCESSING:
        principal.require("user", "site")
    if message.purpose is SessionPurpose.PROCESSING and message.model_fields_set & {"batch_job_id", "kind"}:
        why = "hooks are run by the Site's agent under a heartbeat lease and in no BatchJob; leave it out"
        raise Invalid([ErrorDetail(where="purpose", message=why)])
    if message.batch_job_id is not None:
        batch_job = find_batch_job(tx, principal, message.batch_job_id, Role.OWNER)
        if batch_job.site_id != site.id:
            raise Invalid([ErrorDetail(where="batch_job_id", message=f"BatchJob {batch_job.id} is of another Site")])
        if batch_job.state in CLOSING:
            raise Conflict("batch_job_ended", f"BatchJob {batch_job.id} is {batch_job.state}; nothing is started in it")
        if principal.kind == "launcher":
            _note_start(tx, batch_job, now)
    elif principal.kind == "launcher":
        raise Invalid([ErrorDetail(where="batch_job_id", message="a launcher opens Sessions of its BatchJob only")])
    elif message.kind is LeaseKind.ALLOCATION:
        why = "an allocation lease ends with a BatchJob, so it needs one; ask for a heartbeat lease"
        raise Invalid([ErrorDetail(where="batch_job_id", message=why)])
    row = SessionRow(
        id=tx.new_id(SessionRow),
        site_id=site.id,
        owner_id=site.owner_id,
        batch_job_id=message.batch_job_id,
        kind=message.kind,
        label=message.label,
        opened_at=micros(now),
        renewed_at=micros(now),
        ended_at=None,
        acquire_seq=0,
        report_seq=0,
        max_gpus_per_node=None,
        purpose=message.purpose,
    )
    tx.put(row)
    return session_view(row)


def _note_start(tx: Tx, batch_job: BatchJobRow, now: datetime) -> None:
    """Its launcher is at work, whatever the agent has heard of the scheduler so far; the agent asks it at once."""
    if batch_job.state in WAITING:
        tx.put(replace(batch_job, state=BatchJobState.RUNNING, start_time=micros(now)))
        tx.wake(Wake("site", batch_job.site_id, "batch_jobs", {}))


def renew_session(tx: Tx, principal: Principal, session_id: int, now: datetime) -> RenewReply:
    """The holder is alive. Raises SessionEnded when the lease is over."""
    session = open_session_of(tx, principal, session_id)
    tx.put(replace(session, renewed_at=micros(now)))
    return RenewReply(ttl_sec=LEASE_TTL_SEC, cancel=tx.jobs_to_stop(session.id), closing=is_closing(tx, session))


def is_closing(tx: ReadTx, session: SessionRow) -> bool:
    """Whether the Session's BatchJob is to end at once: it was asked to, or it is draining and nothing is left here."""
    return takes_no_more(tx, session) is Ending.AT_ONCE


def takes_no_more(tx: ReadTx, session: SessionRow) -> Ending:
    """Whether, and how, the Session's BatchJob comes to its end, so that nothing more is granted to it."""
    if session.batch_job_id is None:
        return Ending.NOT
    batch_job = tx.get(BatchJobRow, session.batch_job_id)
    if batch_job is None or batch_job.state in CLOSING:
        return Ending.AT_ONCE
    if not batch_job.draining:
        return Ending.NOT
    return Ending.AT_ONCE if tx.held_nodes(session.id, look_at=1) is not None else Ending.AFTER_ITS_JOBS


def close_session(tx: Tx, principal: Principal, session_id: int, message: SessionClose, now: datetime) -> None:
    """End the lease in order. A repeat changes nothing (S3)."""
    session = find_session(tx, principal, session_id, Role.OWNER)
    if session.ended_at is None:
        end_session(tx, session, Actor.LAUNCHER, lost=message.lost, reason=message.reason, now=now)


def end_session(tx: Tx, session: SessionRow, actor: Actor, *, lost: bool, reason: str, now: datetime) -> None:
    """The lease is over: what ran has timed out, what was granted only can be granted to others."""
    tx.put(replace(session, ended_at=micros(now)))
    held = tx.held_jobs(session.id)
    running = [job for job in held if job.state is JobState.RUNNING]
    waiting = [job for job in held if job.state is not JobState.RUNNING]
    steps = Transitions(tx, now)
    steps.add(running)
    for job in running:
        steps.take(job.id, Request(JobEvent.LEASE_ENDED, actor, message=reason, lost=lost))
    tx.unlock(session.id, waiting)
    steps.released(waiting)
    steps.flush()
