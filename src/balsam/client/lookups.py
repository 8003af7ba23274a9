"""Look-ups as they are written to look-ups as they are sent.

`num_nodes__gt=2`, `parameters__grid__x__in=[1, 2]`, `data={"grid": {"x": 3}}`. Called by managers for filters that have
no name of their own at the service. A mistake is found here, before anything is sent.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from balsam.client.errors import Problem, ValidationFailed
from balsam.client.values import json_copy, nearest
from balsam.wire.kinds import OPS, Fields, Kind, Op

if TYPE_CHECKING:
    from balsam.wire.lookups import Lookup

_SPELLED: Mapping[str, Op] = {**{op: op for op in OPS}, "before": "lt", "after": "gt"}
_RANGE = "range"


def lookups_of(name: str, value: Any, fields: Fields, model: str, filters: Iterable[str]) -> "list[Lookup]":
    """What `name=value` means. `filters` are the names that are no look-ups, for the nearest one in an error.

    Raises TypeError for a name that means nothing, ValidationFailed for a value that can't be.
    """
    field, *rest = name.split("__")
    kind = fields.get(field)
    if kind is None or "" in rest:
        raise TypeError(f"{model} has no filter {name!r}{nearest(name, {*filters, *fields})}")
    spelled = rest.pop() if rest and (rest[-1] in _SPELLED or rest[-1] == _RANGE) else ""
    if rest and kind is not Kind.JSON:
        known = ", ".join([*(f"{field}__{op}" for op in OPS), f"{field}__{_RANGE}"])
        raise TypeError(f"{model} has no filter {name!r}; there are: {known}")
    found = list(_spread(field, rest, spelled, value, kind))
    for lookup in found:
        if why := lookup.problem(fields):
            raise ValidationFailed(f"{name}: {why}", code="validation", details=[Problem(name, why)])
    return found


def described(lookup: "Lookup") -> str:
    """As it could have been written."""
    op = "" if lookup.op == "eq" else f"__{lookup.op}"
    return f"{'__'.join([lookup.field, *lookup.path])}{op}={lookup.value!r}"


def aware(moment: datetime) -> datetime:
    """A time without a zone is UTC, as it always was in Balsam."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


def _spread(field: str, path: list[str], spelled: str, value: Any, kind: Kind) -> "Iterator[Lookup]":
    """One look-up for each leaf of a dict, two for a range."""
    if isinstance(value, Mapping) and spelled in ("", "eq"):
        for key, inner in value.items():
            yield from _spread(field, [*path, str(key)], spelled, inner, kind)
    elif kind is Kind.JSON and not path and not spelled and _is_pairs(value):
        for text in [value] if isinstance(value, str) else value:
            yield _pair(field, *text.split(":", 1))
    elif spelled == _RANGE:
        if not _is_list(value) or len(ends := list(value)) != 2:
            raise ValidationFailed(f"{field}__{_RANGE} takes a pair, the lowest and the highest value; not {value!r}")
        yield _made(field=field, path=path, op="gte", value=_sent(ends[0], field))
        yield _made(field=field, path=path, op="lte", value=_sent(ends[1], field))
    else:
        yield _lookup(field, path, _SPELLED[spelled or "eq"], value, kind)


def _is_pairs(value: Any) -> bool:
    """Whether it is `KEY:VALUE`, or several of them."""
    texts = [value] if isinstance(value, str) else value
    return isinstance(texts, (list, tuple, set)) and all(isinstance(text, str) and ":" in text for text in texts)


def _pair(field: str, key: str, text: str) -> "Lookup":
    """`KEY:VALUE` does not say what kind of value is meant."""
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    return _made(
        field=field, path=[key], op="in", value=[text] if isinstance(value, (str, list, dict)) else [text, value]
    )


def _lookup(field: str, path: list[str], op: Op, value: Any, kind: Kind) -> "Lookup":
    if value is None and op in ("eq", "ne"):
        return _made(field=field, path=path, op="isnull", value=op == "eq")
    if _is_list(value) and op == "eq" and kind is not Kind.JSON:
        op = "in"
    if op == "in" and _is_list(value):
        return _made(field=field, path=path, op=op, value=[_sent(one, field) for one in value])
    return _made(field=field, path=path, op=op, value=_sent(value, field))


def _made(**fields: Any) -> "Lookup":
    from balsam.wire.lookups import Lookup  # with pydantic, which a query without look-ups needs not

    return Lookup(**fields)


def _is_list(value: Any) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping))


def _sent(value: Any, field: str) -> Any:
    """A value as JSON: a model instance is its id, a tag is text."""
    saved_id = getattr(value, "_saved_id", None)
    if saved_id is not None:
        return saved_id()
    if isinstance(value, datetime):
        return aware(value).isoformat()
    if field in ("tags", "filter_tags") and isinstance(value, (int, float)):
        return str(value)
    return json_copy(value, field)
