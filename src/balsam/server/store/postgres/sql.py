"""From SQLite's SQL to PostgreSQL's: the few things that the two say differently, in one table.

Statements and migrations are written once. A statement that needs more than this table gets a method in tx.py; a
migration that does gets a file for each database (migrations/README.md).
"""

import re
from functools import lru_cache
from itertools import count

from balsam.server.store.sql_select import DATA_HAS, EVENTS_OF_JOB

# A yes is written as 1 and a no as 0, as SQLite does.
_DATA_HAS = (
    "EXISTS (SELECT 1 FROM json_each(json_doc(e.data)) d WHERE d.key = %s"
    " AND CASE d.value::text WHEN 'true' THEN '1' WHEN 'false' THEN '0' ELSE json_words(d.value) END = %s)"
)
_STATEMENTS = (
    (re.compile(r"%"), "%%"),
    (re.compile(re.escape(DATA_HAS)), _DATA_HAS),
    # A value of a JSON column is a text here, and a number only where it is compared with numbers.
    (re.compile(r"(IN \('integer', 'real'\) AND )json_extract\("), r"\1json_number("),
    (re.compile(r"(IN \('integer', 'real'\) AND m\.)value\b"), r"\1number"),
    (re.compile(r" INDEXED BY \w+"), ""),
    (re.compile(r" IN \(SELECT value FROM json_each\(\?\)\)"), " = ANY(%s)"),
    (re.compile(r"json_each\(\?\)"), "unnest(%s::bigint[]) AS value"),
    # A fence: the planner takes the span of a Job for a ninth of all events, and would walk over all of them.
    (
        re.compile(f"CROSS JOIN events e ON {re.escape(EVENTS_OF_JOB)}"),
        f"CROSS JOIN LATERAL (SELECT * FROM events e WHERE {EVENTS_OF_JOB} OFFSET 0) e",  # noqa: S608 - a text of ours
    ),
    (re.compile(r"CROSS JOIN (\w+(?: \w+)?) ON"), r"JOIN \1 ON"),
    (re.compile(r"\binstr\("), "strpos("),
    (re.compile(r"\bsubstr\((.+?), -(\d+)\)"), r"right(\1, \2)"),
    (re.compile(r" IS (NOT )?\?"), lambda match: f" IS {'' if match[1] else 'NOT '}DISTINCT FROM ?"),
    # A plus keeps SQLite from an index; here the planner knows what is in the tables.
    (re.compile(r"(?<![\w)])\+(?=\w+\.\w)"), ""),
    (re.compile(r"\?"), "%s"),
)
_MIGRATIONS = (
    (re.compile(r"--[^\n]*"), ""),
    (re.compile(r"CREATE TABLE (\w+) \(\s*id INTEGER PRIMARY KEY"), r"CREATE SEQUENCE \1_ids;\n\g<0>"),
    (re.compile(r"\bINTEGER\b"), "BIGINT"),
    (re.compile(r"\bREAL\b"), "DOUBLE PRECISION"),
    (re.compile(r"\bBLOB\b"), "BYTEA"),
    # Order and equality of texts are those of their bytes, whatever the database's language.
    (re.compile(r"\bTEXT\b"), 'TEXT COLLATE "C"'),
    (re.compile(r"\) WITHOUT ROWID"), ")"),
)


_MARKS = re.compile(rb"%[%s]")


@lru_cache(maxsize=4096)
def translated(statement: str) -> bytes:
    """The statement as psycopg takes it: `%s` for a question mark."""
    for pattern, replacement in _STATEMENTS:
        statement = pattern.sub(replacement, statement)
    return statement.encode()


@lru_cache(maxsize=4096)
def numbered(statement: bytes) -> bytes:
    """A translated statement as libpq takes it: `$1`, `$2` for its marks."""
    numbers = count(1)
    return _MARKS.sub(lambda mark: b"%" if mark[0] == b"%%" else b"$%d" % next(numbers), statement)


def translated_migration(script: str) -> str:
    """The script of a migration; each table with an `id` gets a sequence of its own for it."""
    for pattern, replacement in _MIGRATIONS:
        script = pattern.sub(replacement, script)
    return script
