"""Hooks at the service: who holds a Job while its hook runs, what a verdict does, and who hears of what."""

from collections.abc import Iterator
from typing import Any

import pytest

from balsam.domain.failure import Failure
from balsam.domain.lease import LEASE_GRACE_SEC, LEASE_TTL_SEC
from balsam.domain.lifecycle import Hook
from balsam.domain.states import JobState
from balsam.server.errors import Forbidden, Invalid, SessionEnded
from balsam.server.principal import Principal
from balsam.server.store.memory import MemoryStore
from balsam.server.store.protocol import Wake
from balsam.server.usecases import explain, sessions
from balsam.testing.store_world import StoreWorld
from balsam.wire.sessions import AcquireRequest, GrantedJob, LaunchEvent, SessionCreate
from tests.server.test_usecases_sites import lease, patch_jobs

S, E = JobState, LaunchEvent


@pytest.fixture
def world() -> Iterator[StoreWorld]:
    store = MemoryStore()
    yield StoreWorld(store)
    store.close()


def waiting(world: StoreWorld, state: JobState, **fields: Any) -> int:
    """A Job that waits for its hook in this state."""
    app = world.add_app_with_hooks(*(hook for hook in Hook if state is S.STAGED_IN or hook is not Hook.PREPROCESS))
    (job_id,) = world.submit(app_id=app.id, **fields)
    if state is not S.STAGED_IN:
        session = world.open_session()
        (job,) = world.acquire(session.id)
        end = {S.RUN_DONE: E.RUN_DONE, S.RUN_ERROR: E.RUN_ERROR, S.RUN_TIMEOUT: E.RUN_TIMEOUT}[state]
        world.tell(session.id, job, E.STARTED, end, return_code=0 if state is S.RUN_DONE else 3)
    assert world.state(job_id) is state
    return job_id


def granted(world: StoreWorld) -> tuple[int, GrantedJob]:
    """A Session for processing, and the one Job that it got."""
    session = world.open_processing()
    (job,) = world.acquire(session.id)
    return session.id, job


def conclude(world: StoreWorld, state: JobState, verdict: str = "", **fields: Any) -> int:
    """A hook of a Job in this state comes to its end."""
    job_id = waiting(world, state)
    session, job = granted(world)
    assert world.tell(session, job, E.HOOK_DONE, verdict=verdict, **fields).fenced == []
    return job_id


@pytest.mark.parametrize(
    ("state", "verdict", "ends_in"),
    [
        (S.STAGED_IN, "", S.PREPROCESSED),
        (S.STAGED_IN, "FAILED", S.FAILED),
        (S.RUN_DONE, "", S.JOB_FINISHED),
        (S.RUN_DONE, "POSTPROCESSED", S.JOB_FINISHED),
        (S.RUN_DONE, "JOB_FINISHED", S.JOB_FINISHED),
        (S.RUN_DONE, "RESTART_READY", S.RESTART_READY),
        (S.RUN_ERROR, "", S.FAILED),
        (S.RUN_ERROR, "RESTART_READY", S.RESTART_READY),
        (S.RUN_TIMEOUT, "", S.RESTART_READY),
        (S.RUN_TIMEOUT, "FAILED", S.FAILED),
    ],
)
def test_a_verdict_takes_the_job_there(world: StoreWorld, state: JobState, verdict: str, ends_in: JobState) -> None:
    job_id = conclude(world, state, verdict, message="said", data={"seen": 3})
    job = world.get(job_id)
    assert (job.state, job.session_id) == (ends_in, None)
    event = next(event for event in world.events(job_id) if event.actor == "site")
    assert (event.from_state, event.data["message"], event.data["seen"]) == (state, "said", 3)
    assert event.reported_at == world.now


