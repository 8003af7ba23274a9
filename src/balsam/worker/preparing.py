"""The methods of an App that say how its Jobs are started: shell_preamble, get_environ_vars, get_arg_str.

Called in a worker at the Site just before a Job starts; what they return goes back to the launcher as text.
"""

from collections.abc import Mapping
from typing import Any

from balsam.worker import performing
from balsam.worker.protocol import Answer, Call


class BadReturn(TypeError):
    """A method returned what can't be used; the text says what it must be."""


def prepare(make: performing.Make, call: Call) -> Answer:
    """Call the methods that are named in the call."""
    try:
        app = performing.instance(make, call)
        prepared = {name: _MAKERS[name](getattr(app, name)()) for name in call["methods"]}
    except BaseException as error:
        return performing.failure(error)
    return {"code": 0, "prepared": prepared}


def _preamble(value: Any) -> str:
    if isinstance(value, (list, tuple)) and all(isinstance(line, str) for line in value):
        return _text(" && ".join(value), "shell_preamble()")
    if isinstance(value, str):
        return _text(value, "shell_preamble()")
    raise BadReturn(f"shell_preamble() returned a {type(value).__name__}; it must return text or a list of texts")


def _environ(value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise BadReturn(f"get_environ_vars() returned a {type(value).__name__}; it must return a dict of texts")
    for name, text in value.items():
        if not isinstance(name, str) or not name or "=" in name or "\0" in name:
            raise BadReturn(f"get_environ_vars() returned the name {name!r}, which no variable can have")
        if not isinstance(text, str):
            raise BadReturn(f"get_environ_vars() returned {name} as a {type(text).__name__}; values must be text")
        _text(text, f"get_environ_vars(), {name}")
    return dict(value)


def _arg_str(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise BadReturn(f"get_arg_str() returned {value!r}; it must return the command line")
    return _text(value, "get_arg_str()")


def _text(value: str, where: str) -> str:
    if "\0" in value:
        raise BadReturn(f"{where}: a NUL character, which nothing in a shell can carry")
    return value


_MAKERS = {"shell_preamble": _preamble, "get_environ_vars": _environ, "get_arg_str": _arg_str}
