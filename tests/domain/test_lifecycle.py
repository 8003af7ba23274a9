"""decide(): every (state, event, actor) triple, and what the rules promise beyond the table."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balsam.domain.failure import Failure
from balsam.domain.lifecycle import (
    AWAITED_HOOKS,
    MAX_LOST_ATTEMPTS,
    Decision,
    Effect,
    Hook,
    JobFacts,
    Refusal,
    Refused,
    Request,
    decide,
    submit,
)
from balsam.domain.states import (
    DONE_STATES,
    EDGES,
    RUNNABLE_STATES,
    Actor,
    Edge,
    JobEvent,
    JobState,
    Lease,
)

ALL_HOOKS = frozenset(Hook)
TOKEN, SESSION = 4, 9
S, E = JobState, JobEvent


def facts(state: JobState, **changes: object) -> JobFacts:
    """A Job on which nothing happens by itself: it has every hook and every stage."""
    base = JobFacts(
        state,
        token=TOKEN,
        attempt=2,
        session_id=SESSION,
        hooks=ALL_HOOKS,
        has_stage_in=True,
        has_stage_out=True,
        was_preprocessed=True,
    )
    return base._replace(**changes)


def ask(event: JobEvent, actor: Actor, token: int | None = TOKEN, session: int | None = SESSION) -> Request:
    return Request(event, actor, token=token, session_id=session)


def outcome(job: JobFacts, request: Request) -> Decision | Refusal:
    try:
        return decide(job, request)
    except Refused as refused:
        return refused.reason


@pytest.mark.parametrize("state", JobState)
def test_every_triple(state: JobState) -> None:
    """With the right token and session: what the table says, refused for the right reason otherwise."""
    for event, actor in product(JobEvent, Actor):
        check_triple(state, event, actor)


def check_triple(state: JobState, event: JobEvent, actor: Actor) -> None:
    job = facts(state)
    got = outcome(job, ask(event, actor))
    edge = EDGES.get((state, event))
    if event is E.CANCEL and state is S.RUNNING:
        if actor is not Actor.USER:
            assert got is Refusal.FORBIDDEN
            return
        assert isinstance(got, Decision)
        assert got.transitions == ()
        assert got.after == job._replace(cancel_requested=True)
        assert got.effects == {Effect.KILL_RUN}
    elif (event, state) == (E.CANCEL, S.CANCELLED) or (event, state) == (E.STARTED, S.RUNNING):
        assert isinstance(got, Decision)
        assert got == Decision(job, job, (), frozenset())
    elif edge is None:
        assert got is Refusal.ILLEGAL
    elif actor not in edge.actors:
        assert got is Refusal.FORBIDDEN
    else:
        assert isinstance(got, Decision)
        first = got.transitions[0]
        assert (first.source, first.target, first.event, first.actor) == (state, edge.target, event, actor)
        assert first.attempt == job.attempt + (event is E.STARTED)


@pytest.mark.parametrize("edge", EDGES.values(), ids=lambda edge: f"{edge.source}-{edge.event}")
def test_s7_an_old_token_is_fenced(edge: Edge) -> None:
    for actor in edge.actors & {Actor.LAUNCHER, Actor.SITE}:
        assert outcome(facts(edge.source), ask(edge.event, actor, token=TOKEN - 1)) is Refusal.FENCED


RUN_EDGES = [edge for edge in EDGES.values() if edge.lease is Lease.RUN]


@pytest.mark.parametrize("edge", RUN_EDGES, ids=lambda edge: f"{edge.source}-{edge.event}")
def test_s6_a_run_is_reported_by_its_holder_only(edge: Edge) -> None:
    job = facts(edge.source)
    assert outcome(job, ask(edge.event, Actor.LAUNCHER, session=SESSION + 1)) is Refusal.FENCED
    assert outcome(job, ask(edge.event, Actor.LAUNCHER, token=None)) is Refusal.FENCED
    assert outcome(job._replace(session_id=None), ask(edge.event, Actor.LAUNCHER)) is Refusal.FENCED


PROCESSING_EDGES = [edge for edge in EDGES.values() if edge.lease is Lease.PROCESSING]


@pytest.mark.parametrize("edge", PROCESSING_EDGES, ids=lambda edge: f"{edge.source}-{edge.event}")
def test_s6_a_verdict_is_told_by_its_holder_only_and_ends_the_lease(edge: Edge) -> None:
    job = facts(edge.source)
    assert outcome(job, ask(edge.event, Actor.SITE, session=SESSION + 1)) is Refusal.FENCED
    assert outcome(job, ask(edge.event, Actor.SITE, session=None)) is Refusal.FENCED
    assert outcome(job, ask(edge.event, Actor.SITE, token=None)) is Refusal.FENCED
    assert outcome(job._replace(session_id=None), ask(edge.event, Actor.SITE)) is Refusal.FENCED
    assert outcome(job._replace(session_id=None), ask(edge.event, Actor.SITE, session=None)) is Refusal.FENCED
    told = decide(job, ask(edge.event, Actor.SITE))
    assert told.after.session_id is None
    assert Effect.RELEASE_LEASE in told.effects


@pytest.mark.parametrize("state", AWAITED_HOOKS)
def test_whoever_waits_for_a_hook_is_told_to_the_agent(state: JobState) -> None:
    """When it begins to wait, and when it is cancelled in the middle of the hook, whose holder must stop it."""
    before = {S.STAGED_IN: S.AWAITING_PARENTS}.get(state, S.RUNNING)
    event = {S.STAGED_IN: E.PARENTS_FINISHED, S.RUN_DONE: E.RUN_DONE, S.RUN_ERROR: E.RUN_ERROR}.get(
        state, E.RUN_TIMEOUT
    )
    actor = Actor.SERVICE if before is S.AWAITING_PARENTS else Actor.LAUNCHER
    job = plain(before, hooks=ALL_HOOKS, session_id=None if actor is Actor.SERVICE else SESSION)
    waiting = decide(job, ask(event, actor))
    assert waiting.after.state is state
    assert Effect.AWAITS_HOOK in waiting.effects
    held = decide(facts(state), Request(E.CANCEL, Actor.USER))
    assert (held.after.state, held.after.session_id) == (S.CANCELLED, SESSION)
    assert Effect.KILL_RUN in held.effects


def test_a_late_result_needs_the_token_and_not_the_session() -> None:
    for state, event in product((S.RUN_TIMEOUT, S.RESTART_READY), (E.RUN_DONE, E.RUN_ERROR)):
        job = facts(state, session_id=None)
        assert isinstance(outcome(job, ask(event, Actor.SITE, session=None)), Decision)
        assert outcome(job, ask(event, Actor.SITE, token=None)) is Refusal.FENCED
        assert outcome(job._replace(token=TOKEN + 1), ask(event, Actor.SITE)) is Refusal.FENCED


def plain(state: JobState, **changes: object) -> JobFacts:
    """A Job without hooks or stages: empty steps take themselves."""
    return facts(state, **{"hooks": frozenset(), "has_stage_in": False, "has_stage_out": False, **changes})


def path(decision: Decision) -> list[JobState]:
    return [step.target for step in decision.transitions]


def test_empty_steps_cost_no_round_trip() -> None:
    made = submit(JobFacts(S.CREATED), unfinished_parents=0)
    assert path(made) == [S.READY, S.STAGED_IN, S.PREPROCESSED]
    assert made.effects == {Effect.BECAME_RUNNABLE}
    assert made.after.was_preprocessed
    done = decide(plain(S.RUNNING), ask(E.RUN_DONE, Actor.LAUNCHER))
    assert path(done) == [S.RUN_DONE, S.POSTPROCESSED, S.JOB_FINISHED]
    assert done.effects == {Effect.RELEASE_LEASE, Effect.RELEASE_CHILDREN}
    assert done.after.session_id is None
    failed = decide(plain(S.RUNNING), ask(E.RUN_ERROR, Actor.LAUNCHER))
    assert path(failed) == [S.RUN_ERROR, S.FAILED]
    assert failed.effects == {Effect.RELEASE_LEASE, Effect.FAIL_CHILDREN}
    again = decide(plain(S.RUNNING), ask(E.RUN_TIMEOUT, Actor.LAUNCHER))
    assert path(again) == [S.RUN_TIMEOUT, S.RESTART_READY]
    assert again.effects == {Effect.RELEASE_LEASE, Effect.BECAME_RUNNABLE}


@pytest.mark.parametrize(
    ("hook", "state", "event", "stops_in"),
    [
        (Hook.PREPROCESS, S.AWAITING_PARENTS, E.PARENTS_FINISHED, S.STAGED_IN),
        (Hook.POSTPROCESS, S.RUNNING, E.RUN_DONE, S.RUN_DONE),
        (Hook.HANDLE_ERROR, S.RUNNING, E.RUN_ERROR, S.RUN_ERROR),
        (Hook.HANDLE_TIMEOUT, S.RUNNING, E.RUN_TIMEOUT, S.RUN_TIMEOUT),
    ],
)
def test_a_hook_stops_the_job_before_its_step(hook: Hook, state: JobState, event: JobEvent, stops_in: JobState) -> None:
    actor = Actor.LAUNCHER if state is S.RUNNING else Actor.SERVICE
    assert path(decide(plain(state, hooks=frozenset({hook})), ask(event, actor)))[-1] is stops_in


def test_stages_stop_the_job() -> None:
    waiting = decide(plain(S.AWAITING_PARENTS, has_stage_in=True), ask(E.PARENTS_FINISHED, Actor.SERVICE))
    assert path(waiting) == [S.READY]
    leaving = decide(plain(S.RUNNING, has_stage_out=True), ask(E.RUN_DONE, Actor.LAUNCHER))
    assert path(leaving) == [S.RUN_DONE, S.POSTPROCESSED]
    arrived = decide(plain(S.POSTPROCESSED, has_stage_out=True), ask(E.STAGE_OUT_DONE, Actor.SITE))
    assert path(arrived) == [S.STAGED_OUT, S.JOB_FINISHED]


def test_parents_decide_where_a_new_job_begins() -> None:
    assert path(submit(JobFacts(S.CREATED), unfinished_parents=2)) == [S.AWAITING_PARENTS]
    failed = submit(JobFacts(S.CREATED), unfinished_parents=1, failed_parent="its parent Job 7 is FAILED")
    assert path(failed) == [S.AWAITING_PARENTS, S.FAILED]
    assert failed.transitions[-1].message == "its parent Job 7 is FAILED"
    assert failed.before.state is S.CREATED


def test_attempts_are_spent_by_timeouts_and_not_by_lost_launchers() -> None:
    timeout = ask(E.RUN_TIMEOUT, Actor.LAUNCHER)
    first = decide(plain(S.RUNNING, max_attempts=2), timeout)
    assert (first.after.state, first.after.spent_attempts) == (S.RESTART_READY, 1)
    spent = decide(plain(S.RUNNING, max_attempts=2, spent_attempts=1), timeout)
    assert path(spent) == [S.RUN_TIMEOUT, S.FAILED]
    assert spent.transitions[-1].message == "all 2 attempts are spent"
    for request in (
        Request(E.LEASE_ENDED, Actor.SWEEP, lost=True),
        Request(E.LEASE_ENDED, Actor.SWEEP, lost=False),
        timeout._replace(failure=Failure.LOST_NODE),
    ):
        lost = decide(plain(S.RUNNING, max_attempts=2, spent_attempts=1), request)
        assert (lost.after.state, lost.after.spent_attempts) == (S.RESTART_READY, 1), request
    assert path(decide(plain(S.RUNNING, spent_attempts=99), timeout))[-1] is S.RESTART_READY


def test_errors_are_tried_again_only_within_a_budget_that_was_given() -> None:
    error = ask(E.RUN_ERROR, Actor.LAUNCHER)
    assert path(decide(plain(S.RUNNING), error)) == [S.RUN_ERROR, S.FAILED]
    again = decide(plain(S.RUNNING, max_attempts=2), error)
    assert path(again) == [S.RUN_ERROR, S.RESTART_READY]
    assert again.effects == {Effect.RELEASE_LEASE, Effect.BECAME_RUNNABLE}
    spent = decide(again.after._replace(state=S.RUNNING, session_id=SESSION), error)
    assert path(spent) == [S.RUN_ERROR, S.FAILED]
    assert spent.transitions[-1].message == "all 2 attempts are spent"
    hopeless = decide(plain(S.RUNNING, max_attempts=2), error._replace(failure=Failure.NOT_STARTED))
    assert path(hopeless) == [S.RUN_ERROR, S.FAILED]


def test_a_hook_asks_for_another_attempt_within_the_budget_only() -> None:
    for state in (S.RUN_DONE, S.RUN_ERROR, S.RUN_TIMEOUT):
        job = facts(state, max_attempts=3, spent_attempts=2)
        assert path(decide(job, ask(E.RESTART, Actor.SITE))) == [S.RESTART_READY]
        spent = decide(job._replace(spent_attempts=3), ask(E.RESTART, Actor.SITE)._replace(message="once more"))
        assert path(spent) == [S.FAILED]
        assert spent.transitions[0].message == (
            "once more; a hook asked for another attempt, and all 3 attempts are spent"
        )


def test_l5_a_job_whose_launchers_die_is_given_up() -> None:
    job = plain(S.PREPROCESSED, attempt=0, session_id=SESSION, lost_attempts=0)
    for number in range(1, MAX_LOST_ATTEMPTS + 1):
        running = decide(job, ask(E.STARTED, Actor.LAUNCHER)).after
        assert running.lost_attempts == number - 1
        ended = decide(running, Request(E.LEASE_ENDED, Actor.SWEEP, lost=True))
        job = ended.after._replace(session_id=SESSION)
    assert path(ended) == [S.RUN_TIMEOUT, S.FAILED]
    assert "3 times" in ended.transitions[-1].message


def test_a_close_in_order_is_no_lost_attempt() -> None:
    ended = decide(plain(S.RUNNING), Request(E.LEASE_ENDED, Actor.SWEEP, lost=False))
    assert ended.after.lost_attempts == 0
    assert ended.after.state is S.RESTART_READY


BAD_ENDS = [E.RUN_ERROR, E.RUN_TIMEOUT, E.LEASE_ENDED]


@pytest.mark.parametrize("event", BAD_ENDS)
@pytest.mark.parametrize("hooks", [frozenset(), ALL_HOOKS], ids=["no hooks", "hooks"])
@pytest.mark.parametrize("failure", [None, Failure.LOST_NODE, Failure.MONITOR])
def test_a_run_that_was_to_be_cancelled_is_not_run_again(
    event: JobEvent, hooks: frozenset[Hook], failure: Failure | None
) -> None:
    """Whatever ended it, with attempts left, with a hook that might ask for one, with a rule that allows one."""
    job = plain(S.RUNNING, cancel_requested=True, max_attempts=5, hooks=hooks)
    decision = decide(job, ask(event, Actor.LAUNCHER)._replace(failure=failure, restarts=3))
    assert path(decision) == [S.CANCELLED]
    assert decision.transitions[0].event is E.KILLED
    assert (decision.after.session_id, decision.after.failure) == (None, None)
    assert decision.effects == {Effect.RELEASE_LEASE, Effect.FAIL_CHILDREN}


def test_a_sweep_that_ends_a_run_that_was_to_be_cancelled_cancels_it() -> None:
    by_sweep = decide(plain(S.RUNNING, cancel_requested=True), Request(E.LEASE_ENDED, Actor.SWEEP, lost=True))
    assert path(by_sweep) == [S.CANCELLED]


@pytest.mark.parametrize("event", BAD_ENDS)
def test_s6_s7_a_run_that_was_to_be_cancelled_is_ended_by_its_holder_only(event: JobEvent) -> None:
    """An older attempt's end, in the place of which a kill would count, is fenced as it always is."""
    job = plain(S.RUNNING, cancel_requested=True)
    assert outcome(job, ask(event, Actor.LAUNCHER, token=TOKEN - 1)) is Refusal.FENCED
    if event is not E.LEASE_ENDED:
        assert outcome(job, ask(event, Actor.LAUNCHER, session=SESSION + 1)) is Refusal.FENCED
        assert outcome(job, ask(event, Actor.LAUNCHER, token=None)) is Refusal.FENCED


