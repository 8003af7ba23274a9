"""What can be looked up, as schemas of the OpenAPI document: the tables of wire.kinds, by which both ends check."""

from collections.abc import Iterator
from typing import Any

from balsam.domain.failure import Failure
from balsam.domain.states import BatchJobState, JobState
from balsam.wire.kinds import (
    APP_FIELDS,
    BATCH_JOB_FIELDS,
    EVENT_FIELDS,
    JOB_FIELDS,
    KEY,
    MAX_LISTED,
    OPS_OF,
    SITE_FIELDS,
    Fields,
    Kind,
)
from balsam.wire.lookups import MAX_LOOKUP_DEPTH

FIELDS = {
    "JobLookup": JOB_FIELDS,
    "EventLookup": EVENT_FIELDS,
    "BatchJobLookup": BATCH_JOB_FIELDS,
    "SiteLookup": SITE_FIELDS,
    "AppLookup": APP_FIELDS,
}
_PLAIN: dict[str, Any] = {"type": ["string", "number", "boolean", "null"]}
_ORDERED: dict[str, Any] = {"type": ["number", "string"]}
_VALUES: dict[Kind, dict[str, Any]] = {
    Kind.INTEGER: {"type": "integer", "minimum": -(2**63), "exclusiveMaximum": 2**63},
    Kind.NUMBER: {"type": "number"},
    Kind.TEXT: {"type": "string"},
    Kind.TIME: {"type": "string", "format": "date-time"},
    Kind.JOB_STATE: {"enum": list(JobState)},
    Kind.BATCH_JOB_STATE: {"enum": list(BatchJobState)},
    Kind.FAILURE: {"enum": list(Failure)},
    Kind.FLAG: {"type": "boolean"},
    Kind.JSON: _PLAIN,
}


def schemas() -> dict[str, dict[str, Any]]:
    """By the names that `wire.lookups.said` gives."""
    return {
        name: {
            "title": name,
            "description": 'One condition: `num_nodes gt 2`, or, below a JSON field, `parameters` `["grid"]` `eq 3`.',
            "anyOf": [variant for kind in Kind for variant in _variants(kind, fields)],
        }
        for name, fields in FIELDS.items()
    }


def _variants(kind: Kind, fields: Fields) -> Iterator[dict[str, Any]]:
    """A schema for each of the ways in which fields of a kind are looked up."""
    names = sorted(name for name, its in fields.items() if its is kind)
    value, is_json = _VALUES[kind], kind is Kind.JSON
    whole = {"anyOf": [_PLAIN, {"type": "array", "items": _PLAIN}]} if is_json else value
    for ops, fitting in (
        ({"eq"}, whole),
        ({"ne"}, value),
        ({"in"}, {"type": "array", "maxItems": MAX_LISTED, "items": value}),
        ({"gt", "gte", "lt", "lte"}, _ORDERED if is_json else value),
        ({"contains", "startswith", "endswith"}, _ORDERED if is_json else value),
        ({"isnull"}, {"type": "boolean"}),
    ):
        able = sorted(ops & OPS_OF[kind])
        if names and able:
            yield _variant(names, able, fitting, is_json=is_json)


def _variant(names: list[str], ops: list[str], value: dict[str, Any], *, is_json: bool) -> dict[str, Any]:
    path: dict[str, Any] = {"type": "array", "maxItems": 0}
    required = ["field"] if is_json and {"eq", "ne"} & set(ops) else ["field", "value"]  # null is a value there
    if is_json:
        key = {"type": "string", "pattern": f"^{KEY.pattern}$"}
        path = {"type": "array", "minItems": 1, "maxItems": MAX_LOOKUP_DEPTH, "items": key}
        required.append("path")
    if "eq" not in ops:
        required.append("op")
    properties = {"field": {"enum": names}, "path": path, "op": {"enum": ops}, "value": value}
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
