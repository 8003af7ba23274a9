"""Why a Job is where it is, in words, with what to do about it.

Reads only. For a runnable Job every allocation of its Site is looked at, because the reason is the one that would have
to run it.
"""

import math
import shlex
from collections.abc import Iterator
from datetime import datetime

from balsam.domain.batch_job import status_reason
from balsam.domain.failure import Failure
from balsam.domain.job import gpus_needed
from balsam.domain.lease import SessionPurpose
from balsam.domain.lifecycle import AWAITED_HOOKS
from balsam.domain.roles import Role
from balsam.domain.states import (
    BATCH_JOB_ENDED,
    DONE_STATES,
    RUNNABLE_STATES,
    BatchJobState,
    JobMode,
    JobState,
    TransferState,
)
from balsam.domain.transfers import TransferDirection
from balsam.server.errors import NotFound
from balsam.server.principal import Principal
from balsam.server.store.protocol import ReadTx
from balsam.server.store.records import (
    BatchJobRow,
    EventRow,
    HotJob,
    JobRow,
    SessionRow,
    SiteRow,
    TransferItemRow,
    micros,
    moment_or_none,
)
from balsam.server.store.selections import EventSelection, PageWindow
from balsam.server.usecases.scope import find_job
from balsam.server.usecases.sites import is_online
from balsam.wire.jobs import JobExplanation
from balsam.wire.sites import QueueLimits

_MAY_RUN = (BatchJobState.RUNNING, BatchJobState.UNKNOWN)
_ALIVE = (BatchJobState.PENDING_SUBMISSION, BatchJobState.QUEUED, *_MAY_RUN)
_SHOWN_PARENTS = 5
_FAILED: dict[Failure | None, str] = {
    Failure.EXIT_CODE: "Its command ended with return code {code} in attempt {attempt}.",
    Failure.SIGNAL: "A signal ended its command in attempt {attempt} (return code {code}).",
    Failure.TIMEOUT: "It did not end in the time that it had, in attempt {attempt}.",
    Failure.OUT_OF_MEMORY: "It ran out of memory in attempt {attempt}; give it more, or put fewer Jobs on a node.",
    Failure.LOST_NODE: "Its node, or the way to it, was lost in attempt {attempt}; the reasons are below.",
    Failure.LOST_LAUNCHER: "Its launcher was lost in attempt {attempt}.",
    Failure.MONITOR: "A monitor of its App ended it in attempt {attempt}; the reasons are below.",
    Failure.NOT_STARTED: "Its Site could not start it; the reasons are below.",
    Failure.HOOK: "A hook of its App failed it; the reasons are below, and its output is in balsam.log in the workdir.",
    Failure.TRANSFER: "A file could not be transferred; the reasons are below.",
    Failure.PARENT: "A parent failed or was cancelled; retry that one first.",
}
_SHOWN_ITEMS = 5
_ASKED_MIN = 30


def explain_job(tx: ReadTx, principal: Principal, job_id: int, now: datetime) -> JobExplanation:
    """One sentence, then reasons with what to do about each."""
    job = find_job(tx, principal, job_id, Role.VIEWER)
    site = tx.get(SiteRow, job.site_id)
    if site is None or site.deleted_at is not None:
        raise NotFound
    if job.state in DONE_STATES:
        summary, reasons = _done(tx, job)
    elif job.state is JobState.RUNNING:
        summary, reasons = _running(job)
    elif job.state is JobState.AWAITING_PARENTS:
        summary, reasons = _waiting(tx, job, now)
    elif job.state in RUNNABLE_STATES:
        summary, reasons = _runnable(tx, site, job, now)
    elif job.state in AWAITED_HOOKS:
        summary, reasons = _awaiting_hook(tx, site, job)
    elif job.state in (JobState.READY, JobState.POSTPROCESSED):
        summary, reasons = _staged(tx, job)
    else:
        summary, reasons = f"It is {job.state}: the Site's agent takes the next step.", []
    if job.state not in DONE_STATES and not is_online(site, now):
        reasons = [*reasons, _offline(site)]
    return JobExplanation(id=job.id, state=job.state, summary=summary, reasons=reasons)


