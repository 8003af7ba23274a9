"""How a granted Job is to be started: as a command, or as a call of a worker. Decides, and does nothing.

Made by the starter for each Start of the machine. An App with methods that say how its Jobs are started gets two plans:
first the call of those methods, then, with what they returned, the command.
"""

import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from balsam.domain.app import LaunchMethod
from balsam.domain.job import Resources
from balsam.domain.packing import Placement
from balsam.domain.template import ParameterError, RenderedCommand
from balsam.launcher.apps import AppRefused, AppShelf, RunnableApp, RunnableCode
from balsam.launcher.checkpoint import UnknownSignal, checkpoint_signal
from balsam.launcher.engines.base import SHELL, Engine, NotLaunchable
from balsam.launcher.environment import JobEnvironment, has_shell_hooks
from balsam.launcher.machine_messages import LaunchJob
from balsam.launcher.process import EXIT_NOT_EXECUTABLE
from balsam.launcher.sweep import ATTEMPT_ENV, JOB_ENV
from balsam.launcher.workers import GpuSet, WorkerKey
from balsam.platform.mpirun.base import SignalReach
from balsam.worker.protocol import Call

_MARKS = (JOB_ENV, ATTEMPT_ENV)
_ONCE = ("-P", "-m", "balsam.worker.once")


class NotStarted(Exception):
    """The Job can't be started; the text says why, `return_code` is what a shell would give."""

    def __init__(self, return_code: int, message: str) -> None:
        super().__init__(message)
        self.return_code = return_code


