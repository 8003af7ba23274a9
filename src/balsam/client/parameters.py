"""Parameters of Jobs on their way to the service: JSON for commands; for `run()` whatever can be pickled.

Used when a Job is created or its changes are sent. Every fault names the parameter.
"""

from collections.abc import Mapping
from typing import Any

from balsam.client.encoding import encode, is_plain
from balsam.client.errors import Problem, ValidationFailed
from balsam.client.pickling import NotPicklable, python_version
from balsam.client.values import json_copy
from balsam.domain.app import PythonCode
from balsam.domain.envelope import BadEnvelope, Envelope, is_envelope


def encoded(given: Mapping[str, Any], code: PythonCode | None) -> dict[str, Any]:
    """JSON for the parameters of a Job of an App with this code. Raises ValidationFailed that names the parameter."""
    if code is None or not code.runs:
        plain: dict[str, Any] = json_copy(given, "parameters")
        return plain
    return {name: _encoded(name, value, code) for name, value in given.items()}


def _encoded(name: str, value: Any, code: PythonCode) -> Any:
    if is_plain(value) or _came_from_the_service(value):
        return json_copy(value, f"parameters.{name}")
    there = code.envelope.python
    if there != python_version():
        why = f"is pickled by Python {python_version()} here, and the App is of Python {there}; use Python {there}"
        raise _faulty(name, f"{why}, or pass a value that is JSON")
    try:
        return encode(value)
    except (NotPicklable, BadEnvelope) as error:
        raise _faulty(name, f"can't be sent to the Site: {error}") from None


def _came_from_the_service(value: Any) -> bool:
    """Whether this is an envelope; a dict that has its key by chance is not."""
    try:
        return is_envelope(value) and Envelope.from_json(value) is not None
    except BadEnvelope:
        return False


def _faulty(name: str, why: str) -> ValidationFailed:
    where = f"parameters.{name}"
    return ValidationFailed(f"{where} {why}", code="validation", details=[Problem(where, why)])
