"""What a commit on PostgreSQL waits for, and whose an error is that is heard of late."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from typing import Any

import psycopg
import pytest

from balsam.server.database_address import DatabaseAddress
from balsam.server.store.postgres import groups, pipeline
from balsam.server.store.postgres.connection import Unreachable
from balsam.server.store.postgres.store import PostgresStore
from balsam.server.store.protocol import Duplicate, GuardFailed, Tx, Wake
from balsam.server.store.records import HotJob, UserRow
from balsam.server.store.sql_database import listed
from balsam.server.store.writer import Item
from balsam.testing.store_world import StoreWorld
from balsam.wire.sessions import LaunchEvent as E
from tests.testbed.postgres import PostgresServer

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def address(postgres: PostgresServer) -> Iterator[DatabaseAddress]:
    with postgres.migrated() as address:
        yield address


@pytest.fixture
def store(postgres: PostgresServer, address: DatabaseAddress) -> Iterator[PostgresStore]:
    postgres.empty(address)
    with closing(PostgresStore(address)) as store:
        yield store


@pytest.fixture(autouse=True)
def a_group_is_never_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is, on a machine under load, is cut in two, and nothing here would be about one group."""
    monkeypatch.setattr(groups, "GROUP_SEC", 60.0)


@pytest.fixture
def world(store: PostgresStore) -> StoreWorld:
    return StoreWorld(store)


def adding(world: StoreWorld, name: str) -> Callable[[Tx], str]:
    """A write whose only fault the database finds, in a statement that is not waited for."""

    def add(tx: Tx) -> str:
        row = tx.get(UserRow, world.ada.user_id)
        assert row is not None
        tx.put(replace(row, id=tx.new_id(UserRow), username=name))
        return name

    return add


def written(store: PostgresStore, *writes: Callable[[Tx], Any]) -> list[Item]:
    """The writes as one group."""
    items = [Item(write, 0, Future(), None) for write in writes]
    assert store._groups.write_group(items) == len(items)
    return items


def names(world: StoreWorld) -> set[str]:
    return {row.username for row in world.read(lambda tx: tx.find(UserRow))}


def test_an_error_that_is_heard_of_late_is_its_own_item_s(store: PostgresStore, world: StoreWorld) -> None:
    items = written(store, adding(world, "bob"), adding(world, "ada"), adding(world, "cyd"))
    assert [item.result for item in items if item.error is None] == ["bob", "cyd"]
    assert isinstance(items[1].error, Duplicate)
    assert names(world) == {"ada", "bob", "cyd"}


def test_an_error_of_the_last_statement_is_told_and_the_connection_goes_on(
    store: PostgresStore, world: StoreWorld
) -> None:
    connection = store._groups._connected().connection
    for _ in range(2):
        with pytest.raises(Duplicate):
            world.write(adding(world, "ada"))
    assert world.write(adding(world, "dan")) == "dan"
    assert names(world) == {"ada", "dan"}
    assert store._groups._connected().connection is connection


def test_s1_what_is_written_by_a_second_run_is_not_answered_with_the_error_of_the_first(
    store: PostgresStore, world: StoreWorld, address: DatabaseAddress
) -> None:
    """The connection is lost after an item has failed; another process has made room meanwhile."""
    runs = []

    def once_refused(tx: Tx) -> str:
        runs.append(1)
        if len(runs) == 1:
            raise LookupError("not there yet")
        return adding(world, "bob")(tx)

    def lose_the_connection(tx: Any) -> None:
        if len(runs) == 1:
            (pid,) = tx._db.execute("SELECT pg_backend_pid()").fetchone()
            with psycopg.connect(address.text) as db:
                db.execute("SELECT pg_terminate_backend(%s)", (pid,))

    items = written(store, once_refused, lose_the_connection)
    assert names(world) == {"ada", "bob"}
    assert [(item.result, item.error) for item in items] == [("bob", None), (None, None)]


def test_who_is_refused_without_a_try_says_nothing_new_of_the_server(store: PostgresStore) -> None:
    """It may be back since the last try: who asked after that has one of its own."""
    early = time.monotonic()
    store._outage.note(Unreachable("the database is away"))
    later = time.monotonic()
    store._tell(Wake("files", 1, "question", {}), early)
    store._outage.check(later)