@pytest.mark.parametrize("verdict", ["RUNNING", "DONE", "CREATED", "PREPROCESSED"])
def test_a_state_without_a_way_there_fails_the_job_and_names_those_with_one(world: StoreWorld, verdict: str) -> None:
    job = world.get(conclude(world, S.RUN_DONE, verdict))
    assert (job.state, job.failure) == (S.FAILED, Failure.HOOK)
    (event,) = [event for event in world.events(job.id) if event.actor == "site"]
    assert event.data["message"] == (
        f"postprocess set the state {verdict}; from RUN_DONE it may be POSTPROCESSED, RESTART_READY, FAILED"
    )


def test_fields_come_with_the_verdict_and_count_for_it(world: StoreWorld) -> None:
    """A hook that gives its Job another attempt gets it; an invalid value fails the Job and changes nothing."""
    job_id = waiting(world, S.RUN_TIMEOUT, max_attempts=1)
    session, job = granted(world)
    changes = {"max_attempts": 2, "wall_time_min": 20, "data": {"tried": 1}, "workdir": "other//place"}
    world.tell(session, job, E.HOOK_DONE, verdict="RESTART_READY", changes=changes)
    told = world.get(job_id)
    assert (told.state, told.wall_time_min, told.data) == (S.RESTART_READY, 20, {"tried": 1})
    assert (told.max_attempts, told.workdir) == (2, "other/place")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_nodes": 0}, "num_nodes"),
        ({"state": "RUNNING"}, "state"),
        ({"parameters": {"unknown": 1}}, "unknown"),
        ({"data": {"x": "y" * 70_000}}, "put larger data in a file"),
        ({"workdir": "../up", "tags": {"a:b": "c"}}, "'..'; must stay|contains '..'"),
        ({"owner_id": 7}, "owner_id"),
    ],
)
def test_values_that_can_not_be_fail_the_job(world: StoreWorld, changes: dict[str, Any], said: str) -> None:
    job_id = waiting(world, S.RUN_DONE)
    before = world.get(job_id)
    session, job = granted(world)
    reply = world.tell(session, job, E.HOOK_DONE, changes=changes)
    assert (reply.fenced, reply.acked_seq) == ([], 1)
    after = world.get(job_id)
    assert (after.state, after.failure) == (S.FAILED, Failure.HOOK)
    (event,) = [event for event in world.events(job_id) if event.actor == "site"]
    assert "postprocess set what a Job can't have" in event.data["message"]
    assert any(part in event.data["message"] for part in said.split("|"))
    ours = {"state", "failure", "last_update", "session_id"}
    assert after.model_dump(exclude=ours) == before.model_dump(exclude=ours)


def test_the_budget_counts_for_what_hooks_ask(world: StoreWorld) -> None:
    job_id = waiting(world, S.RUN_ERROR, max_attempts=1)
    session, job = granted(world)
    world.tell(session, job, E.HOOK_DONE, verdict="RESTART_READY")
    assert (world.state(job_id), world.get(job_id).failure) == (S.FAILED, Failure.EXIT_CODE)
    assert world.events(job_id)[-1].data["message"].endswith("and its only attempt is spent")


def test_s7_only_the_holder_concludes(world: StoreWorld) -> None:
    job_id = waiting(world, S.RUN_DONE)
    old, job = granted(world)
    world.close(old, lost=True)
    new, again = granted(world)
    assert (again.id, again.token) == (job_id, job.token + 1)
    assert world.tell(old, job, E.HOOK_DONE, changes={"priority": 9}).fenced == [job_id]
    other = world.open_processing()
    assert world.tell(other.id, again, E.HOOK_DONE, changes={"priority": 9}).fenced == [job_id]
    launcher = world.open_session()
    for event in (E.HOOK_DONE, E.STARTED, E.RUN_DONE):
        assert world.tell(launcher.id, again, event, changes={"priority": 9}).fenced == [job_id]
    assert (world.state(job_id), world.get(job_id).priority) == (S.RUN_DONE, 0)
    assert world.tell(new, again, E.HOOK_DONE).fenced == []
    assert world.state(job_id) is S.JOB_FINISHED


