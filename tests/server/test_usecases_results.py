"""Results: of the last attempt only, whoever reported it and however late; small enough to be answered."""

import pytest

from balsam.domain.states import JobState
from balsam.server.errors import NotFound
from balsam.server.store.memory import MemoryStore
from balsam.server.usecases import results as module
from balsam.testing.store_world import StoreWorld
from balsam.wire.results import MAX_STORED_BYTES, JobResult, RunError
from balsam.wire.sessions import GrantedJob, LaunchEvent

E, S = LaunchEvent, JobState
ONE = JobResult(value=1)


@pytest.fixture
def world() -> StoreWorld:
    return StoreWorld(MemoryStore())


def started(world: StoreWorld, session: int) -> GrantedJob:
    (job,) = world.acquire(session)
    world.tell(session, job, E.STARTED)
    return job


def test_there_is_none_before_the_end(world: StoreWorld) -> None:
    (job_id,) = world.submit()
    assert world.result(job_id).result is None
    session = world.open_session().id
    job = started(world, session)
    assert (world.result(job_id).state, world.result(job_id).result) == (S.RUNNING, None)
    world.tell(session, job, E.RUN_DONE, return_code=0, result=ONE)
    view = world.result(job_id)
    assert (view.state, view.attempt, view.return_code, view.result, view.message) == (S.JOB_FINISHED, 1, 0, ONE, "")


def test_a_late_result_of_the_same_grant_counts_and_one_of_an_earlier_grant_does_not(world: StoreWorld) -> None:
    """S7, S10."""
    (job_id,) = world.submit()
    first = world.open_session().id
    job = started(world, first)
    world.close(first)
    assert (world.state(job_id), world.result(job_id).result) == (S.RESTART_READY, None)
    world.tell(first, job, E.RUN_DONE, return_code=0, result=ONE)
    assert world.result(job_id).result == ONE
    (job_id,) = world.submit()
    job = started(world, second := world.open_session().id)
    world.close(second)
    again = started(world, third := world.open_session().id)
    assert world.tell(second, job, E.RUN_DONE, return_code=0, result=ONE).fenced == [job_id]
    assert world.result(job_id).result is None
    world.tell(third, again, E.RUN_DONE, return_code=0)
    assert (world.state(job_id), world.result(job_id).result) == (S.JOB_FINISHED, None)


def test_s3_a_repeated_report_changes_nothing(world: StoreWorld) -> None:
    (job_id,) = world.submit()
    session = world.open_session().id
    job = started(world, session)
    done = world.record(session, job, E.RUN_DONE, return_code=0, result=ONE)
    world.send(session, done)
    world.send(session, done.model_copy(update={"result": JobResult(value=2)}))
    assert world.result(job_id).result == ONE


def test_a_job_that_runs_again_shows_no_old_result(world: StoreWorld) -> None:
    (job_id,) = world.submit()
    session = world.open_session().id
    error = JobResult(error=RunError(type="ValueError", message="no", traceback="Traceback"))
    world.tell(session, started(world, session), E.RUN_ERROR, return_code=1, message="ValueError: no", result=error)
    assert (world.result(job_id).result, world.result(job_id).message) == (error, "")
    world.retry([job_id])
    assert (world.result(job_id).state, world.result(job_id).result) == (S.RESTART_READY, None)
    world.tell(session, started(world, session), E.RUN_ERROR, return_code=2)
    assert (world.result(job_id).state, world.result(job_id).result) == (S.FAILED, None)
    world.retry([job_id])
    world.cancel([job_id])
    assert (world.result(job_id).state, world.result(job_id).result) == (S.CANCELLED, None)


def test_a_job_that_left_no_error_says_why_it_failed(world: StoreWorld) -> None:
    failed, cancelled = world.submit(2)
    session = world.open_session().id
    jobs = {job.id: job for job in world.acquire(session)}
    world.tell(session, jobs[failed], E.STARTED, E.RUN_ERROR, return_code=3, message="exit code 3\nno such file")
    world.cancel([cancelled], "not needed")
    assert "exit code 3\nno such file" in world.result(failed).message
    assert world.result(cancelled).message == "PREPROCESSED -> CANCELLED: not needed"


@pytest.mark.parametrize("value", ["x" * MAX_STORED_BYTES, [[[[]]]] * 2, float("inf")])
def test_what_can_t_be_stored_is_an_error_and_no_silence(world: StoreWorld, value: object) -> None:
    deep = value
    for _ in range(40 if isinstance(value, list) else 0):
        deep = [deep]
    (job_id,) = world.submit()
    session = world.open_session().id
    world.tell(session, started(world, session), E.RUN_DONE, return_code=0, result=JobResult(value=deep))
    assert world.state(job_id) is S.JOB_FINISHED
    told = world.result(job_id).result
    assert told is not None and told.error is not None
    assert told.error.type == "ResultRefused"
    assert "write it to a file" in told.error.message


def test_an_answer_has_a_size_and_goes_on(world: StoreWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ANSWER_BYTES", 1000)
    ids = world.submit(5)
    session = world.open_session().id
    for job in world.acquire(session):
        value = "x" * (2000 if job.id == ids[4] else 400)
        world.tell(session, job, E.STARTED, E.RUN_DONE, return_code=0, result=JobResult(value=value))
    page = world.results([ids[3], 99, ids[1], ids[1], ids[0], ids[4]])
    assert [view.job_id for view in page.results] == [ids[3], ids[1]]
    assert [view.job_id for view in world.results([ids[0], ids[4]]).results] == [ids[0]]
    assert [view.job_id for view in world.results([ids[4]]).results] == [ids[4]]


def test_s14_results_are_their_owners(world: StoreWorld) -> None:
    (job_id,) = world.submit()
    eve, other = world.add_user("eve"), world.agent(world.add_site(name="other"))
    for stranger in (eve, other):
        with pytest.raises(NotFound):
            world.result(job_id, stranger)
        assert world.results([job_id], stranger).results == []
    assert world.result(job_id, world.agent()).job_id == job_id
