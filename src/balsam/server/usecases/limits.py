"""Sizes and shapes of what users store (S16): JSON values, tags, filters."""

from collections.abc import Iterator, Mapping
from math import isfinite

from pydantic_core import PydanticSerializationError, to_json

from balsam.domain.app import AppSpec
from balsam.server.errors import Invalid
from balsam.wire.base import ErrorDetail
from balsam.wire.limits import MAX_JSON_DEPTH, MAX_PARAMETERS_BYTES, MAX_PYTHON_PARAMETERS_BYTES, MAX_TAGS


class BadJson(ValueError):
    """The value is too large, too deep, or no JSON."""


def parameters_limit(app: AppSpec) -> int:
    """How many bytes of JSON the parameters of a Job of this App may have together."""
    return MAX_PYTHON_PARAMETERS_BYTES if app.runs_python else MAX_PARAMETERS_BYTES


def json_text(value: Mapping[str, object], what: str, max_bytes: int = MAX_PARAMETERS_BYTES) -> str:
    """Compact JSON of a dictionary. Raises BadJson when it is over a limit or has a NaN or an infinity."""
    if not value:
        return "{}"
    _check(value, what)
    try:
        text = to_json(value)
    except PydanticSerializationError as error:
        raise BadJson(f"{what} is not JSON: {error}") from None
    if len(text) > max_bytes:
        raise BadJson(f"{what} is {len(text)} bytes as JSON; at most {max_bytes} are stored, put larger data in a file")
    return text.decode()


def _check(value: object, what: str) -> None:
    """Depth and finite numbers, level by level: recursion would be the caller's to exhaust."""
    level: list[object] = [value]
    for _ in range(MAX_JSON_DEPTH + 1):
        deeper: list[object] = []
        for item in level:
            for inner in item.values() if isinstance(item, dict) else item if isinstance(item, list) else ():
                if isinstance(inner, (dict, list)):
                    deeper.append(inner)
                elif isinstance(inner, float) and not isfinite(inner):
                    raise BadJson(f"{what} has a NaN or an infinity, which JSON does not have; send it as a string")
        if not deeper:
            return
        level = deeper
    raise BadJson(f"{what} is nested deeper than {MAX_JSON_DEPTH} levels")


def tag_problems(tags: Mapping[str, str]) -> Iterator[str]:
    """What is wrong with tags, one sentence each."""
    if len(tags) > MAX_TAGS:
        yield f"{len(tags)} tags are more than the {MAX_TAGS} that a Job can have"
    for key in tags:
        if not key or ":" in key:
            yield f"tag name {key!r} must not be empty or contain ':', which separates name and value in filters"


def pairs(texts: list[str] | None, where: str) -> tuple[tuple[str, str], ...]:
    """`KEY:VALUE` conditions of a filter. Raises Invalid for one without a colon."""
    result: list[tuple[str, str]] = []
    for index, text in enumerate(texts or ()):
        key, colon, value = text.partition(":")
        if not colon:
            raise Invalid([ErrorDetail(where=f"{where}[{index}]", message=f"{text!r} must have the form KEY:VALUE")])
        result.append((key, value))
    return tuple(result)