def test_s3_a_verdict_that_comes_again_changes_nothing(world: StoreWorld) -> None:
    job_id = waiting(world, S.RUN_ERROR)
    session, job = granted(world)
    record = world.record(session, job, E.HOOK_DONE, verdict="RESTART_READY", changes={"priority": 1})
    world.send(session, record)
    world.write(lambda tx: tx.change_jobs({job_id: {"priority": 5}}, 9))
    events = world.events(job_id)
    assert world.send(session, record).acked_seq == record.seq
    assert (world.state(job_id), world.get(job_id).priority, world.events(job_id)) == (S.RESTART_READY, 5, events)


def test_a_lease_that_is_not_renewed_lets_the_jobs_go(world: StoreWorld) -> None:
    job_id = waiting(world, S.STAGED_IN)
    session, job = granted(world)
    world.pass_time(LEASE_TTL_SEC + LEASE_GRACE_SEC - 20)
    world.renew(session)
    assert world.pass_time(LEASE_TTL_SEC + LEASE_GRACE_SEC - 20) == 0
    world.wakes.clear()
    assert world.pass_time(40) == 1
    assert Wake("site", world.site.id, "hooks", {}) in world.wakes
    assert (world.state(job_id), world.get(job_id).session_id) == (S.STAGED_IN, None)
    assert world.tell(session, job, E.HOOK_DONE).fenced == [job_id]
    with pytest.raises(SessionEnded):
        world.acquire(session)
    _, again = granted(world)
    assert again.id == job_id


def test_a_cancel_in_the_middle_of_a_hook(world: StoreWorld) -> None:
    """CANCELLED at once, told to the agent, held until the agent says that the hook is over (S6)."""
    job_id = waiting(world, S.RUN_DONE)
    session, job = granted(world)
    world.wakes.clear()
    world.cancel([job_id])
    assert Wake("site", world.site.id, "cancel", {"job_ids": [job_id]}) in world.wakes
    assert world.renew(session).cancel == [job_id]
    assert (world.state(job_id), world.get(job_id).session_id) == (S.CANCELLED, session)
    assert "has not let it go yet" in world.delete([job_id]).reason
    events = world.events(job_id)
    assert world.tell(session, job, E.HOOK_DONE, changes={"priority": 9}).cancel == []
    assert (world.state(job_id), world.get(job_id).session_id) == (S.CANCELLED, None)
    assert (world.events(job_id), world.get(job_id).priority) == (events, 0)
    assert world.retry([job_id]).changed == 1


def test_a_hook_that_was_given_up_runs_again(world: StoreWorld) -> None:
    job_id = waiting(world, S.RUN_DONE)
    session, job = granted(world)
    world.wakes.clear()
    world.tell(session, job, E.RELEASED)
    assert Wake("site", world.site.id, "hooks", {}) in world.wakes
    assert [again.id for again in world.acquire(session)] == [job_id]


def test_the_agent_hears_when_jobs_begin_to_wait(world: StoreWorld) -> None:
    hooks = Wake("site", world.site.id, "hooks", {})
    app = world.add_app_with_hooks()
    world.wakes.clear()
    (parent,) = world.submit()
    (child,) = world.submit(app_id=app.id, parent_ids=[parent])
    assert hooks not in world.wakes
    launcher = world.open_session()
    (job,) = world.acquire(launcher.id)
    world.tell(launcher.id, job, E.STARTED, E.RUN_DONE, return_code=0)
    assert world.state(child) is S.STAGED_IN
    assert hooks in world.wakes
    world.wakes.clear()
    world.submit(app_id=app.id)
    assert hooks in world.wakes
    session, job = granted_of(world, child)
    world.wakes.clear()
    world.tell(session, job, E.HOOK_DONE)
    assert Wake("work", world.site.id, "work", {}) in world.wakes
    assert hooks not in world.wakes


def granted_of(world: StoreWorld, job_id: int) -> tuple[int, GrantedJob]:
    session = world.open_processing()
    return session.id, next(job for job in world.acquire(session.id) if job.id == job_id)


