"""Carrying out one call: `run()` of an App, or the methods that say how its Job is to be started.

Whatever the App's code does, what comes out is an answer: a value, or what went wrong with the traceback as Python
prints it. What ends the process (os._exit, a segmentation fault, the kernel) is noticed by whoever started it.
"""

import contextlib
import json
import sys
import traceback
from collections.abc import Callable
from typing import Any

from balsam.client.encoding import decode_all, encode
from balsam.client.errors import ResultTooLarge
from balsam.client.models.application import ApplicationDefinition
from balsam.client.pickling import NotPicklable, seal
from balsam.domain.envelope import MAX_PAYLOAD_BYTES, BadEnvelope, is_envelope
from balsam.worker.loading import AppNotLoaded
from balsam.worker.protocol import Answer, Call, clean

Make = Callable[[], ApplicationDefinition]
FAILED = 1
MOST_TYPE = 500
MOST_MESSAGE = 8000
MOST_TRACEBACK = 64_000


def run(make: Make, call: Call) -> Answer:
    """Run `run()` with the Job's parameters."""
    try:
        app = instance(make, call)
        method: Any = getattr(app, "run")  # noqa: B009 - the base class has none
        result = _packed(method(**app._given))
    except BaseException as error:  # SystemExit and KeyboardInterrupt are the App's doing as well
        return failure(error)
    return {"code": 0, "result": result}


def instance(make: Make, call: Call) -> ApplicationDefinition:
    """The App for one Job, which knows the parameters and can make `self.job`. Raises NotOpened."""
    app = make()
    facts = call["job"]
    app._given = decode_all(facts["parameters"])
    app._make_job = lambda: _job(facts)
    return app


def _job(facts: dict[str, Any]) -> Any:
    from balsam.client.models.job import Job

    return Job._known_in_part(facts)


def _packed(value: Any) -> dict[str, Any] | None:
    """A result as it is told; None for None. Raises ResultTooLarge, NotPicklable."""
    if value is None:
        return None
    try:
        packed = encode(value)
    except BadEnvelope as error:
        raise ResultTooLarge(f"what run() returned is too large: {error}") from None
    except NotPicklable as error:
        raise NotPicklable(f"what run() returned can't be pickled: {error}") from None
    if not is_envelope(packed) and (size_bytes := len(json.dumps(packed))) > MAX_PAYLOAD_BYTES:
        raise ResultTooLarge(
            f"what run() returned is too large: {size_bytes} bytes as JSON; at most {MAX_PAYLOAD_BYTES} travel this "
            "way. Write large data to a file and return its name"
        )
    return {"value": packed}


def failure(error: BaseException) -> Answer:
    """The answer for what was raised; it is printed too, as a Python program does."""
    text = _traceback(error)
    with contextlib.suppress(Exception):  # its stderr may be closed, or replaced by something of its own
        print(text, end="", file=sys.stderr, flush=True)  # noqa: T201
    told: dict[str, Any] = {
        "type": clean(_type_name(error), MOST_TYPE),
        "message": clean(_text(error), MOST_MESSAGE),
        "traceback": clean(text, MOST_TRACEBACK),
    }
    if (sealed := _sealed(error)) is not None:
        told["exception"] = sealed
    return {"code": _exit_code(error), "result": {"error": told}, "message": clean(text, MOST_MESSAGE)}


def _exit_code(error: BaseException) -> int:
    """As the interpreter would end; but who calls sys.exit(0) has returned nothing, which is a failure here."""
    if isinstance(error, SystemExit) and type(error.code) is int and 0 < error.code < 256:
        return error.code
    return FAILED


def _traceback(error: BaseException) -> str:
    if isinstance(error, AppNotLoaded):
        return f"{error}\n"  # it says all there is; where we were then is nobody's concern
    # The first frames are ours.
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    text = "".join(traceback.format_exception(type(error), error, trace))
    if isinstance(error, SystemExit):
        text += f"run() called sys.exit({error.code!r}) instead of returning\n"
    return text


def _type_name(error: BaseException) -> str:
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # its __str__ may raise anything
        return "<exception str() failed>"


def _sealed(error: BaseException) -> dict[str, Any] | None:
    try:
        return seal(error).as_json()
    except (NotPicklable, BadEnvelope):
        return None
