"""Several processes on one PostgreSQL database, here as stores in threads: what one does at a time they do together."""

from __future__ import annotations

import asyncio
import os
import resource
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from datetime import timedelta
from functools import partial

import psycopg
import pytest

from balsam.domain.states import JobState
from balsam.server.database_address import DatabaseAddress
from balsam.server.errors import ServiceError
from balsam.server.store.postgres import fronts
from balsam.server.store.postgres.store import PostgresStore
from balsam.server.store.protocol import Wake
from balsam.server.store.records import AppRow, UserRow
from balsam.server.sweeps.expire_sessions import SessionExpiry
from balsam.server.usecases.apps import delete_app
from balsam.server.usecases.idempotent import once
from balsam.server.usecases.submit import submit_jobs
from balsam.testing.store_conformance_jobs import replayed
from balsam.testing.store_world import StoreWorld, run
from balsam.wire.jobs import JobsCreate, JobsCreated
from balsam.wire.sessions import LaunchEvent
from tests.conformance.histories import Life, check, rows_of, seen_by, together, until
from tests.testbed.postgres import PostgresServer

pytestmark = pytest.mark.slow
E = LaunchEvent


@pytest.fixture
def address(postgres: PostgresServer) -> Iterator[DatabaseAddress]:
    with postgres.migrated() as address:
        yield address


@pytest.fixture
def stores(address: DatabaseAddress) -> Iterator[list[PostgresStore]]:
    with ExitStack() as stack:
        yield [stack.enter_context(closing(PostgresStore(address))) for _ in range(3)]


@pytest.fixture
def worlds(stores: list[PostgresStore]) -> list[StoreWorld]:
    first = StoreWorld(stores[0])
    return [first, *(seen_by(first, store) for store in stores[1:])]


# Histories


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_histories_of_several_processes_leave_consistent_rows(
    worlds: list[StoreWorld], address: DatabaseAddress, seed: int
) -> None:
    """S4, S5, S6, L1."""
    worlds[0].submit(20, tags={"a": "1"})
    granted: list[tuple[int, int]] = []
    faults: list[str] = []
    # Two callers for each process, so that groups have more than one item.
    lives = [Life(world, seed * 100 + n, granted, faults) for n, world in enumerate([*worlds, *worlds])]

    def live(life: Life) -> None:
        for _ in range(60):
            life.step()

    for broken in filter(None, together(*(partial(live, life) for life in lives))):
        assert isinstance(broken, Exception)
        raise broken
    assert faults == []
    assert max(Counter(granted).values(), default=1) == 1, "S6: one token was granted twice"
    check(worlds[0], rows_of(address))


# Races that unique keys and locks decide


def test_s2_a_key_used_at_the_same_moment_is_used_once(worlds: list[StoreWorld]) -> None:
    message = JobsCreate(jobs=[worlds[0].job()] * 3)

    def submit(world: StoreWorld, key: str) -> JobsCreated:
        def work(tx: object) -> JobsCreated:
            do = partial(submit_jobs, tx, world.ada, message, world.now)
            return once(tx, world.ada, key, "same", JobsCreated, world.now, do)

        return world.write(work)

    for number in range(10):
        answers = together(*(partial(submit, world, f"key{number}") for world in worlds))
        assert answers[0] == answers[1] == answers[2]
        assert isinstance(answers[0], JobsCreated)
    assert worlds[0].count() == 30


def test_a_name_is_given_once(worlds: list[StoreWorld]) -> None:
    for number in range(5):
        answers = together(*(partial(world.add_site, name=f"site{number}") for world in worlds))
        assert sum(isinstance(answer, ServiceError) for answer in answers) == 2, answers
    assert len(worlds[0].read(lambda tx: tx.find(UserRow))) == 1


def test_l1_the_last_of_two_parents_releases_the_child(worlds: list[StoreWorld]) -> None:
    """Each of two processes finishes one parent and sees the other one still running, unless they look in turn."""
    for _ in range(8):
        parents = worlds[0].submit(2)
        (child,) = worlds[0].submit(1, parent_ids=parents)
        sessions = [world.open_session().id for world in worlds[:2]]
        jobs = [world.acquire(session, 1)[0] for world, session in zip(worlds, sessions, strict=False)]
        done = [
            partial(world.tell, session, job, E.STARTED, E.RUN_DONE, return_code=0)
            for world, session, job in zip(worlds, sessions, jobs, strict=False)
        ]
        together(*done)
        assert worlds[0].state(child) is JobState.PREPROCESSED
        worlds[0].cancel([child])


