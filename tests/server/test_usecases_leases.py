"""Leases: what holders report, what happens when they are silent, late, doubled or gone (S3, S6, S7, L1, L2, L5)."""

from datetime import timedelta

import pytest

from balsam.domain.lease import LEASE_GRACE_SEC, LEASE_TTL_SEC, LeaseKind
from balsam.domain.lifecycle import MAX_LOST_ATTEMPTS, Hook
from balsam.domain.states import BatchJobState, JobState
from balsam.server.errors import Conflict, Invalid, NotFound, SessionEnded, Unavailable
from balsam.server.principal import Principal
from balsam.server.store.memory import MemoryStore
from balsam.server.sweeps.expire_sessions import SessionExpiry
from balsam.server.usecases import sessions
from balsam.testing.store_world import StoreWorld
from balsam.wire.sessions import LaunchEvent

E, S, B = LaunchEvent, JobState, BatchJobState
WHOLE = LEASE_TTL_SEC + LEASE_GRACE_SEC


@pytest.fixture
def world() -> StoreWorld:
    return StoreWorld(MemoryStore())


def running(world: StoreWorld, session_id: int, count: int = 1) -> list:
    jobs = world.acquire(session_id, count)
    assert len(jobs) == count
    for job in jobs:
        world.tell(session_id, job, E.STARTED)
    return jobs


# Reports


def test_a_run_is_noted_with_the_launchers_times_and_the_services(world: StoreWorld) -> None:
    batch_job = world.submit_batch_job()
    (job_id,) = world.submit()
    session = world.open_session(batch_job_id=batch_job.id)
    (job,) = world.acquire(session.id)
    skewed = world.now + timedelta(days=1)
    world.clock.advance(5)
    started = world.record(session.id, job, E.STARTED).model_copy(update={"at": skewed})
    ended = world.record(session.id, job, E.RUN_ERROR, return_code=3, message="boom", data={"signal": "SIGSEGV"})
    ended = ended.model_copy(update={"at": skewed + timedelta(seconds=2)})
    world.send(session.id, started, ended)
    view = world.get(job_id)
    assert (view.state, view.return_code, view.attempt, view.batch_job_id) == (S.FAILED, 3, 1, batch_job.id)
    assert view.session_id is None
    assert view.started_at == skewed
    assert view.ended_at == skewed + timedelta(seconds=2)
    assert view.last_update == world.now, "S13: the service's own clock orders"
    error = world.events(job_id)[4]
    assert (error.to_state, error.timestamp, error.reported_at) == (S.RUN_ERROR, world.now, view.ended_at)
    assert error.data == {"message": "boom", "return_code": 3, "signal": "SIGSEGV", "failure": "exit_code"}
    assert world.events(job_id)[5].data == {}


def test_a_new_attempt_forgets_the_last_ones_result(world: StoreWorld) -> None:
    (job_id,) = world.submit()
    session = world.open_session()
    (job,) = running(world, session.id)
    world.tell(session.id, job, E.RUN_ERROR, return_code=3)
    world.retry([job_id])
    (job,) = running(world, session.id)
    view = world.get(job_id)
    assert (view.return_code, view.ended_at, view.attempt) == (None, None, 2)


def test_s3_records_are_counted_once_and_only_grow(world: StoreWorld) -> None:
    (job_id,) = world.submit()
    session = world.open_session()
    (job,) = world.acquire(session.id)
    started, done = world.record(session.id, job, E.STARTED), world.record(session.id, job, E.RUN_DONE)
    assert world.send(session.id, started).acked_seq == 1
    assert world.send(session.id, started, done).acked_seq == 2
    assert world.send(session.id, started).acked_seq == 2
    assert len(world.events(job_id)) == 7
    with pytest.raises(Invalid, match=r"records\[1\]\.seq"):
        world.send(session.id, done, started)


def test_s7_a_stale_report_changes_nothing_and_is_fenced(world: StoreWorld) -> None:
    (job_id,) = world.submit()
    first = world.open_session()
    (old,) = running(world, first.id)
    world.pass_time(WHOLE + 5)
    second = world.open_session()
    (new,) = world.acquire(second.id)
    assert new.token == old.token + 1
    before = (world.get(job_id), world.events(job_id))
    for event in (E.STARTED, E.RUN_DONE, E.RUN_ERROR, E.RUN_TIMEOUT, E.KILLED):
        assert world.tell(first.id, old, event).fenced == [job_id], event
    assert world.tell(first.id, old, E.RELEASED).fenced == [], "what was given up needs no kill"
    assert (world.get(job_id), world.events(job_id)) == before
    world.tell(second.id, new, E.STARTED)
    assert world.tell(first.id, old, E.RUN_DONE).fenced == [job_id]
    assert world.state(job_id) is S.RUNNING


