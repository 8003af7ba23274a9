"""What pydantic found wrong with one field, in words. The service and the client say it alike."""

import difflib
import re
from collections.abc import Mapping
from typing import Any

_SECRET = ("password", "token", "secret", "code")
_SAID_OTHERWISE = ("extra_forbidden", "missing", "value_error")  # by the place, or by our own validators
_SHOWN_LENGTH = 60


def said(fault: Mapping[str, Any]) -> str:
    """The fault in words, with what was given where that is short and no secret; for one of a few words, the nearest.

    >>> said({"type": "enum", "msg": "Input should be 'mpi', 'serial', 'mpi' or 'serial'", "input": "seriell"})
    "must be one of: mpi, serial; did you mean 'serial'?"
    >>> said({"type": "int_type", "msg": "Input should be a valid integer", "input": "soon", "loc": ("num_nodes",)})
    "Input should be a valid integer; it is 'soon'"
    """
    text = str(fault["msg"]).removeprefix("Value error, ")
    if fault["type"] != "enum":
        return text + _given(fault)
    words = list(dict.fromkeys(re.findall(r"'([^']*)'", text)))  # pydantic lists a member again for each alias
    return f"must be one of: {', '.join(words)}{nearest_word(fault.get('input'), words)}"


def _given(fault: Mapping[str, Any]) -> str:
    """`; it is 0`, or nothing."""
    given = fault.get("input")
    is_secret = any(word in str(part) for part in fault.get("loc", ()) for word in _SECRET)
    is_shown = isinstance(given, (str, int, float)) and fault["type"] not in _SAID_OTHERWISE
    text = repr(given) if is_shown and not is_secret else ""
    return f"; it is {text}" if 0 < len(text) <= _SHOWN_LENGTH else ""


def nearest_word(given: object, words: list[str]) -> str:
    """`; did you mean 'x'?`, or nothing when no word is near. The case of letters does not count."""
    near = difflib.get_close_matches(str(given).lower(), [word.lower() for word in words], n=1)
    return next((f"; did you mean {word!r}?" for word in words if near and word.lower() == near[0]), "")