def test_l1_a_child_that_comes_while_its_parent_finishes_is_released(worlds: list[StoreWorld]) -> None:
    for _ in range(8):
        (parent,) = worlds[0].submit(1)
        session = worlds[0].open_session().id
        (job,) = worlds[0].acquire(session)
        answers = together(
            partial(worlds[0].tell, session, job, E.STARTED, E.RUN_DONE, return_code=0),
            partial(worlds[1].submit, 1, parent_ids=[parent]),
        )
        assert isinstance(answers[1], list)
        assert worlds[0].state(answers[1][0]) is JobState.PREPROCESSED
        worlds[0].cancel(answers[1])


def test_an_app_and_a_job_of_it_do_not_pass_each_other(worlds: list[StoreWorld]) -> None:
    for number in range(8):
        app = worlds[0].add_app(name=f"app{number}")
        answers = together(
            partial(worlds[0].write, lambda tx, app=app: delete_app(tx, worlds[0].ada, app.id)),
            partial(worlds[1].submit, 1, app_id=app.id),
        )
        refused = [isinstance(answer, ServiceError) for answer in answers]
        assert sum(refused) == 1, answers
        left = worlds[0].read(lambda tx, app=app: tx.find(AppRow, id=app.id))
        assert bool(left) == refused[0]


def test_a_submission_waits_for_nobody_who_changes_its_site_or_its_owner(
    worlds: list[StoreWorld], address: DatabaseAddress
) -> None:
    with psycopg.connect(address.text) as other:
        other.execute("UPDATE sites SET last_refresh = 1")
        other.execute("UPDATE users SET requests_per_sec = 9")
        assert worlds[0].submit(1)
        other.rollback()


def test_a_quota_is_counted_by_one_process_at_a_time(worlds: list[StoreWorld]) -> None:
    (ada,) = worlds[0].read(lambda tx: tx.find(UserRow))
    for number in range(1, 9):
        worlds[0].write(lambda tx, most=4 * number: tx.put(replace(ada, max_jobs=most)))
        answers = together(*(partial(world.submit, 4) for world in worlds[:2]))
        assert sum(isinstance(answer, ServiceError) for answer in answers) == 1, answers
        assert worlds[0].count() == 4 * number


def test_s6_grants_through_several_processes_are_disjoint_and_complete(worlds: list[StoreWorld]) -> None:
    ids = worlds[0].submit(300, tags={"a": "b"})
    granted: list[int] = []

    def take(world: StoreWorld, tagged: bool) -> None:
        session = world.open_session().id
        while jobs := world.acquire(session, 7, filter_tags={"a": "b"} if tagged else {}):
            granted.extend(job.id for job in jobs)

    assert together(*(partial(take, world, n % 2 == 0) for n, world in enumerate([*worlds, *worlds]))) == [None] * 6
    assert Counter(granted) == Counter(ids)


def test_a_job_that_another_process_is_changing_is_waited_for(worlds: list[StoreWorld]) -> None:
    """Passed over, it would not be granted before somebody looks again: nothing wakes the launcher for it."""
    (job_id,) = worlds[0].submit(1)
    session = worlds[1].open_session().id
    changing = threading.Event()

    def slow(tx: object) -> None:
        tx.change_jobs({job_id: {"priority": 3}}, 9)
        changing.set()
        time.sleep(0.5)

    thread = threading.Thread(target=worlds[0].write, args=(slow,))
    thread.start()
    changing.wait(20)
    assert [job.id for job in worlds[1].acquire(session, 5)] == [job_id]
    thread.join()


@pytest.mark.parametrize("heard", [True, False])
def test_an_acquire_comes_to_what_another_process_made_grantable(
    worlds: list[StoreWorld], monkeypatch: pytest.MonkeyPatch, heard: bool
) -> None:
    """Told of it, at once; not told, once what it remembers is too old."""
    monkeypatch.setattr(fronts, "FRESH_SEC", 3600 if heard else 0.3)
    if not heard:
        monkeypatch.setattr(fronts.Fronts, "hear", lambda self, wakes: None)
    worlds[0].submit(200)
    first, second = (world.open_session().id for world in worlds[:2])
    worlds[0].acquire(first, 2)
    (given_back,) = worlds[1].acquire(second, 1)
    worlds[0].acquire(first, 2)  # past it
    worlds[1].tell(second, given_back, E.RELEASED)
    (urgent,) = worlds[1].submit(1, priority=3)
    granted: list[int] = []

    def both_came() -> bool:
        granted.append(worlds[0].acquire(first, 1)[0].id)
        time.sleep(0.02)  # or all would be granted while nothing is heard
        return {given_back.id, urgent} <= set(granted)

    until(both_came)
    assert len(granted) < 150, "the last ones would be found by looking everywhere"