def test_a_result_beats_a_cancel_that_came_too_late() -> None:
    job = plain(S.RUNNING, cancel_requested=True)
    assert path(decide(job, ask(E.RUN_DONE, Actor.LAUNCHER)))[-1] is S.JOB_FINISHED


def test_s6_a_granted_job_that_is_cancelled_stays_held() -> None:
    decision = decide(plain(S.PREPROCESSED), Request(E.CANCEL, Actor.USER))
    assert decision.after.state is S.CANCELLED
    assert decision.after.session_id == SESSION
    assert decision.effects == {Effect.KILL_RUN, Effect.FAIL_CHILDREN}
    free = decide(plain(S.PREPROCESSED, session_id=None), Request(E.CANCEL, Actor.USER))
    assert free.effects == {Effect.FAIL_CHILDREN}


def test_retry_goes_back_as_far_as_needed_and_begins_anew() -> None:
    job = plain(
        S.FAILED,
        session_id=None,
        lost_attempts=2,
        spent_attempts=3,
        max_attempts=3,
        cancel_requested=True,
        failure=Failure.TIMEOUT,
    )
    again = decide(job, Request(E.RETRY, Actor.USER))
    assert path(again) == [S.RESTART_READY]
    after = again.after
    assert (after.lost_attempts, after.spent_attempts, after.cancel_requested, after.failure) == (0, 0, False, None)
    assert after.attempt == job.attempt
    assert again.effects == {Effect.BECAME_RUNNABLE}
    first = decide(job._replace(was_preprocessed=False), Request(E.RETRY, Actor.USER))
    assert path(first) == [S.READY, S.STAGED_IN, S.PREPROCESSED]


