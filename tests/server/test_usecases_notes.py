"""What monitors said, at the service: events of a Job that goes on, its tags, and the end of one that was killed."""

from collections.abc import Iterator
from typing import Any

import pytest

from balsam.domain.failure import Failure
from balsam.domain.states import JobState
from balsam.server.errors import Invalid
from balsam.server.store.memory import MemoryStore
from balsam.server.usecases import explain
from balsam.testing.store_world import StoreWorld
from balsam.wire.limits import MAX_TAGS
from balsam.wire.sessions import GrantedJob, LaunchEvent
from tests.server.test_usecases_sites import patch_jobs

S, E = JobState, LaunchEvent
BAD = {"bad": {"action": "kill", "not_finite": True}}


@pytest.fixture
def world() -> Iterator[StoreWorld]:
    store = MemoryStore()
    yield StoreWorld(store)
    store.close()


def running(world: StoreWorld, **fields: Any) -> tuple[int, GrantedJob]:
    """Its Session, and a Job that was started."""
    world.submit(**fields)
    session = world.open_session()
    (job,) = world.acquire(session.id)
    world.tell(session.id, job, E.STARTED)
    return session.id, job


def note(world: StoreWorld, session: int, job: GrantedJob, **fields: Any) -> None:
    reply = world.tell(session, job, E.NOTED, message="monitor bad: x", data={"monitor": "bad"}, **fields)
    assert reply.fenced == []


def test_a_note_is_an_event_and_the_job_goes_on(world: StoreWorld) -> None:
    session, job = running(world)
    note(world, session, job)
    event = world.events(job.id)[-1]
    assert (event.from_state, event.to_state, event.actor, event.attempt) == (S.RUNNING, S.RUNNING, "launcher", 1)
    assert event.data == {"message": "monitor bad: x", "monitor": "bad"}
    before = world.get(job.id)
    assert (before.state, before.session_id, before.ended_at) == (S.RUNNING, session, None)
    world.tell(session, job, E.RUN_DONE, return_code=0)
    assert world.state(job.id) is S.JOB_FINISHED


def test_who_listens_hears_of_it(world: StoreWorld) -> None:
    session, job = running(world)
    world.wakes.clear()
    note(world, session, job)
    assert [(wake.topic, wake.data) for wake in world.wakes if wake.topic == "jobs"] == [
        ("jobs", {"jobs": [[job.id, S.RUNNING, None]]})
    ]


def test_tags_are_merged_with_those_that_it_has_by_now(world: StoreWorld) -> None:
    session, job = running(world, tags={"a": "1"})
    patch_jobs(world, {job.id: {"merge_tags": {"b": "2"}}})
    note(world, session, job, changes={"merge_tags": {"quality": "bad", "a": "3"}})
    assert world.get(job.id).tags == {"a": "3", "b": "2", "quality": "bad"}


@pytest.mark.parametrize(
    "changes", [{"merge_tags": {"a:b": "c"}}, {"merge_tags": 5}, {"merge_tags": {f"t{n}": "" for n in range(MAX_TAGS)}}]
)
def test_tags_that_can_not_be_are_left_out_and_the_note_is_there(world: StoreWorld, changes: dict[str, Any]) -> None:
    session, job = running(world, tags={"a": "1"})
    note(world, session, job, changes=changes)
    assert world.get(job.id).tags == {"a": "1"}
    assert world.events(job.id)[-1].data["monitor"] == "bad"


def test_s7_a_note_of_an_attempt_that_is_over_changes_nothing(world: StoreWorld) -> None:
    session, job = running(world)
    world.tell(session, job, E.RUN_DONE, return_code=0)
    events = len(world.events(job.id))
    reply = world.tell(session, job, E.NOTED, message="late", changes={"merge_tags": {"late": "yes"}})
    assert reply.fenced == [job.id]
    assert len(world.events(job.id)) == events
    assert world.get(job.id).tags == {}


def test_s3_a_note_that_comes_again_counts_once(world: StoreWorld) -> None:
    session, job = running(world)
    record = world.record(session, job, E.NOTED, message="once")
    world.send(session, record)
    world.send(session, record)
    assert [event.data.get("message") for event in world.events(job.id)].count("once") == 1


def test_a_killed_job_is_failed_with_its_class_and_explained(world: StoreWorld) -> None:
    session, job = running(world, max_attempts=5)
    said = {"message": "monitor bad: line 3 has 'x'", "data": {"monitor": "bad"}}
    world.tell(session, job, E.RUN_ERROR, return_code=143, failure=Failure.MONITOR, **said)
    assert (world.state(job.id), world.get(job.id).failure) == (S.FAILED, Failure.MONITOR)
    told = world.read(lambda tx: explain.explain_job(tx, world.ada, job.id, world.now))
    assert told.summary == "A monitor of its App ended it in attempt 1; the reasons are below."
    assert "RUNNING -> RUN_ERROR: monitor bad: line 3 has 'x'" in told.reasons


def test_one_that_may_run_again_does(world: StoreWorld) -> None:
    session, job = running(world)
    world.tell(session, job, E.RUN_ERROR, return_code=143, failure=Failure.MONITOR, restarts=1)
    assert world.state(job.id) is S.RESTART_READY
    (again,) = world.acquire(session)
    world.tell(session, again, E.STARTED)
    world.tell(session, again, E.RUN_ERROR, return_code=143, failure=Failure.MONITOR, restarts=1)
    assert world.state(job.id) is S.FAILED


def test_an_app_keeps_its_monitors(world: StoreWorld) -> None:
    app = world.add_app(name="watched", monitors=BAD)
    assert app.monitors["bad"].file == "job.out"
    assert app.content_hash != world.add_app(name="watched").content_hash


def test_a_monitor_that_can_not_be_is_refused_by_its_field(world: StoreWorld) -> None:
    with pytest.raises(Invalid) as caught:
        world.add_app(name="watched", monitors={"bad": {"action": "kill", "pattern": "(", "file": "/etc/passwd"}})
    assert [detail.where for detail in caught.value.details] == ["monitors.bad.file", "monitors.bad.pattern"]
