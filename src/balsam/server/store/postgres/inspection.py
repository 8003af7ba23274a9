"""What `balsam server doctor` wants to know of a PostgreSQL database: read over one connection, nothing is changed."""

from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import psycopg

from balsam.domain.clock import Clock
from balsam.server.database_address import DatabaseAddress
from balsam.server.errors import Unavailable
from balsam.server.store.postgres.connection import Connection, connect
from balsam.server.store.postgres.migrate import recorded_version
from balsam.server.store.records import moment

# Of one process: one that writes, four that read, one that listens, one that tells.
CONNECTIONS_PER_PROCESS = 7
_FACTS = b"""SELECT pg_is_in_recovery() OR current_setting('default_transaction_read_only') = 'on',
    least(
        current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int,
        (SELECT nullif(rolconnlimit, -1) FROM pg_roles WHERE rolname = current_user),
        (SELECT nullif(datconnlimit, -1) FROM pg_database WHERE datname = current_database())
    ),
    (SELECT count(*) FROM pg_stat_activity
        WHERE backend_type = 'client backend' AND application_name NOT LIKE 'balsam %')"""


@dataclass(frozen=True, slots=True)
class DatabaseFacts:
    """`schema` 0: no tables of ours. `oldest_code`: the schema that a program must know to work with this one.

    `connections`: how many the service may have, by the smallest limit that counts for it; `others`: how many are held
    by other programs. `ahead`: by how much the server's clock is before ours. `newest`: when the last event was
    recorded.
    """

    server_version: int
    encoding: str
    is_read_only: bool
    schema: int
    oldest_code: int
    connections: int
    others: int
    ahead: timedelta
    newest: datetime | None


def inspect_database(address: DatabaseAddress, clock: Clock) -> DatabaseFacts:
    """Ask the server. Raises Unavailable when it can't be reached or asked."""
    with closing(connect(address, "doctor")) as connection:
        try:
            return _facts(connection, clock)
        except psycopg.Error as error:
            raise Unavailable(
                f"the database {address} can't be asked: {address.without_password(str(error))}"
            ) from error


def _facts(connection: Connection, clock: Clock) -> DatabaseFacts:
    before = clock.now()
    there = _one(connection, b"SELECT clock_timestamp()")[0]
    ahead = there - (before + (clock.now() - before) / 2)
    is_read_only, connections, others = _one(connection, _FACTS)
    schema, oldest_code = recorded_version(connection)
    newest = None
    if schema:
        newest = connection.execute("SELECT timestamp FROM events ORDER BY id DESC LIMIT 1").fetchone()
    info = connection.info
    return DatabaseFacts(
        server_version=info.server_version,
        encoding=info.parameter_status("server_encoding") or "",
        is_read_only=is_read_only,
        schema=schema,
        oldest_code=oldest_code,
        connections=connections,
        others=others,
        ahead=ahead,
        newest=None if newest is None else moment(newest[0]),
    )


def _one(connection: Connection, sql: bytes) -> tuple[Any, ...]:
    row = connection.execute(sql).fetchone()
    if row is None:
        raise psycopg.InternalError("a SELECT of one row gave none")
    return row
