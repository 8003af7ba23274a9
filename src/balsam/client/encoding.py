"""Values on their way between a user's program and `run()`: what is JSON travels as JSON, all else in an envelope.

Used by the SDK for parameters and results and by worker processes for the same. What comes out is equal to what went
in, of the same types: a tuple or a numpy number is no JSON, so it gets an envelope. Imports little, for the workers.
"""

import math
from collections.abc import Mapping
from typing import Any

from balsam.client.pickling import NotOpened, open_envelope, seal
from balsam.domain.envelope import MARK, BadEnvelope, Envelope, is_envelope

# The service takes 32 levels; parameters and results stand some levels deep in their messages.
MAX_PLAIN_DEPTH = 24
MAX_PLAIN_INT = 2**63


def is_plain(value: Any, depth: int = 0) -> bool:
    """Whether a value comes back from JSON as it was, in value and type.

    >>> is_plain({"a": [1, 2.5, None]}), is_plain((1, 2)), is_plain({1: 2}), is_plain(float("nan"))
    (True, False, False, False)
    """
    kind = type(value)
    if kind is str:
        return bool(value.isascii()) or not any("\ud800" <= char <= "\udfff" for char in value)
    if kind is int:
        return bool(-MAX_PLAIN_INT < value < MAX_PLAIN_INT)
    if kind is float:
        return math.isfinite(value)
    if value is None or kind is bool:
        return True
    if depth >= MAX_PLAIN_DEPTH:
        return False
    if kind is list:
        return all(is_plain(item, depth + 1) for item in value)
    if kind is dict:
        return (
            MARK not in value
            and all(type(key) is str and is_plain(key) for key in value)
            and (all(is_plain(item, depth + 1) for item in value.values()))
        )
    return False


def encode(value: Any) -> Any:
    """JSON for a value: itself, or an envelope. Raises NotPicklable, BadEnvelope when it is too large."""
    return value if is_plain(value) else seal(value).as_json()


def decode(value: Any) -> Any:
    """The value behind its JSON; an envelope is opened, which runs code of whoever made it.

    Raises NotOpened, BadEnvelope.

    >>> decode(encode((1, {2})))
    (1, {2})
    """
    return open_envelope(Envelope.from_json(value)) if is_envelope(value) else value


def decode_all(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values behind some named parameters. Raises NotOpened, which names the parameter."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        try:
            found[name] = decode(value)
        except (NotOpened, BadEnvelope) as error:
            raise NotOpened(f"parameter {name!r}: {error}") from error
    return found
