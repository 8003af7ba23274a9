"""What happens to the runs of Jobs, from the start of a process until nothing of it lives. Part of the machine.

It promises: a placement is given back, and the end told, only when the run was seen gone (S9), or can't live any more.
A node that fails Jobs as they start is set aside here.
"""

from collections.abc import Callable

from balsam.domain.monitors import MonitorAction
from balsam.launcher.bad_nodes import START_SEC, BadNodes
from balsam.launcher.intake import Intake
from balsam.launcher.machine_messages import (
    CheckpointAsked,
    Exited,
    Gone,
    Lost,
    Note,
    Output,
    Preparing,
    RanksApart,
    RuleMet,
    StartDelayed,
    Started,
    StartFailed,
)
from balsam.launcher.machine_settings import MachineSettings
from balsam.launcher.run_records import RunRecords
from balsam.launcher.runs import Killing, Run, Runs


class Attempts:
    """Hears what is said of runs. Of one that is not known, or not any more, nothing is heard."""

    def __init__(
        self,
        settings: MachineSettings,
        runs: Runs,
        intake: Intake,
        records: RunRecords,
        say: Callable[[Output], None],
    ) -> None:
        self._nodes = settings.nodes
        self._runs = runs
        self._intake = intake
        self._records = records
        self._say = say
        # The last node is never set aside, so there is nothing to watch on a single one.
        self._bad_nodes = BadNodes(settings.max_failed_starts_per_node if len(settings.nodes) > 1 else 0)

    # Starting

    def preparing(self, now: float, happened: Preparing) -> None:
        """Methods of its App run."""
        run = self._runs.get(happened.job_id)
        if run is None:
            return
        run.preparing = True
        if run.killing is not None:
            self._runs.signal(now, run)

    def started(self, now: float, happened: Started) -> None:
        """Its process runs."""
        run = self._runs.get(happened.job_id)
        if run is None:
            return
        run.started = True
        self._bad_nodes.began(now, run.job, run.placement)
        self._records.started(run.job)
        if run.killing is not None:
            self._runs.signal(now, run)

    def start_failed(self, now: float, failed: StartFailed) -> None:
        """It never will be started as it is."""
        run = self._runs.get(failed.job_id)
        if run is None:
            return
        self._runs.free(run)
        self._bad_nodes.began(now, run.job, run.placement)
        self._bad_nodes.exited(now, run.job.id, is_well=False)
        self._records.not_started(run, failed, *self._judge_nodes(now, run))

    def start_delayed(self, now: float, delayed: StartDelayed) -> None:
        """It may be started later."""
        run = self._runs.get(delayed.job_id)
        if run is None:
            return
        self._runs.free(run)
        if run.killing is None:
            self._intake.start_later(now, run.job, delayed.reason)
        else:
            self._records.released(run.job)

    # Running

    def checkpoint_asked(self, now: float, happened: CheckpointAsked) -> None:
        """It was sent the signal for a checkpoint. Having written it, it runs on in the next allocation."""
        run = self._runs.get(happened.job_id)
        if run is not None:
            run.checkpoint_asked = True
            self._intake.take_no_more()

    def rule_met(self, now: float, met: RuleMet) -> None:
        """Of a Job that ends for another reason already nothing is said."""
        run = self._runs.get(met.job_id)
        if run is None or not run.started or run.killing is not None or run.job.token != met.token:
            return
        if met.action is MonitorAction.KILL:
            run.rule = met
            self._runs.kill(now, met.job_id, Killing.MONITOR, met.message)
        else:
            self._records.noted(run, met)

    def ranks_apart(self, now: float, happened: RanksApart) -> None:
        """The way to a node is lost as good as the node: nothing is waited for, and it runs again."""
        run = self._runs.get(happened.job_id)
        if run is not None and run.started and run.killing is None and run.job.token == happened.token:
            self._runs.kill(now, happened.job_id, Killing.LOST_NODE, happened.message)

    # Ending

    def exited(self, now: float, exited: Exited) -> None:
        """Its first process ended."""
        run = self._runs.get(exited.job_id)
        if run is not None and run.exited is None:
            run.exited = exited
            self._bad_nodes.exited(now, run.job.id, is_well=exited.return_code == 0)

    def gone(self, now: float, happened: Gone) -> None:
        """S9: only now the slot is free, and only now the end is told, or another launcher could start it beside."""
        run = self._runs.get(happened.job_id)
        if run is None or run.exited is None:
            return
        self._runs.free(run)
        self._intake.appetite.ended(now, run.job.resources.node_footprint)
        self._records.ended(run, run.exited, *self._judge_nodes(now, run))

    def lost(self, now: float, lost: Lost) -> None:
        """Its node is lost, and it can't live there any more."""
        run = self._runs.get(lost.job_id)
        if run is None:
            return
        self._runs.free(run)
        self._bad_nodes.over(run.job.id, is_own_end=False)
        self._records.lost(run, lost)

    def _judge_nodes(self, now: float, run: Run) -> tuple[str, dict[str, str]]:
        """A node that fails Jobs as they start gets no more of them; returns words and data for the Job's record."""
        suspect = self._bad_nodes.over(run.job.id, is_own_end=run.killing is None and not run.checkpoint_asked)
        if suspect is None or not self._runs.set_aside(suspect.node):
            return "", {}
        self._bad_nodes.set_aside(suspect.node)
        name = self._nodes[suspect.node].name
        why = (
            f"node {name} is set aside for the rest of this allocation: "
            f"{suspect.jobs} Jobs in a row failed there within {START_SEC:g} s, of Apps that start well on other nodes"
        )
        self._say(Note(why))
        self._intake.give_back_what_never_fits(now)
        return why, {"node_set_aside": name}
