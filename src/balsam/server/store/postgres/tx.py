"""What PostgreSQL does in ways of its own: rows by COPY, many updates in one statement, locks on what is read.

Several processes write at the same time. A writing transaction (READ COMMITTED) locks each row that it reads in order
to decide something, so that the row is still the same when the decision is written (S4); an acquire passes over Jobs
that another process is granting at this moment (S6).
"""

# ruff: noqa: S608 - the texts are put together from names of our own; every value is a parameter

from collections.abc import Sequence
from itertools import islice
from typing import Any

from balsam.server.store.postgres.connection import PostgresDatabase
from balsam.server.store.records import AppRow, JobShape, NewJob, event_id
from balsam.server.store.selections import AcquireCriteria
from balsam.server.store.sql_database import listed
from balsam.server.store.sql_read import SqlReadTx
from balsam.server.store.sql_rows import (
    EVENT_COLUMNS,
    OWN_COLUMNS,
    SHAPE_COLUMNS,
    UPDATE_GUARD,
    UPDATED_COLUMNS,
    event_values,
)
from balsam.server.store.sql_runnable import fits_sql
from balsam.server.store.sql_write import Ids, SqlTx
from balsam.server.store.turns import Candidate

_TEXTS = frozenset({"failure"})  # columns of UPDATED_COLUMNS; all others are numbers
_NEW = [*UPDATED_COLUMNS, *(f"old_{column}" for column in UPDATE_GUARD), "old_session_id"]
_ARRAYS = ", ".join(f"?::{'text' if column in _TEXTS else 'bigint'}[]" for column in _NEW)
_UPDATE_JOBS = (
    f"UPDATE jobs SET {', '.join(f'{column} = u.{column}' for column in UPDATED_COLUMNS)}"
    f" FROM unnest({_ARRAYS}) AS u ({', '.join(_NEW)})"
    f" WHERE {' AND '.join(f'jobs.{column} = u.old_{column}' for column in UPDATE_GUARD)}"
    " AND jobs.session_id IS NOT DISTINCT FROM u.old_session_id"
)
_FITS = fits_sql("LEAST", "CAST(trunc({}) AS BIGINT)")
_LOCK = " FOR NO KEY UPDATE"
# Ids that nobody sees are taken in advance, to save a question for each.
_AHEAD = {"idempotency_keys": 64}


class PostgresIds:
    """Ids from the sequences of the database, which know no transaction: gaps, never twice, whatever fails."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._db = database
        self._ahead: dict[str, list[int]] = {}

    def take(self, name: str, count: int) -> Sequence[int]:
        ahead = self._ahead.setdefault(name, [])
        if len(ahead) < count:
            wanted = max(count, _AHEAD.get(name, 1))
            sql = f"SELECT nextval('{name}_ids') FROM generate_series(1, ?)"
            ahead += [row[0] for row in self._db.execute(sql, (wanted,))]
        taken = ahead[:count]
        del ahead[:count]
        return taken


class PostgresReadTx(SqlReadTx):
    """ReadTx over one of the readers' connections."""

    _fits = _FITS


class PostgresTx(SqlTx):
    """Tx over the writer's connection."""

    _job_lock = _LOCK
    _fits = _FITS
    _tagged = "runnable_tags AS t JOIN jobs ON jobs.id = t.job_id AND jobs.session_id IS NULL AND jobs.state IN (5, 10)"

    def __init__(self, database: PostgresDatabase, ids: Ids) -> None:
        super().__init__(database, ids)
        self._copy = database.copy
        self._first_events: list[tuple[Any, ...]] = []

    def _row_lock(self, kind: type[Any]) -> str:
        # Many submit Jobs of one App at the same time; it only must not disappear meanwhile.
        return " FOR KEY SHARE" if kind is AppRow else _LOCK

    def _insert_many(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        if rows:
            self._copy(name, columns, rows)

    def _insert_new_jobs(self, alike: Sequence[tuple[Sequence[Any], Sequence[Sequence[Any]]]]) -> None:
        """What is the same in all new Jobs is the default of its column."""
        rows = [(*own, *shared) for shared, many in alike for own in many]
        self._insert_many("jobs", (*OWN_COLUMNS, *SHAPE_COLUMNS), rows)

    def insert_jobs(self, jobs: Sequence[NewJob], at: int) -> list[int]:
        ids = super().insert_jobs(jobs, at)
        self._insert_many("events", EVENT_COLUMNS, self._first_events)
        self._first_events = []
        return ids

    def _insert_first_events(self, shape: JobShape, ids: Sequence[int], at: int) -> None:
        events = list(enumerate(event_values(shape.decision), 1))
        self._first_events += [
            (event_id(job_id, number), shape.owner_id, at, *values) for job_id in ids for number, values in events
        ]

    def _update_jobs(self, rows: Sequence[Sequence[Any]]) -> int:
        return self._db.execute(_UPDATE_JOBS, [listed(column) for column in zip(*rows, strict=True)]).rowcount

    def _delete_many(self, name: str, key: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        if not rows:
            return
        same = " AND ".join(f"{name}.{column} = u.{column}" for column in key)
        arrays = ", ".join(["?::bigint[]"] * len(key))
        sql = f"DELETE FROM {name} USING unnest({arrays}) AS u ({', '.join(key)}) WHERE {same}"
        self._db.execute(sql, [listed(column) for column in zip(*rows, strict=True)])

    def _candidates(self, criteria: AcquireCriteria, lot: int) -> Sequence[Candidate]:
        """Jobs that others are working on are passed over while there are enough; the last ones are waited for."""
        wanted = criteria.candidates
        found = list(islice(self._in_turns(criteria, wanted, lot, f"{_LOCK} OF jobs SKIP LOCKED"), wanted))
        if len(found) < wanted:
            found = list(islice(self._in_turns(criteria, wanted, lot, f"{_LOCK} OF jobs"), wanted))
        return found
