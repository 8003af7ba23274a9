"""Conditions in SQL. `conditions.holds` says what they mean.

Used by sql_select. `Columns` says how a column of a row is written; coded columns hold numbers for names.
"""

# ruff: noqa: S608 - the texts are put together from names of our own; every value is a parameter

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from balsam.server.store.codec import ACTOR_NUMBERS, STATE_NUMBERS
from balsam.server.store.conditions import Condition, array_text, holds, kind_of
from balsam.server.store.records import EVENT_SEQ_BITS
from balsam.server.store.sql_database import JsonPath, listed

_TYPES = {"number": "IN ('integer', 'real')", "text": "= 'text'", "array": "= 'array'"}
_COMPARED = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
_LISTED = "IN (SELECT value FROM json_each(?))"
Sql = tuple[str, list[Any]]


@dataclass(frozen=True, slots=True)
class Columns:
    """How the columns of a kind of row are written."""

    prefix: str
    written: Mapping[str, str] = field(default_factory=dict)
    codes: Mapping[str, Mapping[Any, int]] = field(default_factory=dict)

    def of(self, column: str) -> str:
        return self.written.get(column) or f"{self.prefix}{column}"


_ACTORS = {actor.value: number for actor, number in ACTOR_NUMBERS.items()}
JOBS = Columns("jobs.", codes={"state": STATE_NUMBERS})
EVENTS = Columns(
    "e.",
    {"job_id": f"(e.id >> {EVENT_SEQ_BITS})", "seq": f"(e.id & {(1 << EVENT_SEQ_BITS) - 1})"},
    {"from_state": STATE_NUMBERS, "to_state": STATE_NUMBERS, "actor": _ACTORS},
)


def condition_sql(condition: Condition, columns: Columns) -> Sql:
    """The text of the condition and its parameters."""
    column = columns.of(condition.column)
    codes = columns.codes.get(condition.column)
    if codes is not None:
        return f"{column} {_LISTED}", [listed(number for name, number in codes.items() if holds(condition, name))]
    if condition.path:
        return _json_sql(condition, column)
    return _plain_sql(condition, column)


def _plain_sql(condition: Condition, column: str) -> Sql:
    op, value = condition.op, condition.value
    if op == "isnull":
        return f"{column} IS {'' if value else 'NOT '}NULL", []
    if op == "in":
        return f"{column} {_LISTED}", [listed(map(_plain, value))]
    if op in _COMPARED:
        return f"{column} {_COMPARED[op]} ?", [_plain(value)]
    if op in ("eq", "ne"):
        return f"{column} IS {'NOT ' if op == 'ne' else ''}?", [_plain(value)]
    return _part_sql(op, column, value)


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, bool) else value


def _part_sql(op: str, text: str, value: str) -> Sql:
    if op == "contains":
        return f"instr({text}, ?) > 0", [value]
    if not value:  # SQL's substr(x, -0) is not the empty text
        return f"{text} IS NOT NULL", []
    start = f"1, {len(value)}" if op == "startswith" else f"-{len(value)}"
    return f"substr({text}, {start}) = ?", [value]


def _json_sql(condition: Condition, column: str) -> Sql:
    path = JsonPath(condition.path)
    found, kind = f"json_extract({column}, ?)", f"json_type({column}, ?)"
    op, value = condition.op, condition.value
    if op == "isnull":
        return f"coalesce({kind}, 'null') {'=' if value else '<>'} 'null'", [path]
    if op == "in":
        return _any_of(value, found, kind, [path])
    if op in ("eq", "ne"):
        text, params = _same_sql(value, found, kind, [path])
        return (f"({text}) IS NOT TRUE" if op == "ne" else f"({text})"), params
    if op in _COMPARED:
        return f"({kind} {_TYPES[kind_of(value)]} AND {found} {_COMPARED[op]} ?)", [path, path, value]
    pieces: list[Sql] = []
    if isinstance(value, str):
        text, params = _part_sql(op, found, value)
        pieces.append((f"{kind} = 'text' AND {text}", [path, *([path, *params])]))
    if op == "contains":
        text, params = _same_sql(value, "m.value", "m.type", [])
        members = f"EXISTS (SELECT 1 FROM json_each({column}, ?) m WHERE {text})"
        pieces.append((f"{kind} = 'array' AND {members}", [path, path, *params]))
    return _either(pieces)


def _same_sql(value: Any, found: str, kind: str, path: list[Any]) -> Sql:
    """`path` are the parameters of `found` and of `kind`."""
    its = kind_of(value)
    if its not in _TYPES:
        return f"{kind} = ?", [*path, its]
    wanted = array_text(value) if its == "array" else value
    return f"{kind} {_TYPES[its]} AND {found} = ?", [*path, *path, wanted]


def _any_of(values: tuple[Any, ...], found: str, kind: str, path: list[Any]) -> Sql:
    """One test for each kind of value, however many values there are."""
    by_kind: dict[str, list[Any]] = {}
    for value in values:
        by_kind.setdefault(kind_of(value), []).append(value)
    pieces: list[Sql] = []
    for its, some in by_kind.items():
        if its in ("number", "text"):
            pieces.append((f"{kind} {_TYPES[its]} AND {found} {_LISTED}", [*path, *path, listed(some)]))
        else:
            pieces.append(_same_sql(some[0], found, kind, path))
    return _either(pieces)


def _either(pieces: list[Sql]) -> Sql:
    texts = " OR ".join(f"({text})" for text, _ in pieces)
    return f"({texts or 'FALSE'})", [param for _, params in pieces for param in params]
