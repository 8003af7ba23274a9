"""Values on their way to the service: plain JSON copies, clear errors, near misses in names.

A copy is taken at `save`, so that what the user changes in place later is seen as a change.
"""

import difflib
import math
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, TypeVar

from balsam.client.errors import Problem, ValidationFailed
from balsam.wire.limits import MAX_JSON_DEPTH

if TYPE_CHECKING:
    from balsam.wire.base import Message

M = TypeVar("M", bound="Message")
_SHOWN_PROBLEMS = 10


class _NotJson(Exception):
    """Grows its path on the way out, so that the common case pays nothing for it."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.path = ""


_SIMPLE = frozenset({str, int, bool, type(None)})


def json_copy(value: Any, where: str) -> Any:
    """A copy of a value that JSON can carry. Tuples and sets become lists, numpy values Python's, paths text.

    Raises ValidationFailed, which names the place, for anything else.
    """
    try:
        return value if type(value) in _SIMPLE else _copy(value, 0)
    except _NotJson as error:
        place = where + error.path
        raise ValidationFailed(f"{place}: {error}", details=[Problem(place, str(error))]) from None


def _copy(value: Any, depth: int) -> Any:
    if depth > MAX_JSON_DEPTH:
        raise _NotJson(f"nested deeper than {MAX_JSON_DEPTH} levels, or contains itself")
    if isinstance(value, str):
        return str.__str__(value)  # members of enumerations travel as what they are
    if isinstance(value, (dict, Mapping)):  # the first is found without asking the abstract class
        return _copy_mapping(value, depth)
    if isinstance(value, (list, tuple, set, frozenset)):
        return _copy_list(value, depth)
    if isinstance(value, float):
        if math.isfinite(value):
            return float(value)
        raise _NotJson(f"{value} can't be written as JSON; pass it as text: {str(value)!r}")
    if isinstance(value, int):
        return int(value)
    if isinstance(value, PurePath):
        return str(value)
    dump = getattr(value, "model_dump", None)  # messages
    if callable(dump):
        return dump(mode="json")
    to_python = getattr(value, "tolist", None)  # numpy scalars and arrays
    if callable(to_python):
        plain = to_python()
        return plain if type(plain) in _SIMPLE else _copy(plain, depth + 1)
    use = "give its id" if isinstance(getattr(value, "id", None), int) else "use text, numbers, lists and dicts"
    raise _NotJson(f"a {type(value).__name__} is no JSON value; {use}")


def _copy_mapping(value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
    copy: dict[str, Any] = {}
    for key, item in value.items():
        if not isinstance(key, str):
            raise _NotJson(f"the key {key!r} is no text; JSON knows only text as keys")
        try:
            copy[key] = item if type(item) in _SIMPLE else _copy(item, depth + 1)
        except _NotJson as error:
            error.path = f".{key}{error.path}"
            raise
    return copy


def _copy_list(value: Iterable[Any], depth: int) -> list[Any]:
    copy: list[Any] = []
    for item in value:
        try:
            copy.append(item if type(item) in _SIMPLE else _copy(item, depth + 1))
        except _NotJson as error:
            error.path = f"[{len(copy)}]{error.path}"
            raise
    return copy


def checked(kind: type[M], where: str, fields: Mapping[str, Any]) -> M:
    """The message with these fields. Raises ValidationFailed, which names every wrong field."""
    from pydantic import ValidationError  # whose import takes longer than a call; see client/transport/codec.py

    from balsam.wire.faults import said

    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        problems = [Problem(_place(where, item["loc"]), said(item)) for item in error.errors(include_url=False)]
        text = "\n  ".join(str(problem) for problem in problems[:_SHOWN_PROBLEMS])
        raise ValidationFailed(text, code="validation", details=problems) from None


def _place(where: str, location: Iterable[int | str]) -> str:
    place = where
    for part in location:
        place += f"[{part}]" if isinstance(part, int) else f".{part}" if place else str(part)
    return place


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` or the list of what there is."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else f"; there are: {', '.join(known)}"
