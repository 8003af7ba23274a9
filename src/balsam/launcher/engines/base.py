"""What an engine is asked: the words that start a Job's ranks, and what to set for them besides."""

import logging
from collections.abc import Mapping
from typing import NamedTuple, Protocol

from balsam.domain.packing import Placement
from balsam.domain.template import RenderedCommand
from balsam.launcher.checkpoint import CHECKPOINT_ENV, NONE
from balsam.launcher.machine_messages import LaunchJob
from balsam.platform.mpirun.base import SignalReach

log = logging.getLogger("balsam.launcher")
SHELL = ("bash", "-c")


class NotLaunchable(Exception):
    """The Job asks for what this engine can't do; the text says what it can."""


class Words(NamedTuple):
    """A command line. `spreads`: it starts processes in sessions of their own, whose end its own end does not prove.

    `reach`: how a signal gets to the ranks; `step` names them where it gets there by a program of its own.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    spreads: bool = False
    reach: SignalReach = "group"
    step: str = ""


class IgnoredParams:
    """Tells the log, once for each App, that the launch_params of its Jobs go to no mpirun."""

    def __init__(self) -> None:
        self._told: set[int] = set()

    def tell(self, job: LaunchJob, why: str) -> None:
        if job.launch_params and job.app_id not in self._told:
            self._told.add(job.app_id)
            names = ", ".join(map(repr, sorted(job.launch_params)))
            log.info("App %d: launch_params %s are ignored, as of Job %d: %s", job.app_id, names, job.id, why)


class Engine(Protocol):
    """One way to start Jobs."""

    def words(
        self, command: RenderedCommand, job: LaunchJob, placement: Placement, env: Mapping[str, str], direct: bool
    ) -> Words:
        """`env` is what the Job gets of its own. `direct`: a plain command may go without a shell.

        Raises NotLaunchable.
        """
        ...


def argv_of(command: RenderedCommand, direct: bool, env: Mapping[str, str]) -> tuple[str, ...]:
    """The words of one rank: the plain command, or a shell that reads it, and outlives the signal for a checkpoint.

    Raises NotLaunchable.
    """
    if direct and command.argv is not None:
        return command.argv
    name = env.get(CHECKPOINT_ENV, NONE)
    # The programs that it starts get the signal with its default meaning all the same.
    return (*SHELL, command.shell if name == NONE else f"trap : {name}\n{command.shell}")
