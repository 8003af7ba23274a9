"""THE state machine: every state, every event, every legal edge, and who may take it.

`lifecycle.decide()` is the only caller that turns an edge into a new state; stores repeat the guard in SQL (S4).
`docs/job-states.md` is tested against this table: change it here, then there.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum


class JobState(StrEnum):
    """States of a Job. The names are Balsam's, plus CANCELLED; scripts for Balsam write them in small letters, too."""

    CREATED = "CREATED"  # being submitted; only ever seen as the origin of a Job's first event
    AWAITING_PARENTS = "AWAITING_PARENTS"  # until every parent is JOB_FINISHED
    READY = "READY"  # inputs may be staged in
    STAGED_IN = "STAGED_IN"  # inputs are at the Site; preprocess hook next
    PREPROCESSED = "PREPROCESSED"  # runnable, first attempt
    RUNNING = "RUNNING"  # a launcher runs it
    RUN_DONE = "RUN_DONE"  # exit code 0; postprocess hook next
    RUN_ERROR = "RUN_ERROR"  # other exit code or signal; handle_error hook next
    RUN_TIMEOUT = "RUN_TIMEOUT"  # wall time, drained allocation or lost launcher; handle_timeout hook next
    RESTART_READY = "RESTART_READY"  # runnable, a further attempt
    POSTPROCESSED = "POSTPROCESSED"  # outputs may be staged out
    STAGED_OUT = "STAGED_OUT"  # outputs have arrived
    JOB_FINISHED = "JOB_FINISHED"  # done, well
    FAILED = "FAILED"  # done, badly; leaves only by an explicit retry
    CANCELLED = "CANCELLED"  # done by the user's wish; leaves only by an explicit retry

    created = CREATED
    awaiting_parents = AWAITING_PARENTS
    ready = READY
    staged_in = STAGED_IN
    preprocessed = PREPROCESSED
    running = RUNNING
    run_done = RUN_DONE
    run_error = RUN_ERROR
    run_timeout = RUN_TIMEOUT
    restart_ready = RESTART_READY
    postprocessed = POSTPROCESSED
    staged_out = STAGED_OUT
    job_finished = JOB_FINISHED
    failed = FAILED

    @classmethod
    def is_valid(cls, state: str) -> bool:
        """Whether there is a state of this name."""
        return state in frozenset(cls)


DONE_STATES = frozenset({JobState.JOB_FINISHED, JobState.FAILED, JobState.CANCELLED})
RUNNABLE_STATES = frozenset({JobState.PREPROCESSED, JobState.RESTART_READY})


class Actor(StrEnum):
    """Who asks for a transition."""

    SERVICE = "service"
    SITE = "site"
    LAUNCHER = "launcher"
    SWEEP = "sweep"
    USER = "user"


class Lease(StrEnum):
    """What the actor must hold on the Job."""

    NONE = "none"
    PROCESSING = "processing"
    RUN = "run"  # the current session's token
    TOKEN = "token"  # noqa: S105 - the token unchanged since the grant, the session may have ended


class JobEvent(StrEnum):
    """What happened to a Job. Each (state, event) pair has at most one edge."""

    SUBMITTED = "submitted"
    SUBMITTED_WITH_PARENTS = "submitted_with_parents"
    PARENTS_FINISHED = "parents_finished"
    PARENT_FAILED = "parent_failed"
    STAGE_IN_DONE = "stage_in_done"
    STAGE_IN_FAILED = "stage_in_failed"
    PREPROCESS_DONE = "preprocess_done"
    STARTED = "started"
    RUN_DONE = "run_done"
    RUN_ERROR = "run_error"
    NOTED = "noted"  # something is to be known of the attempt, which goes on
    RUN_TIMEOUT = "run_timeout"  # the launcher ended the attempt: wall time, drain
    LEASE_ENDED = "lease_ended"  # the sweep, or the close of a session, found the attempt without a holder
    POSTPROCESS_DONE = "postprocess_done"
    RESTART = "restart"  # verdict of a hook or of the default rule
    GIVE_UP = "give_up"  # verdict of a hook or of the default rule
    STAGE_OUT_DONE = "stage_out_done"
    STAGE_OUT_FAILED = "stage_out_failed"
    FINISHED = "finished"
    CANCEL = "cancel"
    KILLED = "killed"  # the process group was observed to be gone after a cancel
    RETRY = "retry"
    RETRY_FROM_START = "retry_from_start"


@dataclass(frozen=True, slots=True)
class Edge:
    """One legal transition."""

    source: JobState
    event: JobEvent
    target: JobState
    actors: frozenset[Actor]
    lease: Lease