def test_s6_what_a_statement_was_to_change_is_known_before_the_commit(world: StoreWorld) -> None:
    """Here by the very last statement, behind which nothing is read."""
    (job_id,) = world.submit()

    def unlock(tx: Tx) -> None:
        jobs: dict[int, HotJob] = tx.hot_jobs([job_id])
        tx.put(replace(tx.find(UserRow)[0], username="eve"))
        tx.unlock(77, list(jobs.values()))

    with pytest.raises(GuardFailed, match="S6: 1 of 1 Jobs were not held by Session 77"):
        world.write(unlock)
    assert names(world) == {"ada"}


def test_s1_what_goes_on_after_an_error_is_not_acknowledged(world: StoreWorld) -> None:
    """The server answers its COMMIT, by undoing the transaction."""

    def heedless(tx: Tx) -> str:
        adding(world, "ada")(tx)
        with suppress(Duplicate):
            tx.find(UserRow)
        return "done"

    with pytest.raises(psycopg.errors.InFailedSqlTransaction, match="was undone"):
        world.write(heedless)
    assert world.write(adding(world, "dan")) == "dan"
    assert names(world) == {"ada", "dan"}


def touch(tx: Any) -> None:
    tx._db.execute("UPDATE users SET username = username WHERE username = ?", ("ada",))


def test_what_the_server_did_not_come_to_prepare_is_prepared_the_next_time(world: StoreWorld) -> None:
    """After an error it passes over everything to the end of the pipeline."""

    def refused(tx: Tx) -> None:
        adding(world, "ada")(tx)
        touch(tx)

    for _ in range(pipeline._SEEN_OFTEN):
        world.write(touch)
    for _ in range(2):
        with pytest.raises(Duplicate):
            world.write(refused)
        world.write(touch)


def test_no_more_statements_are_prepared_than_a_connection_may_have(
    store: PostgresStore, world: StoreWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "_MOST_PREPARED", 5)
    monkeypatch.setattr(pipeline, "_MOST_SEEN", 40)

    def ask(tx: Any, number: int) -> int:
        found: int = tx._db.execute(f"SELECT {number} + ?::bigint", (1,)).fetchone()[0]
        return found

    for _ in range(pipeline._SEEN_OFTEN + 2):
        assert [world.write(partial(ask, number=number)) for number in range(12)] == list(range(1, 13))
    prepared = "SELECT count(*) FROM pg_prepared_statements"
    assert 0 < world.write(lambda tx: tx._db.execute(prepared).fetchone()[0]) <= 5 + 1


def test_a_list_is_one_value_of_a_statement(world: StoreWorld) -> None:
    lists: list[tuple[str, list[Any]]] = [
        ("text", []),
        ("text", ["a"]),
        ("text", ['say "no" \\ {,}', 'say "no" \\ {,}']),
        ("text", ["NULL", None, "", "100 %s"]),
        ("bigint", [None, None]),
        ("bigint", [7, 7, 7]),
        ("bigint", [1, None, -(2**63)]),
        ("float8", [0.5, 1, 0.5]),
    ]

    def said(tx: Any) -> list[Any]:
        sql = "SELECT ?::{}[], '100 %' LIKE ?"
        return [tx._db.execute(sql.format(kind), (listed(values), "100 %")).fetchone() for kind, values in lists]

    assert world.write(said) == [(values, True) for _, values in lists]


def test_many_rows_go_their_own_way_within_a_transaction(world: StoreWorld) -> None:
    """COPY, which a pipeline can't take, between statements that are sent ahead."""
    ids = world.submit(400, tags={"a": "1", "b": "2"})
    session = world.open_session().id
    jobs = world.acquire(session, 400)
    world.send(session, *[world.record(session, job, event) for job in jobs for event in (E.STARTED, E.RUN_DONE)])
    assert world.count(state=["JOB_FINISHED"]) == 400
    assert [event.to_state for event in world.events(ids[7])][-1] == "JOB_FINISHED"
