"""Bringing a PostgreSQL database to the schema of this version, while code of the version before goes on working.

`balsam server migrate` calls `migrate`; each start of a service calls `check_schema`. Promises: one process at a time,
each step in a transaction of its own (but for what PostgreSQL only does outside of one), recorded in
`schema_migrations`; a step waits for locks a moment at a time, so that it stops nobody who works. Tables that had rows
are counted afterwards.
"""

import logging
import time
from collections.abc import Sequence
from contextlib import closing

from psycopg import errors

from balsam.server.database_address import DatabaseAddress
from balsam.server.errors import Unavailable
from balsam.server.store.postgres.connection import ADVISORY_LOCKS, Connection, connect
from balsam.server.store.postgres.sql import translated_migration
from balsam.server.store.schema import Migration, SchemaTooNew, SchemaTooOld, migrations

log = logging.getLogger(__name__)

OLDEST_SERVER = 130_000
LOCK_WAIT = "1s"
PATIENCE_SEC = 300.0
_RECORDS = """CREATE TABLE IF NOT EXISTS schema_migrations (
    number BIGINT PRIMARY KEY,
    name TEXT NOT NULL,
    oldest_code BIGINT NOT NULL,
    applied_at TIMESTAMPTZ NOT NULL DEFAULT now()
)"""
_TABLES = """SELECT string_agg(quote_ident(relname), ', ') FROM pg_class WHERE relkind = 'r' AND relnamespace = (
    SELECT relnamespace FROM pg_class WHERE oid = 'schema_migrations'::regclass)"""
_RECORD = "INSERT INTO schema_migrations (number, name, oldest_code) VALUES (%s, %s, %s)"


def check_schema(address: DatabaseAddress, steps: Sequence[Migration] | None = None) -> None:
    """Raise SchemaTooOld or SchemaTooNew unless this version can work on the database."""
    newest = (steps or migrations("postgres"))[-1].number
    with closing(connect(address, "check")) as connection:
        _check_server(connection)
        version, oldest_code = recorded_version(connection)
    if version < newest:
        has = f"has schema {version}, this version needs {newest}" if version else "has no tables of ours yet"
        raise SchemaTooOld(f"the database {address} {has}; run: balsam server migrate")
    if oldest_code > newest:
        raise SchemaTooNew(
            f"the database {address} has schema {version}, which needs a newer version: upgrade the service"
        )


def schema_version(address: DatabaseAddress) -> int:
    """Which schema a database has. Raises SchemaTooOld when it has none, SchemaTooNew when this version knows less."""
    newest = migrations("postgres")[-1].number
    with closing(connect(address, "check")) as connection:
        version, _ = recorded_version(connection)
    if version == 0:
        raise SchemaTooOld(f"the database {address} has no tables of ours")
    if version > newest:
        raise SchemaTooNew(f"the database {address} has schema {version}, this version knows {newest}: upgrade first")
    return version


def fill_if_empty(address: DatabaseAddress) -> None:
    """Make the tables in a database that has none of ours. One of an older version is left as it is."""
    with closing(connect(address, "check")) as connection:
        version, _ = recorded_version(connection)
    if version == 0:
        migrate(address)


def migrate(address: DatabaseAddress, steps: Sequence[Migration] | None = None) -> tuple[int, int]:
    """Carry out what is missing. Returns the version before and after; both are the same when there was nothing to do.

    Raises SchemaTooNew when a newer version did more than this one knows.
    """
    steps = steps or migrations("postgres")
    with closing(connect(address, "migrate", lock_timeout=LOCK_WAIT)) as connection:
        _check_server(connection)
        _only_one(connection)
        connection.execute(_RECORDS)
        before, oldest_code = recorded_version(connection)
        newest = steps[-1].number
        if oldest_code > newest:
            raise SchemaTooNew(
                f"the database {address} has schema {before}, this version knows {newest}: upgrade first"
            )
        for step in steps:
            if step.number > before:
                _carry_out(connection, step)
                log.info("the database has schema %d (%s) now", step.number, step.name)
        if 0 < before < newest:
            _count(connection)
        return before, max(before, newest)


def _check_server(connection: Connection) -> None:
    info = connection.info
    if info.server_version < OLDEST_SERVER:
        raise Unavailable(f"the server is PostgreSQL {info.server_version // 10_000}; 13 or newer is needed")
    if (encoding := info.parameter_status("server_encoding")) != "UTF8":
        raise Unavailable(
            f"the database has the encoding {encoding}; make one with: createdb -E UTF8 -T template0 NAME"
        )


def _only_one(connection: Connection) -> None:
    """Wait for another process that migrates; the lock ends with the connection."""
    connection.execute("SET lock_timeout = 0")
    connection.execute(f"SELECT pg_advisory_lock({ADVISORY_LOCKS}, 0)".encode())
    connection.execute(f"SET lock_timeout = '{LOCK_WAIT}'".encode())


def recorded_version(connection: Connection) -> tuple[int, int]:
    """Number of the last step, and the oldest code that can work with the outcome."""
    found = connection.execute("SELECT to_regclass('schema_migrations') IS NOT NULL").fetchone()
    if found is None or not found[0]:
        return 0, 0
    sql = "SELECT coalesce(max(number), 0), coalesce(max(oldest_code), 0) FROM schema_migrations"
    row = connection.execute(sql).fetchone()
    return (0, 0) if row is None else (row[0], row[1])


def _carry_out(connection: Connection, step: Migration) -> None:
    script = step.script if step.only_for else translated_migration(step.script)
    deadline = time.monotonic() + PATIENCE_SEC
    while True:
        try:
            if step.outside_transaction:
                _outside(connection, step, script)
            else:
                _in_transaction(connection, step, script)
            return
        except (errors.LockNotAvailable, errors.DeadlockDetected):
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"step {step.number} ({step.name}) found no moment without others for {PATIENCE_SEC:.0f} s, and was"
                    " not done. Look for long transactions (pg_stat_activity), and run it again"
                ) from None
        time.sleep(0.1)


def _in_transaction(connection: Connection, step: Migration, script: str) -> None:
    with connection.transaction():
        if script.strip():
            connection.execute(script.encode())
        connection.execute(_RECORD, (step.number, step.name, step.oldest_code))


def _count(connection: Connection) -> None:
    """What a new index is on (an expression, say) is known to the planner only once its table is counted."""
    found = connection.execute(_TABLES).fetchone()
    if found is not None and found[0]:
        connection.execute(f"ANALYZE (SKIP_LOCKED) {found[0]}".encode())


def _outside(connection: Connection, step: Migration, script: str) -> None:
    """One statement after another; each can be repeated after an interruption (migrations/README.md)."""
    for statement in script.split(";"):
        if statement.strip():
            connection.execute(statement.encode())
    connection.execute(_RECORD, (step.number, step.name, step.oldest_code))
