"""decide(): the only function that returns a new state of a Job.

The service calls it inside the transaction that reads the Job; the store writes what the Decision says and nothing
else. An illegal or fenced request raises `Refused` and changes nothing. Empty steps (no hook, no transfer, nothing to
wait for) are taken at once in the same Decision, so they cost no round trip.
"""

from enum import StrEnum
from typing import NamedTuple

from balsam.domain.failure import INFRASTRUCTURE, Failure
from balsam.domain.states import (
    BATCH_JOB_LISTED,
    BATCH_JOB_MOVES,
    DONE_STATES,
    EDGES,
    RUNNABLE_STATES,
    Actor,
    BatchJobState,
    Edge,
    JobEvent,
    JobState,
    Lease,
)

MAX_LOST_ATTEMPTS = 3
_WAITS_FOR_OTHERS = DONE_STATES | RUNNABLE_STATES | {JobState.RUNNING, JobState.AWAITING_PARENTS}
_RETRIES = (JobEvent.RETRY, JobEvent.RETRY_FROM_START)
_ENDS_OF_RUNS = (JobEvent.RUN_DONE, JobEvent.RUN_ERROR, JobEvent.RUN_TIMEOUT)
_BAD_ENDS = (JobEvent.RUN_ERROR, JobEvent.RUN_TIMEOUT, JobEvent.LEASE_ENDED)
# What an event means for the Job when nobody says it more exactly.
_FAILURES = {
    JobEvent.PARENT_FAILED: Failure.PARENT,
    JobEvent.STAGE_IN_FAILED: Failure.TRANSFER,
    JobEvent.RUN_ERROR: Failure.EXIT_CODE,
    JobEvent.RUN_TIMEOUT: Failure.TIMEOUT,
    JobEvent.LEASE_ENDED: Failure.LOST_LAUNCHER,
    JobEvent.STAGE_OUT_FAILED: Failure.TRANSFER,
}
_CLEAR_FAILURE = (JobEvent.STARTED, JobEvent.RUN_DONE, JobEvent.CANCEL, JobEvent.KILLED, *_RETRIES)


class Hook(StrEnum):
    """App hooks that stop a Job from passing a step by itself."""

    PREPROCESS = "preprocess"
    POSTPROCESS = "postprocess"
    HANDLE_ERROR = "handle_error"
    HANDLE_TIMEOUT = "handle_timeout"


# Empty steps are taken at once, so a Job that stands in one of these states waits for its hook.
AWAITED_HOOKS = {
    JobState.STAGED_IN: Hook.PREPROCESS,
    JobState.RUN_DONE: Hook.POSTPROCESS,
    JobState.RUN_ERROR: Hook.HANDLE_ERROR,
    JobState.RUN_TIMEOUT: Hook.HANDLE_TIMEOUT,
}


class Refusal(StrEnum):
    """Why a request changed nothing."""

    FENCED = "fenced"  # S7: the token or the session is not the current one
    ILLEGAL = "illegal"  # S4: no such edge
    FORBIDDEN = "forbidden"  # the edge exists, but not for this actor


