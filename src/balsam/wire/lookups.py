"""Look-ups: conditions on single fields, beyond the filters that have a name of their own.

A filter carries them in `where`. `JOB_FIELDS` and its like are the whole list of what may be asked; both ends check a
look-up against it: the client so that a mistake shows where it was made, the service because it trusts nobody.
"""

import json
import math
from collections.abc import Iterator, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, JsonValue

from balsam.domain.failure import Failure
from balsam.domain.states import BatchJobState, JobState
from balsam.wire.base import Message

MAX_LOOKUPS = 50
MAX_LOOKUP_DEPTH = 8
MAX_LISTED = 10_000
Op = Literal["eq", "ne", "in", "gt", "gte", "lt", "lte", "contains", "startswith", "endswith", "isnull"]
OPS: tuple[Op, ...] = ("eq", "ne", "in", "gt", "gte", "lt", "lte", "contains", "startswith", "endswith", "isnull")


class Kind(StrEnum):
    """What a field holds, which decides what it can be compared with."""

    INTEGER = "a whole number"
    NUMBER = "a number"
    TEXT = "text"
    TIME = "a time with its zone"
    JOB_STATE = "a state of a Job"
    BATCH_JOB_STATE = "a state of a BatchJob"
    FAILURE = "a failure class"
    FLAG = "true or false"
    JSON = "a JSON value"


_JOB_STATES, _BATCH_JOB_STATES, _FAILURES = frozenset(JobState), frozenset(BatchJobState), frozenset(Failure)
_ORDER: frozenset[Op] = frozenset({"gt", "gte", "lt", "lte"})
_PARTS: frozenset[Op] = frozenset({"contains", "startswith", "endswith"})
_SAME: frozenset[Op] = frozenset({"eq", "ne", "in", "isnull"})
OPS_OF: Mapping[Kind, frozenset[Op]] = {
    Kind.INTEGER: _SAME | _ORDER,
    Kind.NUMBER: _SAME | _ORDER,
    Kind.TEXT: _SAME | _PARTS,
    Kind.TIME: _SAME | _ORDER,
    Kind.JOB_STATE: _SAME - {"isnull"},
    Kind.BATCH_JOB_STATE: _SAME - {"isnull"},
    Kind.FAILURE: _SAME,
    Kind.FLAG: frozenset({"eq", "ne"}),
    Kind.JSON: _SAME | _ORDER | _PARTS,
}
Fields = Mapping[str, Kind]

JOB_FIELDS: Fields = {
    **dict.fromkeys(("id", "app_id", "site_id", "batch_job_id", "session_id"), Kind.INTEGER),
    **dict.fromkeys(("num_nodes", "ranks_per_node", "threads_per_rank", "threads_per_core"), Kind.INTEGER),
    **dict.fromkeys(("node_packing_count", "wall_time_min", "priority", "max_attempts"), Kind.INTEGER),
    **dict.fromkeys(("attempt", "return_code"), Kind.INTEGER),
    "gpus_per_rank": Kind.NUMBER,
    **dict.fromkeys(("app_name", "submitted_by", "workdir"), Kind.TEXT),
    **dict.fromkeys(("created_at", "last_update", "started_at", "ended_at"), Kind.TIME),
    "state": Kind.JOB_STATE,
    "failure": Kind.FAILURE,
    **dict.fromkeys(("cancel_requested", "pending_file_cleanup"), Kind.FLAG),
    **dict.fromkeys(("tags", "parameters", "data", "launch_params"), Kind.JSON),
}
EVENT_FIELDS: Fields = {
    **dict.fromkeys(("id", "job_id", "seq", "attempt"), Kind.INTEGER),
    "actor": Kind.TEXT,
    **dict.fromkeys(("timestamp", "reported_at"), Kind.TIME),
    **dict.fromkeys(("from_state", "to_state"), Kind.JOB_STATE),
    "data": Kind.JSON,
}
BATCH_JOB_FIELDS: Fields = {
    **dict.fromkeys(("id", "site_id", "num_nodes", "wall_time_min"), Kind.INTEGER),
    **dict.fromkeys(("job_mode", "queue", "project", "scheduler_id"), Kind.TEXT),
    **dict.fromkeys(("created_at", "start_time", "end_time"), Kind.TIME),
    "state": Kind.BATCH_JOB_STATE,
    **dict.fromkeys(("filter_tags", "optional_params", "status_info"), Kind.JSON),
}
SITE_FIELDS: Fields = {
    "id": Kind.INTEGER,
    **dict.fromkeys(("name", "path", "hostname"), Kind.TEXT),
    **dict.fromkeys(("creation_date", "last_refresh"), Kind.TIME),
}
APP_FIELDS: Fields = {
    **dict.fromkeys(("id", "site_id"), Kind.INTEGER),
    **dict.fromkeys(("name", "description"), Kind.TEXT),
    "synced_at": Kind.TIME,
}


