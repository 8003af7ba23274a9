"""Running a scheduler's commands: without a shell, with a time-out, in a fixed language and time zone.

Used by the adapters that work over command lines. What a command says is returned as it is; that it could not be run,
or did not end in time, is SchedulerUnavailable. `one_word` guards what goes into a command or a directive.
"""

import logging
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from balsam.platform.scheduler.base import SchedulerUnavailable, SubmitRefused

log = logging.getLogger(__name__)

_SLOW_SEC = 10.0
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command said; `code` as a shell tells it, 128+n for signal n."""

    program: str
    code: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """Why it failed, in its own words."""
        said = " ".join((self.err.strip() or self.out.strip()).split())
        return f"{self.program}: {said[:500]}" if said else f"{self.program} ended with {self.code} and said nothing"


class Commands:
    """Runs commands with one time-out. Environment variables that begin with one of `forget` are not passed on, as
    some change what a command lists, unless `keep` names them; those of `add` are given to questions.
    """

    def __init__(
        self,
        timeout_sec: float,
        forget: tuple[str, ...] = (),
        add: Mapping[str, str] | None = None,
        keep: tuple[str, ...] = (),
    ) -> None:
        self.timeout_sec = timeout_sec
        self._forget = forget
        self._keep = keep
        self._add = add or {}

    def ask(self, words: Sequence[str]) -> Answer:
        """A question, or an order that may be repeated. Raises SchedulerUnavailable."""
        return self._run(words[0], words, {**self._environment(), **self._add, "LC_ALL": "C", "TZ": "UTC"})

    def submit(self, words: Sequence[str], script: Path | None = None) -> Answer:
        """A submission, `script` on its stdin when given. Raises SchedulerUnavailable.

        Its environment may become that of the batch script, so only the language of messages is changed in it. The
        command ends in time even when this process is killed: a later one must not meet a submission under way (S11).
        """
        environment = self._environment()
        everything = environment.pop("LC_ALL", None)
        environment.pop("LANGUAGE", None)
        if everything is not None:
            environment["LC_CTYPE"] = everything
        environment["LC_MESSAGES"] = "C"
        return self._run(words[0], _bounded(words, self.timeout_sec + 1), environment, script)

    def _environment(self) -> dict[str, str]:
        return {
            name: value for name, value in os.environ.items() if name in self._keep or not name.startswith(self._forget)
        }

    def _run(
        self, program: str, words: Sequence[str], environment: Mapping[str, str], stdin: Path | None = None
    ) -> Answer:
        began = time.monotonic()
        try:
            with (stdin or Path(os.devnull)).open("rb") as stream:
                process = subprocess.Popen(
                    words,
                    env=environment,
                    stdin=stream,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    start_new_session=True,
                )
        except OSError as error:
            raise SchedulerUnavailable(
                f"{program} can't be run ({error.strerror}); is it on the PATH of the agent, {os.environ.get('PATH')}?"
            ) from error
        try:
            out, err = process.communicate(timeout=self.timeout_sec)
        except subprocess.TimeoutExpired as error:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # a wrapper's children hold the pipes open
            process.communicate()
            raise SchedulerUnavailable(f"{program} did not answer within {self.timeout_sec:g} s") from error
        if (took := time.monotonic() - began) > _SLOW_SEC:
            log.warning("%s took %.0f s", program, took)
        code = process.returncode if process.returncode >= 0 else 128 - process.returncode
        return Answer(program, code, out.decode(errors="replace"), err.decode(errors="replace"))


def _bounded(words: Sequence[str], timeout_sec: float) -> list[str]:
    """The command under coreutils' `timeout`, which outlives us; as it is where there is none."""
    if shutil.which("timeout") is None:
        return list(words)
    return ["timeout", "--kill-after=1", f"{timeout_sec:g}", *words]


def one_word(what: str, value: str) -> str:
    """`value`, when it is safe as one word of a command or directive. Raises SubmitRefused."""
    if not value or value.startswith("-") or not value.isprintable():
        why = "is empty" if not value else "begins with '-'" if value.startswith("-") else "has control characters"
        raise SubmitRefused(f"{what} {value!r} {why}; the scheduler's command can't take it")
    return value


def a_name(name: str) -> str:
    """`name`, when every scheduler takes it as the name of a job. Raises SubmitRefused."""
    if not _NAME.fullmatch(name):
        raise SubmitRefused(
            f"{name!r} is no name for an allocation: a letter, then letters, digits and ._- only, at most 128 together"
        )
    return name
