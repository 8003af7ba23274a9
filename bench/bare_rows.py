"""The rows of the floors, without any rule of ours: a Job's of thirteen columns with three indexes, and its first three
events with an index, in SQLite or in PostgreSQL, each as fast as one connection of Python writes them durably. One of
the three is a GIN index of the tags in PostgreSQL, for pages by tag; the product has a table of tags in its place.

SQLite: a file with WAL and synchronous=FULL, `executemany`. PostgreSQL: many Jobs go by COPY, while the server takes
them in, and it makes their events itself; a single Job and its events are one prepared statement, one way there and
back. That was the fastest of what was tried with psycopg 3: events by COPY, COPY of texts put together by hand, binary
COPY and pipelines were not faster. Ids are counted here: nobody else writes.
"""

import json
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

SCHEMA = """
CREATE TABLE job (
    id BIGINT PRIMARY KEY, site BIGINT, app BIGINT, state INTEGER, workdir TEXT, tags {json}, parameters {json},
    nodes INTEGER, ranks INTEGER, packing INTEGER, wall_time INTEGER, session BIGINT, updated BIGINT
);
CREATE INDEX by_state ON job (site, state, id);
CREATE INDEX by_app ON job (app, id);
CREATE INDEX {third};
CREATE TABLE event (id BIGINT PRIMARY KEY, job BIGINT, source INTEGER, target INTEGER, at BIGINT);
CREATE INDEX by_job ON event (job);
"""
_SQLITE_JOB = "INSERT INTO job VALUES (?, 1, 1, 4, ?, '{}', ?, 1, 1, 1, 0, NULL, 0)"
_SQLITE_EVENT = "INSERT INTO event VALUES (?, ?, ?, ?, 0)"
_POSTGRES_EVENTS = """INSERT INTO event SELECT id * 4 + step, id, step, step + 1, 0
    FROM generate_series(%s::bigint, %s::bigint) AS id, generate_series(1, 3) AS step"""
_POSTGRES_ONE = """WITH new AS (INSERT INTO job VALUES (%s, 1, 1, 4, %s, '{}', %s, 1, 1, 1, 0, NULL, 0) RETURNING id)
    INSERT INTO event SELECT id * 4 + step, id, step, step + 1, 0 FROM new, generate_series(1, 3) AS step"""

Job = Mapping[str, Any]  # with its `workdir` and `parameters`


class Rows(Protocol):
    """An empty table of Jobs."""

    def insert(self, jobs: Sequence[Job]) -> Sequence[int]:
        """The ids of new Jobs, once they are on disk with their events."""
        ...

    def close(self) -> None: ...


def open_rows(directory: Path, database: str = "") -> "closing[Rows]":
    """In a file in the directory, or in a PostgreSQL database, given by its address."""
    return closing(PostgresRows(database) if database else SqliteRows(directory / "bare.db"))


class SqliteRows:
    """In a new file."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        schema = SCHEMA.format(json="TEXT", third="by_update ON job (updated)")
        # Only with this name of its type is the key the row's own number, without an index beside it.
        self._db.executescript(schema.replace("BIGINT PRIMARY KEY", "INTEGER PRIMARY KEY"))
        self._last = 0

    def insert(self, jobs: Sequence[Job]) -> Sequence[int]:
        ids = range(self._last + 1, self._last + 1 + len(jobs))
        self._db.execute("BEGIN IMMEDIATE")
        rows = [(number, job["workdir"], json.dumps(job["parameters"])) for number, job in zip(ids, jobs, strict=True)]
        self._db.executemany(_SQLITE_JOB, rows)
        events = [(number * 4 + step, number, step, step + 1) for number in ids for step in (1, 2, 3)]
        self._db.executemany(_SQLITE_EVENT, events)
        self._db.execute("COMMIT")
        self._last += len(jobs)
        return ids

    def close(self) -> None:
        self._db.close()


class PostgresRows:
    """In a schema of its own, which is made anew."""

    def __init__(self, database: str) -> None:
        import psycopg

        self._db = psycopg.connect(database, autocommit=True)
        schema = "DROP SCHEMA IF EXISTS bare CASCADE; CREATE SCHEMA bare; SET search_path TO bare;"
        self._db.execute((schema + SCHEMA.format(json="JSONB", third="by_tags ON job USING gin (tags)")).encode())
        self._last = 0

    def insert(self, jobs: Sequence[Job]) -> Sequence[int]:
        ids = range(self._last + 1, self._last + 1 + len(jobs))
        if len(jobs) == 1:
            values = (ids[0], jobs[0]["workdir"], json.dumps(jobs[0]["parameters"]))
            self._db.execute(_POSTGRES_ONE, values, prepare=True)
        else:
            with self._db.transaction(), self._db.cursor() as cursor:
                with cursor.copy("COPY job FROM STDIN") as copy:
                    for number, job in zip(ids, jobs, strict=True):
                        text = json.dumps(job["parameters"])
                        copy.write_row((number, 1, 1, 4, job["workdir"], "{}", text, 1, 1, 1, 0, None, 0))
                cursor.execute(_POSTGRES_EVENTS, (ids[0], ids[-1]), prepare=True)
        self._last += len(jobs)
        return ids

    def close(self) -> None:
        self._db.execute("DROP SCHEMA bare CASCADE")
        self._db.close()