@pytest.mark.parametrize(
    ("job", "request_", "failure"),
    [
        (plain(S.RUNNING), ask(E.RUN_ERROR, Actor.LAUNCHER), Failure.EXIT_CODE),
        (plain(S.RUNNING), ask(E.RUN_ERROR, Actor.LAUNCHER)._replace(failure=Failure.SIGNAL), Failure.SIGNAL),
        (plain(S.RUNNING), ask(E.RUN_TIMEOUT, Actor.LAUNCHER), Failure.TIMEOUT),
        (plain(S.RUNNING), Request(E.LEASE_ENDED, Actor.SWEEP, lost=True), Failure.LOST_LAUNCHER),
        (plain(S.AWAITING_PARENTS), Request(E.PARENT_FAILED, Actor.SERVICE), Failure.PARENT),
        (facts(S.READY), ask(E.STAGE_IN_FAILED, Actor.SITE), Failure.TRANSFER),
        (facts(S.POSTPROCESSED), ask(E.STAGE_OUT_FAILED, Actor.SITE), Failure.TRANSFER),
        (facts(S.STAGED_IN), ask(E.GIVE_UP, Actor.SITE), Failure.HOOK),
        (facts(S.RUN_ERROR, failure=Failure.OUT_OF_MEMORY), ask(E.GIVE_UP, Actor.SITE), Failure.OUT_OF_MEMORY),
        (
            facts(S.RUN_ERROR, failure=Failure.EXIT_CODE),
            ask(E.GIVE_UP, Actor.SITE)._replace(failure=Failure.HOOK),
            Failure.HOOK,
        ),
        (facts(S.RUN_TIMEOUT, failure=Failure.LOST_NODE), ask(E.RESTART, Actor.SITE), Failure.LOST_NODE),
        (facts(S.RESTART_READY, failure=Failure.TIMEOUT), ask(E.STARTED, Actor.LAUNCHER), None),
        (facts(S.RUN_TIMEOUT, failure=Failure.LOST_LAUNCHER), ask(E.RUN_DONE, Actor.LAUNCHER), None),
        (facts(S.RUN_ERROR, failure=Failure.EXIT_CODE), Request(E.CANCEL, Actor.USER), None),
    ],
)
def test_failure_classes_come_and_go_with_the_steps(job: JobFacts, request_: Request, failure: Failure | None) -> None:
    """Set by the step that went wrong and written into its event; cleared by a new attempt and by a late good end."""
    decision = decide(job, request_)
    assert decision.after.failure is failure
    assert decision.transitions[0].failure is (failure if request_.event is not E.RESTART else None)


