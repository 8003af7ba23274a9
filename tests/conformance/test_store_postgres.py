"""The store in PostgreSQL passes the suite of every store, and plays the same histories as the model."""

import asyncio
from collections.abc import Iterator
from contextlib import closing

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from balsam.server.database_address import DatabaseAddress
from balsam.server.errors import NotFound, TooSlow, Unavailable
from balsam.server.store.postgres import groups, tx
from balsam.server.store.postgres.store import PostgresStore
from balsam.server.store.protocol import ReadTx, Store, Tx, Wake
from balsam.testing.store_conformance import StoreConformance
from balsam.testing.store_machine import StoreMachine
from balsam.testing.store_world import StoreWorld
from tests.testbed.postgres import PostgresServer

pytestmark = pytest.mark.timeout(300)  # hundreds of statements that the server has never seen


@pytest.fixture(scope="module")
def address(postgres: PostgresServer) -> Iterator[DatabaseAddress]:
    with postgres.migrated() as address:
        yield address


@pytest.fixture(scope="module")
def debian_address(debian_postgres: PostgresServer) -> Iterator[DatabaseAddress]:
    with debian_postgres.migrated() as address:
        yield address


@pytest.fixture(autouse=True)
def places_move_on_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test here grants a thousand Jobs."""
    monkeypatch.setattr(tx, "MANY_PASSED", 1)


class TestPostgresStore(StoreConformance):
    @pytest.fixture
    def store(self, postgres: PostgresServer, address: DatabaseAddress) -> Iterator[PostgresStore]:
        postgres.empty(address)
        with closing(PostgresStore(address)) as store:
            yield store


@pytest.mark.slow
class TestPostgresStoreOfDebian(StoreConformance):
    @pytest.fixture
    def store(self, debian_postgres: PostgresServer, debian_address: DatabaseAddress) -> Iterator[PostgresStore]:
        debian_postgres.empty(debian_address)
        with closing(PostgresStore(debian_address)) as store:
            yield store


@pytest.mark.slow
def test_the_store_answers_every_history_as_the_model_does(postgres: PostgresServer, address: DatabaseAddress) -> None:
    with closing(PostgresStore(address)) as store:

        class Machine(StoreMachine):
            def make_store(self) -> Store:
                postgres.empty(address)
                store._groups.hear([Wake("wakes", 0, "lost", {})])  # ids begin anew, which nothing else can do
                return store

            def teardown(self) -> None:
                """The store is used again."""

        run_state_machine_as_test(
            Machine,
            settings=settings(
                max_examples=12, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
            ),
        )


def test_what_is_refused_or_only_read_leaves_statements_prepared(postgres: PostgresServer) -> None:
    """psycopg has the server forget all of a connection's with each ROLLBACK, and every statement is parsed again."""

    def prepared(tx: ReadTx) -> int:
        found: int = tx._db.execute("SELECT count(*) FROM pg_prepared_statements").fetchone()[0]  # type: ignore[attr-defined]
        return found

    with postgres.store() as store:
        world = StoreWorld(store)
        for _ in range(6):
            world.get(*world.submit())
            world.page()
            with pytest.raises(NotFound):
                world.get(99)
            with pytest.raises(NotFound):
                world.renew(99)
        assert world.read(prepared) > 2
        assert world.write(prepared) > 4


def test_s16_a_statement_that_takes_too_long_is_given_up(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the server, which is told once for each connection; the connection is as good as before."""
    monkeypatch.setattr(groups, "WRITE_LIMIT_SEC", 0.5)

    def sleep(tx: ReadTx | Tx) -> None:
        tx._db.execute("SELECT pg_sleep(60)")  # type: ignore[union-attr]

    def connection(tx: ReadTx | Tx) -> int:
        pid: int = tx._db.execute("SELECT pg_backend_pid()").fetchone()[0]  # type: ignore[union-attr]
        return pid

    with postgres.migrated() as address, closing(PostgresStore(address, read_limit_sec=0.5)) as store:
        reader, writer = store.read_sync(connection), store.write_sync(connection)
        with pytest.raises(TooSlow, match=r"given up after 0\.5 s.*Narrow it by"):
            store.read_sync(sleep)
        with pytest.raises(Unavailable):
            store.write_sync(sleep)
        assert (store.read_sync(connection), store.write_sync(connection)) == (reader, writer)


def test_s16_the_server_has_no_processes_help_with_a_read_while_others_read(postgres: PostgresServer) -> None:
    def helpers(tx: ReadTx) -> int:
        return int(tx._db.execute("SHOW max_parallel_workers_per_gather").fetchone()[0])  # type: ignore[attr-defined]

    async def read(store: PostgresStore) -> list[int]:
        found = [await store.read(helpers, 1), await store.read(helpers, 1)]
        return found + [await store.read(helpers, account) for account in (2, 1, 2, 0)]

    with postgres.migrated() as address, closing(PostgresStore(address)) as store:
        usual = store.read_sync(helpers)
        assert usual > 0
        assert asyncio.run(read(store)) == [usual, usual, 0, 0, 0, usual]