class Refused(Exception):
    """The request is refused and nothing changes; `reason` says which rule refused it."""

    def __init__(self, reason: Refusal, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Effect(StrEnum):
    """What the caller must do besides writing the new state, in the same transaction."""

    RELEASE_LEASE = "release_lease"  # the session holds the Job no longer
    BECAME_RUNNABLE = "became_runnable"  # wake the Site's launchers
    AWAITS_HOOK = "awaits_hook"  # wake the Site's agent
    KILL_RUN = "kill_run"  # tell the holding launcher to kill the run
    RELEASE_CHILDREN = "release_children"
    FAIL_CHILDREN = "fail_children"


class JobFacts(NamedTuple):
    """What `decide` must know of a Job. `session_id` is the Session that holds it, if any.

    Since the last retry by the user: `spent_attempts` counts against `max_attempts`, `lost_attempts` are those that the
    infrastructure lost.
    """

    state: JobState
    token: int = 0
    attempt: int = 0
    session_id: int | None = None
    cancel_requested: bool = False
    lost_attempts: int = 0
    max_attempts: int | None = None
    hooks: frozenset[Hook] = frozenset()
    has_stage_in: bool = False
    has_stage_out: bool = False
    was_preprocessed: bool = False
    spent_attempts: int = 0
    failure: Failure | None = None


class Request(NamedTuple):
    """One event asked for by an actor. `token` and `session_id` prove a lease where the edge needs one.

    `failure` is the class of what went wrong, when the actor knows better than the event itself says.
    """

    event: JobEvent
    actor: Actor
    token: int | None = None
    session_id: int | None = None
    message: str = ""
    lost: bool = False  # LEASE_ENDED because the launcher died, not because it closed in order
    failure: Failure | None = None
    restarts: int = 0  # with Failure.MONITOR: how many attempts more the rule allows


class Transition(NamedTuple):
    """One EventLog row to be. `failure` is set when this is the step that went wrong.

    A note leads from RUNNING to RUNNING: all else changes the state.
    """

    source: JobState
    target: JobState
    event: JobEvent
    actor: Actor
    attempt: int
    message: str = ""
    failure: Failure | None = None

    @property
    def said(self) -> dict[str, str]:
        """What the EventLog keeps of it besides states, attempt and actor."""
        said: dict[str, str] = {}
        if self.message:
            said["message"] = self.message
        if self.failure is not None:
            said["failure"] = self.failure.value
        return said


class Decision(NamedTuple):
    """New facts, the log rows that lead there in order, and what else must be done."""

    before: JobFacts
    after: JobFacts
    transitions: tuple[Transition, ...]
    effects: frozenset[Effect]


def decide(job: JobFacts, request: Request) -> Decision:
    """Apply one request to a Job.

    Returns a Decision whose `transitions` may be empty: the request was a repeat, or only set the cancel request.
    Raises Refused when no rule allows it; nothing changes then.
    """
    if request.event is JobEvent.CANCEL and job.state is JobState.RUNNING:
        return _request_cancel(job, request)
    if request.event is JobEvent.CANCEL and job.state is JobState.CANCELLED:
        return Decision(job, job, (), frozenset())
    if _is_repeated_start(job, request):
        return Decision(job, job, (), frozenset())
    _check(job, request)
    request = _as_it_counts(job, request)
    first = _first_step(job, request)
    tally = _tally(job, request)
    steps = _with_empty_steps(job, first, tally)
    facts = _settle_facts(job, steps, tally)
    return Decision(job, facts, tuple(steps), _effects(job, facts, steps))


def submit(job: JobFacts, *, unfinished_parents: int, failed_parent: str = "") -> Decision:
    """First transitions of a new Job.

    `unfinished_parents` counts those that are not JOB_FINISHED; `failed_parent` says which one failed, if any.
    """
    event = JobEvent.SUBMITTED_WITH_PARENTS if unfinished_parents or failed_parent else JobEvent.SUBMITTED
    decision = decide(job, Request(event, Actor.SERVICE))
    if not failed_parent:
        return decision
    second = decide(decision.after, Request(JobEvent.PARENT_FAILED, Actor.SERVICE, message=failed_parent))
    return Decision(job, second.after, decision.transitions + second.transitions, decision.effects | second.effects)


def decide_batch_job(state: BatchJobState, target: BatchJobState) -> bool:
    """Whether a BatchJob may move from `state` to `target`. False when it is already there; Refused when illegal.

    A report of the scheduler's view that arrives after the user asked for deletion changes nothing: deletion is sticky.
    """
    if state == target:
        return False
    if state is BatchJobState.PENDING_DELETION and target in BATCH_JOB_LISTED:
        return False
    if (state, target) not in BATCH_JOB_MOVES:
        raise Refused(Refusal.ILLEGAL, f"a BatchJob that is {state} can't become {target}")
    return True


def _request_cancel(job: JobFacts, request: Request) -> Decision:
    if request.actor is not Actor.USER:
        raise Refused(Refusal.FORBIDDEN, f"{request.actor} may not cancel a Job")
    # The edge to CANCELLED is taken only when the kill was observed; until then the Job is truly RUNNING.
    return Decision(job, job._replace(cancel_requested=True), (), frozenset({Effect.KILL_RUN}))


def _is_repeated_start(job: JobFacts, request: Request) -> bool:
    return (
        request.event is JobEvent.STARTED
        and job.state is JobState.RUNNING
        and request.token == job.token
        and request.session_id == job.session_id
    )


def _check(job: JobFacts, request: Request) -> None:
    """Raises Refused when the Job can't take the event now, or not from this actor."""
    edge = EDGES.get((job.state, request.event))
    needs_token = request.actor in (Actor.LAUNCHER, Actor.SITE) and request.token is not None
    if needs_token and request.token != job.token:  # S7
        raise Refused(Refusal.FENCED, f"token {request.token} is not the current token {job.token}")
    if edge is None:
        raise Refused(Refusal.ILLEGAL, f"a Job in state {job.state} can't take the event {request.event!s}")
    if request.actor not in edge.actors:
        raise Refused(Refusal.FORBIDDEN, f"{request.actor} may not take {edge.source} -> {edge.target}")
    if _needs_holder(edge, request.actor) and not _is_holder(job, request):  # S6
        raise Refused(Refusal.FENCED, f"session {request.session_id} does not hold the Job")
    if edge.lease is Lease.TOKEN and request.actor is not Actor.SWEEP and request.token != job.token:
        raise Refused(Refusal.FENCED, "a late result needs the token of its attempt")


def _as_it_counts(job: JobFacts, request: Request) -> Request:
    """What was found permitted, or what has to happen in its place."""
    event = request.event
    if event is JobEvent.RETRY and not job.was_preprocessed:
        return request._replace(event=JobEvent.RETRY_FROM_START)
    if job.cancel_requested and job.state is JobState.RUNNING and event in _BAD_ENDS:
        # S8: the user's wish was to end it: whatever else ended it, neither a hook nor its budget runs it again.
        return request._replace(event=JobEvent.KILLED)
    if event is JobEvent.RESTART and request.actor is Actor.SITE and _is_spent(job, job.spent_attempts):
        why = "; ".join(filter(None, (request.message, f"a hook asked for another attempt, and {_spent(job)}")))
        return request._replace(event=JobEvent.GIVE_UP, message=why)
    return request


def _first_step(job: JobFacts, request: Request) -> Transition:
    target = EDGES[job.state, request.event].target
    attempt = job.attempt + 1 if request.event is JobEvent.STARTED else job.attempt
    failure = _failure(job, request)
    return Transition(job.state, target, request.event, request.actor, attempt, request.message, failure)


def _needs_holder(edge: Edge, actor: Actor) -> bool:
    # The service takes a step of its own only where there is nothing to process.
    return edge.lease is Lease.RUN or (edge.lease is Lease.PROCESSING and actor is not Actor.SERVICE)


def _is_holder(job: JobFacts, request: Request) -> bool:
    return request.token is not None and request.session_id is not None and request.session_id == job.session_id


def _failure(job: JobFacts, request: Request) -> Failure | None:
    """What went wrong with this step, if it is one that goes wrong."""
    if request.event is JobEvent.GIVE_UP:
        return request.failure or job.failure or Failure.HOOK
    usual = _FAILURES.get(request.event)
    return None if usual is None else request.failure or usual


class _Tally(NamedTuple):
    """What has been counted after the request, and the class of what went wrong last."""

    lost_attempts: int
    spent_attempts: int
    failure: Failure | None
    may_restart: bool = False  # a rule that ended the attempt allows another one


def _tally(job: JobFacts, request: Request) -> _Tally:
    event = request.event
    if event in _RETRIES:  # a new budget
        return _Tally(0, 0, None)
    failure = _failure(job, request)
    is_lost = failure in INFRASTRUCTURE
    lost = (event in _ENDS_OF_RUNS and is_lost) or (event is JobEvent.LEASE_ENDED and request.lost)
    spent = event in _ENDS_OF_RUNS and not is_lost
    kept = None if event in _CLEAR_FAILURE else job.failure
    spent_attempts = job.spent_attempts + spent
    return _Tally(job.lost_attempts + lost, spent_attempts, failure or kept, spent_attempts <= request.restarts)


def _settle_facts(job: JobFacts, steps: list[Transition], tally: _Tally) -> JobFacts:
    """Facts after the steps. Built once, whatever the number of steps: this runs for every transition there is."""
    first = steps[0]
    is_over = first.source is JobState.RUNNING and first.target is not JobState.RUNNING
    # A run that ended before it could be killed leaves no wish to kill: its hooks would be stopped again and again.
    has_escaped = is_over and first.target is not JobState.CANCELLED
    forgets_cancel = has_escaped or first.event is JobEvent.STARTED or first.event in _RETRIES
    is_let_go = is_over or (first.actor is Actor.SITE and first.source in AWAITED_HOOKS)
    return JobFacts(
        state=steps[-1].target,
        token=job.token,
        attempt=first.attempt,
        session_id=None if is_let_go else job.session_id,
        cancel_requested=job.cancel_requested and not forgets_cancel,
        lost_attempts=tally.lost_attempts,
        max_attempts=job.max_attempts,
        hooks=job.hooks,
        has_stage_in=job.has_stage_in,
        has_stage_out=job.has_stage_out,
        was_preprocessed=job.was_preprocessed or steps[-1].event is JobEvent.PREPROCESS_DONE,
        spent_attempts=tally.spent_attempts,
        failure=tally.failure,
    )


def _with_empty_steps(job: JobFacts, first: Transition, tally: _Tally) -> list[Transition]:
    """The first step and those that nothing has to be done for, one after another."""
    steps = [first]
    state, attempt = first.target, first.attempt
    while (event := _empty_step(job, state, tally)) is not None:
        message = _why_given_up(job, state, tally) if event is JobEvent.GIVE_UP else ""
        steps.append(Transition(state, EDGES[state, event].target, event, Actor.SERVICE, attempt, message))
        state = steps[-1].target
    return steps


def _empty_step(job: JobFacts, state: JobState, tally: _Tally) -> JobEvent | None:
    if state in _WAITS_FOR_OTHERS:
        return None
    match state:
        case JobState.READY if not job.has_stage_in:
            return JobEvent.STAGE_IN_DONE
        case JobState.STAGED_IN if Hook.PREPROCESS not in job.hooks:
            return JobEvent.PREPROCESS_DONE
        case JobState.RUN_DONE if Hook.POSTPROCESS not in job.hooks:
            return JobEvent.POSTPROCESS_DONE
        case JobState.RUN_ERROR | JobState.RUN_TIMEOUT if _is_poison(tally):
            return JobEvent.GIVE_UP
        case JobState.RUN_ERROR if Hook.HANDLE_ERROR not in job.hooks:
            return JobEvent.RESTART if _is_worth_another_attempt(job, tally) else JobEvent.GIVE_UP
        case JobState.RUN_TIMEOUT if Hook.HANDLE_TIMEOUT not in job.hooks:
            return JobEvent.GIVE_UP if _is_spent(job, tally.spent_attempts) else JobEvent.RESTART
        case JobState.POSTPROCESSED if not job.has_stage_out:
            return JobEvent.FINISHED
        case JobState.STAGED_OUT:
            return JobEvent.FINISHED
        case _:
            return None


def _is_spent(job: JobFacts, spent_attempts: int) -> bool:
    return job.max_attempts is not None and spent_attempts >= job.max_attempts


def _is_worth_another_attempt(job: JobFacts, tally: _Tally) -> bool:
    """Whether an attempt that ended in an error is made again: where the user gave a budget for that, or the
    infrastructure is to blame."""
    if tally.failure in INFRASTRUCTURE:
        return True
    if tally.failure is Failure.MONITOR:
        return tally.may_restart and not _is_spent(job, tally.spent_attempts)
    if job.max_attempts is None or tally.failure is Failure.NOT_STARTED:
        return False
    return not _is_spent(job, tally.spent_attempts)


def _is_poison(tally: _Tally) -> bool:
    return tally.lost_attempts >= MAX_LOST_ATTEMPTS  # L5


def _spent(job: JobFacts) -> str:
    return "its only attempt is spent" if job.max_attempts == 1 else f"all {job.max_attempts} attempts are spent"


def _why_given_up(job: JobFacts, state: JobState, tally: _Tally) -> str:
    if _is_poison(tally):
        what = "node" if tally.failure is Failure.LOST_NODE else "launcher"
        return f"its {what} was lost {tally.lost_attempts} times while this Job ran: it may be what kills it"
    return _spent(job) if _is_spent(job, tally.spent_attempts) else ""


def _effects(before: JobFacts, after: JobFacts, steps: list[Transition]) -> frozenset[Effect]:
    effects: set[Effect] = set()
    if before.session_id is not None and after.session_id is None:
        effects.add(Effect.RELEASE_LEASE)
    if after.state in RUNNABLE_STATES and after.session_id is None:
        effects.add(Effect.BECAME_RUNNABLE)
    if after.state in AWAITED_HOOKS and after.session_id is None:
        effects.add(Effect.AWAITS_HOOK)
    if after.state is JobState.CANCELLED and after.session_id is not None:
        # Granted but not started: the holder must drop it, and holds it until it says so (S6).
        effects.add(Effect.KILL_RUN)
    if after.state in DONE_STATES and steps[-1].source not in DONE_STATES:
        finished = after.state is JobState.JOB_FINISHED
        effects.add(Effect.RELEASE_CHILDREN if finished else Effect.FAIL_CHILDREN)
    return frozenset(effects)