def test_s4_no_failed_job_without_a_class() -> None:
    for job, event in product(map(facts, JobState), JobEvent):
        for actor in Actor:
            got = outcome(job, ask(event, actor))
            if isinstance(got, Decision) and got.transitions and got.after.state is S.FAILED:
                assert got.after.failure is not None


def test_a_step_that_the_site_took_counts_as_preprocessed() -> None:
    job = facts(S.STAGED_IN, was_preprocessed=False)
    assert decide(job, ask(E.PREPROCESS_DONE, Actor.SITE)).after.was_preprocessed


requests = st.builds(
    Request,
    event=st.sampled_from(JobEvent),
    actor=st.sampled_from(Actor),
    token=st.sampled_from([None, TOKEN, TOKEN - 1]),
    session_id=st.sampled_from([None, SESSION, SESSION + 1]),
    lost=st.booleans(),
    failure=st.sampled_from([None, *Failure]),
)
jobs = st.builds(
    JobFacts,
    state=st.sampled_from(JobState),
    token=st.just(TOKEN),
    attempt=st.integers(0, 4),
    session_id=st.sampled_from([None, SESSION]),
    cancel_requested=st.booleans(),
    lost_attempts=st.integers(0, 3),
    max_attempts=st.sampled_from([None, 1, 3]),
    hooks=st.frozensets(st.sampled_from(Hook)),
    has_stage_in=st.booleans(),
    has_stage_out=st.booleans(),
    was_preprocessed=st.booleans(),
    spent_attempts=st.integers(0, 3),
)