def test_s7_a_skipped_record_is_still_fenced_once_its_token_is_old(world: StoreWorld) -> None:
    (job_id,) = world.submit()
    first = world.open_session()
    (old,) = world.acquire(first.id)
    started = world.record(first.id, old, E.STARTED)
    assert world.send(first.id, started).fenced == []
    world.pass_time(WHOLE + 5)
    world.acquire(world.open_session().id)
    assert world.send(first.id, started).fenced == [job_id]


def test_s7_a_newer_run_by_the_same_session_is_not_fenced_for_the_older_one(world: StoreWorld) -> None:
    """A new courier repeats what was not answered: the end of one attempt, and the start of the next."""
    (job_id,) = world.submit()
    session = world.open_session()
    (old,) = running(world, session.id)
    ended = world.record(session.id, old, E.RUN_TIMEOUT)
    assert world.send(session.id, ended).fenced == []
    (new,) = world.acquire(session.id)
    assert new.token == old.token + 1
    assert world.send(session.id, ended, world.record(session.id, new, E.STARTED)).fenced == []
    assert world.state(job_id) is S.RUNNING


def test_a_job_that_is_gone_or_of_another_site_is_fenced(world: StoreWorld) -> None:
    other = world.add_site(name="other")
    app = world.add_app(site=other, name="there")
    (there,) = world.submit_all([world.job(app_id=app.id)]).ids
    world.submit()
    session = world.open_session()
    (job,) = world.acquire(session.id)
    assert job.id != there, "a Job of another Site was granted"
    stray = job.model_copy(update={"id": there})
    missing = job.model_copy(update={"id": 999})
    assert world.tell(session.id, stray, E.STARTED).fenced == [there]
    assert world.tell(session.id, missing, E.STARTED).fenced == [999]


@pytest.mark.parametrize(("event", "state"), [(E.RUN_DONE, S.JOB_FINISHED), (E.RUN_ERROR, S.FAILED)])
def test_a_late_result_with_the_unchanged_token_is_accepted(world: StoreWorld, event: E, state: S) -> None:
    (job_id,) = world.submit()
    session = world.open_session()
    (job,) = running(world, session.id)
    world.pass_time(WHOLE + 5)
    assert world.state(job_id) is S.RESTART_READY
    assert world.tell(session.id, job, event, return_code=0).fenced == []
    assert world.state(job_id) is state
    with pytest.raises(SessionEnded):
        world.acquire(session.id)


def test_a_start_is_not_accepted_late(world: StoreWorld) -> None:
    (job_id,) = world.submit()
    session = world.open_session()
    (job,) = world.acquire(session.id)
    world.pass_time(WHOLE + 5)
    assert world.tell(session.id, job, E.STARTED, E.RUN_DONE).fenced == [job_id]
    assert world.state(job_id) is S.PREPROCESSED


def test_released_hands_back_what_was_not_started(world: StoreWorld) -> None:
    ids = world.submit(3)
    session = world.open_session()
    granted = world.acquire(session.id)
    world.wakes.clear()
    world.tell(session.id, granted[0], E.RELEASED)
    assert [wake.topic for wake in world.wakes] == ["work"]
    world.tell(session.id, granted[1], E.STARTED, E.RELEASED, message="no room")
    assert world.state(ids[1]) is S.RESTART_READY, "started and given up: the attempt is over"
    again = world.acquire(session.id)
    assert [(job.id, job.token, job.attempt) for job in again] == [(ids[0], 2, 1), (ids[1], 2, 2)]


def test_the_data_of_a_record_never_stops_the_outbox(world: StoreWorld) -> None:
    (job_id,) = world.submit()
    session = world.open_session()
    (job,) = world.acquire(session.id)
    world.tell(session.id, job, E.STARTED, data={"x": float("nan")})
    assert "NaN" in world.events(job_id)[3].data["dropped"]


# Cancel


def test_cancel_of_a_waiting_job_is_at_once(world: StoreWorld) -> None:
    ids = world.submit(2)
    world.wakes.clear()
    assert world.cancel([ids[0]], "no longer needed").changed == 1
    assert world.state(ids[0]) is S.CANCELLED
    assert world.events(ids[0])[-1].data == {"message": "no longer needed"}
    assert world.wakes[0].data == {"jobs": [[ids[0], S.CANCELLED, None]]}
    assert world.cancel([ids[0]]).changed == 0


