"""Granting Jobs to a Session: the one place where a Job gets a holder.

A grant takes runnable Jobs that nobody holds and raises their token (S6). A call that comes again is answered with what
it was granted the first time, an older one with nothing (S3).
"""

from dataclasses import dataclass, replace
from datetime import datetime

from balsam.domain.lease import CallOrder, SessionPurpose, call_order
from balsam.domain.lifecycle import AWAITED_HOOKS
from balsam.server.errors import Invalid
from balsam.server.principal import Principal
from balsam.server.store.protocol import Tx, Wake
from balsam.server.store.records import AppRow, GrantedRow, Json, SessionRow
from balsam.server.store.selections import AcquireCriteria
from balsam.server.usecases.sessions import Ending, open_session_of, takes_no_more
from balsam.server.usecases.views import app_views
from balsam.wire.base import ErrorDetail
from balsam.wire.sessions import AcquireReply, AcquireRequest


@dataclass(frozen=True, slots=True)
class _App:
    """What a granted Job needs of its App. The whole of it is shown only to a launcher that does not know it yet."""

    has_methods: bool
    defaults: dict[str, str]


def acquire_jobs(tx: Tx, principal: Principal, session_id: int, message: AcquireRequest, now: datetime) -> AcquireReply:
    """Grant up to `max_jobs` Jobs. Raises SessionEnded when the lease is over."""
    session = open_session_of(tx, principal, session_id)
    if session.purpose is SessionPurpose.PROCESSING:
        _check_plain(message)
    jobs: list[GrantedRow] = []
    match call_order(session.acquire_seq, message.acquire_seq):
        case CallOrder.NEW:
            tx.put(replace(session, acquire_seq=message.acquire_seq, max_gpus_per_node=message.max_gpus_per_node))
            match takes_no_more(tx, session):
                case Ending.NOT:
                    jobs = tx.acquire(_criteria(session, message), session.id, message.acquire_seq)
                case Ending.AT_ONCE:  # who asks has nothing left: it need not wait for its next renewal
                    tx.wake(Wake("session", session.id, "closing", {}))
        case CallOrder.REPEAT:
            jobs = tx.granted_jobs(session.id, message.acquire_seq)
        case CallOrder.OLD:
            pass
    rows = tx.find(AppRow, id=tuple({job.app_id for job in jobs})) if jobs else []
    apps = {row.id: _App(row.definition.get("code") is not None, _defaults(row.definition)) for row in rows}
    granted = [_granted(job, apps[job.app_id]) for job in jobs]
    unknown = [row for row in rows if message.known_apps.get(row.id) != row.content_hash]
    # All of it at once: to make a message of each Job by itself takes half as long again.
    reply = {"acquire_seq": message.acquire_seq, "jobs": granted, "apps": app_views(tx, unknown)}
    return AcquireReply.model_validate(reply)


def _check_plain(message: AcquireRequest) -> None:
    for name in sorted(message.model_fields_set - {"acquire_seq", "max_jobs", "known_apps"}):
        why = "a Session for processing takes whatever waits for a hook; leave it out"
        raise Invalid([ErrorDetail(where=name, message=why)])


def _criteria(session: SessionRow, message: AcquireRequest) -> AcquireCriteria:
    if session.purpose is SessionPurpose.PROCESSING:
        return AcquireCriteria(session.site_id, message.max_jobs, awaits_hook=True)
    return AcquireCriteria(
        site_id=session.site_id,
        max_jobs=message.max_jobs,
        max_wall_time_min=message.max_wall_time_min,
        max_nodes_per_job=message.max_nodes_per_job,
        max_aggregate_nodes=message.max_aggregate_nodes,
        max_gpus_per_node=message.max_gpus_per_node,
        serial_only=message.serial_only,
        filter_tags=tuple(message.filter_tags.items()),
        order=message.sort_by,
    )


def _defaults(definition: Json) -> dict[str, str]:
    parameters = definition.get("parameters", {})
    return {name: spec["default"] for name, spec in parameters.items() if spec.get("default") is not None}


def _granted(job: GrantedRow, app: _App) -> Json:
    """The fields of a GrantedJob."""
    hook = AWAITED_HOOKS.get(job.state)
    return {
        "id": job.id,
        "app_id": job.app_id,
        "token": job.token,
        "attempt": job.attempt + (hook is None),
        "workdir": job.workdir,
        "parameters": {**app.defaults, **job.parameters} if app.defaults else job.parameters,
        "num_nodes": job.num_nodes,
        "ranks_per_node": job.ranks_per_node,
        "threads_per_rank": job.threads_per_rank,
        "threads_per_core": job.threads_per_core,
        "gpus_per_rank": job.gpus_per_rank,
        "node_packing_count": job.node_packing_count,
        "wall_time_min": job.wall_time_min,
        "launch_params": job.launch_params,
        "hook": hook,
        "tags": job.tags if app.has_methods else {},
        "data": job.data if app.has_methods else {},
        "parent_ids": job.parent_ids if app.has_methods else [],
    }