def test_groups_that_wait_for_each_other_end(worlds: list[StoreWorld]) -> None:
    """Each takes in one group what the other takes in the other order: a deadlock, unless groups are taken apart."""
    first, second = worlds[0].submit(2)

    async def both(world: StoreWorld, order: list[int]) -> None:
        def change(job_id: int) -> Callable[[object], None]:
            def work(tx: object) -> None:
                tx.change_jobs({job_id: {"priority": 1}}, 9)
                time.sleep(0.02)

            return work

        await asyncio.gather(*(world.store.write(change(job_id)) for job_id in order))

    begin = time.monotonic()
    for _ in range(5):
        answers = together(
            lambda: run(both(worlds[0], [first, second] * 3)), lambda: run(both(worlds[1], [second, first] * 3))
        )
        assert answers == [None, None]
    assert time.monotonic() - begin < 20


def test_a_group_that_can_t_save_its_counts_now_waits_as_its_items_would_alone(
    worlds: list[StoreWorld], address: DatabaseAddress
) -> None:
    """A migration or VACUUM FULL holds the table for longer than a group waits."""
    world, working, go_on = worlds[0], threading.Event(), threading.Event()

    def keeps_the_writer(_: object) -> None:
        working.set()
        assert go_on.wait(30)

    async def queue_behind() -> list[JobsCreated]:
        first = asyncio.create_task(world.store.write(keeps_the_writer))
        assert await asyncio.to_thread(working.wait, 30)
        message = JobsCreate(jobs=[world.job()])
        jobs = [
            asyncio.create_task(world.store.write(lambda tx: submit_jobs(tx, world.ada, message, world.now)))
            for _ in range(3)
        ]
        await asyncio.sleep(0)  # all have come to the line
        go_on.set()
        await first
        return await asyncio.gather(*jobs)

    with psycopg.connect(address.text) as other:
        other.execute("LOCK TABLE state_counts IN SHARE MODE")
        release = threading.Timer(0.4, other.rollback)
        release.start()
        made = run(queue_behind())
        release.join()
    assert world.counts() == {JobState.PREPROCESSED: 3}
    assert [job.id for job in world.page()] == sorted(job_id for one in made for job_id in one.ids)


def test_a_process_that_only_reads_remembers_each_site_once() -> None:
    """It hears of what the others do, and never heeds it."""
    front = fronts.Fronts()
    for number in range(1000):
        front.hear([Wake("work", number % 3, "work", {}), Wake("wakes", 0, "back", {})])
    assert len(front._doubted) == 4


# Wakes


def test_wakes_are_heard_by_the_other_processes(worlds: list[StoreWorld]) -> None:
    for world in worlds:
        world.wakes.clear()
    (job_id,) = worlds[0].submit(1)
    wanted = Wake("work", worlds[0].site.id, "work", {})
    assert wanted in worlds[0].wakes
    for world in worlds[1:]:
        until(lambda world=world: wanted in world.wakes)
    assert worlds[0].wakes.count(wanted) == 1, "a process heard its own wake twice"
    worlds[1].cancel([job_id])
    until(
        lambda: any(
            wake.topic == "jobs" and [job_id, "CANCELLED", None] in wake.data["jobs"] for wake in worlds[2].wakes
        )
    )


def test_wakes_that_are_too_long_for_a_notification_come_too(worlds: list[StoreWorld]) -> None:
    ids = worlds[0].submit(2000)
    worlds[1].wakes.clear()
    worlds[0].cancel(ids)
    until(lambda: any(wake.topic == "jobs" for wake in worlds[1].wakes))
    (wake,) = [wake for wake in worlds[1].wakes if wake.topic == "jobs"]
    assert sorted(entry[0] for entry in wake.data["jobs"]) == ids