def test_s6_a_granted_job_that_is_cancelled_is_held_until_its_launcher_lets_go(world: StoreWorld) -> None:
    (job_id,) = world.submit()
    session = world.open_session()
    (job,) = world.acquire(session.id)
    world.wakes.clear()
    world.cancel([job_id])
    told = [(wake.key, wake.data) for wake in world.wakes if wake.topic == "session"]
    assert told == [(session.id, {"job_ids": [job_id]})]
    assert world.renew(session.id).cancel == [job_id]
    world.retry([job_id])
    other = world.open_session()
    assert world.acquire(other.id) == [], "a Job was granted while its last holder could still start it"
    assert world.tell(session.id, job, E.RELEASED).cancel == []
    assert [granted.id for granted in world.acquire(other.id)] == [job_id]


def test_the_start_of_a_cancelled_job_is_fenced(world: StoreWorld) -> None:
    (job_id,) = world.submit()
    session = world.open_session()
    (job,) = world.acquire(session.id)
    world.cancel([job_id])
    reply = world.tell(session.id, job, E.STARTED)
    assert (reply.fenced, reply.cancel) == ([job_id], [job_id])
    assert world.state(job_id) is S.CANCELLED


def test_cancel_of_a_running_job_waits_for_the_kill_to_be_seen(world: StoreWorld) -> None:
    (job_id,) = world.submit()
    session = world.open_session()
    (job,) = running(world, session.id)
    assert world.cancel([job_id]).changed == 1
    assert world.state(job_id) is S.RUNNING
    assert world.get(job_id).cancel_requested
    assert world.renew(session.id).cancel == [job_id]
    assert world.cancel([job_id]).changed == 0
    world.tell(session.id, job, E.KILLED)
    view = world.get(job_id)
    assert (view.state, view.cancel_requested, view.session_id) == (S.CANCELLED, True, None)
    assert world.renew(session.id).cancel == []


def test_a_run_that_ended_before_it_was_killed_has_its_hooks_run_to_their_end(world: StoreWorld) -> None:
    """They were handed back at each renewal of their Session, and begun again, for ever."""
    app_id = world.add_app_with_hooks(Hook.POSTPROCESS).id
    (job_id,) = world.submit(app_id=app_id)
    session = world.open_session()
    (job,) = running(world, session.id)
    world.cancel([job_id])
    world.tell(session.id, job, E.RUN_DONE)
    assert (world.state(job_id), world.get(job_id).cancel_requested) == (S.RUN_DONE, False)
    hooks = world.open_processing()
    assert [granted.id for granted in world.acquire(hooks.id)] == [job_id]
    assert world.renew(hooks.id).cancel == []


def test_a_run_that_failed_before_it_was_killed_is_not_run_again(world: StoreWorld) -> None:
    """Though attempts are left, and a hook could ask for one; its exit code stays."""
    hooked = world.add_app_with_hooks(Hook.HANDLE_ERROR).id
    ids = [*world.submit(max_attempts=3), *world.submit(max_attempts=3, app_id=hooked)]
    session = world.open_session()
    jobs = running(world, session.id, 2)
    world.cancel(ids)
    for job in jobs:
        world.tell(session.id, job, E.RUN_ERROR, return_code=3)
    views = [world.get(job_id) for job_id in ids]
    assert [(view.state, view.return_code, view.failure) for view in views] == [(S.CANCELLED, 3, None)] * 2
    assert world.acquire(session.id) == []


def test_a_running_job_that_is_to_be_cancelled_ends_with_its_session(world: StoreWorld) -> None:
    (job_id,) = world.submit()
    session = world.open_session()
    running(world, session.id)
    world.cancel([job_id])
    world.pass_time(WHOLE + 5)
    assert world.state(job_id) is S.CANCELLED


def test_cancel_over_a_filter_leaves_what_is_done_alone(world: StoreWorld) -> None:
    done = world.submit()
    session = world.open_session()
    (job,) = running(world, session.id)
    world.tell(session.id, job, E.RUN_DONE)
    waiting = world.submit(3)
    changed = world.cancel()
    assert (changed.changed, changed.refused) == (3, {})
    named = world.cancel(done)
    assert (named.changed, named.refused) == (0, {done[0]: "it is JOB_FINISHED already"})
    assert {world.state(job_id) for job_id in waiting} == {S.CANCELLED}


# The end of a Session


