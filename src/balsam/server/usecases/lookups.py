"""From look-ups as they are sent to conditions that stores carry out, folded into a selection where it has an index."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from balsam.domain.failure import Failure
from balsam.domain.states import BatchJobState, JobState
from balsam.server.errors import Invalid
from balsam.server.store.conditions import Condition, holds
from balsam.server.store.records import micros
from balsam.server.store.selections import EventSelection, JobSelection
from balsam.wire.base import ErrorDetail
from balsam.wire.kinds import Fields, Kind, time_of
from balsam.wire.lookups import Lookup

S = TypeVar("S", JobSelection, EventSelection)


@dataclass(frozen=True, slots=True)
class _Known:
    """Names of what a selection has fields for, which stores read through an index."""

    lists: Mapping[str, str]
    time: str
    after: str
    before: str


_JOBS = _Known(
    {
        "id": "ids",
        "app_id": "app_ids",
        "site_id": "site_ids",
        "batch_job_id": "batch_job_ids",
        "state": "states",
        "failure": "failures",
    },
    *("last_update", "updated_after", "updated_before"),
)
_EVENTS = _Known({"id": "ids", "job_id": "job_ids"}, *("timestamp", "after", "before"))
# What is added to a time in microseconds so that "later than" and "earlier than" mean the same.
_SPANS = {"gt": 0, "gte": -1, "lt": 0, "lte": 1}


def conditions(where: list[Lookup] | None, fields: Fields) -> list[Condition]:
    """The conditions of a filter. Raises Invalid with every look-up that can't be."""
    lookups = where or []
    faults = [
        ErrorDetail(where=f"where[{index}]", message=why)
        for index, lookup in enumerate(lookups)
        if (why := lookup.problem(fields))
    ]
    if faults:
        raise Invalid(faults)
    return [_condition(lookup, fields[lookup.field]) for lookup in lookups]


def matches(wanted: Iterable[Condition], value_of: Callable[[str], Any]) -> bool:
    """Whether a row of a small table fulfils all of them; `value_of` gives the value of a field."""
    return all(holds(condition, value_of(condition.column)) for condition in wanted)


def with_conditions(selection: S, wanted: Iterable[Condition]) -> S:
    """The selection, narrowed by the conditions."""
    rest: list[Condition] = []
    for condition in wanted:
        changes = _as_field(selection, condition)
        if changes is None:
            rest.append(condition)
        else:
            selection = replace(selection, **changes)
    return replace(selection, conditions=(*selection.conditions, *rest))


def _condition(lookup: Lookup, kind: Kind) -> Condition:
    value = lookup.value
    if lookup.op == "in" and isinstance(value, list):
        return Condition(lookup.field, lookup.op, tuple(_typed(kind, one) for one in value), tuple(lookup.path))
    typed = value if lookup.op == "isnull" else _typed(kind, value)
    return Condition(lookup.field, lookup.op, typed, tuple(lookup.path))


def _typed(kind: Kind, value: Any) -> Any:
    match kind:
        case Kind.TIME:
            moment = time_of(value)
            return None if moment is None else micros(moment)
        case Kind.JOB_STATE:
            return JobState(value)
        case Kind.BATCH_JOB_STATE:
            return BatchJobState(value)
        case Kind.FAILURE:
            return Failure(value)
        case _:
            return tuple(value) if isinstance(value, list) else value


def _as_field(selection: JobSelection | EventSelection, condition: Condition) -> dict[str, Any] | None:
    """Fields of the selection that mean the same as the condition with what they say already; None: there is none."""
    known = _JOBS if isinstance(selection, JobSelection) else _EVENTS
    name, op, value = known.lists.get(condition.column), condition.op, condition.value
    if name is not None and op in ("eq", "in"):
        old = getattr(selection, name)
        values = value if op == "in" else (value,)
        return {name: tuple(dict.fromkeys(one for one in values if old is None or one in old))}
    if condition.column == known.time and op in _SPANS:
        later = op in ("gt", "gte")
        name, at = known.after if later else known.before, value + _SPANS[op]
        old = getattr(selection, name)
        return {name: at if old is None else max(old, at) if later else min(old, at)}
    if condition.column == "tags" and op == "eq" and len(condition.path) == 1 and isinstance(value, str):
        return {"tags": (*selection.tags, (condition.path[0], value))}
    return None