def _done(tx: ReadTx, job: JobRow) -> tuple[str, list[str]]:
    if job.state is JobState.JOB_FINISHED:
        return f"It finished well in attempt {job.attempt}.", []
    events = _last_events(tx, job)
    reasons = _said(events)
    if job.state is JobState.CANCELLED:
        return "It was cancelled. Retry it to run it again.", reasons
    said = _FAILED.get(job.failure, "It failed; the reasons are below. Retry it once they are gone.")
    return said.format(code=job.return_code, attempt=job.attempt), reasons


def why_done(tx: ReadTx, job: HotJob) -> str:
    """What was said when a Job failed or was cancelled; empty when nothing was."""
    return "\n".join(_said(_last_events(tx, job)))


def _last_events(tx: ReadTx, job: JobRow | HotJob) -> list[EventRow]:
    window = PageWindow("timestamp", descending=True, limit=4)
    return tx.events(EventSelection(job.owner_id, job_ids=(job.id,)), window)


def _said(events: list[EventRow]) -> list[str]:
    return [
        f"{event.from_state} -> {event.to_state}: {event.data[key]}"
        for event in events
        for key in ("message", "tail", "signal", "traceback")
        if event.data.get(key)
    ]


def _running(job: JobRow) -> tuple[str, list[str]]:
    where = f" in BatchJob {job.batch_job_id}" if job.batch_job_id else ""
    summary = f"It runs since {moment_or_none(job.started_at)}{where}, attempt {job.attempt}."
    return summary, ["You asked for its end; its launcher is killing it."] if job.cancel_requested else []


def _waiting(tx: ReadTx, job: JobRow, now: datetime) -> tuple[str, list[str]]:
    parents = [job for job in tx.jobs(job.parent_ids) if job.state is not JobState.JOB_FINISHED]
    reasons = [f"Job {parent.id} ({parent.workdir}) is {parent.state}." for parent in parents[:_SHOWN_PARENTS]]
    if len(parents) > _SHOWN_PARENTS:
        reasons.append(f"And {len(parents) - _SHOWN_PARENTS} more.")
    first = next((parent for parent in parents if parent.state in RUNNABLE_STATES), None)
    site = None if first is None else tx.get(SiteRow, first.site_id)
    if first is not None and site is not None:
        why, more = _runnable(tx, site, first, now)
        reasons += [f"Of Job {first.id}: {why}", *more]
    return f"It waits for {len(parents)} of its {len(job.parent_ids)} parents to finish.", reasons


def _awaiting_hook(tx: ReadTx, site: SiteRow, job: JobRow) -> tuple[str, list[str]]:
    hook = AWAITED_HOOKS[job.state]
    reasons = [] if job.failure is None else _said(_last_events(tx, job))
    if job.session_id is not None:
        return f"The agent of its Site runs its hook {hook}, or is about to.", reasons
    if not tx.find(SessionRow, site_id=site.id, purpose=SessionPurpose.PROCESSING.value, ended_at=None):
        off = (
            f"The agent of Site {site.name!r} runs no hooks now; see that settings.yml does not say `processing: null`."
        )
        return f"It waits for its hook {hook}.", [off, *reasons]
    return f"It waits for its hook {hook}; the workers of its Site are busy with others.", reasons


def _staged(tx: ReadTx, job: JobRow) -> tuple[str, list[str]]:
    """It waits for files."""
    is_in = job.state is JobState.READY
    direction = TransferDirection.stage_in if is_in else TransferDirection.stage_out
    items = tx.find(TransferItemRow, job_id=job.id, direction=direction)
    open_items = [item for item in items if item.state is not TransferState.DONE]
    summary = f"It waits for {len(open_items)} of its {len(items)} files to be staged {'in' if is_in else 'out'}."
    reasons = []
    for item in open_items[:_SHOWN_ITEMS]:
        where = f"{item.local_path} {'from' if is_in else 'to'} {item.location_alias}:{item.remote_path}"
        error = item.transfer_info.get("error")
        reasons.append(f"Transfer {item.slot!r} ({where}) is {item.state}{f': {error}' if error else ''}.")
    return summary, reasons