def test_l1_a_silent_heartbeat_session_ends_and_its_jobs_run_again(world: StoreWorld) -> None:
    ids = world.submit(2)
    session = world.open_session()
    jobs = world.acquire(session.id)
    world.tell(session.id, jobs[0], E.STARTED)
    assert world.pass_time(WHOLE - 1) == 0
    world.wakes.clear()
    assert world.pass_time(2, step=1) == 1
    assert [world.state(job_id) for job_id in ids] == [S.RESTART_READY, S.PREPROCESSED]
    assert "work" in {wake.topic for wake in world.wakes}
    timed_out = world.events(ids[0])[4]
    assert (timed_out.to_state, timed_out.actor) == (S.RUN_TIMEOUT, "sweep")
    assert "not heard of" in timed_out.data["message"]
    assert world.pass_time(WHOLE) == 0, "a Session ended twice"
    second = world.open_session()
    assert [(job.id, job.token, job.attempt) for job in world.acquire(second.id)] == [(ids[0], 2, 2), (ids[1], 2, 1)]


def test_renewals_keep_a_session(world: StoreWorld) -> None:
    session = world.open_session()
    for _ in range(20):
        assert world.pass_time(60) == 0
        assert world.renew(session.id).ttl_sec == LEASE_TTL_SEC


def test_l2_an_allocation_session_outlives_any_silence(world: StoreWorld) -> None:
    batch_job = world.submit_batch_job()
    world.report_batch_job(batch_job.id, B.RUNNING)
    (job_id,) = world.submit()
    session = world.open_session(LeaseKind.ALLOCATION, batch_job.id)
    running(world, session.id)
    assert world.pass_time(10 * WHOLE) == 0
    assert world.state(job_id) is S.RUNNING
    world.report_batch_job(batch_job.id, B.FINISHED)
    assert world.pass_time(1, step=1) == 0, "no grace for late results"
    assert world.pass_time(2, step=1) == 1
    assert world.state(job_id) is S.RESTART_READY
    assert world.events(job_id)[4].data == {"message": "the allocation ended", "failure": "lost_launcher"}


def test_an_end_that_the_scheduler_told_ends_heartbeat_sessions_too(world: StoreWorld) -> None:
    batch_job = world.submit_batch_job()
    world.open_session(LeaseKind.HEARTBEAT, batch_job.id)
    world.report_batch_job(batch_job.id, B.FINISHED)
    assert world.pass_time(3, step=1) == 1


def test_l2_time_in_which_the_service_was_away_is_not_held_against_anybody(world: StoreWorld) -> None:
    world.open_session()
    world.pass_time(10)
    world.clock.advance(100 * WHOLE)  # closed laptop, stopped process: no sweep ran
    assert world.sweep() == 0
    assert world.pass_time(WHOLE - 5) == 0
    assert world.pass_time(10) == 1


def test_l2_a_restarted_service_counts_from_its_start(world: StoreWorld) -> None:
    world.open_session()
    world.clock.advance(100 * WHOLE)
    world.expiry = SessionExpiry(world.now)
    assert world.sweep() == 0
    assert world.pass_time(WHOLE + 1) == 1


def test_l2_a_service_that_could_not_write_counts_from_when_it_can(world: StoreWorld) -> None:
    session = world.open_session()
    world.pass_time(WHOLE - 20)
    write, store = world.store.write_sync, world.store

    def full(fn: object) -> object:
        raise Unavailable("disk full", status=507)

    store.write_sync = full  # type: ignore[method-assign, assignment]
    world.clock.advance(25)
    with pytest.raises(Unavailable):
        world.sweep()
    store.write_sync = write  # type: ignore[method-assign]
    assert world.pass_time(20) == 0
    assert world.renew(session.id)


@pytest.mark.parametrize("jump", [86_400, -86_400])
def test_s13_a_clock_that_jumps_ends_nothing_and_delays_no_end_for_long(world: StoreWorld, jump: float) -> None:
    dead, alive = world.open_session(), world.open_session()
    world.pass_time(30)
    world.clock.jump(jump)
    ended = world.sweep()
    for _ in range(6):
        world.renew(alive.id)
        ended += world.pass_time(60)
    assert ended == 1
    assert [session.id for session in world.read(lambda tx: sessions.list_sessions(tx, world.ada)).results] == [
        alive.id
    ]
    assert dead.id != alive.id


def test_l5_a_job_that_kills_its_launchers_is_failed(world: StoreWorld) -> None:
    (job_id,) = world.submit()
    for _ in range(MAX_LOST_ATTEMPTS):
        session = world.open_session()
        running(world, session.id)
        world.close(session.id, lost=True)
    assert world.state(job_id) is S.FAILED
    assert "3 times" in world.events(job_id)[-1].data["message"]