def test_what_is_told_reaches_the_others_only(worlds: list[StoreWorld]) -> None:
    for world in worlds:
        world.wakes.clear()
    small, large = (Wake("files", 1, "question", {"request": "x" * size}) for size in (10, 1_500_000))
    for wake in (small, large):
        run(worlds[0].store.tell(wake))
        for world in worlds[1:]:
            until(lambda world=world, wake=wake: wake in world.wakes)
    assert worlds[0].wakes == []


@pytest.fixture
def many_files() -> Iterator[None]:
    """As a process with a thousand streams: what it opens next has a number above those that select() knows."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before[0], 2048), before[1]))
    with ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, before)
        for _ in range(1100):
            stack.callback(os.close, os.open(os.devnull, os.O_RDONLY))
        yield


def test_a_process_with_a_thousand_streams_hears_the_others(many_files: None, worlds: list[StoreWorld]) -> None:
    worlds[0].submit()
    for world in worlds[1:]:
        until(lambda world=world: any(wake.topic == "work" for wake in world.wakes))


def test_a_lost_ear_says_so_and_comes_back(
    worlds: list[StoreWorld], postgres: PostgresServer, address: DatabaseAddress
) -> None:
    for world in worlds:
        world.wakes.clear()
    with psycopg.connect(address.text, autocommit=True) as db:
        db.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'balsam listener'")
    for world in worlds:
        until(lambda world=world: Wake("wakes", 0, "back", {}) in world.wakes)
        heard = [wake.event for wake in world.wakes if wake.topic == "wakes"]
        assert heard[:2] == ["lost", "back"]
    worlds[0].submit()
    until(lambda: any(wake.topic == "work" for wake in worlds[1].wakes))


def test_a_notification_that_nobody_understands_makes_no_process_deaf(
    worlds: list[StoreWorld], address: DatabaseAddress
) -> None:
    for world in worlds:
        world.wakes.clear()
    with psycopg.connect(address.text, autocommit=True) as db:
        db.execute("SELECT pg_notify('balsam_wakes', 'hello')")
    for world in worlds:
        until(lambda world=world: Wake("wakes", 0, "back", {}) in world.wakes)
    worlds[0].submit()
    until(lambda: any(wake.topic == "work" for wake in worlds[1].wakes))


# Sweeps (L6)


def test_l6_one_process_leads_and_another_takes_over(stores: list[PostgresStore]) -> None:
    until(lambda: any(store.leads() for store in stores))
    for _ in range(20):
        assert sum(store.leads() for store in stores) <= 1
        time.sleep(0.01)
    leader = next(store for store in stores if store.leads())
    others = [store for store in stores if store is not leader]
    leader.close()
    assert not leader.leads()
    until(lambda: sum(store.leads() for store in others) == 1)


def test_l6_a_new_leader_counts_from_when_it_began(worlds: list[StoreWorld]) -> None:
    """It can't know whether renewals were heard before: nobody loses a lease to a change of the leader."""
    until(lambda: any(world.store.leads() for world in worlds))
    leader = next(world for world in worlds if world.store.leads())
    follower = next(world for world in worlds if world is not leader)
    follower.expiry = SessionExpiry(follower.now)
    session = leader.open_session()
    for _ in range(40):  # not a second more than the lease
        leader.clock.advance(10)
        assert (leader.sweep() if leader.clock.now() < session.renewed_at + timedelta(seconds=200) else 0) == 0
        assert follower.sweep() == 0
    for world in worlds:
        if world is not follower:
            world.store.close()
    until(follower.store.leads)
    assert follower.sweep() == 0, "the new leader ended a Session at once"
    assert follower.pass_time(330) == 1


def test_l6_two_sweeps_at_once_end_a_session_once(worlds: list[StoreWorld], monkeypatch: pytest.MonkeyPatch) -> None:
    """F13: also when two processes believe that they lead, as after a cut network."""
    world, other = worlds[:2]
    other.expiry = replace(world.expiry)
    for one in (world, other):
        monkeypatch.setattr(one.store, "leads", lambda: True)
    world.submit(5)
    session = world.open_session().id
    for job in world.acquire(session):
        world.tell(session, job, E.STARTED)
    for _ in range(34):
        world.clock.advance(10)
        ended = together(world.sweep, other.sweep)
        if any(ended):
            break
    assert sorted(map(int, ended)) == [0, 1]
    for job_id in range(1, 6):
        assert replayed(world, job_id) is JobState.RESTART_READY
        assert len([event for event in world.events(job_id) if event.to_state is JobState.RUN_TIMEOUT]) == 1