def _runnable(tx: ReadTx, site: SiteRow, job: JobRow, now: datetime) -> tuple[str, list[str]]:
    if job.session_id is not None:
        session = tx.get(SessionRow, job.session_id)
        place = f"BatchJob {session.batch_job_id}" if session and session.batch_job_id else "its launcher"
        return f"It was granted to {place} and waits for room on the nodes.", []
    allocations = tx.find(BatchJobRow, site_id=site.id, state=_ALIVE)
    if not allocations and (beyond := list(_beyond(site, job))):
        return f"No queue of Site {site.name!r} allows an allocation that could run it.", beyond
    if not allocations:
        ask = [] if "elastic_queue" in site.scaling else [f"Ask for one: `{_asking(site, job)}`."]
        reasons = [*_last_failure(tx, site), *_scaling(site), *ask]
        return f"Site {site.name!r} has no allocation, running or queued.", reasons
    unfit = {row.id: list(_misfits(row, job, now)) for row in allocations}
    fitting = [row for row in allocations if not unfit[row.id]]
    if not fitting:
        misfits = [why for reasons in unfit.values() for why in reasons]
        return "None of the Site's allocations can run it.", [*misfits, *_scaling(site)]
    pending = [_pending(row) for row in fitting if row.state is not BatchJobState.RUNNING]
    launchers = tx.find(
        SessionRow, batch_job_id=tuple(row.id for row in fitting if row.state in _MAY_RUN), ended_at=None
    )
    if launchers:
        return _acquirable(job, launchers, pending)
    if len(pending) == len(fitting):
        return "It waits for an allocation to start.", pending
    return "Its allocation runs, and no launcher has reported from it yet.", ["See the Site's log of the launcher."]


def _asking(site: SiteRow, job: JobRow) -> str:
    """The command that asks for an allocation that can run the Job, in words that its Site allows."""
    project = site.allowed_projects[0] if site.allowed_projects else "PROJECT"
    minutes = max(job.wall_time_min, _ASKED_MIN)
    queue, longest = next(_allowing(site, job), ("QUEUE", minutes))  # its agent may have told of none yet
    words = ["balsam", "queue", "submit", "--site", site.name, "-n", str(job.num_nodes)]
    return shlex.join([*words, "-t", str(min(minutes, longest)), "-q", queue, "-A", project, "-j", JobMode.MPI])


def _allowing(site: SiteRow, job: JobRow) -> Iterator[tuple[str, int]]:
    """The queues that allow an allocation for the Job, each with the minutes that it allows."""
    for name, allowed in site.allowed_queues.items():
        limits = QueueLimits.model_validate(allowed)
        if job.num_nodes <= limits.max_nodes and job.wall_time_min <= limits.max_walltime:
            yield name, limits.max_walltime


def _beyond(site: SiteRow, job: JobRow) -> Iterator[str]:
    """What the Job asks for that no queue of its Site allows, with both numbers."""
    queues = [QueueLimits.model_validate(limits) for limits in site.allowed_queues.values()]
    if not queues or any(_allowing(site, job)):
        return
    asks = (
        (job.num_nodes, "nodes", max(limits.max_nodes for limits in queues)),
        (job.wall_time_min, "minutes", max(limits.max_walltime for limits in queues)),
    )
    beyond = [
        f"It asks for {needs} {unit}; the Site's queues allow at most {most}."
        for needs, unit, most in asks
        if needs > most
    ]
    both = f"It asks for {job.num_nodes} nodes and {job.wall_time_min} minutes; no queue of the Site allows both."
    yield from beyond or [both]


def _acquirable(job: JobRow, launchers: list[SessionRow], pending: list[str]) -> tuple[str, list[str]]:
    """Launchers of fitting allocations ask for Jobs: only GPUs can be in the way, or that there is no room."""
    summary = "It will be granted as soon as a launcher of its Site has room."
    wanted = gpus_needed(job.ranks_per_node, job.gpus_per_rank)
    known = [(row.batch_job_id, row.max_gpus_per_node) for row in launchers if row.max_gpus_per_node is not None]
    if any(has >= wanted for _, has in known) or not wanted:
        return summary, []
    asks = f"It asks for {wanted} GPUs on each node"
    if len(known) < len(launchers):
        return summary, [f"{asks}; see that the nodes of the allocation have as many."]
    few = [f"{asks}; the launcher of BatchJob {number} has at most {has}." for number, has in known]
    return "No active launcher has as many GPUs on a node as it asks for.", [*dict.fromkeys(few), *pending]