def test_what_a_hook_is_told_of_its_job(world: StoreWorld) -> None:
    job_id = waiting(world, S.RUN_ERROR, parameters={"name": "x"})
    session = world.open_processing()
    reply = world.acquire_reply(session.id)
    (job,) = reply.jobs
    assert (job.id, job.hook, job.attempt, job.parameters) == (job_id, Hook.HANDLE_ERROR, 1, {"name": "x"})
    assert [app.name for app in reply.apps] == ["hooked"]
    (app,) = reply.apps
    world.tell(session.id, job, E.RELEASED)
    assert world.acquire_reply(session.id, known_apps={app.id: app.content_hash}).apps == []


def test_fields_change_while_a_hook_runs(world: StoreWorld) -> None:
    """Nothing runs, and the next launcher is told anew; a hook may save its own Job."""
    job_id = waiting(world, S.RUN_ERROR)
    granted(world)
    patch_jobs(world, {job_id: {"num_nodes": 3, "parameters": {"name": "new"}}})
    assert world.get(job_id).num_nodes == 3


def test_only_agents_and_users_process(world: StoreWorld) -> None:
    launcher = Principal(world.ada.user_id, "ada", "launcher", site_id=world.site.id, batch_job_id=1)
    with pytest.raises(Forbidden):
        world.open_processing(launcher)
    for field in ({"batch_job_id": 1}, {"kind": "allocation"}):
        message = SessionCreate.model_validate({"site_id": world.site.id, "purpose": "processing", **field})
        with pytest.raises(Invalid, match="leave it out"):
            world.write(lambda tx, it=message: sessions.open_session(tx, world.agent(), it, world.now))
    session = world.open_processing()
    for field in set(AcquireRequest.model_fields) - {"acquire_seq", "max_jobs", "known_apps"}:
        values: dict[str, Any] = {"filter_tags": {}, "serial_only": True, "sort_by": "fifo"}
        with pytest.raises(Invalid, match="leave it out"):
            world.acquire(session.id, **{field: values.get(field, 1)})


def test_why_a_job_waits_for_its_hook(world: StoreWorld) -> None:
    lease(world, "agent")
    job_id = waiting(world, S.RUN_ERROR)

    def why() -> tuple[str, list[str]]:
        told = world.read(lambda tx: explain.explain_job(tx, world.ada, job_id, world.now))
        return told.summary, told.reasons

    assert why()[0] == "It waits for its hook handle_error."
    assert "processing: null" in why()[1][0]
    session = world.open_processing()
    assert "the workers of its Site are busy" in why()[0]
    world.acquire(session.id)
    assert why()[0] == "The agent of its Site runs its hook handle_error, or is about to."


def test_a_dag_fans_out_and_in_over_hooks(world: StoreWorld) -> None:
    """A root, a thousand children with hooks, one that waits for all of them; and a chain behind it."""
    app = world.add_app_with_hooks(Hook.PREPROCESS, Hook.POSTPROCESS)
    (root,) = world.submit()
    middle = world.submit(1000, app_id=app.id, parent_ids=[root])
    (joint,) = world.submit(parent_ids=middle)
    last = joint
    for _ in range(3):
        (last,) = world.submit(parent_ids=[last])
    agent, launcher = world.open_processing(), world.open_session()
    rounds = 0
    while world.state(last) is not S.JOB_FINISHED:
        rounds += 1
        for job in world.acquire(launcher.id, 400):
            world.tell(launcher.id, job, E.STARTED, E.RUN_DONE, return_code=0)
        for job in world.acquire(agent.id, 400):
            world.tell(agent.id, job, E.HOOK_DONE)
        assert rounds < 50
    assert world.counts() == {S.JOB_FINISHED: 1005}
    finished = {event.job_id: event.id for event in world.newest_events(10_000) if event.to_state is S.JOB_FINISHED}
    assert len(finished) == 1005
