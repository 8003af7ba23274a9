"""A database of the oldest schema, with Jobs in every kind of state, is brought up and work goes on in it.

The rows are those of a life with the present code, without what the old schema has no columns for.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from balsam.domain.states import JobState
from balsam.server.database_address import DatabaseAddress
from balsam.server.store.postgres.migrate import migrate
from balsam.server.store.postgres.store import PostgresStore
from balsam.server.store.protocol import Store
from balsam.server.store.schema import migrations
from balsam.server.store.selections import JobSelection
from balsam.server.store.sqlite import SqliteStore
from balsam.testing.store_world import StoreWorld
from tests.conformance.histories import Rows, check, rows_of
from tests.server.test_backups import lived, of_file
from tests.server.test_migrations import FIRST_ON_POSTGRES
from tests.testbed.postgres import PostgresServer

pytestmark = pytest.mark.slow

Put = Callable[[str, Sequence[Any]], object]


def fill(source: Path, tables: dict[str, list[str]], put: Put, mark: str) -> None:
    """The rows of a file of the present schema, in tables that have these columns; 0 where there was no such column."""
    with closing(sqlite3.connect(source)) as db:
        for table, columns in tables.items():
            there = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
            taken = ", ".join(name if name in there else "0" for name in columns)
            marks = ", ".join([mark] * len(columns))
            for row in db.execute(f"SELECT {taken} FROM {table}" if there else "SELECT 1 WHERE 0"):
                put(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})", row)


def a_life(path: Path) -> tuple[StoreWorld, dict[int, JobState]]:
    """Its Jobs by id, with their states."""
    with closing(SqliteStore(path)) as store:
        world = lived(store, 120)
        return world, states(world)


def states(world: StoreWorld) -> dict[int, JobState]:
    ids = world.read(lambda tx: tx.job_ids(JobSelection(world.ada.user_id), 0, 10_000))
    return {job.id: job.state for job in world.read(lambda tx: tx.jobs(ids))}


def goes_on(store: Store, world: StoreWorld, before: dict[int, JobState], rows: Rows) -> None:
    """Everything is as it was, is what its history says, and can be worked with."""
    again = StoreWorld.__new__(StoreWorld)
    again.__dict__.update({**world.__dict__, "store": store})
    assert states(again) == before and len(set(before.values())) > 4
    check(again, rows)
    session = again.open_session().id
    new = again.submit(3, tags={"a": "1"})
    granted = [job.id for job in again.acquire(session, 1000)]
    runnable = [job_id for job_id, state in before.items() if state in (JobState.PREPROCESSED, JobState.RESTART_READY)]
    assert set(granted) >= {*new, *runnable}
    check(again, rows)


def test_a_file(tmp_path: Path) -> None:
    world, before = a_life(tmp_path / "present")
    old = tmp_path / "balsam.sqlite"
    with closing(sqlite3.connect(old)) as db:
        db.executescript(f"{migrations('sqlite')[0].script}; PRAGMA user_version = 1;")
        names = [row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        tables = {name: [row[1] for row in db.execute(f"PRAGMA table_info({name})")] for name in names}
        fill(tmp_path / "present", tables, db.execute, "?")
        db.commit()
    with closing(SqliteStore(old)) as store:
        goes_on(store, world, before, of_file(old))


def test_a_server(tmp_path: Path, postgres: PostgresServer) -> None:
    world, before = a_life(tmp_path / "present")
    with postgres.database() as name:
        address = DatabaseAddress(postgres.url(name))
        migrate(address, migrations("postgres")[:FIRST_ON_POSTGRES])
        with psycopg.connect(address.text) as db:
            found = db.execute(
                "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public' "
                "AND table_name <> 'schema_migrations' ORDER BY table_name, ordinal_position"
            ).fetchall()
            tables: dict[str, list[str]] = {}
            for table, column in found:
                tables.setdefault(table, []).append(column)
            db.execute("SET session_replication_role = replica")  # the order of the tables does not matter then
            fill(tmp_path / "present", tables, lambda sql, row: db.execute(sql.encode(), row), "%s")
            for (sequence,) in db.execute("SELECT sequencename FROM pg_sequences").fetchall():
                db.execute("SELECT setval(%s::regclass, 100000)", (sequence,))
        newest = migrations("postgres")[-1].number
        assert migrate(address) == (FIRST_ON_POSTGRES, newest)
        with closing(PostgresStore(address)) as store:
            goes_on(store, world, before, rows_of(address))
