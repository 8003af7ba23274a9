"""What pydantic found wrong with one field, in words. The service and the client say it alike."""

import difflib
import re
from collections.abc import Mapping
from typing import Any


def said(fault: Mapping[str, Any]) -> str:
    """The fault in words; for one of a few words also the nearest, when the fault carries what was given.

    >>> said({"type": "enum", "msg": "Input should be 'mpi', 'serial', 'mpi' or 'serial'", "input": "seriell"})
    "must be one of: mpi, serial; did you mean 'serial'?"
    """
    text = str(fault["msg"]).removeprefix("Value error, ")
    if fault["type"] != "enum":
        return text
    words = list(dict.fromkeys(re.findall(r"'([^']*)'", text)))  # pydantic lists a member again for each alias
    return f"must be one of: {', '.join(words)}{nearest_word(fault.get('input'), words)}"


def nearest_word(given: object, words: list[str]) -> str:
    """`; did you mean 'x'?`, or nothing when no word is near. The case of letters does not count."""
    near = difflib.get_close_matches(str(given).lower(), [word.lower() for word in words], n=1)
    return next((f"; did you mean {word!r}?" for word in words if near and word.lower() == near[0]), "")