class CommandPlan(NamedTuple):
    """Words to execute. `spreads`: their end alone does not prove that the ranks ended. `call` goes to `call_path`.

    `reach`: how a signal gets to the ranks; `step` names them where it gets there by a program of its own.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    spreads: bool
    call_path: str = ""
    call: Call | None = None
    python_exe: str | None = None
    reach: SignalReach = "group"
    step: str = ""


@dataclass(frozen=True, slots=True)
class WorkerPlan:
    """A call of a worker of this key; `env` is that of a new one. `prepares`: the Job itself is started afterwards."""

    key: WorkerKey
    gpus: GpuSet
    env: Mapping[str, str]
    call: Call
    app: Mapping[str, Any]
    prepares: bool


Plan = CommandPlan | WorkerPlan
Prepared = Mapping[str, Any]


class Planner:
    """Plans for one partition. `told` are facts that all its Jobs have in common."""

    def __init__(
        self,
        apps: AppShelf,
        environment: JobEnvironment,
        engine: Engine,
        call_path_of: Callable[[LaunchJob], str],
        told: Mapping[str, Any],
    ) -> None:
        self._apps = apps
        self._environment = environment
        self._engine = engine
        self._call_path_of = call_path_of
        self._told = told

    def plan(self, job: LaunchJob, placement: Placement, prepared: Prepared | None = None) -> Plan:
        """`prepared` is what the App's methods returned. Raises NotStarted."""
        try:
            plan = self._plan(job, placement, prepared)
            checkpoint_signal(plan.env)
        except (AppRefused, ParameterError, NotLaunchable, UnknownSignal) as error:
            raise NotStarted(EXIT_NOT_EXECUTABLE, str(error)) from error
        return plan

    def _plan(self, job: LaunchJob, placement: Placement, prepared: Prepared | None) -> Plan:
        app = self._apps.get(job.app_id)
        own = self._environment.of_job(job, placement, app.environment)
        if app.code is None:
            return self._command(app, job, placement, own, {})
        if app.code.methods and prepared is None:
            call = {"do": "prepare", "methods": [str(name) for name in app.code.methods]}
            return self._call(app, app.code, job, placement, own, call)
        if app.runs_python:
            return self._python(app, app.code, job, placement, own, prepared or {})
        return self._command(app, job, placement, own, prepared or {})

    def _command(
        self, app: RunnableApp, job: LaunchJob, placement: Placement, own: Mapping[str, str], prepared: Prepared
    ) -> CommandPlan:
        line = prepared.get(LaunchMethod.GET_ARG_STR) if prepared else None
        command = app.render(job.parameters) if line is None else RenderedCommand(line, None)
        direct = not (self._environment.shell_hooks or has_shell_hooks(app.environment))
        base, own = self._replaced(job, own, prepared)
        words = self._engine.words(command, job, placement, own, direct)
        env = {**base, **own, **words.env}
        return CommandPlan(_after(prepared, words.argv), env, words.spreads, reach=words.reach, step=words.step)

    def _python(
        self,
        app: RunnableApp,
        code: RunnableCode,
        job: LaunchJob,
        placement: Placement,
        own: Mapping[str, str],
        prepared: Prepared,
    ) -> Plan:
        path = self._call_path_of(job)
        argv = (code.python_exe or sys.executable, *_ONCE, path)
        base, own = self._replaced(job, own, prepared)
        words = self._engine.words(RenderedCommand(shlex.join(argv), argv), job, placement, own, direct=True)
        # What is started here without an mpirun can as well be started in a process that is there already.
        if words.argv == argv and not (prepared or code.python_exe or code.uses_mpi or job.resources.ranks > 1):
            return self._call(app, code, job, placement, {**own, **words.env}, {"do": "run"})
        call = {"do": "run", "app": code.app, "job": self._facts(app, job)}
        env, line = {**base, **own, **words.env}, _after(prepared, words.argv)
        return CommandPlan(line, env, words.spreads, path, call, code.python_exe, words.reach, words.step)

    def _call(
        self,
        app: RunnableApp,
        code: RunnableCode,
        job: LaunchJob,
        placement: Placement,
        own: Mapping[str, str],
        call: Call,
    ) -> WorkerPlan:
        lasting = tuple(sorted((name, value) for name, value in own.items() if name not in _MARKS))
        marks = {name: own[name] for name in _MARKS}
        return WorkerPlan(
            key=WorkerKey(app.content_hash, lasting),
            gpus=frozenset((share.node, gpu) for share in placement.shares for gpu in share.gpu_ids),
            env={**self._environment.base, **own},
            call={**call, "job": self._facts(app, job), "env": marks},
            app=code.app,
            prepares=call["do"] == "prepare",
        )

    def _facts(self, app: RunnableApp, job: LaunchJob) -> dict[str, Any]:
        """What `self.job` knows without asking: fields of `wire.jobs.JobView`."""
        return {
            **self._told,
            **{name: getattr(job.resources, name) for name in Resources.__slots__},
            "id": job.id,
            "app_id": job.app_id,
            "app_name": app.name,
            "attempt": job.attempt,
            "workdir": job.workdir,
            "parameters": {**app.defaults, **job.parameters},
            "launch_params": dict(job.launch_params),
            "tags": dict(job.tags),
            "data": dict(job.data),
            "parent_ids": list(job.parent_ids),
        }

    def _replaced(
        self, job: LaunchJob, own: Mapping[str, str], prepared: Prepared
    ) -> tuple[Mapping[str, str], Mapping[str, str]]:
        """The common environment and the Job's own part, after what get_environ_vars() returned; the marks stay."""
        base = self._environment.base
        environ = prepared.get(LaunchMethod.GET_ENVIRON_VARS) if prepared else None
        if environ is None:
            return base, own
        kept = {name: value for name, value in base.items() if environ.get(name) == value}
        changed = {name: value for name, value in environ.items() if name not in kept}
        return kept, {**changed, **{name: own[name] for name in _MARKS}}


def _after(prepared: Prepared, argv: tuple[str, ...]) -> tuple[str, ...]:
    """The words, in a shell that has read the preamble first; a preamble that fails is the end."""
    preamble = prepared.get(LaunchMethod.SHELL_PREAMBLE) if prepared else None
    if not preamble:
        return argv
    return (
        *SHELL,
        f"{preamble}\nbalsam_status=$?; [ $balsam_status = 0 ] || exit $balsam_status\nexec {shlex.join(argv)}",
    )