@given(jobs, requests)
def test_s4_s5_a_decision_is_a_chain_of_legal_edges(job: JobFacts, request: Request) -> None:
    got = outcome(job, request)
    if isinstance(got, Refusal):
        return
    state = job.state
    for step in got.transitions:
        assert step.source is state
        edge = EDGES[step.source, step.event]
        assert edge.target is step.target
        assert step.actor in edge.actors
        state = step.target
    assert got.after.state is state
    assert got.before == job
    assert got.after.token == job.token, "only a grant changes a token"
    assert got.after.attempt - job.attempt == sum(step.event is E.STARTED for step in got.transitions)
    if S.RUNNING is not state:
        assert job.state is not S.RUNNING or got.after.session_id is None
    if Effect.BECAME_RUNNABLE in got.effects:
        assert state in RUNNABLE_STATES
        assert got.after.session_id is None
    if Effect.AWAITS_HOOK in got.effects:
        assert AWAITED_HOOKS[state] in got.after.hooks or not got.transitions
        assert got.after.session_id is None


@given(jobs, requests)
def test_nothing_that_could_go_on_by_itself_stands_still(job: JobFacts, request: Request) -> None:
    """After a decision the Job waits for somebody: a second look finds no empty step left."""
    got = outcome(job, request)
    if isinstance(got, Refusal) or not got.transitions:
        return
    after = got.after
    waits = {
        S.READY: after.has_stage_in,
        S.STAGED_IN: Hook.PREPROCESS in after.hooks,
        S.RUN_DONE: Hook.POSTPROCESS in after.hooks,
        S.RUN_ERROR: Hook.HANDLE_ERROR in after.hooks and after.lost_attempts < MAX_LOST_ATTEMPTS,
        S.RUN_TIMEOUT: Hook.HANDLE_TIMEOUT in after.hooks and after.lost_attempts < MAX_LOST_ATTEMPTS,
        S.POSTPROCESSED: after.has_stage_out,
        S.STAGED_OUT: False,
    }
    assert waits.get(after.state, True)
    assert after.state is not S.CREATED
    assert after.state not in DONE_STATES or after.state is not S.JOB_FINISHED or job.state is not S.JOB_FINISHED


