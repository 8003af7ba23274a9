"""One read: a transaction that sees one state, and costs no more ways to the server than it has statements.

It begins with its first statement, in one message, and nobody waits for its end: who takes the connection next hears
that it is over. Used by store.py.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import psycopg
from psycopg.generators import fetch_many
from psycopg.pq import TransactionStatus

from balsam.server.store.postgres.connection import Connection, ConnectionLost, PostgresDatabase
from balsam.server.store.sql_database import Cursor

_BEGIN = b"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
# The server has no processes help with a read while others read: one thread of ours is one core of its (S16).
_NO_HELP = b"SET LOCAL max_parallel_workers_per_gather = 0"


class ReadDatabase(PostgresDatabase):
    """A connection for the length of one read. `in_company`: others read as well."""

    def __init__(self, connection: Connection, time_limit_sec: float, *, in_company: bool) -> None:
        super().__init__(connection, time_limit_sec)
        self._to_begin: tuple[bytes, ...] = (_BEGIN, _NO_HELP) if in_company else (_BEGIN,)
        _hear_of_end(connection)

    def _ask(self, statement: bytes, params: Sequence[Any]) -> Cursor:
        if not self._to_begin:
            return super()._ask(statement, params)
        begin, self._to_begin = self._to_begin, ()
        try:
            with self.connection.pipeline():
                for first in begin:
                    self.connection.execute(first)
                cursor = self.connection.execute(statement, params)
        except psycopg.Error:
            self._roll_back()
            raise
        return cursor

    def _roll_back(self) -> None:
        """With a ROLLBACK psycopg forgets what it takes for prepared: the server may have skipped it."""
        with suppress(psycopg.Error):
            if not self.connection.closed:
                self.connection.execute(b"ROLLBACK")

    def end(self) -> None:
        """Send the end. No ROLLBACK, or no read would ever be prepared."""
        pgconn = self.connection.pgconn
        if pgconn.transaction_status in (TransactionStatus.INTRANS, TransactionStatus.INERROR):
            with suppress(psycopg.Error):  # a connection that is lost is noticed by who takes it next
                pgconn.send_query(b"COMMIT")
                pgconn.flush()


def _hear_of_end(connection: Connection) -> None:
    """Take the answer to the end of the read before. Raises ConnectionLost."""
    if connection.pgconn.transaction_status == TransactionStatus.IDLE:
        return
    try:
        connection.wait(fetch_many(connection.pgconn))
    except psycopg.Error as error:
        connection.close()
        raise ConnectionLost(str(error)) from error
    if connection.pgconn.transaction_status != TransactionStatus.IDLE:
        connection.close()
        raise ConnectionLost("the last read of the connection did not end")
