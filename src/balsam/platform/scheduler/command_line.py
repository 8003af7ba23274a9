"""What all adapters over command lines have in common: the careful submission, and the options that go with it.

An adapter says how its scheduler's commands are called and understood; the order in which a name is looked for, asked
for and looked for again (S11) stands here, once.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import ClassVar

from balsam.platform.scheduler import options
from balsam.platform.scheduler.base import (
    BackfillWindow,
    QueueLimits,
    SchedulerConfig,
    SchedulerJob,
    SchedulerUnavailable,
    SubmitInDoubt,
    SubmitRefused,
    SubmitRequest,
)
from balsam.platform.scheduler.commands import Answer, Commands, a_name, one_word

COMMON_OPTIONS = {"command_timeout_sec": "how long a command of the scheduler may take (60)"}
TIMEOUT_SEC = 60.0
# From the end of a submission that was cut off until the scheduler has surely taken it or not.
SETTLE_SEC = 15.0


class CommandScheduler(ABC):
    """A `Scheduler` that runs commands. `_outages` are texts by which a failing command tells that the scheduler, and
    not the request, is at fault; `_script_on_stdin`: the submission reads the batch script there; `_has_large_codes`:
    its commands fail with codes that elsewhere tell a signal.
    """

    options: ClassVar[Mapping[str, str]] = COMMON_OPTIONS
    _outages: ClassVar[tuple[str, ...]]
    _script_on_stdin: ClassVar[bool] = False
    _has_large_codes: ClassVar[bool] = False
    _forget: ClassVar[tuple[str, ...]] = ()
    _keep: ClassVar[tuple[str, ...]] = ()
    _add: ClassVar[Mapping[str, str]] = {}

    def __init__(self, config: SchedulerConfig) -> None:
        options.refuse_unknown(config.options, self.options)
        self._submit_dir = config.submit_dir
        self._prefix = config.name_prefix
        self._crash_point = config.crash_point
        self._clock = config.clock
        timeout_sec = options.positive(config.options, "command_timeout_sec", TIMEOUT_SEC)
        self._commands = Commands(timeout_sec, self._forgotten(), self._add, self._keep)
        self.doubt_sec = timeout_sec + min(SETTLE_SEC, timeout_sec)

    # What an adapter says

    @abstractmethod
    def _words(self, script_path: Path, name: str, request: SubmitRequest) -> list[str]:
        """The submission; name, queue and project were checked to be harmless words."""

    @abstractmethod
    def _submitted_id(self, said: str) -> str | None:
        """The id in what a successful submission said, or None."""

    @abstractmethod
    def find(self, name: str) -> str | None: ...

    @abstractmethod
    def jobs(self) -> dict[str, SchedulerJob]: ...

    @abstractmethod
    def history(self, scheduler_ids: Iterable[str]) -> dict[str, SchedulerJob]: ...

    @abstractmethod
    def cancel(self, scheduler_id: str) -> None: ...

    @abstractmethod
    def queues(self) -> dict[str, QueueLimits]: ...

    @abstractmethod
    def time_left_sec(self, scheduler_id: str) -> float | None: ...

    def _forgotten(self) -> tuple[str, ...]:
        """How the variables begin that commands do not get, but for those of `_keep`."""
        return self._forget

    def backfill_windows(self) -> dict[str, list[BackfillWindow]]:
        return {}

    # What is the same for all

    def render(self, script_path: Path, name: str, request: SubmitRequest) -> list[str]:
        a_name(name)
        for what, value in (("queue", request.queue), ("project", request.project), ("path", str(script_path))):
            one_word(what, value)
        if request.num_nodes < 1 or request.wall_time_min < 1:
            raise SubmitRefused(f"{request.num_nodes} nodes for {request.wall_time_min} min: both must be at least 1")
        return self._words(script_path, name, request)

    def submit(self, script_path: Path, name: str, request: SubmitRequest) -> str:
        words = self.render(script_path, name, request)
        known = self.find(name)
        if known is not None:
            return known
        self._crash_point("before-start")
        try:
            answer = self._commands.submit(words, script_path if self._script_on_stdin else None)
        except SchedulerUnavailable as error:
            return self._look_for(name, str(error), SubmitInDoubt(str(error)))
        self._crash_point("after-start")
        scheduler_id = self._submitted_id(answer.out) if answer.code == 0 else None
        if scheduler_id is not None:
            return scheduler_id
        return self._look_for(name, answer.complaint, self._failure(answer))

    def _look_for(self, name: str, complaint: str, failure: Exception) -> str:
        """The submission went wrong: was it heard all the same? (S11) Raises `failure` when the name is not known."""
        try:
            found = self.find(name)
        except SchedulerUnavailable as error:
            raise SubmitInDoubt(f"{complaint}; and it can't be looked for: {error}") from error
        if found is None:
            raise failure
        return found

    def _failure(self, answer: Answer) -> Exception:
        if answer.code == 0 or self._is_outage(answer):
            return SubmitInDoubt(answer.complaint)
        return SubmitRefused(answer.complaint)

    def _is_outage(self, answer: Answer) -> bool:
        said = f"{answer.err}\n{answer.out}".lower()
        # Of `timeout`, of a wrapper, killed by SIGKILL or SIGTERM; else above 128 by another signal.
        is_lost = answer.code in (124, 125, 126, 127, 137, 143) or not said.strip()
        if self._has_large_codes:
            return is_lost or any(text in said for text in self._outages)
        return is_lost or answer.code >= 128 or any(text in said for text in self._outages)

    def _ask(self, *words: str, may_fail: tuple[str, ...] = ()) -> str:
        """The output of a question. "" when it fails with one of the texts `may_fail`. Raises SchedulerUnavailable."""
        answer = self._commands.ask(words)
        if answer.code == 0:
            return answer.out
        said = f"{answer.err}\n{answer.out}".lower()
        if not self._is_outage(answer) and any(text in said for text in may_fail):
            return ""
        raise SchedulerUnavailable(answer.complaint)

    def watch(self, on_change: Callable[[str], None]) -> bool:
        return False

    def close(self) -> None:  # noqa: B027 - nothing is held between commands
        pass
