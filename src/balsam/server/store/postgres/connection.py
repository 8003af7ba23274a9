"""Connections to PostgreSQL: how they are made, how they run statements, and their errors in the service's words.

Used by the parts of this package. Promises: a dead network is noticed within seconds, on both sides, and so is a server
that takes statements and answers none; no text of an error has a password in it.
"""

import logging
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import psycopg
from psycopg import errors
from psycopg.abc import Buffer, PQGen
from psycopg.adapt import Dumper
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import TransactionStatus
from psycopg.types.numeric import Int8Dumper

from balsam.server.database_address import DatabaseAddress
from balsam.server.errors import Invalid, TooSlow, Unavailable
from balsam.server.store.postgres.many_rows import GUARD_SAID
from balsam.server.store.postgres.sql import translated
from balsam.server.store.protocol import Duplicate, GuardFailed
from balsam.server.store.sql_database import Cursor, Listed, Outcome

T = TypeVar("T")
log = logging.getLogger(__name__)

ADVISORY_LOCKS = 0x62616C73  # the first number of all our advisory locks
PATIENCE_SEC = 3.0  # a restart of the server takes less
CONNECT_SEC = 5
ANSWER_SEC = 5.0  # a statement's own limit is the server's to keep; one that says nothing so long after it is away

# What an idle or a silent connection means is decided here, not by a firewall in between.
_CLIENT = {
    "connect_timeout": CONNECT_SEC,
    "keepalives_idle": 5,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
# Statements are made to be driven by indexes and joined as they are written; a planner that knows nothing yet about a
# table that has just grown must not choose otherwise. Rows of a process that the network cut off are free in seconds.
_SESSION = {
    "synchronous_commit": "on",  # S1
    "timezone": "UTC",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "join_collapse_limit": "1",
    "jit": "off",
    "idle_in_transaction_session_timeout": "15s",
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "3",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "10s",
}


# Classes of SQLSTATE: connections, resources, an operator's intervention, input and output.
_SERVER_TROUBLE = frozenset({"08", "53", "57", "58"})


class Connection(psycopg.Connection[tuple[Any, ...]]):
    """A connection that is given up when a statement is not answered within `answer_sec` seconds (None: never).

    The network may be whole and the server, its disk or a pooler stand still: no time-out of TCP or of the server ends
    that.
    """

    answer_sec: float | None = CONNECT_SEC

    def wait(self, gen: PQGen[T], interval: float = 0.1, timeout: float | None = None) -> T:
        try:
            return super().wait(gen, interval, self.answer_sec if timeout is None else timeout)
        except psycopg.OperationalError as error:
            if error.sqlstate is None and self.pgconn.transaction_status == TransactionStatus.ACTIVE:
                self.pgconn.finish()
                raise psycopg.OperationalError("the server does not answer") from error
            raise


class ListedDumper(Dumper):
    """A Listed as an array whose type is known from where it stands."""

    def dump(self, obj: Listed) -> Buffer:
        if obj and obj.count(obj[0]) == len(obj):  # as most columns of alike rows are
            return ("{" + ",".join([_element(obj[0])] * len(obj)) + "}").encode()
        element = repr if set(map(type, obj)) <= _NUMBER else _element
        return ("{" + ",".join(map(element, obj)) + "}").encode()


_NUL = (errors.CharacterNotInRepertoire, errors.UntranslatableCharacter)
_NUMBER = {int}
_GUARD = re.compile(f'"({GUARD_SAID}[^"]*)"')


def _element(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return str(value)


class ConnectionLost(Exception):
    """The connection broke. What was not committed before is undone by the server."""


class Unreachable(Unavailable):
    """There is no server to talk to."""


class Collision(Exception):
    """Another process holds what this transaction wants to change; the same work can be done again."""


def connect(address: DatabaseAddress, purpose: str, *, limit_sec: float | None = None, **settings: str) -> Connection:
    """A connection without an open transaction. Raises Unreachable.

    `limit_sec`: what a statement may take on the server. None, for work on whole databases: as long as it takes.
    """
    try:
        options = {**_CLIENT, **conninfo_to_dict(address.text), "application_name": f"balsam {purpose}"}
        connection = Connection.connect(make_conninfo("", **options), autocommit=True, prepare_threshold=3)
    except psycopg.Error as error:
        raise Unreachable(f"the database {address} can't be reached: {_reason(error, address)}") from None
    try:
        connection.adapters.register_dumper(int, Int8Dumper)
        connection.adapters.register_dumper(Listed, ListedDumper)
        if limit_sec is not None:
            settings["statement_timeout"] = f"{round(1000 * limit_sec)}ms"
        wanted = [part for setting in (_SESSION | settings).items() for part in setting]
        calls = ", ".join(["set_config(%s, %s, false)"] * (len(wanted) // 2))
        connection.execute(f"SELECT {calls}".encode(), wanted)
    except psycopg.Error as error:
        connection.close()
        raise Unreachable(f"the database {address} can't be used: {_reason(error, address)}") from None
    connection.answer_sec = None if limit_sec is None else limit_sec + ANSWER_SEC
    return connection


def patiently(address: DatabaseAddress, purpose: str, *, limit_sec: float, **settings: str) -> Connection:
    """`connect`, with patience for a server that is starting again."""
    deadline = time.monotonic() + PATIENCE_SEC
    while True:
        try:
            return connect(address, purpose, limit_sec=limit_sec, **settings)
        except Unreachable:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.05)


def _reason(error: psycopg.Error, address: DatabaseAddress) -> str:
    """The first line of what the library says, without the password."""
    text = str(error).strip().partition("\n")[0].rpartition("failed: ")[2]
    return address.without_password(text)


@dataclass(frozen=True, slots=True)
class _Outcomes:
    """Of one statement with many values."""

    each: Sequence[Outcome]

    @property
    def rowcount(self) -> int:
        return sum(outcome.rowcount for outcome in self.each)


class PostgresDatabase:
    """A connection as the shared SQL uses it.

    `written` says whether anything but reading was asked of it, `failed` whether it refused a statement.
    """

    def __init__(self, connection: Connection, time_limit_sec: float = 0.0) -> None:
        self.connection = connection
        self._time_limit_sec = time_limit_sec
        self.written = self.failed = False

    def execute(self, sql: str, params: Sequence[Any] = (), /) -> Cursor:
        if not sql.startswith("SELECT"):
            self.written = True
        try:
            return self._ask(translated(sql), params)
        except psycopg.Error as error:
            raise self.spoken(error) from error

    def _ask(self, statement: bytes, params: Sequence[Any]) -> Cursor:
        return self.connection.execute(statement, params)

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]], /) -> Outcome:
        return _Outcomes([self.execute(sql, row) for row in rows])

    def copy(self, name: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Insert rows the quickest way there is."""
        self.written = True
        try:
            with self.connection.cursor().copy(f"COPY {name} ({', '.join(columns)}) FROM STDIN".encode()) as copy:
                for row in rows:
                    copy.write_row(row)
        except psycopg.Error as error:
            raise self.spoken(error) from error

    def spoken(self, error: psycopg.Error) -> Exception:
        """What the rest of the service understands; the error itself when it is a fault of ours."""
        self.failed = True
        if self.connection.closed:
            return ConnectionLost(str(error))
        if isinstance(error, errors.UniqueViolation):
            return Duplicate(error.diag.constraint_name)
        if isinstance(error, errors.ForeignKeyViolation):
            return GuardFailed(f"{error.diag.constraint_name}: a row that is referred to has gone")
        if isinstance(error, (errors.LockNotAvailable, errors.DeadlockDetected, errors.SerializationFailure)):
            return Collision(str(error))
        if isinstance(error, errors.InvalidTextRepresentation) and (said := _GUARD.search(str(error))):
            return GuardFailed(said[1])
        # psycopg's own word for a text, the server's for one in a list and for one in a JSON document.
        if isinstance(error, _NUL) or (isinstance(error, psycopg.DataError) and "NUL" in str(error)):
            return Invalid("a text has a NUL character, which can't be stored; leave it out")
        if isinstance(error, errors.QueryCanceled) and self._time_limit_sec:
            return TooSlow(self._time_limit_sec)
        return _refusal(error) or error


def _refusal(error: psycopg.Error) -> Unavailable | None:
    """What the caller is told when the server can't; None for a fault of our own in the SQL."""
    if isinstance(error, errors.DiskFull):
        return Unavailable("the database's disk is full; nothing was written. Free space and try again", status=507)
    if isinstance(error, errors.ReadOnlySqlTransaction):
        return Unavailable("the database is read-only; nothing was written")
    if (error.sqlstate or "")[:2] in _SERVER_TROUBLE:
        log.error("the database refused: %s (%s)", error, error.sqlstate)
        return Unavailable("the database can't do it now; try again")
    return None
