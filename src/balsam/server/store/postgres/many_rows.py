"""Statements over many rows: their columns are arrays, and what is the same in all of them is said once.

Used by tx.py. Most rows of a report are alike but for their numbers, and an array for each of nineteen columns took a
tenth of an update. Which columns are said once together is fixed, so that there are two texts of each statement and
both stay prepared.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from balsam.server.store.sql_database import listed
from balsam.server.store.sql_rows import UPDATE_GUARD, UPDATED_COLUMNS

# Columns of which many rows are inserted or updated; all others are whole numbers.
_TYPES = {"data": "text", "failure": "text", "gpus_per_rank": "float8"}
GUARDS = (*(f"old_{column}" for column in UPDATE_GUARD), "old_session_id")
_OWN = frozenset(("event_seq", "batch_job_id", "return_code", "started_at", "ended_at", "old_id", "old_event_seq"))
_OF_UPDATES = frozenset((*UPDATED_COLUMNS, *GUARDS)) - _OWN
_OF_INSERTS = {"events": frozenset({"owner_id", "timestamp", "attempt", "data"})}

_NUMBER = "(number of rows)"
GUARD_SAID = "S4: "
# The text is no number, which is the error; it says in the server's words what went wrong (connection.py reads it).
_ALL_OR_ERROR = f"""CASE WHEN count(*) = ?::bigint THEN 0 ELSE CAST(concat('{GUARD_SAID}', ?::bigint - count(*), ' of ',
    ?::bigint, ' Jobs were not as they were read') AS BIGINT) END"""

Statement = tuple[str, list[Any]]


@dataclass(slots=True)
class _Text:
    """A text that is put together, and which columns its marks stand for."""

    once: frozenset[str]
    marks: list[str] = field(default_factory=list)

    def value(self, column: str) -> str:
        if column not in self.once:
            return f"u.{column}"
        self.marks.append(column)
        return f"?::{_type(column)}"

    def rows(self, columns: Iterable[str]) -> str:
        own = [column for column in columns if column not in self.once]
        self.marks += own
        arrays = ", ".join(f"?::{_type(column)}[]" for column in own)
        return f"FROM unnest({arrays}) AS u ({', '.join(own)})"


def _type(column: str) -> str:
    return _TYPES.get(column, "bigint")


def insert(name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Statement:
    """Rows for a table other than `jobs`."""
    values = dict(zip(columns, zip(*rows, strict=True), strict=True))
    once = _same(values, _OF_INSERTS.get(name, frozenset()))
    text, marks = _insert(name, tuple(columns), once)
    return text, _params(values, marks, once)


def update_jobs(rows: Sequence[Sequence[Any]]) -> Statement:
    """Rows of `sql_rows.update_values`."""
    values = dict(zip((*UPDATED_COLUMNS, *GUARDS), zip(*rows, strict=True), strict=True))
    once = _same(values, _OF_UPDATES)
    text, marks = _update(once)
    return text, _params({**values, _NUMBER: (len(rows),)}, marks, once | {_NUMBER})


def _same(values: Mapping[str, Sequence[Any]], columns: frozenset[str]) -> frozenset[str]:
    """The columns, or none of them when one has several values."""
    return columns if all(len(set(values[column])) == 1 for column in columns) else frozenset()


def _params(values: Mapping[str, Sequence[Any]], marks: Sequence[str], once: frozenset[str]) -> list[Any]:
    return [values[column][0] if column in once else listed(values[column]) for column in marks]


@lru_cache(maxsize=64)
def _insert(name: str, columns: tuple[str, ...], once: frozenset[str]) -> tuple[str, list[str]]:
    text = _Text(once)
    chosen = ", ".join(text.value(column) for column in columns)
    return f"INSERT INTO {name} ({', '.join(columns)}) SELECT {chosen} {text.rows(columns)}", text.marks


@lru_cache(maxsize=2)
def _update(once: frozenset[str]) -> tuple[str, list[str]]:
    text = _Text(once)
    sets = ", ".join(f"{column} = {text.value(column)}" for column in UPDATED_COLUMNS)
    rows = text.rows((*UPDATED_COLUMNS, *GUARDS))
    # Nothing but the id leads to a Job: PostgreSQL would take the index of the state for a hundred Jobs of one state.
    found = f"jobs.id = {text.value('old_id')}"
    guards = [f"jobs.{column} + 0 = {text.value(f'old_{column}')}" for column in UPDATE_GUARD if column != "id"]
    holder = f"jobs.session_id IS NOT DISTINCT FROM {text.value('old_session_id')}"
    where = " AND ".join((found, *guards, holder))
    text.marks += [_NUMBER, _NUMBER, _NUMBER]
    moved = f"UPDATE jobs SET {sets} {rows} WHERE {where} RETURNING 1"  # noqa: S608 - names of ours
    return f"WITH moved AS ({moved}) SELECT {_ALL_OR_ERROR} FROM moved", text.marks  # noqa: S608 - names of ours
