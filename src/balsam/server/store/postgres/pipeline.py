"""The writing connection of a process: statements are sent as they come, and waited for when an answer is looked at.

Used by groups.py and tx.py. A commit of a dozen statements waits for the server twice or a little more, which works on
one of them while this process prepares the next. libpq is spoken to without psycopg's cursors, which cost more than
most of the statements and forget, after an error, which of them the server has prepared. Promises: what a statement was
expected to change is known before the COMMIT is sent (S6), and so is the transaction's number; an error is raised by
whatever looks at an answer next, or by the commit.
"""

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import psycopg
from psycopg.abc import PQGen
from psycopg.adapt import PyFormat, Transformer
from psycopg.errors import error_from_result
from psycopg.pq import ConnStatus, ExecStatus, Format, PipelineStatus
from psycopg.pq.abc import PGresult
from psycopg.waiting import Ready, Wait

from balsam.server.store.postgres.connection import Connection, PostgresDatabase
from balsam.server.store.postgres.sql import numbered
from balsam.server.store.protocol import GuardFailed
from balsam.server.store.sql_database import Outcome

_BEGIN = b"BEGIN ISOLATION LEVEL READ COMMITTED"
_NUMBER = b"SELECT pg_current_xact_id()::text"
_WAIT_FOR_LOCKS = b"SELECT set_config('lock_timeout', $1, true)"
_SEEN_OFTEN = 3  # after which a statement is prepared
_MOST_SEEN, _MOST_PREPARED = 2000, 200
_GOOD = (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK)

_Key = tuple[bytes, tuple[int, ...]]  # a statement, and the types of its values


class Answer:
    """What came of a statement; looking at it waits for it."""

    __slots__ = ("_database", "_rest", "key", "result")

    def __init__(self, database: "PipelinedDatabase", key: _Key | None = None) -> None:
        self._database = database
        self._rest: Iterator[tuple[Any, ...]] | None = None
        self.key = key  # of the statement that it is to prepare
        self.result: PGresult | None = None

    @property
    def rowcount(self) -> int:
        return self._known().command_tuples or 0

    def fetchone(self) -> tuple[Any, ...] | None:
        return next(iter(self), None)

    def fetchall(self) -> list[tuple[Any, ...]]:
        return list(iter(self))

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        if self._rest is None:
            self._rest = iter(self._database.rows(self._known()))
        return self._rest

    def _known(self) -> PGresult:
        if self.result is None:
            self._database.settle()
        if self.result is None:
            raise RuntimeError("the transaction of this statement was undone")
        return self.result


