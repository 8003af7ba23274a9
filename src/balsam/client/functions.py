"""Functions as Apps: how a function that is handed to a `JobExecutor` is registered, and its arguments are sent.

Each function becomes one App, named after it and after the hash of what is pickled, so that the same function is the
same App in every process, and another one with the same name is another App.
"""

import functools
import inspect
import re
import textwrap
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from balsam.client.encoding import is_plain
from balsam.client.errors import Problem, ValidationFailed
from balsam.client.models.function import FunctionApp
from balsam.client.pickling import NotPicklable, seal, seal_function
from balsam.client.registration import check_python
from balsam.client.values import checked
from balsam.domain.envelope import BadEnvelope
from balsam.wire.apps import AppSync

if TYPE_CHECKING:
    from balsam.client.client import Client

MAX_NAME = 120
MAX_SOURCE = 262_144
_HASH_DIGITS = 12


def register(client: "Client", site_id: int, function: Callable[..., Any], python_exe: str | None) -> int:
    """The id of the function's App. Raises ValidationFailed when it can't be sent, or when the Pythons differ."""
    name = name_of(function)
    try:
        envelope = seal_function(FunctionApp(function), function)
    except (NotPicklable, BadEnvelope) as error:
        raise _faulty(f"function {name}", f"can't be sent to the Site: {error}") from None
    fields = {
        "site_id": site_id,
        "name": f"{_identifier(name)}_{envelope.sha256[:_HASH_DIGITS]}",
        "parameters": {part: {"required": False, "default": None, "help": ""} for part in ("args", "kwargs")},
        "description": f"{name}(), called by a JobExecutor",
        "source_code": _source(function),
        "code": {"envelope": envelope.as_json(), "runs": True, "python_exe": python_exe},
    }
    content = checked(AppSync, f"function {name}", fields)
    check_python(client, content)
    # Somebody else's process may have registered it already: then nothing is to be replaced.
    known = client.apps.same(content)
    return (known or client.apps.sync(content)).id


def arguments(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of the Job that makes this call. Raises ValidationFailed that names an argument."""
    given: dict[str, Any] = {}
    if args:
        plain = list(args)
        given["args"] = plain if is_plain(plain) else args
    if kwargs:
        given["kwargs"] = dict(kwargs)
    if not all(map(is_plain, given.values())):
        _check(function, args, kwargs)
    return given


def _check(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Name the argument that can't be pickled. They are sent pickled together: what they share stays shared."""
    named = {**{f"argument {index}": value for index, value in enumerate(args)}, **kwargs}
    for name, value in named.items():
        if is_plain(value):
            continue
        try:
            seal(value)
        except (NotPicklable, BadEnvelope) as error:
            raise _faulty(f"{name_of(function)}(): {name}", f"can't be sent to the Site: {error}") from None


def name_of(function: Callable[..., Any]) -> str:
    """What people call it."""
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "__qualname__", None) or type(function).__qualname__


def _identifier(name: str) -> str:
    words = re.sub(r"\W+", "_", name.replace("<locals>.", "")).strip("_")[:MAX_NAME]
    return words if words.isidentifier() else f"function_{words}"


def _source(function: Callable[..., Any]) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    try:
        return textwrap.dedent(inspect.getsource(function))[:MAX_SOURCE]
    except (OSError, TypeError):  # typed at a prompt, or not written in Python
        return ""


def _faulty(where: str, why: str) -> ValidationFailed:
    return ValidationFailed(f"{where} {why}", code="validation", details=[Problem(where, why)])