def _scaling(site: SiteRow) -> Iterator[str]:
    """What the services of the agent that ask for allocations say of themselves."""
    for name in ("elastic_queue", "queue_maintainer"):
        if said := site.scaling.get(name):
            yield f"The {name} of its Site {said}."


def _last_failure(tx: ReadTx, site: SiteRow) -> Iterator[str]:
    """What went wrong with the newest BatchJob of a Site that has none left."""
    ended = tx.find(BatchJobRow, site_id=site.id, state=tuple(BATCH_JOB_ENDED))
    if not ended:
        return
    last = ended[-1]
    if last.state is BatchJobState.SUBMIT_FAILED:
        yield f"BatchJob {last.id} could not be submitted: {status_reason(last.status_info) or 'no reason was told'}."
    elif last.status_info.get("error"):
        yield f"BatchJob {last.id} has ended: {status_reason(last.status_info)}."


def _minutes_left(allocation: BatchJobRow, now: datetime) -> int:
    """Begun minutes count, as they do for the launcher."""
    if allocation.state not in _MAY_RUN or allocation.start_time is None:
        return allocation.wall_time_min
    gone_min = (micros(now) - allocation.start_time) / 60e6
    return min(allocation.wall_time_min, max(0, math.ceil(allocation.wall_time_min - gone_min)))


def _misfits(allocation: BatchJobRow, job: JobRow, now: datetime) -> Iterator[str]:
    """Why an allocation, or none of its partitions, can run the Job."""
    name = f"BatchJob {allocation.id}"
    if allocation.draining:
        yield f"{name} is draining: it takes no more Jobs."
        return
    left = _minutes_left(allocation, now)
    if job.wall_time_min > left:
        time = f"{left} minutes" if left == allocation.wall_time_min else f"{left} minutes left"
        yield f"{name} has {time}, the Job's wall_time_min is {job.wall_time_min}."
    whole = {
        "job_mode": allocation.job_mode,
        "num_nodes": allocation.num_nodes,
        "filter_tags": allocation.filter_tags,
    }
    parts = allocation.partitions or [whole]
    reasons = [_part_misfit(name, part, allocation, job) for part in parts]
    if all(reasons):
        yield from dict.fromkeys(why for why in reasons if why)


def _part_misfit(name: str, part: dict[str, object], allocation: BatchJobRow, job: JobRow) -> str:
    nodes = part["num_nodes"]
    own_tags = part["filter_tags"]
    tags = {**allocation.filter_tags, **(own_tags if isinstance(own_tags, dict) else {})}
    if not tags.items() <= job.tags.items():
        wanted = ", ".join(f"{key}={value}" for key, value in tags.items())
        return f"{name} takes only Jobs tagged {wanted}."
    if isinstance(nodes, int) and job.num_nodes > nodes:
        return f"{name} has {nodes} nodes, the Job needs {job.num_nodes}."
    if part["job_mode"] == JobMode.SERIAL and (job.num_nodes > 1 or job.ranks_per_node > 1):
        return f"{name} is in serial mode, which runs only Jobs of one rank; this one needs mpi mode."
    return ""


def _pending(row: BatchJobRow) -> str:
    told = status_reason(row.status_info)
    since = row.status_info.get("unknown_since")
    start = row.status_info.get("expected_start")
    said = "".join(
        (
            f" since {since}" if since else "",
            f": {told}" if told else "",
            f"; the scheduler expects to start it at {start}" if start else "",
        )
    )
    return f"BatchJob {row.id} is {row.state} in queue {row.queue!r}{said}."


def _offline(site: SiteRow) -> str:
    since = f"since {moment_or_none(site.last_refresh)}" if site.last_refresh else "and never was online"
    return (
        f"Site {site.name!r} is offline {since}; start its agent with `balsam site start` on {site.hostname or 'it'}."
    )
