"""Runs hooks of Apps, one after another, in the process that `hook_keeper.py` keeps.

Each hook runs in the Job's workdir with its output appended to `balsam.log`; afterwards the process is as it was, and
what the hook started is gone (`isolation.py`). Whatever the hook's code does, what comes out is one answer; what ends
the process is noticed by the keeper. Code stays loaded by the hash of its App.
"""

import json
import os
import socket
import sys
import traceback
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from balsam.client.models.application import ApplicationDefinition
from balsam.worker.isolation import Surroundings
from balsam.worker.loading import AppNotLoaded, load_app
from balsam.worker.protocol import EXIT_NO_CHANNEL, Call, Closed, clean, receive_call

MOST_APPS = 50
MOST_OUTCOME_BYTES = 512 * 1024
MOST_MESSAGE = 4000
MOST_TRACEBACK = 32_000

Answer = dict[str, Any]
Make = Callable[[], ApplicationDefinition]


class HookRunner:
    """Takes calls until its keeper is gone.

    A call: `job_id`, `hook`, `env`, and `app` with `name`, `hash` and `envelope`. It says "loaded" when the App's code
    is, "begun" when the hook begins, "done" in the end: with `outcome` as of `HookJob.outcome()`, or with `message` and
    `traceback` of what went wrong; `stays`: it can take another call.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._pid = os.getpid()
        self._surroundings = Surroundings()
        self._apps: OrderedDict[str, Make] = OrderedDict()

    def serve(self) -> None:
        """Raises Closed."""
        while True:
            call, workdir, output = receive_call(self._sock)
            self._surroundings.enter(workdir, output, call["env"])
            answer = self._answer(call)
            if os.getpid() != self._pid:  # a child that the hook forked came back from it
                os._exit(0)
            reason = self._leave()
            self._say({**answer, "is": "done", "stays": not reason, "left": reason})

    def _leave(self) -> str:
        try:
            return self._surroundings.leave()
        except OSError:  # the hook closed descriptors that are not its own
            os._exit(EXIT_NO_CHANNEL)

    def _answer(self, call: Call) -> Answer:
        try:
            make = self._make(call["app"])
            self._say({"is": "loaded"})
            job = _read(call["job_id"])
            self._say({"is": "begun"})
            app = make()
            app._make_job = lambda: job
            getattr(app, call["hook"], _nothing)()
            return {"outcome": _bounded(job.outcome())}
        except BaseException as error:  # SystemExit and KeyboardInterrupt are the hook's doing as well
            return failure(call["hook"], error)

    def _make(self, app: dict[str, Any]) -> Make:
        if app["hash"] not in self._apps:
            self._apps[app["hash"]] = load_app(app["name"], app["envelope"])
            if len(self._apps) > MOST_APPS:
                self._apps.popitem(last=False)
            self._surroundings.loaded()
        self._apps.move_to_end(app["hash"])
        return self._apps[app["hash"]]

    def _say(self, message: Answer) -> None:
        if os.getpid() != self._pid:
            os._exit(0)
        try:
            self._sock.sendall(json.dumps(message).encode() + b"\n")
        except OSError:  # the hook closed descriptors that are not its own
            os._exit(EXIT_NO_CHANNEL)


def _nothing() -> None:
    """In place of a hook that a later definition of the App does not have any more: its default verdict."""


def _read(job_id: int) -> Any:
    # What it imports is for those that get here: a hook whose code can't be loaded needs none of it.
    from balsam.client.client import default_client
    from balsam.worker.hook_job import read_job

    return read_job(default_client(), job_id)


def _bounded(outcome: Answer) -> Answer:
    size_bytes = len(json.dumps(outcome))
    if size_bytes > MOST_OUTCOME_BYTES:
        raise ValueError(
            f"what was set of self.job is {size_bytes} bytes as JSON; at most {MOST_OUTCOME_BYTES} travel this way. "
            "Write large data to a file in the workdir"
        )
    return outcome


def failure(hook: str, error: BaseException) -> Answer:
    """The answer for what was raised; it is printed too, as a Python program does."""
    text = _traceback(error)
    try:
        print(text, end="", file=sys.stderr, flush=True)  # noqa: T201
    except Exception:  # its stderr may be closed, full, or something of its own
        text += "(balsam.log does not have this: it could not be written)\n"
    if isinstance(error, AppNotLoaded):
        said = str(error)
    elif isinstance(error, SystemExit):
        said = f"{hook} called sys.exit({error.code!r}) instead of returning"
    else:
        said = f"{hook} raised {''.join(traceback.format_exception_only(error)).strip()}"
    return {"message": clean(said, MOST_MESSAGE), "traceback": clean(text, MOST_TRACEBACK)}


def _traceback(error: BaseException) -> str:
    if isinstance(error, AppNotLoaded):
        return f"{error}\n"  # it says all there is
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(error), error, trace))


def run(sock: socket.socket) -> None:
    """Serve until the keeper is gone; called in the process that it forked."""
    try:
        HookRunner(sock).serve()
    except Closed:
        os._exit(0)