def _edges() -> Iterator[Edge]:
    s, e = JobState, JobEvent
    service, site = Actor.SERVICE, Actor.SITE
    launcher, sweep, user = Actor.LAUNCHER, Actor.SWEEP, Actor.USER

    def edge(
        sources: tuple[JobState, ...], event: JobEvent, target: JobState, *actors: Actor, lease: Lease = Lease.NONE
    ) -> Iterator[Edge]:
        for source in sources:
            yield Edge(source, event, target, frozenset(actors), lease)

    processing, run, token = Lease.PROCESSING, Lease.RUN, Lease.TOKEN
    runnable = (s.PREPROCESSED, s.RESTART_READY)
    late = (s.RUN_TIMEOUT, s.RESTART_READY)
    cancellable = tuple(state for state in s if state not in DONE_STATES and state not in (s.CREATED, s.RUNNING))

    yield from edge((s.CREATED,), e.SUBMITTED, s.READY, service)
    yield from edge((s.CREATED,), e.SUBMITTED_WITH_PARENTS, s.AWAITING_PARENTS, service)
    yield from edge((s.AWAITING_PARENTS,), e.PARENTS_FINISHED, s.READY, service)
    yield from edge((s.AWAITING_PARENTS,), e.PARENT_FAILED, s.FAILED, service)
    yield from edge((s.READY,), e.STAGE_IN_DONE, s.STAGED_IN, site, service)
    yield from edge((s.READY,), e.STAGE_IN_FAILED, s.FAILED, site)
    yield from edge((s.STAGED_IN,), e.PREPROCESS_DONE, s.PREPROCESSED, site, service, lease=processing)
    yield from edge((s.STAGED_IN,), e.GIVE_UP, s.FAILED, site, lease=processing)
    yield from edge(runnable, e.STARTED, s.RUNNING, launcher, lease=run)
    yield from edge((s.RUNNING,), e.NOTED, s.RUNNING, launcher, lease=run)
    yield from edge((s.RUNNING,), e.RUN_DONE, s.RUN_DONE, launcher, lease=run)
    yield from edge((s.RUNNING,), e.RUN_ERROR, s.RUN_ERROR, launcher, lease=run)
    yield from edge((s.RUNNING,), e.RUN_TIMEOUT, s.RUN_TIMEOUT, launcher, lease=run)
    yield from edge((s.RUNNING,), e.LEASE_ENDED, s.RUN_TIMEOUT, sweep, launcher)
    yield from edge(late, e.RUN_DONE, s.RUN_DONE, launcher, site, lease=token)
    yield from edge(late, e.RUN_ERROR, s.RUN_ERROR, launcher, site, lease=token)
    yield from edge((s.RUN_DONE,), e.POSTPROCESS_DONE, s.POSTPROCESSED, site, service, lease=processing)
    yield from edge(
        (s.RUN_DONE, s.RUN_ERROR, s.RUN_TIMEOUT), e.RESTART, s.RESTART_READY, site, service, lease=processing
    )
    yield from edge((s.RUN_DONE, s.RUN_ERROR, s.RUN_TIMEOUT), e.GIVE_UP, s.FAILED, site, service, lease=processing)
    yield from edge((s.POSTPROCESSED,), e.STAGE_OUT_DONE, s.STAGED_OUT, site)
    yield from edge((s.POSTPROCESSED,), e.STAGE_OUT_FAILED, s.FAILED, site)
    yield from edge((s.POSTPROCESSED, s.STAGED_OUT), e.FINISHED, s.JOB_FINISHED, service)
    yield from edge(cancellable, e.CANCEL, s.CANCELLED, user)
    yield from edge((s.RUNNING,), e.KILLED, s.CANCELLED, launcher, sweep, lease=token)
    yield from edge((s.FAILED, s.CANCELLED), e.RETRY, s.RESTART_READY, user)
    yield from edge((s.FAILED, s.CANCELLED), e.RETRY_FROM_START, s.READY, user)


EDGES: dict[tuple[JobState, JobEvent], Edge] = {(edge.source, edge.event): edge for edge in _edges()}
LEGAL_MOVES: frozenset[tuple[JobState, JobState]] = frozenset((e.source, e.target) for e in EDGES.values())


class BatchJobState(StrEnum):
    """States of a BatchJob, an allocation asked from a scheduler. Names and values are Balsam's, plus UNKNOWN."""

    PENDING_SUBMISSION = "pending_submission"
    QUEUED = "queued"
    RUNNING = "running"
    UNKNOWN = "unknown"  # the scheduler can't say: neither running nor over
    FINISHED = "finished"
    SUBMIT_FAILED = "submit_failed"
    PENDING_DELETION = "pending_deletion"  # sticky: only `finished` leaves it

    pending_submission = PENDING_SUBMISSION
    queued = QUEUED
    running = RUNNING
    finished = FINISHED
    submit_failed = SUBMIT_FAILED
    pending_deletion = PENDING_DELETION


BATCH_JOB_ENDED = frozenset({BatchJobState.FINISHED, BatchJobState.SUBMIT_FAILED})
BATCH_JOB_LISTED = frozenset({BatchJobState.QUEUED, BatchJobState.RUNNING, BatchJobState.UNKNOWN})  # at the scheduler
BATCH_JOB_MOVES: frozenset[tuple[BatchJobState, BatchJobState]] = frozenset(
    (source, target)
    for source, targets in {
        BatchJobState.PENDING_SUBMISSION: ("queued", "running", "finished", "submit_failed", "pending_deletion"),
        BatchJobState.QUEUED: ("running", "unknown", "finished", "pending_deletion"),
        # Back to queued: requeued by the scheduler.
        BatchJobState.RUNNING: ("queued", "unknown", "finished", "pending_deletion"),
        BatchJobState.UNKNOWN: ("queued", "running", "finished", "pending_deletion"),
        BatchJobState.PENDING_DELETION: ("finished",),
    }.items()
    for target in map(BatchJobState, targets)
)


class TransferState(StrEnum):
    """States of a TransferItem. Names and values are Balsam's."""

    AWAITING_JOB = "awaiting_job"
    PENDING = "pending"
    ACTIVE = "active"
    INACTIVE = "inactive"
    DONE = "done"
    ERROR = "error"

    awaiting_job = AWAITING_JOB
    pending = PENDING
    active = ACTIVE
    inactive = INACTIVE
    done = DONE
    error = ERROR


class JobMode(StrEnum):
    """How a launcher runs Jobs: `mpi` through the machine's mpirun, `serial` as many single-node processes."""

    MPI = "mpi"
    SERIAL = "serial"

    mpi = MPI
    serial = SERIAL