def test_a_note_changes_nothing_of_its_job() -> None:
    """Also not that its end was asked for, and who holds it."""
    job = facts(S.RUNNING, cancel_requested=True)
    told = decide(job, ask(E.NOTED, Actor.LAUNCHER)._replace(message="seen"))
    assert (told.after, told.effects) == (job, frozenset())
    (note,) = told.transitions
    assert (note.source, note.target, note.attempt, note.said) == (S.RUNNING, S.RUNNING, 2, {"message": "seen"})


@pytest.mark.parametrize(
    ("restarts", "max_attempts", "spent", "ends_in"),
    [
        (0, None, 0, S.FAILED),
        (0, 5, 0, S.FAILED),
        (1, None, 0, S.RESTART_READY),
        (1, None, 1, S.FAILED),
        (2, None, 1, S.RESTART_READY),
        (5, 2, 0, S.RESTART_READY),
        (5, 2, 1, S.FAILED),
    ],
)
def test_what_a_monitor_ended_runs_again_as_often_as_its_rule_says(
    restarts: int, max_attempts: int | None, spent: int, ends_in: JobState
) -> None:
    job = plain(S.RUNNING, session_id=SESSION, max_attempts=max_attempts, spent_attempts=spent)
    request = ask(E.RUN_ERROR, Actor.LAUNCHER)._replace(failure=Failure.MONITOR, restarts=restarts)
    after = decide(job, request).after
    assert (after.state, after.failure, after.spent_attempts) == (ends_in, Failure.MONITOR, spent + 1)


def test_a_hook_decides_about_what_a_monitor_ended() -> None:
    request = ask(E.RUN_ERROR, Actor.LAUNCHER)._replace(failure=Failure.MONITOR, restarts=3)
    assert decide(facts(S.RUNNING), request).after.state is S.RUN_ERROR
