"""From a granted Job to a running process: App, parameters, work directory, output file, environment, words, spawn.

Called by the loop for each Start of the machine. Every failure is told as one of two kinds: `NotStarted` (this Job, as
it is, will never start here) or `process.SpawnError` with `shortage` (try again later).
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from balsam.domain.packing import Placement
from balsam.domain.template import ParameterError
from balsam.launcher.apps import AppRefused, AppShelf
from balsam.launcher.engines.base import Engine, NotLaunchable
from balsam.launcher.environment import JobEnvironment, has_shell_hooks
from balsam.launcher.machine_messages import LaunchJob
from balsam.launcher.process import EXIT_NOT_EXECUTABLE, Child, Command, CommandError, SpawnError, spawn
from balsam.launcher.workdir import OUTPUT_NAME, DataRoot, WorkdirError, keep_earlier_output


class NotStarted(Exception):
    """The Job can't be started; the text says why, `return_code` is what a shell would give."""

    def __init__(self, return_code: int, message: str) -> None:
        super().__init__(message)
        self.return_code = return_code


@dataclass(frozen=True, slots=True)
class StartedJob:
    """A running Job's first process. `spreads`: its end alone does not prove that its ranks ended."""

    child: Child
    spreads: bool


class Starter:
    """Starts Jobs of one partition."""

    def __init__(self, apps: AppShelf, data: DataRoot, environment: JobEnvironment, engine: Engine) -> None:
        self._apps = apps
        self._data = data
        self._environment = environment
        self._engine = engine

    def start(self, job: LaunchJob, placement: Placement) -> StartedJob:
        """Raises NotStarted, or SpawnError with `shortage`."""
        try:
            app = self._apps.get(job.app_id)
            own = self._environment.of_job(job, placement, app.environment)
            direct = not (self._environment.shell_hooks or has_shell_hooks(app.environment))
            words = self._engine.words(app.render(job.parameters), job, placement, own, direct)
        except (AppRefused, ParameterError, NotLaunchable) as error:
            raise NotStarted(EXIT_NOT_EXECUTABLE, str(error)) from error
        try:
            child = self._spawn(job, words.argv, {**self._environment.base, **own, **words.env})
        except CommandError as error:
            raise NotStarted(error.exit_code, str(error)) from error
        except WorkdirError as error:
            raise NotStarted(EXIT_NOT_EXECUTABLE, str(error)) from error
        except SpawnError as error:
            if error.shortage:
                raise
            raise NotStarted(EXIT_NOT_EXECUTABLE, str(error)) from error
        return StartedJob(child, words.spreads)

    def _spawn(self, job: LaunchJob, argv: tuple[str, ...], env: Mapping[str, str]) -> Child:
        directory = self._data.enter(job.workdir)
        try:
            keep_earlier_output(directory, job.attempt)
            return spawn(Command(argv, env, f"{self._data.path}/{job.workdir}", OUTPUT_NAME, cwd_fd=directory))
        finally:
            os.close(directory)
