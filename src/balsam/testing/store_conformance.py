"""What every store has to pass, for authors of stores; needs pytest.

Subclass `StoreConformance` in a test module and give it a `store` fixture that yields an empty Store; pytest then
collects the tests. They know the store only through its protocol and the use cases. `FaultyStore` wraps any store and
lets a write happen whose caller is told that it timed out.
"""
# ruff: noqa: S101 -- tests that are shipped

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

import pytest

from balsam.domain.roles import Role
from balsam.domain.states import JobState
from balsam.server.errors import Invalid, Unavailable
from balsam.server.store.protocol import Duplicate, ReadTx, Store, Tx, Wake
from balsam.server.store.records import (
    AuditRow,
    JobRow,
    MembershipRow,
    SessionRow,
    ShareRow,
    SiteRow,
    TeamRow,
    TokenRow,
    UserRow,
)
from balsam.server.store.selections import EventSelection
from balsam.server.usecases.idempotent import once
from balsam.server.usecases.submit import submit_jobs
from balsam.testing.faulty_store import FaultyStore, WriteTimedOut
from balsam.testing.store_conformance_backlog import BacklogRules
from balsam.testing.store_conformance_files import FileRules
from balsam.testing.store_conformance_jobs import JobRules, replayed
from balsam.testing.store_conformance_lists import ListRules
from balsam.testing.store_conformance_order import OrderRules
from balsam.testing.store_conformance_selections import SelectionRules
from balsam.testing.store_conformance_turns import TurnRules
from balsam.testing.store_world import StoreWorld, run
from balsam.wire.jobs import JobsCreate, JobsCreated
from balsam.wire.sessions import LaunchEvent

T = TypeVar("T")


class StoreConformance(JobRules, BacklogRules, ListRules, SelectionRules, FileRules, TurnRules, OrderRules):
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

    def test_the_newest_rows_come_first_and_in_pages(self, store: Store) -> None:
        def add(tx: Tx) -> list[int]:
            ids = [tx.new_id(AuditRow) for _ in range(6)]
            for number, row_id in enumerate(ids):
                event = "odd" if number % 2 else "even"
                tx.put(AuditRow(row_id, number, event, 1, "ada", 2, "::1", "r", "GET /x", {"n": [number]}))
            return ids

        ids = store.write_sync(add)
        read = store.read_sync
        assert [row.id for row in read(lambda tx: tx.newest(AuditRow, 2**63 - 1, 4))] == ids[:1:-1]
        assert [row.id for row in read(lambda tx: tx.newest(AuditRow, ids[2], 4))] == ids[1::-1]
        odd = read(lambda tx: tx.newest(AuditRow, ids[5], 9, event="odd", actor="ada"))
        assert [row.id for row in odd] == [ids[3], ids[1]]
        assert odd[0] == AuditRow(ids[3], 3, "odd", 1, "ada", 2, "::1", "r", "GET /x", {"n": [3]})

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

    def test_teams_and_shares_come_back_and_are_unique(self, world: StoreWorld) -> None:
        team = world.team(world.ada, world.add_user("eve"))
        for what in ({"site_id": world.site.id}, {"campaign": "water"}, {"campaign": "ice"}):
            world.share(world.ada, team, Role.VIEWER, **what)
        found = world.read(lambda tx: tx.find(ShareRow, team_id=team.id))
        assert [(one.site_id, one.campaign, one.role) for one in found] == [
            (world.site.id, None, Role.VIEWER),
            (None, "water", Role.VIEWER),
            (None, "ice", Role.VIEWER),
        ]
        [member] = world.read(lambda tx: tx.find(MembershipRow, team_id=team.id, is_leader=False))
        [kept] = world.read(lambda tx: tx.find(TeamRow, founder_id=world.ada.user_id))
        rows: list[ShareRow | MembershipRow | TeamRow] = [*found, member, kept]
        for row in rows:
            with pytest.raises(Duplicate):
                world.write(partial(_put_again, row=row))

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
            tx.wake(Wake("site_jobs", 1, "states", {"jobs": [[5, "RUNNING", None]]}))
            tx.wake(Wake("site", 3, "cancel", {"job_ids": [7]}))
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
            Wake("site_jobs", 1, "states", {"jobs": [[5, "RUNNING", None]]}),
            Wake("site", 3, "cancel", {"job_ids": [7]}),
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


def _put_again(tx: Tx, row: ShareRow | MembershipRow | TeamRow) -> None:
    tx.put(replace(row, id=tx.new_id(type(row))))


def _jobs(tx: ReadTx, job_id: int) -> list[JobRow]:
    return tx.jobs([job_id])
