"""Slurm, through sbatch, squeue, sacct and scancel.

`squeue` says what lives, `sacct` what became of the rest; how their lines are read is in `slurm_records`, queues and
idle nodes in `slurm_capacity`. Allocations are submitted with --no-requeue: Slurm would start a lost one again under
the same id while processes of its first life may go on, and the Jobs come back by themselves in the next allocation.
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

from balsam.platform.scheduler import options
from balsam.platform.scheduler.base import (
    BackfillWindow,
    QueueLimits,
    SchedulerConfig,
    SchedulerJob,
    SchedulerState,
    SchedulerUnavailable,
    SubmitRequest,
)
from balsam.platform.scheduler.command_line import COMMON_OPTIONS, CommandScheduler
from balsam.platform.scheduler.slurm_capacity import backfill_windows, partition_limits, qos_limits
from balsam.platform.scheduler.slurm_records import SACCT_FORMAT, SQUEUE_FORMAT, accounted, listed
from balsam.platform.scheduler.slurm_words import seconds, state_of

HISTORY_DAYS = 30
_ID = re.compile(r"[0-9]{1,12}")
_NO_SUCH_JOB = ("invalid job id",)
_NO_ACCOUNTING = ("accounting storage is disabled",)


class Slurm(CommandScheduler):
    """`queue` is a partition, or a QOS with `queue_is: qos`; `project` is an account."""

    options: ClassVar = {
        **COMMON_OPTIONS,
        "queue_is": "what a queue is: partition or qos (partition)",
        "accounting": "whether sacct may be asked for what squeue does not list any more (true)",
    }
    _outages = (
        "authentication error",
        "communication",
        "connection refused",
        "connection reset",
        "munge",
        "socket timed out",
        "temporarily unable",
        "temporarily unavailable",
        "transport endpoint",
        "unable to contact",
        "unable to connect",
        "zero bytes",
    )
    # They would narrow what the commands list. SBATCH_* are the user's own defaults and stay.
    _forget = ("SACCT_", "SCANCEL_", "SCONTROL_", "SINFO_", "SQUEUE_")
    _keep = ("SLURM_CLUSTERS", "SLURM_CONF", "SLURM_MPI_TYPE")
    _add: ClassVar = {"SLURM_TIME_FORMAT": "%s"}

    def __init__(self, config: SchedulerConfig) -> None:
        super().__init__(config)
        self._queue_is = options.choice(config.options, "queue_is", ("partition", "qos"))
        self._accounting = options.flag(config.options, "accounting", True)

    def _forgotten(self) -> tuple[str, ...]:
        # An agent that is a job itself was told what that job has. An allocation would inherit what sbatch does not
        # happen to set for it too, and its srun take that for wishes: one task, the agent's memory.
        is_a_job = "SLURM_JOB_ID" in os.environ
        return (*self._forget, "SLURM_", "SLURMD_") if is_a_job else self._forget

    def _words(self, script_path: Path, name: str, request: SubmitRequest) -> list[str]:
        output = str(self._submit_dir / f"{name}.output").replace("%", "%%")
        return [
            "sbatch",
            "--parsable",
            "--no-requeue",
            "--no-kill",  # the loss of a node ends what ran on it, not the allocation
            f"--job-name={name}",
            f"--nodes={request.num_nodes}",
            f"--time={request.wall_time_min}",
            f"--{self._queue_is}={request.queue}",
            f"--account={request.project}",
            f"--chdir={self._submit_dir}",
            f"--output={output}",
            str(script_path),
        ]

    def _submitted_id(self, said: str) -> str | None:
        # `--parsable` prints ID or ID;CLUSTER, last of all: a site's wrapper may greet before.
        words = said.split()
        number = words[-1].partition(";")[0] if words else ""
        return number if _ID.fullmatch(number) else None

    def find(self, name: str) -> str | None:
        found = [job for job in self._squeue(f"--name={name}") if job.name == name]
        if not found and self._accounting:
            found = self._sacct(f"--name={name}", f"--starttime=now-{HISTORY_DAYS}days")
        # One that lives before one that is over, then the first that was submitted.
        found.sort(key=lambda job: (job.state.is_over, int(job.scheduler_id)))
        return found[0].scheduler_id if found else None

    def jobs(self) -> dict[str, SchedulerJob]:
        return {job.scheduler_id: job for job in self._squeue() if job.name.startswith(self._prefix)}

    def history(self, scheduler_ids: Iterable[str]) -> dict[str, SchedulerJob]:
        wanted = sorted(number for number in scheduler_ids if _ID.fullmatch(number))
        if not wanted or not self._accounting:
            return {}
        return {job.scheduler_id: job for job in self._sacct(f"--jobs={','.join(wanted)}")}

    def cancel(self, scheduler_id: str) -> None:
        if _ID.fullmatch(scheduler_id):
            self._ask("scancel", scheduler_id, may_fail=_NO_SUCH_JOB)

    def queues(self) -> dict[str, QueueLimits]:
        if self._queue_is == "qos":
            form = "format=Name,MaxWall,MaxTRES,MaxSubmitPU"
            return qos_limits(self._ask("sacctmgr", "--noheader", "--parsable2", "show", "qos", form))
        sizes = self._ask("sinfo", "--noheader", "--exact", "--format=%R|%c|%G")
        return partition_limits(self._ask("scontrol", "--oneliner", "show", "partition"), sizes)

    def backfill_windows(self) -> dict[str, list[BackfillWindow]]:
        if self._queue_is == "qos":  # idle nodes are told by partition only
            return {}
        idle = self._ask("sinfo", "--noheader", "--states=idle", "--format=%R|%D|%l")
        waiting = self._ask("squeue", "--noheader", "--states=PENDING", "--format=%P|%S")
        reserved = self._ask("scontrol", "--oneliner", "show", "reservation")
        return backfill_windows(idle, waiting, reserved, self._clock.now())

    def time_left_sec(self, scheduler_id: str) -> float | None:
        if not _ID.fullmatch(scheduler_id):
            return None
        text = self._ask("squeue", "--noheader", f"--jobs={scheduler_id}", "--format=%T|%L", may_fail=_NO_SUCH_JOB)
        state, _, left = text.strip().partition("|")
        return seconds(left) if state_of(state) is SchedulerState.RUNNING else None

    def _squeue(self, *which: str) -> list[SchedulerJob]:
        text = self._ask("squeue", "--noheader", "--me", "--states=all", *which, SQUEUE_FORMAT)
        return list(listed(_whole("squeue", text), self._queue_is))

    def _sacct(self, *which: str) -> list[SchedulerJob]:
        words = ("sacct", "--allocations", *which, *SACCT_FORMAT)
        return list(accounted(_whole("sacct", self._ask(*words, may_fail=_NO_ACCOUNTING)), self._queue_is))


def _whole(program: str, text: str) -> str:
    if text and not text.endswith("\n"):
        raise SchedulerUnavailable(f"{program}: its answer is cut off: ...{text[-60:]!r}")
    return text