def test_a_close_in_order_costs_no_attempt(world: StoreWorld) -> None:
    (job_id,) = world.submit(max_attempts=2)
    session = world.open_session()
    running(world, session.id)
    world.close(session.id)
    world.close(session.id)
    assert world.state(job_id) is S.RESTART_READY


# Who may open what


def test_sessions_of_a_batch_job_that_is_to_end_are_refused(world: StoreWorld) -> None:
    for state in (B.PENDING_DELETION, B.FINISHED):
        batch_job = world.submit_batch_job()
        session = world.open_session(batch_job_id=batch_job.id)
        world.submit()
        world.report_batch_job(batch_job.id, state)
        assert world.acquire(session.id) == [], "Jobs were granted into an allocation that is to end"
        assert world.renew(session.id).closing
        with pytest.raises(Conflict, match=f"is {state}"):
            world.open_session(batch_job_id=batch_job.id)


def test_an_allocation_lease_needs_an_allocation(world: StoreWorld) -> None:
    with pytest.raises(Invalid, match="needs one"):
        world.open_session(LeaseKind.ALLOCATION)


def test_s14_a_launcher_sees_the_sessions_of_its_batch_job_only(world: StoreWorld) -> None:
    mine, other = world.submit_batch_job(), world.submit_batch_job()
    launcher = Principal(world.ada.user_id, "ada", "launcher", site_id=world.site.id, batch_job_id=mine.id)
    session = world.open_session(batch_job_id=mine.id, who=launcher)
    foreign = world.open_session(batch_job_id=other.id)
    listed = world.read(lambda tx: sessions.list_sessions(tx, launcher))
    assert [row.id for row in listed.results] == [session.id]
    assert world.read(lambda tx: sessions.get_session(tx, launcher, session.id)) == session
    with pytest.raises(NotFound):
        world.read(lambda tx: sessions.get_session(tx, launcher, foreign.id))
    with pytest.raises(NotFound):
        world.open_session(batch_job_id=other.id, who=launcher)
    with pytest.raises(Invalid, match="its BatchJob only"):
        world.open_session(who=launcher)
    eve = world.add_user("eve")
    with pytest.raises(NotFound):
        world.read(lambda tx: sessions.get_session(tx, eve, session.id))


# Retry and delete


def test_retry_is_the_only_way_back(world: StoreWorld) -> None:
    ids = world.submit(3)
    session = world.open_session()
    jobs = running(world, session.id, 2)
    world.tell(session.id, jobs[0], E.RUN_ERROR, return_code=1)
    world.tell(session.id, jobs[1], E.RUN_DONE, return_code=0)
    changed = world.retry(ids)
    assert changed.changed == 1
    assert changed.refused == {
        ids[1]: "it is JOB_FINISHED; only FAILED and CANCELLED Jobs are retried",
        ids[2]: "it is PREPROCESSED; only FAILED and CANCELLED Jobs are retried",
    }
    assert world.state(ids[0]) is S.RESTART_READY
    assert world.retry().changed == 0


def test_a_child_is_retried_after_its_parents(world: StoreWorld) -> None:
    parent = world.submit()
    child = world.submit(parent_ids=parent)
    world.cancel(parent)
    assert world.state(child[0]) is S.FAILED
    changed = world.retry()
    assert changed.changed == 1
    assert "parents have not finished" in changed.refused[child[0]]
    session = world.open_session()
    (job,) = running(world, session.id)
    world.tell(session.id, job, E.RUN_DONE)
    assert world.retry(child).changed == 1
    assert world.state(child[0]) is S.PREPROCESSED


def test_what_runs_or_is_waited_for_is_not_deleted(world: StoreWorld) -> None:
    ids = world.submit(3)
    child = world.submit(parent_ids=[ids[2]])
    session = world.open_session()
    world.tell(session.id, world.acquire(session.id, 1)[0], E.STARTED)
    world.acquire(session.id, 1)
    gone = world.delete(ids)
    assert (gone.deleted, gone.skipped) == (0, ids)
    assert gone.reason == "it is RUNNING; cancel it first"
    assert world.delete([ids[2], *child]).deleted == 2
    assert world.count() == 2


def test_deleting_everything_takes_families_across_slices(world: StoreWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("balsam.server.usecases.selection.SLICE", 2)
    generation = world.submit()
    for _ in range(7):
        generation = world.submit(parent_ids=generation)
    assert world.delete().deleted == 8
    assert world.count() == 0
