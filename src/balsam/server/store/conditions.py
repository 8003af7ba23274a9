"""Conditions on single columns, and what they mean: `holds` is the definition, SQL has to agree with it.

Made by use cases from look-ups; part of a selection. Used as it stands by the memory store and for the small tables;
the conformance suite compares the SQL stores with it.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic_core import to_json

from balsam.wire.kinds import Op


@dataclass(frozen=True, slots=True)
class Condition:
    """`column op value`; `path` are keys below a JSON column. Times are microseconds, lists tuples, states members."""

    column: str
    op: Op
    value: Any
    path: tuple[str, ...] = ()


class _Missing:
    """A key that is not there: different from every value, also from null."""


MISSING = _Missing()


def holds(condition: Condition, value: Any) -> bool:
    """Whether the condition holds for the value of its column."""
    return _OPS[condition.op](value_at(value, condition.path), condition.value)


def kind_of(value: Any) -> str:
    """What JSON calls it; values of different kinds are never equal, and have no order."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return "number"
    if isinstance(value, str):
        return "text"
    return "array" if isinstance(value, (list, tuple)) else "object" if isinstance(value, dict) else "missing"


def value_at(value: Any, path: tuple[str, ...]) -> Any:
    """The value below a JSON value; MISSING when there is none."""
    for key in path:
        value = value.get(key, MISSING) if isinstance(value, dict) else MISSING
    return value


def groups(counted: Iterable[tuple[Any, int]], limit: int) -> list[tuple[Any, int]]:
    """Equal values put together, largest first, equal ones by kind and value."""
    found: dict[tuple[str, Any], tuple[Any, int]] = {}
    for value, number in counted:
        kind = kind_of(value)
        key = (kind, to_json(value).decode() if kind in ("array", "object") else value)
        found[key] = (value, number + found.get(key, (value, 0))[1])
    ranked = sorted(found.items(), key=lambda item: (-item[1][1], *_rank(*item[0])))
    return [pair for _, pair in ranked[:limit]]


def _rank(kind: str, value: Any) -> tuple[str, Any]:
    return kind, value if kind in ("number", "text", "array", "object") else 0


def array_text(value: Any) -> str:
    """A list as JSON text, by which lists are compared."""
    return to_json(list(value)).decode()


def _same(found: Any, wanted: Any) -> bool:
    kind = kind_of(wanted)
    if kind_of(found) != kind:
        return False
    return array_text(found) == array_text(wanted) if kind == "array" else bool(found == wanted)


def _in_order(test: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    return lambda found, wanted: kind_of(found) == kind_of(wanted) and test(found, wanted)


def _contains(found: Any, wanted: Any) -> bool:
    if isinstance(found, list):
        return any(_same(item, wanted) for item in found)
    return isinstance(found, str) and isinstance(wanted, str) and wanted in found


_OPS: Mapping[Op, Callable[[Any, Any], bool]] = {
    "eq": _same,
    "ne": lambda found, wanted: not _same(found, wanted),
    "in": lambda found, wanted: any(_same(found, one) for one in wanted),
    "gt": _in_order(lambda found, wanted: found > wanted),
    "gte": _in_order(lambda found, wanted: found >= wanted),
    "lt": _in_order(lambda found, wanted: found < wanted),
    "lte": _in_order(lambda found, wanted: found <= wanted),
    "contains": _contains,
    "startswith": lambda found, wanted: _is_text(found, wanted) and found.startswith(wanted),
    "endswith": lambda found, wanted: _is_text(found, wanted) and found.endswith(wanted),
    "isnull": lambda found, wanted: (found is None or found is MISSING) == wanted,
}


def _is_text(*values: Any) -> bool:
    return all(isinstance(value, str) for value in values)
