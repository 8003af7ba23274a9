"""A whole PostgreSQL database for backup, restore and copy (store/whole.py)."""

# ruff: noqa: S608 - the texts are put together from names of our own; every value is a parameter

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg

from balsam.server.database_address import DatabaseAddress
from balsam.server.errors import Unavailable
from balsam.server.store.postgres.connection import Connection, ConnectionLost, PostgresDatabase, connect
from balsam.server.store.whole import AT_ONCE, Table

# Whole tables are read here, and nobody waits for it.
_SETTINGS = {"enable_seqscan": "on", "idle_in_transaction_session_timeout": "0", "statement_timeout": "0"}
# The rows of all processes together.
_COUNTS = "SELECT owner_id, site_id, app_id, state, sum(n)::bigint FROM state_counts GROUP BY 1, 2, 3, 4"
_OTHERS = """SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
    AND application_name LIKE 'balsam %'"""
_LEAVING_SEC = 3.0


class WholeDatabase:
    """A database on a server."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def rows(self, table: Table) -> Iterator[tuple[Any, ...]]:
        with self._connection.cursor(name="whole") as cursor:
            cursor.itersize = AT_ONCE
            cursor.execute((_COUNTS if table.name == "state_counts" else table.select).encode())
            yield from cursor

    def fill(self, table: Table, rows: Iterable[tuple[Any, ...]]) -> None:
        PostgresDatabase(self._connection).copy(table.name, [f'"{column}"' for column in table.columns], rows)

    def next_ids(self) -> dict[str, int]:
        """Of the tables that ever gave one out."""
        found = self._connection.execute("SELECT relname FROM pg_class WHERE relkind = 'S' AND relname LIKE '%\\_ids'")
        following: dict[str, int] = {}
        for (name,) in found.fetchall():
            row = self._connection.execute(f"SELECT last_value, is_called FROM {name}".encode()).fetchone()
            if row is not None and row != (1, False):
                following[name.removesuffix("_ids")] = row[0] + row[1]
        return following

    def set_next_ids(self, ids: Mapping[str, int]) -> None:
        for name, following in ids.items():
            self._connection.execute("SELECT setval(%s::regclass, %s, false)", (f"{name}_ids", following))


@contextmanager
def reading(address: DatabaseAddress) -> Iterator[WholeDatabase]:
    """One state of a database that is in use."""
    with _spoken(), connect(address, "backup", limit_sec=None, **_SETTINGS) as connection:
        connection.execute(b"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        yield WholeDatabase(connection)


@contextmanager
def filling(address: DatabaseAddress, tables: Sequence[Table]) -> Iterator[WholeDatabase]:
    """A database that must be empty and that no service uses; all or nothing is written."""
    with _spoken(), connect(address, "restore", limit_sec=None, **_SETTINGS) as connection:
        if not _is_alone(connection):
            raise Unavailable(f"a service uses the database {address}; stop it first")
        with connection.transaction():
            for table in tables:
                if connection.execute(f"SELECT 1 FROM {table.name} LIMIT 1".encode()).fetchone() is not None:
                    raise Unavailable(f"the database {address} has rows in {table.name}; give one that is empty")
            yield WholeDatabase(connection)
        connection.execute(b"ANALYZE")


def _is_alone(connection: Connection) -> bool:
    """Whether nobody uses the database. Who has just left, as the migration before this, is listed a moment more."""
    until = time.monotonic() + _LEAVING_SEC
    while connection.execute(_OTHERS.encode()).fetchone() != (0,):
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


@contextmanager
def _spoken() -> Iterator[None]:
    try:
        yield
    except (ConnectionLost, psycopg.OperationalError) as error:
        raise Unavailable(f"the connection to the database was lost, and nothing was done: {error}") from error
