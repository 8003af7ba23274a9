"""What became of each run, in the words for the service. Part of the machine.

It promises: who lost the lease has nothing to say any more (S6); of several reasons why a run ended the highest one of
`runs.Killing` decides what is told.
"""

from collections.abc import Callable, Mapping
from typing import Any

from balsam.domain.failure import Failure
from balsam.launcher.machine_messages import (
    NO_DATA,
    Exited,
    LaunchJob,
    Lost,
    Outcome,
    Output,
    Record,
    RuleMet,
    StartFailed,
)
from balsam.launcher.runs import Killing, Run

CHECKPOINT_WHY = "the wall time is near: it was asked for a checkpoint, and ended with exit code"


class RunRecords:
    """Makes Records of runs and says them."""

    def __init__(self, say: Callable[[Output], None]) -> None:
        self._say = say
        self._is_silent = False

    def silence(self) -> None:
        """The lease is over (S6)."""
        self._is_silent = True

    def released(self, job: LaunchJob) -> None:
        """The Job is given back as if it had never been granted."""
        self._record(Outcome.RELEASED, job)

    def started(self, job: LaunchJob) -> None:
        """With the nodes that it occupies: utilization is reckoned from the EventLog alone."""
        self._record(Outcome.STARTED, job, data={"num_nodes": job.resources.node_footprint})

    def not_started(self, run: Run, failed: StartFailed, why: str, data: Mapping[str, Any]) -> None:
        """`why` and `data` are of a node that was set aside for it, if one was."""
        if run.killing in (Killing.CANCEL, Killing.FENCED):
            self.released(run.job)
            return
        self.started(run.job)
        code, text = failed.return_code, _lines(failed.message, why)
        self._record(Outcome.RUN_ERROR, run.job, code, text, data, failed.result, Failure.NOT_STARTED)

    def noted(self, run: Run, met: RuleMet) -> None:
        """A rule was met that does not end the Job."""
        data = {"monitor": met.monitor, **met.data} if met.monitor else dict(met.data)
        changes = {"merge_tags": dict(met.tags)} if met.tags else {}
        self._record(Outcome.NOTED, run.job, message=met.message, data=data, changes=changes)

    def ended(self, run: Run, exited: Exited, why: str, aside: Mapping[str, Any]) -> None:
        """Nothing of the run is left. `why` and `aside` are of a node that was set aside for it, if one was."""
        code = exited.return_code
        if run.killing is None and code == 0:
            self._record(Outcome.RUN_DONE, run.job, code, result=exited.result)
            return
        data: dict[str, Any] = {"return_code": code, **aside}
        if exited.signal:
            data["signal"] = exited.signal
        match run.killing:
            case None if run.checkpoint_asked:
                self._record(Outcome.RUN_TIMEOUT, run.job, code, f"{CHECKPOINT_WHY} {code}")
            case None:
                text = _lines(exited.message, why)
                self._record(Outcome.RUN_ERROR, run.job, code, text, data, exited.result, exited.failure)
            case Killing.MONITOR:
                self._ended_by_rule(run, code, data)
            case Killing.LOST_NODE:
                self._record(Outcome.RUN_ERROR, run.job, code, run.why, data, failure=Failure.LOST_NODE)
            case Killing.DRAIN:
                self._record(Outcome.RUN_TIMEOUT, run.job, code, run.why)
            case Killing.CANCEL:
                self._record(Outcome.KILLED, run.job, code, run.why)
            case Killing.FENCED | Killing.LEASE:
                self.released(run.job)

    def _ended_by_rule(self, run: Run, code: int, data: Mapping[str, Any]) -> None:
        if run.rule is None:
            raise AssertionError(f"Job {run.job.id} was ended by a rule that is not known")
        told = {**data, "monitor": run.rule.monitor, **run.rule.data}
        allowed = run.rule.restarts
        self._record(Outcome.RUN_ERROR, run.job, code, run.why, told, failure=Failure.MONITOR, restarts=allowed)

    def lost(self, run: Run, lost: Lost) -> None:
        """Said as what it is; whether and where it runs again is the service's to decide (S6)."""
        if run.killing in (Killing.FENCED, Killing.LEASE):
            self.released(run.job)
            return
        if not run.started:
            self.started(run.job)
        if run.killing is Killing.CANCEL:
            self._record(Outcome.KILLED, run.job, None, run.why)
        else:
            self._record(Outcome.RUN_TIMEOUT, run.job, None, lost.reason, failure=Failure.LOST_NODE)

    def _record(
        self,
        outcome: Outcome,
        job: LaunchJob,
        return_code: int | None = None,
        message: str = "",
        data: Mapping[str, Any] | None = None,
        result: Mapping[str, Any] | None = None,
        failure: Failure | None = None,
        changes: Mapping[str, Any] | None = None,
        restarts: int = 0,
    ) -> None:
        if not self._is_silent:
            said = (return_code, message, data or NO_DATA, result, failure, changes or NO_DATA, restarts)
            self._say(Record(outcome, job.id, job.token, *said))


def _lines(*texts: str) -> str:
    return "\n".join(text for text in texts if text)
