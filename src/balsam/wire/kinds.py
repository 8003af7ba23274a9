"""What can be asked of which field: the kinds of fields, the ways to compare them, and what fits.

`JOB_FIELDS` and its like are the whole list of what may be looked up; both ends check against it. Apart from the
messages, whose import costs a program that only looks at Jobs.
"""

import math
import re
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

from balsam.domain.failure import Failure
from balsam.domain.states import BatchJobState, JobState

MAX_LISTED = 10_000
KEY = re.compile(r'[^"\\\x00-\x1f\x7f-\x9f]+')
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


def is_key(key: str) -> bool:
    """Whether it can be looked up below a JSON field."""
    return KEY.fullmatch(key) is not None


def problem_of(kind: Kind, op: Op, value: Any) -> str | None:
    if op in _PARTS and (isinstance(value, bool) or not isinstance(value, (str, int, float))):
        return f"{op} takes text or a number, not {value!r}"
    if op in _PARTS and kind is not Kind.JSON and not isinstance(value, str):
        return f"{op} takes text, not {value!r}"
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value} is no JSON value"
    if isinstance(value, str) and "\0" in value:
        return f"{value!r}: a text with a NUL can't be looked up"
    if kind is not Kind.INTEGER and isinstance(value, int) and not -(2**63) <= value < 2**63:
        return f"{_shortened(value)} has more than 64 bits; as a floating-point number it can be looked up"
    return None if _fits(kind, op, value) else f"{value!r} is not {kind.value}"


def _shortened(number: int) -> str:
    digits = f"{number}"
    return digits if len(digits) <= 40 else f"{digits[:20]}... ({len(digits)} digits)"


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
