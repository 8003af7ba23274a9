"""Sizes and shapes of what users store (S16): JSON values, tags, filters."""

import json
from collections.abc import Iterator, Mapping

from balsam.server.errors import Invalid
from balsam.wire.base import MAX_JSON_DEPTH, MAX_PARAMETERS_BYTES, ErrorDetail

_PLAIN = (str, int, float, bool, type(None))


class BadJson(ValueError):
    """The value is too large, too deep, or no JSON."""


def json_text(value: Mapping[str, object], what: str, max_bytes: int = MAX_PARAMETERS_BYTES) -> str:
    """Compact JSON of a dictionary. Raises BadJson when it is over a limit or has a NaN or an infinity."""
    if not value:
        return "{}"
    for inner in value.values():
        if not isinstance(inner, _PLAIN):
            _check_depth(inner, what)
    try:
        text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    except ValueError:
        raise BadJson(f"{what} has a NaN or an infinity, which JSON does not have; send it as a string") from None
    if len(text) > max_bytes:
        raise BadJson(f"{what} is {len(text)} bytes as JSON; at most {max_bytes} are stored, put larger data in a file")
    return text


def _check_depth(value: object, what: str) -> None:
    level: list[object] = [value]
    for _ in range(MAX_JSON_DEPTH):
        level = [inner for item in level for inner in _inner(item)]
        if not level:
            return
    raise BadJson(f"{what} is nested deeper than {MAX_JSON_DEPTH} levels")


def _inner(item: object) -> Iterator[object]:
    if isinstance(item, dict):
        yield from item.values()
    elif isinstance(item, list):
        yield from item


def tag_problems(tags: Mapping[str, str]) -> Iterator[str]:
    """What is wrong with tags, one sentence each."""
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
