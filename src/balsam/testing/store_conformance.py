"""What every store has to pass, for authors of stores; needs pytest.

Subclass `StoreConformance` in a test module and give it a `store` fixture that yields an empty Store; pytest then
collects the tests. They know the store only through its protocol and the use cases. `FaultyStore` wraps any store and
lets a write happen whose caller is told that it timed out.
"""
# ruff: noqa: S101 -- tests that are shipped

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import pytest

from balsam.domain.lifecycle import Request, decide
from balsam.domain.states import Actor, JobEvent, JobState
from balsam.server.errors import Invalid, ServiceError, SessionEnded, Unavailable
from balsam.server.store.protocol import Duplicate, GuardFailed, ReadTx, Store, Subscriber, Tx, Wake
from balsam.server.store.records import (
    AcquireCriteria,
    EventSelection,
    HotJob,
    JobRow,
    JobSelection,
    JobUpdate,
    PageWindow,
    SessionRow,
    SiteRow,
    Step,
    TokenRow,
    UserRow,
)
from balsam.server.usecases.idempotent import once
from balsam.server.usecases.submit import submit_jobs
from balsam.testing.store_world import StoreWorld, run
from balsam.wire.jobs import JobsCreate, JobsCreated
from balsam.wire.sessions import LaunchEvent

T = TypeVar("T")


class WriteTimedOut(Exception):
    """The caller does not know whether the write happened. (It did.)"""


class FaultyStore:
    """A Store whose next writes happen, but end in a time-out for the caller: the worst answer there is."""

    def __init__(self, store: Store) -> None:
        self.inner = store
        self.faults = 0

    async def write(self, fn: Callable[[Tx], T]) -> T:
        return self._answer(await self.inner.write(fn))

    def write_sync(self, fn: Callable[[Tx], T]) -> T:
        return self._answer(self.inner.write_sync(fn))

    def _answer(self, result: T) -> T:
        if self.faults:
            self.faults -= 1
            raise WriteTimedOut
        return result

    async def read(self, fn: Callable[[ReadTx], T]) -> T:
        return await self.inner.read(fn)

    def read_sync(self, fn: Callable[[ReadTx], T]) -> T:
        return self.inner.read_sync(fn)

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        return self.inner.subscribe(subscriber)

    def close(self) -> None:
        self.inner.close()


def replayed(world: StoreWorld, job_id: int) -> JobState:
    """The state that a Job's events lead to; checks on the way that they are one unbroken history (S5)."""
    state = JobState.CREATED
    for number, event in enumerate(world.events(job_id), 1):
        assert event.seq == number, f"Job {job_id}: event {number} is numbered {event.seq}"
        assert event.from_state is state, f"Job {job_id}: event {number} leaves {event.from_state}, not {state}"
        state = event.to_state
    return state


