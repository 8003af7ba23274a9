"""Tables that have grown are counted by the service: autovacuum, which is off here, comes a minute later."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing

import psycopg
import pytest

from balsam.server.database_address import DatabaseAddress
from balsam.server.store.postgres import statistics
from balsam.server.store.postgres.connection import PostgresDatabase, connect
from balsam.server.store.postgres.statistics import Statistics
from balsam.server.store.postgres.store import PostgresStore
from balsam.testing.store_world import StoreWorld
from tests.testbed.postgres import PostgresServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

JOBS = 2_000
DEADLINE_SEC = 60.0


@pytest.fixture
def address(postgres: PostgresServer) -> Iterator[DatabaseAddress]:
    with postgres.migrated() as address:
        with psycopg.connect(address.text, autocommit=True) as db:
            for name in statistics.TABLES:
                db.execute(f"ALTER TABLE {name} SET (autovacuum_enabled = off)".encode())
        yield address


def counted(address: DatabaseAddress, name: str = "jobs") -> float:
    """How many rows the planner believes a table to have; -1 (0 before PostgreSQL 14): never counted."""
    with psycopg.connect(address.text) as db:
        row = db.execute("SELECT reltuples FROM pg_class WHERE oid = %s::regclass", (name,)).fetchone()
    assert row is not None
    return float(row[0])


def wait_until_counted(address: DatabaseAddress, rows: float) -> None:
    deadline = time.monotonic() + DEADLINE_SEC
    while counted(address) < rows:
        assert time.monotonic() < deadline, f"the planner knows of {counted(address)} rows"
        time.sleep(0.05)


def test_a_table_that_has_grown_is_counted_within_seconds(address: DatabaseAddress) -> None:
    with closing(PostgresStore(address)) as store:
        world = StoreWorld(store)
        assert counted(address) <= 0
        world.submit(JOBS)
        wait_until_counted(address, 1)
        world.submit(5 * JOBS)
        wait_until_counted(address, 3 * JOBS)
        assert counted(address, "events") > 0


def test_what_has_not_changed_is_not_counted_again(address: DatabaseAddress, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, closing(PostgresStore(address)) as store:
        patch.setattr(Statistics, "look", lambda self, database: None)
        StoreWorld(store).submit(JOBS)  # what a connection wrote is known of when it ends, at the latest
    begun: list[list[str]] = []
    count = Statistics._count
    monkeypatch.setattr(Statistics, "_count", lambda self, grown: (begun.append(sorted(grown)), count(self, grown)))
    ours = Statistics(address)
    deadline = time.monotonic() + DEADLINE_SEC
    with closing(connect(address, "test")) as connection:
        while not begun:
            assert time.monotonic() < deadline
            ours.look(PostgresDatabase(connection))
        assert ours._thread is not None
        ours._thread.join(DEADLINE_SEC)
        ours.look(PostgresDatabase(connection))
    ours.close()
    assert begun == [["events", "jobs"]]
    assert counted(address) == JOBS


def test_rows_that_are_not_committed_have_nothing_counted(
    address: DatabaseAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They can't be: the planner would take the table for empty, however large its file is."""
    with monkeypatch.context() as patch, closing(PostgresStore(address)) as store:
        patch.setattr(Statistics, "look", lambda self, database: None)
        StoreWorld(store)
    begun: list[list[str]] = []
    monkeypatch.setattr(Statistics, "_count", lambda self, grown: begun.append(sorted(grown)))
    ours = Statistics(address)
    with psycopg.connect(address.text) as db, closing(connect(address, "test")) as connection:
        columns = "id, owner_id, timestamp, attempt, from_state, to_state, actor, data"
        values = "id, 1, 0, 0, 1, 2, 1, '{}' FROM generate_series(1, 50000) AS id"
        db.execute(f"INSERT INTO events ({columns}) SELECT {values}".encode())
        ours.look(PostgresDatabase(connection))
        db.rollback()
    ours.close()
    assert not begun
