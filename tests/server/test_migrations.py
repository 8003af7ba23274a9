"""Migrations: what may stand in a file, the same tables in both databases, and what the runner promises."""

from __future__ import annotations

import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from balsam.server.database_address import DatabaseAddress
from balsam.server.errors import Unavailable
from balsam.server.store.postgres import migrate as module
from balsam.server.store.postgres.migrate import SchemaTooOld, check_schema, migrate
from balsam.server.store.postgres.store import PostgresStore
from balsam.server.store.schema import Migration, SchemaTooNew, migrations
from balsam.server.store.sqlite import SqliteStore
from balsam.testing.store_world import StoreWorld
from tests.testbed.postgres import PostgresServer

# Everything up to here was carried out before there was code on PostgreSQL that could be disturbed.
FIRST_ON_POSTGRES = 9
CONTRACTIONS = (
    r"\bDROP (TABLE|COLUMN|CONSTRAINT)\b",
    r"\bRENAME\b",
    r"\bALTER (COLUMN )?\w+ (SET DATA )?TYPE\b",
    r"\bSET NOT NULL\b",
    r"\bADD (CONSTRAINT|CHECK|UNIQUE|FOREIGN|PRIMARY)\b",
    r"\bADD (COLUMN )?\w+ (?![^,;]*DEFAULT)[^,;]*NOT NULL",
    r"\bCREATE UNIQUE INDEX\b",
)


def contractions(script: str) -> list[str]:
    code = re.sub(r"--[^\n]*", "", script)
    return [found[0] for pattern in CONTRACTIONS for found in re.finditer(pattern, code, re.IGNORECASE)]


# The files


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_the_numbers_have_no_gaps_and_no_doubles(database: str) -> None:
    steps = migrations(database)
    assert [step.number for step in steps] == list(range(1, len(steps) + 1))


def test_a_step_that_older_code_can_not_work_with_says_so() -> None:
    for step in migrations("postgres"):
        found = contractions(step.script)
        if step.number > FIRST_ON_POSTGRES and not step.oldest_code:
            assert not found, f"{step.number} {step.name}: {found}: see migrations/README.md about contractions"
        assert step.oldest_code <= step.number


@pytest.mark.parametrize(
    "script",
    [
        "ALTER TABLE jobs DROP COLUMN data;",
        "ALTER TABLE jobs RENAME COLUMN data TO more;",
        "ALTER TABLE jobs ALTER COLUMN data TYPE jsonb;",
        "ALTER TABLE jobs ADD COLUMN colour TEXT NOT NULL;",
        "DROP TABLE results;",
        "ALTER TABLE jobs ADD CONSTRAINT sane CHECK (priority < 5);",
    ],
)
def test_contractions_are_recognised(script: str) -> None:
    assert contractions(script)


def test_expansions_are_allowed() -> None:
    assert not contractions("CREATE TABLE x (id INTEGER PRIMARY KEY, name TEXT NOT NULL); CREATE INDEX y ON x (name);")
    assert not contractions(
        "ALTER TABLE jobs ADD COLUMN colour TEXT; ALTER TABLE jobs ADD hue INTEGER NOT NULL DEFAULT 0;"
    )


