"""What went wrong with a Job: its class, the budget of attempts, the retry that begins anew."""

from collections.abc import Iterator

import pytest

from balsam.domain.failure import INFRASTRUCTURE, Failure
from balsam.domain.lifecycle import MAX_LOST_ATTEMPTS
from balsam.domain.states import JobState
from balsam.server.store.memory import MemoryStore
from balsam.server.usecases import explain
from balsam.testing.store_world import StoreWorld
from balsam.wire.sessions import LaunchEvent

E = LaunchEvent


@pytest.fixture
def world() -> Iterator[StoreWorld]:
    store = MemoryStore()
    yield StoreWorld(store)
    store.close()


def attempt(world: StoreWorld, end: LaunchEvent, **more: object) -> None:
    """A launcher runs the one Job that is runnable, and tells that end."""
    session = world.open_session()
    (job,) = world.acquire(session.id)
    world.tell(session.id, job, E.STARTED)
    world.tell(session.id, job, end, **more)
    world.close(session.id)


def lose(world: StoreWorld) -> None:
    session = world.open_session()
    (job,) = world.acquire(session.id)
    world.tell(session.id, job, E.STARTED)
    world.close(session.id, lost=True)


def test_infrastructure_losses_do_not_spend_the_budget(world: StoreWorld) -> None:
    (job_id,) = world.submit(max_attempts=2)
    lose(world)
    assert (world.state(job_id), world.get(job_id).failure) == (JobState.RESTART_READY, Failure.LOST_LAUNCHER)
    attempt(world, E.RUN_TIMEOUT, failure=Failure.LOST_NODE, message="n3 went away")
    assert (world.state(job_id), world.get(job_id).failure) == (JobState.RESTART_READY, Failure.LOST_NODE)
    attempt(world, E.RUN_TIMEOUT)
    assert (world.state(job_id), world.get(job_id).failure) == (JobState.RESTART_READY, Failure.TIMEOUT)
    attempt(world, E.RUN_ERROR, return_code=3)
    job = world.get(job_id)
    assert (job.state, job.failure, job.attempt) == (JobState.FAILED, Failure.EXIT_CODE, 4)
    assert world.events(job_id)[-1].data == {"message": "all 2 attempts are spent"}
    classes = [event.data.get("failure") for event in world.events(job_id) if "failure" in event.data]
    assert classes == ["lost_launcher", "lost_node", "timeout", "exit_code"]


def test_a_retry_has_the_whole_budget_and_keeps_the_history(world: StoreWorld) -> None:
    (job_id,) = world.submit(max_attempts=3)
    for _ in range(3):
        attempt(world, E.RUN_ERROR, return_code=1)
    assert world.state(job_id) is JobState.FAILED
    before = world.events(job_id)
    assert world.retry([job_id]).changed == 1
    assert (world.state(job_id), world.get(job_id).failure) == (JobState.RESTART_READY, None)
    for _ in range(2):
        attempt(world, E.RUN_ERROR, return_code=1)
        assert world.state(job_id) is JobState.RESTART_READY
    attempt(world, E.RUN_ERROR, return_code=1)
    assert (world.state(job_id), world.get(job_id).attempt) == (JobState.FAILED, 6)
    assert world.events(job_id)[: len(before)] == before


def test_l5_nodes_that_are_lost_again_and_again_are_the_jobs_fault(world: StoreWorld) -> None:
    (job_id,) = world.submit()
    for number in range(MAX_LOST_ATTEMPTS):
        assert world.state(job_id) is (JobState.RESTART_READY if number else JobState.PREPROCESSED)
        attempt(world, E.RUN_TIMEOUT, failure=Failure.LOST_NODE)
    assert world.state(job_id) is JobState.FAILED
    assert "its node was lost 3 times" in world.events(job_id)[-1].data["message"]


@pytest.mark.parametrize("failure", [None, *Failure])
def test_every_class_is_explained(world: StoreWorld, failure: Failure | None) -> None:
    (job_id,) = world.submit(max_attempts=1)
    for _ in range(MAX_LOST_ATTEMPTS if failure in INFRASTRUCTURE else 1):
        attempt(world, E.RUN_ERROR, return_code=3, failure=failure, message="the tail")
    explained = world.read(lambda tx: explain.explain_job(tx, world.ada, job_id, world.now))
    assert explained.state is JobState.FAILED
    assert explained.summary.startswith("It failed") is False
    assert "{" not in explained.summary
    assert "RUNNING -> RUN_ERROR: the tail" in explained.reasons