class Lookup(Message):
    """One condition: `num_nodes gt 2`, or, below a JSON field, `parameters` `["grid", "x"]` `eq 3`."""

    field: str
    path: Annotated[list[str], Field(max_length=MAX_LOOKUP_DEPTH)] = []
    op: Op = "eq"
    value: JsonValue = None

    def problem(self, fields: Fields) -> str | None:
        """What is wrong with it, None when it can be carried out."""
        fault = self.problem_of_field(fields)
        if fault is not None:
            return fault
        kind = fields[self.field]
        if self.op not in OPS_OF[kind]:
            able = ", ".join(op for op in OPS if op in OPS_OF[kind])
            return f"{self.field} holds {kind.value} and can't be looked up by {self.op!r}; it can by: {able}"
        return self._problem_of_value(kind)

    def problem_of_field(self, fields: Fields) -> str | None:
        """What is wrong with its field and path."""
        kind = fields.get(self.field)
        if kind is None:
            return f"{self.field!r} can't be looked up; there are: {', '.join(sorted(fields))}"
        if (kind is Kind.JSON) != bool(self.path):
            what = "say which key in it" if kind is Kind.JSON else "there is nothing below it"
            return f"{self.field} holds {kind.value}: {what}"
        if not all(_is_key(key) for key in self.path):
            return f"{self.field}: a key with quotes, backslashes or control characters can't be looked up"
        return None

    def _problem_of_value(self, kind: Kind) -> str | None:
        if self.op == "isnull":
            return None if isinstance(self.value, bool) else "isnull is true or false"
        if self.op != "in":
            return _problem_of(kind, self.op, self.value)
        if not isinstance(self.value, list) or len(self.value) > MAX_LISTED:
            return f"{self.field}: in takes a list of at most {MAX_LISTED} values"
        return next((why for item in self.value if (why := _problem_of(kind, self.op, item))), None)


def _is_key(key: str) -> bool:
    return bool(key) and key.isprintable() and '"' not in key and "\\" not in key


def _problem_of(kind: Kind, op: Op, value: Any) -> str | None:
    if op in _PARTS and not isinstance(value, (str, int, float)):
        return f"{op} takes text or a number, not {value!r}"
    if op in _PARTS and kind is not Kind.JSON and not isinstance(value, str):
        return f"{op} takes text, not {value!r}"
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value} is no JSON value"
    return None if _fits(kind, op, value) else f"{value!r} is not {kind.value}"


def _fits(kind: Kind, op: Op, value: Any) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    match kind:
        case Kind.INTEGER:
            return is_number and isinstance(value, int) and -(2**63) <= value < 2**63
        case Kind.NUMBER:
            return is_number
        case Kind.TEXT:
            return isinstance(value, str)
        case Kind.TIME:
            return isinstance(value, str) and time_of(value) is not None
        case Kind.JOB_STATE:
            return isinstance(value, str) and value in _JOB_STATES
        case Kind.BATCH_JOB_STATE:
            return isinstance(value, str) and value in _BATCH_JOB_STATES
        case Kind.FAILURE:
            return isinstance(value, str) and value in _FAILURES
        case Kind.FLAG:
            return isinstance(value, bool)
        case Kind.JSON:
            if op in _ORDER:
                return is_number or isinstance(value, str)
            return value is None or is_number or isinstance(value, (str, bool)) or (op == "eq" and _is_flat(value))


def _is_flat(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, (str, int, float, bool, type(None))) for item in value)


def time_of(text: str) -> datetime | None:
    """An ISO time with its zone; None when it is not one."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return None if found.tzinfo is None else found


def _parsed(given: object) -> object:
    """In a query string each look-up is JSON text."""
    return list(_texts(given)) if isinstance(given, list) else given


def _texts(given: list[Any]) -> Iterator[Any]:
    for item in given:
        try:
            yield json.loads(item) if isinstance(item, str) else item
        except ValueError as error:
            raise ValueError(f"{item!r} is no JSON: {error}") from None


Where = Annotated[list[Lookup], Field(max_length=MAX_LOOKUPS), BeforeValidator(_parsed)]