class PipelinedDatabase(PostgresDatabase):
    """A connection as the shared SQL uses it, inside a transaction that is begun and ended here."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._libpq = connection.pgconn
        self._adapter = Transformer(connection)
        self._sent: deque[Answer] = deque()
        self._expected: list[tuple[Outcome, int, str]] = []
        self._number: Answer | None = None
        self._seen: Counter[_Key] = Counter()
        self._names: dict[_Key, bytes] = {}
        self._last_name = 0

    def begin(self, lock_wait: str | None = None) -> None:
        """Begin a transaction. `lock_wait`: how long it waits for each lock; by default as long as the connection."""
        self._send(_BEGIN)
        if lock_wait is not None:
            self._send(_WAIT_FOR_LOCKS, (lock_wait,))
        self._number = self._send(_NUMBER)

    def expect(self, outcome: Outcome, number: int, said: str) -> None:
        """Raise GuardFailed, at the latest before the commit, unless a statement changed so many rows. `said` has two
        places: how many it did not change, of how many."""
        self._expected.append((outcome, number, said))

    def number(self) -> str:
        """By which the server knows the transaction; everything is answered that a commit depends on."""
        if self._expected:
            self.settle()
        row = None if self._number is None else self._number.fetchone()
        if row is None:
            raise RuntimeError("there is no transaction")
        return str(row[0])

    def commit(self) -> None:
        """Raises what psycopg raises: of the commit, or of a statement that was sent before and not answered yet."""
        answer = self._send(b"COMMIT")
        self._hear()
        if answer.result is None or answer.result.command_status != b"COMMIT":
            # The server answers so when a statement had failed and nobody minded: nothing is written (S1).
            raise psycopg.errors.InFailedSqlTransaction("the transaction was undone, as one of its statements failed")

    def undo(self) -> None:
        """Whatever state the connection is in. One that can't be brought to its begin is closed."""
        self._expected = []
        try:
            with suppress(psycopg.Error):
                self._hear()  # of what went wrong meanwhile, somebody was told
            if not self.connection.closed:
                self._send(b"ROLLBACK")
                self._hear()
        except psycopg.Error:
            self.connection.close()

    def copy(self, name: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Not in a pipeline: what was sent before is waited for."""
        self.settle()
        self._libpq.exit_pipeline_mode()
        super().copy(name, columns, rows)

    def settle(self) -> None:
        """Wait for the answers to all that was sent. Raises the first error, in the service's words."""
        try:
            self._hear()
        except psycopg.Error as error:
            raise self.spoken(error) from error
        expected, self._expected = self._expected, []
        for outcome, number, said in expected:
            if outcome.rowcount != number:
                raise GuardFailed(said.format(number - outcome.rowcount, number))

    def rows(self, result: PGresult) -> list[tuple[Any, ...]]:
        """What an answer says."""
        self._adapter.set_pgresult(result)
        return self._adapter.load_rows(0, result.ntuples, tuple)

    def _ask(self, statement: bytes, params: Sequence[Any]) -> Answer:
        answer = self._send(numbered(statement), params)
        if not statement.startswith(b"SELECT"):
            self._libpq.flush()  # the server can begin
        return answer

    def _send(self, statement: bytes, params: Sequence[Any] = ()) -> Answer:
        values = self._adapter.dump_sequence(params, [PyFormat.AUTO] * len(params))
        formats, types = self._adapter.formats, self._adapter.types or ()
        if self._libpq.pipeline_status == PipelineStatus.OFF:
            self._libpq.enter_pipeline_mode()
        name = self._prepared((statement, types))
        if name is None:
            self._libpq.send_query_params(statement, values, types, formats, Format.BINARY)
        else:
            self._libpq.send_query_prepared(name, values, formats, Format.BINARY)
        answer = Answer(self)
        self._sent.append(answer)
        return answer

    def _prepared(self, key: _Key) -> bytes | None:
        """The name of the statement, which is being prepared when it was seen often; else None."""
        if (name := self._names.get(key)) is not None:
            return name
        self._seen[key] += 1
        if self._seen[key] <= _SEEN_OFTEN:
            if len(self._seen) > _MOST_SEEN:
                self._seen.clear()
            return None
        if len(self._names) >= _MOST_PREPARED:
            self._forget(next(iter(self._names)))
        self._last_name += 1
        self._names[key] = name = f"w{self._last_name}".encode()
        self._libpq.send_prepare(name, *key)
        self._sent.append(Answer(self, key))
        return name

    def _forget(self, key: _Key) -> None:
        self._libpq.send_query_params(b"DEALLOCATE " + self._names.pop(key), None)
        self._sent.append(Answer(self))

    def _hear(self) -> None:
        """Wait for all answers. Raises the first error; the server passed over what came after it."""
        if not self._sent:
            return
        self._libpq.pipeline_sync()
        error: psycopg.Error | None = None
        sent, self._sent = self._sent, deque()
        for answer in sent:
            result = self._next_result()
            if result.status in _GOOD:
                answer.result = result
                continue
            if answer.key is not None:
                self._names.pop(answer.key, None)
            error = error or error_from_result(result, self.connection.info.encoding)
        self._next_result()  # the server is where we are
        if error is not None:
            raise error

    def _next_result(self) -> PGresult:
        """Each answer has a limit of its own, as each statement has."""
        while True:
            if self._libpq.is_busy():
                self.connection.wait(self._arrival())
            if (result := self._libpq.get_result()) is not None:
                return result  # None comes between the answers
            if self._libpq.status == ConnStatus.BAD:
                raise psycopg.OperationalError("the connection is lost")

    def _arrival(self) -> PQGen[None]:
        while self._libpq.is_busy():
            ready = yield Wait.RW if self._libpq.flush() else Wait.R
            if ready & Ready.R:
                self._libpq.consume_input()
