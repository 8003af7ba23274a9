"""From a plan to a running process: work directory, output file, spawn, or a call of a worker.

Called by `children.py` for each Start of the machine. Every failure is told as one of two kinds: `NotStarted` (this
Job, as it is, will never start here) or `process.SpawnError` with `shortage` (try again later).
"""

import os
from collections.abc import Callable
from typing import TypeVar

from balsam.domain.packing import Placement
from balsam.launcher.call_files import CallFiles, Left
from balsam.launcher.machine_messages import LaunchJob
from balsam.launcher.plans import CommandPlan, NotStarted, Plan, Planner, Prepared, WorkerPlan
from balsam.launcher.process import (
    EXIT_NOT_EXECUTABLE,
    Child,
    Command,
    CommandError,
    SpawnError,
    is_shortage,
    open_output,
    spawn,
)
from balsam.launcher.workdir import OUTPUT_NAME, DataRoot, WorkdirError, keep_earlier_output
from balsam.launcher.workers import Worker, Workers

T = TypeVar("T")


class Starter:
    """Starts Jobs of one partition."""

    def __init__(self, planner: Planner, data: DataRoot, calls: CallFiles) -> None:
        self._planner = planner
        self._data = data
        self._data_path = str(data.path)
        self._calls = calls

    def plan(self, job: LaunchJob, placement: Placement, prepared: Prepared | None = None) -> Plan:
        """How to start it. Raises NotStarted."""
        return self._planner.plan(job, placement, prepared)

    def execute(self, job: LaunchJob, plan: CommandPlan, *, is_first: bool = True) -> Child:
        """Start the command. `is_first`: nothing of this attempt has written yet. Raises NotStarted, SpawnError."""

        def begin(directory: int) -> Child:
            if plan.call is not None:
                self._calls.write(plan.call_path, plan.call)
            try:
                return spawn(Command(plan.argv, plan.env, self._cwd(job), OUTPUT_NAME, cwd_fd=directory))
            except BaseException:
                self.forget(plan)
                raise

        return self._entered(job, is_first, begin)

    def call(self, job: LaunchJob, plan: WorkerPlan, workers: Workers) -> Worker:
        """Have the call carried out by a worker. Raises NotStarted, SpawnError."""

        def begin(directory: int) -> Worker:
            output = open_output(OUTPUT_NAME, directory)
            command = Command((), plan.env, self._cwd(job), OUTPUT_NAME, cwd_fd=directory)
            call = {**plan.call, "env": {**plan.call["env"], "PWD": command.cwd}}
            try:
                return workers.call(plan.key, plan.gpus, job.id, command, call, plan.app, output)
            finally:
                os.close(output)

        return self._entered(job, True, begin)

    def take(self, plan: CommandPlan) -> Left | None:
        """What the ranks of a Python Job left; None for a command."""
        return None if plan.call is None else self._calls.take(plan.call_path)

    def forget(self, plan: CommandPlan) -> None:
        """Remove the call of a Job that was not started, or whose answer does not count."""
        if plan.call is not None:
            self._calls.remove(plan.call_path)

    def _cwd(self, job: LaunchJob) -> str:
        return f"{self._data_path}/{job.workdir}"

    def _entered(self, job: LaunchJob, is_first: bool, begin: Callable[[int], T]) -> T:
        """Begin in its work directory, opened; whatever goes wrong there is told as this module promises."""
        try:
            directory, is_new = self._data.enter(job.workdir)
            try:
                if is_first and not is_new:
                    keep_earlier_output(directory, job.attempt)
                return begin(directory)
            finally:
                os.close(directory)
        except CommandError as error:
            raise NotStarted(error.exit_code, str(error)) from error
        except WorkdirError as error:
            raise _refusal(str(error), error.__cause__) from error
        except SpawnError as error:
            if error.shortage:
                raise
            raise NotStarted(EXIT_NOT_EXECUTABLE, str(error)) from error
        except OSError as error:
            why = f"{error.filename or 'its files'}: {error.strerror or error}"
            raise _refusal(f"it can't be started: {why}", error) from error


def _refusal(text: str, cause: BaseException | None) -> NotStarted | SpawnError:
    if is_shortage(cause):
        return SpawnError(text, shortage=True)
    return NotStarted(EXIT_NOT_EXECUTABLE, text)
