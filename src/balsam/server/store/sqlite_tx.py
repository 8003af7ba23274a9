"""What SQLite does in ways of its own: ids from the one writer, rows a hundred to the statement, the guarded update."""

# ruff: noqa: S608 - the texts are put together from names of our own; every value is a parameter

import sqlite3
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

from balsam.server.store.protocol import Duplicate
from balsam.server.store.records import EVENT_SEQ_BITS, JobShape, Row
from balsam.server.store.sql_rows import (
    NEW_JOB,
    OWN_COLUMNS,
    SHAPE_COLUMNS,
    UPDATE_GUARD,
    UPDATED_COLUMNS,
    event_values,
)
from balsam.server.store.sql_write import SqlTx

_ROWS_AT_ONCE = 100
_UPDATE_JOB = (
    f"UPDATE jobs SET {', '.join(f'{column} = ?' for column in UPDATED_COLUMNS)}"
    f" WHERE {' AND '.join(f'{column} = ?' for column in UPDATE_GUARD)} AND session_id IS ?"
)
_NEW_JOBS = f"""WITH shared AS (VALUES ({", ".join("?" * len(SHAPE_COLUMNS))})), own AS (VALUES {{}})
    INSERT INTO jobs ({", ".join((*OWN_COLUMNS, *SHAPE_COLUMNS, *NEW_JOB))})
    SELECT own.*, shared.*, {", ".join(NEW_JOB.values())} FROM shared CROSS JOIN own"""
_FIRST_EVENTS = f"""WITH RECURSIVE new(id) AS (SELECT ? UNION ALL SELECT id + 1 FROM new WHERE id < ?),
    step(number, reported_at, attempt, source, target, actor, data) AS (VALUES {{}})
    INSERT INTO events (id, owner_id, timestamp, reported_at, attempt, from_state, to_state, actor, data)
    SELECT (new.id << {EVENT_SEQ_BITS}) | step.number, ?, ?, step.reported_at, step.attempt,
    step.source, step.target, step.actor, step.data FROM new CROSS JOIN step"""


class Sequences:
    """Ids of all tables. Only the writer gives out ids; `save` writes what was given out with the commit."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._next: dict[str, int] = dict(db.execute("SELECT name, next FROM sequences").fetchall())
        self._moved: set[str] = set()

    def take(self, name: str, count: int) -> range:
        first = self._next.get(name, 1)
        self._next[name] = first + count
        self._moved.add(name)
        return range(first, first + count)

    def save(self, db: sqlite3.Connection) -> None:
        if self._moved:
            rows = [(name, self._next[name]) for name in self._moved]
            db.executemany("INSERT INTO sequences VALUES (?, ?) ON CONFLICT DO UPDATE SET next = excluded.next", rows)

    def saved(self) -> None:
        self._moved.clear()


class SqliteTx(SqlTx):
    """Tx over the writer's connection to the file."""

    def put_all(self, rows: Sequence[Row]) -> None:
        try:
            super().put_all(rows)
        except sqlite3.IntegrityError as error:
            if error.sqlite_errorname == "SQLITE_CONSTRAINT_UNIQUE":
                raise Duplicate(str(error)) from error
            raise

    def _insert_many(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        insert = f"INSERT INTO {name} ({', '.join(columns)}) VALUES {{}}"
        for marks, values in _at_once(rows):
            self._db.execute(insert.format(marks), values)

    def _insert_new_jobs(self, alike: Sequence[tuple[Sequence[Any], Sequence[Sequence[Any]]]]) -> None:
        """What Jobs have in common is bound once for each statement, not for each row."""
        for shared, own in alike:
            for marks, values in _at_once(own):
                self._db.execute(_NEW_JOBS.format(marks), [*shared, *values])

    def _insert_first_events(self, shape: JobShape, ids: Sequence[int], at: int) -> None:
        """Written once, multiplied by SQLite."""
        events = event_values(shape.decision)
        sql = _FIRST_EVENTS.format(", ".join(["(?, ?, ?, ?, ?, ?, ?)"] * len(events)))
        numbered = chain.from_iterable((number, *values) for number, values in enumerate(events, 1))
        self._db.execute(sql, (ids[0], ids[-1], *numbered, shape.owner_id, at))

    def _update_jobs(self, rows: Sequence[Sequence[Any]]) -> None:
        said = "S4: {} of {} Jobs were not as they were read"
        self._expect(self._db.executemany(_UPDATE_JOB, rows), len(rows), said)


def _at_once(rows: Sequence[Sequence[Any]]) -> Iterator[tuple[str, list[Any]]]:
    """Marks and values of each statement. A hundred rows to one: half the cost of one each, and a hundredth of the
    thread switches."""
    whole = len(rows) - len(rows) % _ROWS_AT_ONCE
    pieces = [rows[start : start + _ROWS_AT_ONCE] for start in range(0, whole, _ROWS_AT_ONCE)]
    for piece in (*pieces, *([row] for row in rows[whole:])):
        marks = f"({', '.join('?' * len(piece[0]))})"
        yield ", ".join([marks] * len(piece)), list(chain.from_iterable(piece))