def test_both_databases_have_the_same_tables_and_columns(postgres: PostgresServer, tmp_path: Path) -> None:
    SqliteStore(tmp_path / "balsam.sqlite").close()
    with closing(sqlite3.connect(tmp_path / "balsam.sqlite")) as db:
        names = [row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        ours = {(name, row[1]) for name in names for row in db.execute(f"PRAGMA table_info({name})")}
    with postgres.migrated() as address, psycopg.connect(address.text) as db:
        sql = "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public'"
        theirs = set(db.execute(sql))
    theirs = {pair for pair in theirs if pair[0] not in ("schema_migrations", "notes")}
    assert theirs - ours == {("state_counts", "shard")}
    assert {table for table, _ in ours - theirs} == {"sequences"}


# The runner


@pytest.fixture
def address(postgres: PostgresServer) -> Iterator[DatabaseAddress]:
    """Of a database that has the first step only."""
    with postgres.database() as name:
        address = DatabaseAddress(postgres.url(name))
        assert migrate(address, [FIRST]) == (0, 1)
        yield address


FIRST = Migration(1, "first", "CREATE TABLE things (id INTEGER PRIMARY KEY, name TEXT)", "")
SECOND = Migration(2, "second", "ALTER TABLE things ADD COLUMN colour TEXT", "")
THIRD = Migration(3, "third", "ALTER TABLE things DROP COLUMN name", "", oldest_code=2)


def columns(address: DatabaseAddress) -> list[str]:
    with psycopg.connect(address.text) as db:
        return [column.name for column in db.execute("SELECT * FROM things").description or ()]


def test_an_empty_database_is_filled_once(postgres: PostgresServer) -> None:
    with postgres.database() as name:
        address = DatabaseAddress(postgres.url(name))
        newest = migrations("postgres")[-1].number
        with pytest.raises(SchemaTooOld, match="has no tables of ours yet; run: balsam server migrate"):
            PostgresStore(address)
        assert migrate(address) == (0, newest)
        assert migrate(address) == (newest, newest)
        with closing(PostgresStore(address)) as store:
            assert StoreWorld(store).submit(2) == [1, 2]


def test_an_older_schema_is_refused_until_it_is_brought_up(address: DatabaseAddress) -> None:
    with pytest.raises(SchemaTooOld, match="has schema 1, this version needs 2; run: balsam server migrate"):
        check_schema(address, [FIRST, SECOND])
    assert migrate(address, [FIRST, SECOND]) == (1, 2)
    check_schema(address, [FIRST, SECOND])


def test_what_new_indexes_are_on_is_counted(address: DatabaseAddress) -> None:
    """Else a plan that needs numbers of an expression is a guess until the server's autovacuum comes."""
    with psycopg.connect(address.text, autocommit=True) as db:
        db.execute("INSERT INTO things SELECT id, 'x' FROM generate_series(1, 100) AS id")
        index = Migration(2, "by_less", "CREATE INDEX things_by_less ON things ((-id))", "postgres")
        assert migrate(address, [FIRST, index]) == (1, 2)
        assert db.execute("SELECT n_distinct FROM pg_stats WHERE tablename = 'things_by_less'").fetchone() == (-1,)


def test_older_code_starts_on_what_a_newer_version_only_added_to(address: DatabaseAddress) -> None:
    migrate(address, [FIRST, SECOND])
    check_schema(address, [FIRST])
    assert migrate(address, [FIRST]) == (2, 2)


def test_older_code_refuses_what_it_can_not_work_with(address: DatabaseAddress) -> None:
    migrate(address, [FIRST, SECOND, THIRD])
    check_schema(address, [FIRST, SECOND])
    for refused in (check_schema, migrate):
        with pytest.raises(SchemaTooNew, match="upgrade"):
            refused(address, [FIRST])


def test_a_step_that_fails_leaves_nothing(address: DatabaseAddress) -> None:
    bad = replace(SECOND, script=f"{SECOND.script}; SELECT 1/0")
    with pytest.raises(psycopg.errors.DivisionByZero):
        migrate(address, [FIRST, bad])
    assert columns(address) == ["id", "name"]
    assert migrate(address, [FIRST, SECOND]) == (1, 2)
    assert columns(address) == ["id", "name", "colour"]


def test_two_processes_do_not_migrate_at_once(address: DatabaseAddress) -> None:
    slow = replace(SECOND, script=f"{SECOND.script}; SELECT pg_sleep(0.5)")
    outcomes: list[tuple[int, int]] = []
    threads = [threading.Thread(target=lambda: outcomes.append(migrate(address, [FIRST, slow]))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == [(1, 2), (2, 2), (2, 2), (2, 2)]


def test_a_step_outside_of_a_transaction_can_be_repeated(address: DatabaseAddress) -> None:
    script = "DROP INDEX CONCURRENTLY IF EXISTS by_name; CREATE INDEX CONCURRENTLY by_name ON things (name);"
    apart = Migration(2, "apart", script, "postgres", outside_transaction=True)
    interrupted = replace(apart, script=f"{script} SELECT 1/0;")
    with pytest.raises(psycopg.errors.DivisionByZero):
        migrate(address, [FIRST, interrupted])
    assert migrate(address, [FIRST, apart]) == (1, 2)
    with psycopg.connect(address.text) as db:
        assert db.execute("SELECT indisvalid FROM pg_index WHERE indexrelid = 'by_name'::regclass").fetchone() == (
            True,
        )


def test_the_marks_of_a_file_are_read() -> None:
    steps = {step.name: step for step in migrations("postgres")}
    assert steps["several_processes"].only_for == "postgres"
    assert not steps["initial"].outside_transaction
    assert {step.name: step.script for step in migrations("sqlite")}["several_processes"] == ""


def held(address: DatabaseAddress, seconds: float) -> Callable[[], None]:
    """Somebody reads in a long transaction."""
    with_lock = threading.Event()

    def hold() -> None:
        with psycopg.connect(address.text) as db:
            db.execute("SELECT * FROM things")
            with_lock.set()
            time.sleep(seconds)

    thread = threading.Thread(target=hold)
    thread.start()
    with_lock.wait(20)
    return thread.join


@pytest.mark.slow
def test_a_step_that_waits_for_a_lock_stands_in_nobody_s_way(address: DatabaseAddress) -> None:
    """Without its time limit the step would queue for its lock, and everybody else behind it."""
    join = held(address, 4.0)
    migrating = threading.Thread(target=migrate, args=(address, [FIRST, SECOND]))
    migrating.start()
    waits: list[float] = []
    with psycopg.connect(address.text, autocommit=True) as db:
        while migrating.is_alive():
            begin = time.monotonic()
            db.execute("SELECT count(*) FROM things")
            waits.append(time.monotonic() - begin)
            time.sleep(0.01)
    join()
    assert columns(address) == ["id", "name", "colour"]
    assert max(waits) < 2.5, "readers waited for as long as the long transaction took"


def test_a_step_that_never_gets_its_lock_says_what_to_do(
    address: DatabaseAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOCK_WAIT", "50ms")
    monkeypatch.setattr(module, "PATIENCE_SEC", 0.3)
    join = held(address, 3.0)
    with pytest.raises(Unavailable, match=r"step 2 \(second\) found no moment without others"):
        migrate(address, [FIRST, SECOND])
    join()
    assert columns(address) == ["id", "name"]


def test_a_database_in_another_encoding_is_refused(postgres: PostgresServer) -> None:
    postgres.execute("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0")
    try:
        with pytest.raises(Unavailable, match=r"encoding LATIN1.*createdb -E UTF8"):
            migrate(DatabaseAddress(postgres.url("latin")))
    finally:
        postgres.execute("DROP DATABASE latin")