class StoreConformance:
    """The suite. Each test starts with an empty store."""

    @pytest.fixture
    def store(self) -> Store:
        """Override: an empty Store."""
        raise NotImplementedError

    @pytest.fixture
    def world(self, store: Store) -> StoreWorld:
        return StoreWorld(store)

    # Rows of the small tables

    def test_rows_are_found_by_their_columns(self, store: Store) -> None:
        def add(tx: Tx) -> list[int]:
            ids = [tx.new_id(UserRow) for _ in range(4)]
            for number, user_id in enumerate(ids):
                tx.put(UserRow(user_id, f"u{number}", None if number % 2 else "hash", number == 0, number))
            return ids

        ids = store.write_sync(add)
        read = store.read_sync
        assert ids == sorted(set(ids))
        assert [user.id for user in read(lambda tx: tx.find(UserRow))] == ids
        assert [user.id for user in read(lambda tx: tx.find(UserRow, password_hash=None))] == ids[1::2]
        assert [user.id for user in read(lambda tx: tx.find(UserRow, is_admin=True))] == ids[:1]
        assert [user.id for user in read(lambda tx: tx.find(UserRow, username=("u1", "u3", "u9")))] == ids[1::2]
        assert [user.id for user in read(lambda tx: tx.find(UserRow, username=()))] == []
        assert [user.id for user in read(lambda tx: tx.created_before(UserRow, 2))] == ids[:2]
        assert read(lambda tx: tx.get(UserRow, ids[0])) == UserRow(ids[0], "u0", "hash", True, 0)
        assert read(lambda tx: tx.get(UserRow, 999)) is None

    def test_a_put_replaces_and_a_remove_removes(self, store: Store) -> None:
        row = UserRow(store.write_sync(lambda tx: tx.new_id(UserRow)), "ada", None, False, 1)
        store.write_sync(lambda tx: tx.put(row))
        store.write_sync(lambda tx: tx.put(replace(row, is_admin=True)))
        assert store.read_sync(lambda tx: tx.find(UserRow)) == [replace(row, is_admin=True)]
        store.write_sync(lambda tx: tx.remove(UserRow, row.id))
        assert store.read_sync(lambda tx: tx.find(UserRow)) == []
        assert store.write_sync(lambda tx: tx.new_id(UserRow)) > row.id, "an id was given out twice"

    def test_a_second_row_with_a_unique_key_is_refused(self, store: Store) -> None:
        def add(tx: Tx) -> None:
            tx.put(UserRow(tx.new_id(UserRow), "ada", None, False, 1))

        store.write_sync(add)
        with pytest.raises(Duplicate):
            store.write_sync(add)
        assert len(store.read_sync(lambda tx: tx.find(UserRow))) == 1

    def test_every_kind_of_row_comes_back_as_it_was_put(self, world: StoreWorld) -> None:
        batch_job = world.submit_batch_job(filter_tags={"a": "b"}, optional_params={})
        session = world.open_session(batch_job_id=batch_job.id)
        site = world.read(lambda tx: tx.get(SiteRow, world.site.id))
        assert site is not None
        changed = replace(site, queued_jobs={"1": {"x": [1, 2.5, None, True, "é"]}}, deleted_at=5, agent_pid=7)
        world.write(lambda tx: tx.put(changed))
        assert world.read(lambda tx: tx.get(SiteRow, world.site.id)) == changed
        row = world.read(lambda tx: tx.get(SessionRow, session.id))
        assert row is not None
        assert (row.batch_job_id, row.ended_at, row.kind) == (batch_job.id, None, session.kind)
        tokens = world.read(lambda tx: tx.find(TokenRow, site_id=world.site.id))
        assert [(token.kind, token.revoked_at) for token in tokens] == [("site", None)]

    # Transactions

    def test_s2_a_write_that_fails_leaves_nothing(self, world: StoreWorld) -> None:
        kept = world.submit(2, tags={"a": "b"})
        world.wakes.clear()
        before = (world.counts(), [world.get(job_id) for job_id in kept])

        def half(tx: Tx) -> None:
            submit_jobs(tx, world.ada, JobsCreate(jobs=[world.job(tags={"a": "b"})] * 3), world.now)
            tx.change_jobs({kept[0]: {"tags": {"c": "d"}, "priority": 3}}, 9)
            tx.delete_jobs([kept[1]])
            tx.put(UserRow(tx.new_id(UserRow), "nobody", None, False, 1))
            raise RuntimeError("in the middle")

        with pytest.raises(RuntimeError, match="in the middle"):
            world.write(half)
        assert (world.counts(), [world.get(job_id) for job_id in kept]) == before
        assert world.count(tags=["a:b"]) == 2
        assert world.count(tags=["c:d"]) == 0
        assert world.read(lambda tx: tx.find(UserRow, username="nobody")) == []
        assert world.read(lambda tx: tx.event_count(EventSelection(world.ada.user_id))) == 6
        assert world.wakes == []
        session = world.open_session()
        assert [job.id for job in world.acquire(session.id, filter_tags={"a": "b"})] == kept

    def test_an_item_that_fails_does_not_hurt_the_others_of_its_commit(self, world: StoreWorld) -> None:
        async def together() -> list[object]:
            def make(number: int) -> Callable[[Tx], object]:
                def one(tx: Tx) -> object:
                    made = submit_jobs(tx, world.ada, JobsCreate(jobs=[world.job(workdir=f"w{number}")]), world.now)
                    if number % 3 == 0:
                        raise Invalid(f"item {number}")
                    return made.ids[0]

                return one

            writes = [world.store.write(make(number)) for number in range(30)]
            return list(await asyncio.gather(*writes, return_exceptions=True))

        answers = run(together())
        assert [isinstance(answer, Invalid) for answer in answers] == [number % 3 == 0 for number in range(30)]
        there = {job.workdir for job in world.page()}
        assert there == {f"w{number}" for number in range(30) if number % 3}
        assert world.counts() == {JobState.PREPROCESSED: 20}

    def test_s1_what_a_write_returned_is_there_for_the_next_read(self, world: StoreWorld) -> None:
        async def write_and_read() -> list[int]:
            seen: list[int] = []
            for _ in range(20):
                made = await world.store.write(
                    lambda tx: submit_jobs(tx, world.ada, JobsCreate(jobs=[world.job()]), world.now)
                )
                (job_id,) = made.ids
                seen.append(len(await world.store.read(partial(_jobs, job_id=job_id))))
            return seen

        assert run(write_and_read()) == [1] * 20

    def test_wakes_are_published_after_their_commit_and_merged(self, store: Store) -> None:
        heard: list[tuple[list[Wake], int]] = []

        def hear(wakes: Sequence[Wake]) -> None:
            heard.append((list(wakes), len(store.read_sync(lambda tx: tx.find(UserRow)))))

        def write(tx: Tx) -> None:
            tx.put(UserRow(tx.new_id(UserRow), "ada", None, False, 1))
            tx.wake(Wake("jobs", 1, "states", {"jobs": [[5, "READY", None], [6, "READY", None]]}))
            tx.wake(Wake("jobs", 1, "states", {"jobs": [[5, "RUNNING", None]]}))
            tx.wake(Wake("session", 3, "cancel", {"job_ids": [5]}))
            tx.wake(Wake("session", 3, "cancel", {"job_ids": [6, 5]}))
            tx.wake(Wake("work", 2, "work", {}))
            tx.wake(Wake("work", 2, "work", {}))

        stop = store.subscribe(hear)
        store.write_sync(write)
        store.write_sync(lambda tx: None)
        stop()
        store.write_sync(lambda tx: tx.wake(Wake("work", 9, "work", {})))
        assert len(heard) == 1
        wakes, users = heard[0]
        assert users == 1, "a wake was heard before its commit could be read"
        assert wakes == [
            Wake("jobs", 1, "states", {"jobs": [[6, "READY", None], [5, "RUNNING", None]]}),
            Wake("session", 3, "cancel", {"job_ids": [5, 6]}),
            Wake("work", 2, "work", {}),
        ]

    def test_a_closed_store_refuses(self, store: Store) -> None:
        store.close()
        store.close()
        with pytest.raises(Unavailable):
            store.write_sync(lambda tx: None)
        with pytest.raises(Unavailable):
            run(store.read(lambda tx: None))

    # Faults: the write happened, and its caller saw a time-out

    def test_s2_a_submit_that_timed_out_is_repeated_safely(self, store: Store) -> None:
        world = StoreWorld(faulty := FaultyStore(store))
        message = JobsCreate(jobs=[world.job()] * 3)

        def submit(body: str = "same") -> JobsCreated:
            def work(tx: Tx) -> JobsCreated:
                do = partial(submit_jobs, tx, world.ada, message, world.now)
                return once(tx, world.ada, "key", body, JobsCreated, world.now, do)

            return world.write(work)

        faulty.faults = 1
        with pytest.raises(WriteTimedOut):
            submit()
        again = submit()
        assert again == submit()
        assert world.count() == 3
        assert [job.id for job in world.page()] == again.ids
        with pytest.raises(Invalid, match="another request"):
            submit("other")
        assert world.count() == 3

    def test_s3_an_acquire_that_timed_out_is_repeated_safely(self, store: Store) -> None:
        world = StoreWorld(faulty := FaultyStore(store))
        world.submit(10)
        session = world.open_session()
        faulty.faults = 1
        with pytest.raises(WriteTimedOut):
            world.acquire_reply(session.id, 4, seq=1)
        again = world.acquire_reply(session.id, 4, seq=1)
        assert len(again.jobs) == 4
        assert {job.token for job in again.jobs} == {1}
        assert again == world.acquire_reply(session.id, 4, seq=1)
        more = world.acquire_reply(session.id, 4, seq=2)
        assert {job.id for job in more.jobs}.isdisjoint(job.id for job in again.jobs)
        assert world.acquire_reply(session.id, 4, seq=1).jobs == [], "an older call was answered with grants"
        assert len(world.acquire_reply(session.id, 4, seq=3).jobs) == 2

    def test_s3_a_report_that_timed_out_is_repeated_safely(self, store: Store) -> None:
        world = StoreWorld(faulty := FaultyStore(store))
        world.submit()
        session = world.open_session()
        (job,) = world.acquire(session.id)
        records = [
            world.record(session.id, job, LaunchEvent.STARTED),
            world.record(session.id, job, LaunchEvent.RUN_DONE, return_code=0),
        ]
        faulty.faults = 1
        with pytest.raises(WriteTimedOut):
            world.send(session.id, *records)
        reply = world.send(session.id, *records)
        assert (reply.acked_seq, reply.fenced) == (2, [])
        assert world.state(job.id) is JobState.JOB_FINISHED
        assert len(world.events(job.id)) == 7

    @pytest.mark.parametrize("verb", ["cancel", "retry", "delete", "close", "renew", "batch_job"])
    def test_every_other_verb_is_repeated_safely(self, store: Store, verb: str) -> None:
        world = StoreWorld(faulty := FaultyStore(store))
        (job_id,) = world.submit()
        session = world.open_session()
        if verb == "retry":
            world.cancel([job_id])
        calls: dict[str, Callable[[], object]] = {
            "cancel": lambda: world.cancel([job_id]),
            "retry": lambda: world.retry([job_id]),
            "delete": lambda: world.delete([job_id]),
            "close": lambda: world.close(session.id),
            "renew": lambda: world.renew(session.id),
            "batch_job": lambda: world.report_batch_job(batch_job.id, batch_job.state),
        }
        batch_job = world.submit_batch_job()
        faulty.faults = 1
        with pytest.raises(WriteTimedOut):
            calls[verb]()
        counts = world.counts()
        calls[verb]()
        assert world.counts() == counts
        if verb != "delete":
            assert replayed(world, job_id) is world.state(job_id)

    # S4, S5

    def test_s4_a_decision_on_an_old_state_is_not_written(self, world: StoreWorld) -> None:
        (job_id,) = world.submit()
        old = world.read(lambda tx: tx.hot_jobs([job_id]))[job_id]
        session = world.open_session()
        world.acquire(session.id)
        before = (world.get(job_id), world.events(job_id), world.counts())
        with pytest.raises(GuardFailed):
            world.write(lambda tx: tx.apply([_cancelled(old)], 9))
        assert (world.get(job_id), world.events(job_id), world.counts()) == before

    def test_s4_decisions_must_go_on_from_each_other(self, world: StoreWorld) -> None:
        (job_id,) = world.submit()
        job = world.read(lambda tx: tx.hot_jobs([job_id]))[job_id]
        update = _cancelled(job)
        update.steps.append(update.steps[0])
        with pytest.raises(AssertionError, match="S4"):
            world.write(lambda tx: tx.apply([update], 9))
        assert world.state(job_id) is JobState.PREPROCESSED

    @pytest.mark.parametrize("column", ["state", "token", "session_id", "attempt", "owner_id", "event_seq"])
    def test_s4_the_state_machine_is_not_changed_like_other_columns(self, world: StoreWorld, column: str) -> None:
        (job_id,) = world.submit()
        with pytest.raises(ValueError, match="S4"):
            world.write(lambda tx: tx.change_jobs({job_id: {column: 1}}, 9))

    def test_s5_the_log_replays_to_the_state(self, world: StoreWorld) -> None:
        parent = world.submit()
        children = world.submit(3, parent_ids=parent)
        session = world.open_session()
        (job,) = world.acquire(session.id)
        world.tell(session.id, job, LaunchEvent.STARTED, LaunchEvent.RUN_TIMEOUT)
        (job,) = world.acquire(session.id)
        assert (job.token, job.attempt) == (2, 2)
        world.tell(session.id, job, LaunchEvent.STARTED, LaunchEvent.RUN_DONE, return_code=0)
        world.cancel([children[0]])
        assert [world.state(job_id) for job_id in (*parent, *children)] == [
            JobState.JOB_FINISHED,
            JobState.CANCELLED,
            JobState.PREPROCESSED,
            JobState.PREPROCESSED,
        ]
        for job_id in (*parent, *children):
            assert replayed(world, job_id) is world.state(job_id)
        attempts = [event.attempt for event in world.events(parent[0])]
        assert attempts == [0, 0, 0, 1, 1, 1, 2, 2, 2, 2]

    # Acquire

    def test_acquire_takes_by_priority_then_age(self, world: StoreWorld) -> None:
        low = world.submit(2, priority=-5)
        middle = world.submit(2)
        high = world.submit(2, priority=7)
        session = world.open_session()
        assert [job.id for job in world.acquire(session.id, 5)] == [*high, *middle, low[0]]
        assert [job.id for job in world.acquire(session.id, 5)] == [low[1]]
        assert world.acquire(session.id, 5) == []

    def test_acquire_takes_only_what_fits(self, world: StoreWorld) -> None:
        long = world.submit(wall_time_min=50)
        wide = world.submit(num_nodes=3)
        ranks = world.submit(ranks_per_node=4)
        tagged = world.submit(tags={"a": "1", "b": "2"})
        half = world.submit(2, node_packing_count=2, tags={"a": "1"})
        session = world.open_session()

        def taken(**criteria: Any) -> list[int]:
            jobs = world.acquire(session.id, **criteria)
            for job in jobs:
                world.tell(session.id, job, LaunchEvent.RELEASED)
            return [job.id for job in jobs]

        everything = [*long, *wide, *ranks, *tagged, *half]
        assert taken(max_wall_time_min=49) == [*wide, *ranks, *tagged, *half]
        assert taken(max_wall_time_min=50) == everything
        assert taken(max_nodes_per_job=2) == [*long, *ranks, *tagged, *half]
        assert taken(serial_only=True) == [*long, *tagged, *half]
        assert taken(filter_tags={"a": "1"}) == [*tagged, *half]
        assert taken(filter_tags={"a": "1", "b": "2"}) == tagged
        assert taken(filter_tags={"a": "2"}) == []
        assert taken(max_aggregate_nodes=2.5) == [*long, *ranks, half[0]]
        assert taken(max_aggregate_nodes=0.5) == half[:1]
        assert taken(sort_by="long_large_first", max_jobs=3) == [*long, *wide, *ranks]
        assert taken() == everything

    def test_s6_no_job_is_granted_twice(self, world: StoreWorld) -> None:
        ids = world.submit(300, tags={"a": "b"})
        sessions = [world.open_session() for _ in range(6)]
        granted: list[int] = []

        def take(session_id: int, tagged: bool) -> None:
            while jobs := world.acquire(session_id, 7, filter_tags={"a": "b"} if tagged else {}):
                granted.extend(job.id for job in jobs)

        threads = [threading.Thread(target=take, args=(s.id, n % 2 == 0)) for n, s in enumerate(sessions)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert Counter(granted) == Counter(ids)
        assert {job.token for job in world.read(lambda tx: tx.jobs(ids))} == {1}

    def test_s6_an_unlock_of_what_is_not_held_is_refused(self, world: StoreWorld) -> None:
        (job_id,) = world.submit()
        session, other = world.open_session(), world.open_session()
        world.acquire(session.id)
        held = world.read(lambda tx: tx.held_jobs(session.id))
        assert [job.id for job in held] == [job_id]
        with pytest.raises(GuardFailed):
            world.write(lambda tx: tx.unlock(other.id, held))
        world.write(lambda tx: tx.unlock(session.id, held))
        assert world.read(lambda tx: tx.held_jobs(session.id)) == []
        with pytest.raises(GuardFailed):
            world.write(lambda tx: tx.unlock(session.id, held))

    def test_grants_are_seen_by_the_raw_protocol(self, world: StoreWorld) -> None:
        world.submit(3)
        session = world.open_session()
        criteria = AcquireCriteria(world.site.id, 2)
        rows = world.write(lambda tx: tx.acquire(criteria, session.id, 5))
        assert [(row.token, row.session_id, row.grant_seq) for row in rows] == [(1, session.id, 5)] * 2
        assert world.read(lambda tx: tx.granted_jobs(session.id, 5)) == rows
        assert world.read(lambda tx: tx.granted_jobs(session.id, 4)) == []

    def test_a_session_that_ended_acquires_nothing_ever(self, world: StoreWorld) -> None:
        world.submit()
        session = world.open_session()
        world.close(session.id)
        with pytest.raises(SessionEnded):
            world.acquire(session.id)
        with pytest.raises(SessionEnded):
            world.renew(session.id)

    # Lists

    def test_pages_cover_a_list_once_in_every_order(self, world: StoreWorld) -> None:
        for number in range(25):
            world.submit(workdir=f"w{number % 7}", tags={"k": str(number % 2)})
            world.clock.advance(1)
        world.cancel([3, 9, 11])
        for ordering in ("id", "-id", "last_update", "-last_update", "state", "-state", "workdir", "-workdir"):
            whole = [job.id for job in world.page(ordering=ordering)]
            paged = [job.id for at in range(0, 30, 4) for job in world.page(ordering=ordering, limit=4, offset=at)]
            assert paged == whole, ordering
            assert sorted(whole) == list(range(1, 26)), ordering
        for query in ({}, {"tags": ["k:1"]}, {"state": ["PREPROCESSED", "CANCELLED"]}, {"state__ne": "CANCELLED"}):
            whole = [job.id for job in world.page(**query)]
            assert whole == sorted(whole)
            assert world.count(**query) == len(whole)
            after, seen = 0, []
            while page := world.page(after=after, limit=4, **query):
                seen += [job.id for job in page]
                after = page[-1].id
            assert seen == whole, query

    def test_deleting_leaves_no_trace(self, world: StoreWorld) -> None:
        parent = world.submit(tags={"a": "b"})
        world.submit(2, tags={"a": "b"}, parent_ids=parent)
        assert world.delete().deleted == 3
        assert world.count() == 0
        assert world.counts() == {}
        assert world.count(tags=["a:b"]) == 0
        assert world.read(lambda tx: tx.children(parent)) == []
        assert world.read(lambda tx: tx.event_count(EventSelection(world.ada.user_id))) == 0
        assert world.read(lambda tx: tx.events(EventSelection(world.ada.user_id), PageWindow("timestamp"))) == []
        assert world.submit()[0] > 3, "the id of a deleted Job was given out again"

    def test_s14_selections_never_cross_owners(self, world: StoreWorld) -> None:
        eve = world.add_user("eve")
        site = world.add_site(eve)
        app = world.add_app(eve, site)
        mine = world.submit(2, tags={"a": "b"})
        world.submit_all([world.job(app_id=app.id, tags={"a": "b"})], eve)
        for selection in (
            JobSelection(eve.user_id, ids=tuple(mine)),
            JobSelection(eve.user_id, site_ids=(world.site.id,)),
            JobSelection(eve.user_id, app_ids=(world.app.id,)),
            JobSelection(eve.user_id, parent_ids=tuple(mine)),
            JobSelection(eve.user_id, batch_job_ids=(1,)),
        ):
            assert world.read(partial(_page_and_count, selection=selection)) == ([], 0)
        assert world.count(eve) == 1
        assert world.count(eve, tags=["a:b"]) == 1
        assert world.read(lambda tx: tx.event_count(EventSelection(eve.user_id))) == 3
        assert world.read(lambda tx: tx.event_count(EventSelection(eve.user_id, job_ids=tuple(mine)))) == 0

    def test_refusals_are_typed(self, world: StoreWorld) -> None:
        with pytest.raises(ServiceError):
            world.submit(workdir="../up")


def _jobs(tx: ReadTx, job_id: int) -> list[JobRow]:
    return tx.jobs([job_id])


def _page_and_count(tx: ReadTx, selection: JobSelection) -> tuple[list[JobRow], int]:
    return tx.job_page(selection, PageWindow()), tx.job_count(selection)


def _cancelled(job: HotJob) -> JobUpdate:
    step = Step(decide(job.facts, Request(JobEvent.CANCEL, Actor.USER)))
    return JobUpdate(job, [step], None, None, None, None)
