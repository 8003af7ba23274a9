"""Query strings to messages: a field that is a list may come several times, others once.

A list field that is present and empty (`?state=`) is the empty list, which selects nothing - not the same as a filter
that was not given.
"""

from functools import cache
from typing import Any, get_args, get_origin
from urllib.parse import parse_qsl

from balsam.server.problems import Problem
from balsam.wire.base import Message, Timestamp

MAX_FIELDS = 10_100  # a page of ids and a few more


def list_fields(model: type[Message]) -> frozenset[str]:
    """Names of the fields that are lists."""
    return frozenset(name for name, field in model.model_fields.items() if _is_list(field.annotation))


@cache
def _times(model: type[Message]) -> frozenset[str]:
    """Names of the fields that are times."""
    return frozenset(name for name, field in model.model_fields.items() if Timestamp in _parts(field.annotation))


def _parts(annotation: Any) -> list[Any]:
    return [annotation, *(deeper for part in get_args(annotation) for deeper in _parts(part))]


def _is_list(annotation: Any) -> bool:
    return get_origin(annotation) is list or any(
        _is_list(part) for part in get_args(annotation) if get_origin(annotation) is not dict
    )


def parse(model: type[Message], lists: frozenset[str], query_string: bytes) -> Message:
    """The message; ValidationError or Problem says what is wrong."""
    if not query_string:
        return model()
    try:
        pairs = parse_qsl(
            query_string.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS
        )
    except ValueError as error:
        raise Problem(
            400, "malformed", f"the query string can't be read, or has more than {MAX_FIELDS} fields: {error}"
        ) from None
    fields: dict[str, Any] = {}
    times = _times(model)
    for name, value in pairs:
        if name in times and value[4:5] != "-":
            raise Problem(422, "invalid", f"{name}: write the time out, as in 2030-01-31T12:00:00Z")
        if name in lists:
            values = fields.setdefault(name, [])
            if value:
                values.append(value)
        elif name in fields:
            raise Problem(400, "malformed", f"{name} is given more than once; it is no list")
        else:
            fields[name] = value
    return model.model_validate(fields)
