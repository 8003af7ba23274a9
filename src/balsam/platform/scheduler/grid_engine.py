"""Grid Engine (Son of, Univa, Altair, Open Cluster), through qsub, qstat, qacct and qdel.

`qstat -xml` says what lives, `qacct` what became of the rest; how they are read is in `grid_engine_records`. Of what
was deleted before it started no record is left: the adapter vouches for what qdel said to itself. Grid Engine deals
out slots, not nodes: more than one node needs the Site's parallel environment among the options.
"""

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from balsam.platform.scheduler import options
from balsam.platform.scheduler.base import (
    QueueLimits,
    SchedulerConfig,
    SchedulerJob,
    SchedulerState,
    SubmitRefused,
    SubmitRequest,
)
from balsam.platform.scheduler.command_line import COMMON_OPTIONS, CommandScheduler
from balsam.platform.scheduler.commands import one_word
from balsam.platform.scheduler.grid_engine_records import Slots, accounted, listed, queue_limits, reasons

HISTORY_DAYS = 30
# So long it is remembered that what waited was deleted: longer than any agent leaves it unasked.
REMEMBER_SEC = 3600.0
_ID = re.compile(r"[0-9]{1,12}")
_NO_SUCH_JOB = ("does not exist", "already in deletion", "do not exist", "invalid")


class GridEngine(CommandScheduler):
    """`queue` is a cluster queue; `project` a project, an accounting string, or nothing (`project_is`)."""

    options: ClassVar = {
        **COMMON_OPTIONS,
        "parallel_environment": "what gives several slots or nodes, as in `qsub -pe NAME`; none: one slot only",
        "slots_per_node": "slots of the parallel environment that make up a node (1)",
        "project_is": "what a project is: project (-P), account (-A) or none (project)",
        "accounting": "whether qacct may be asked for what qstat does not list any more (true)",
    }
    _outages = (
        "commlib error",
        "can't connect",
        "can't contact",
        "cannot connect",
        "connection refused",
        "got no response",
        "timeout",
        "unable to contact",
        "unable to send message",
    )
    # They speak of the job in which the agent itself may run. Defaults of the user (.sge_request) stay.
    _forget = ("SGE_STDERR_", "SGE_STDOUT_", "SGE_O_", "SGE_TASK_")

    def __init__(self, config: SchedulerConfig) -> None:
        super().__init__(config)
        self._pe = options.text(config.options, "parallel_environment", "")
        self._slots = Slots(self._pe, int(options.positive(config.options, "slots_per_node", 1)))
        self._project_is = options.choice(config.options, "project_is", ("project", "account", "none"))
        self._accounting = options.flag(config.options, "accounting", True)
        self._seen: dict[str, SchedulerJob] = {}
        self._deleted: dict[str, tuple[float, SchedulerJob]] = {}

    def _words(self, script_path: Path, name: str, request: SubmitRequest) -> list[str]:
        words = ["qsub", "-terse", "-N", name, "-q", request.queue, "-l", f"h_rt={request.wall_time_min * 60}"]
        if self._project_is != "none":
            words += ["-P" if self._project_is == "project" else "-A", request.project]
        if self._pe:
            words += ["-pe", one_word("parallel environment", self._pe), str(self._slots.of(request.num_nodes))]
        elif request.num_nodes > 1:
            raise SubmitRefused(
                f"{request.num_nodes} nodes need a parallel environment: scheduler.scheduler_options of settings.yml "
                "must name the Site's in parallel_environment and its slots_per_node"
            )
        # The output's path is relative: in an absolute one a ':' or ',' would mean something.
        words += ["-wd", str(self._submit_dir), "-o", f"{name}.output", "-j", "y"]
        return [*words, "-r", "n", "-notify", "-S", "/bin/bash", str(script_path)]

    def _submitted_id(self, said: str) -> str | None:
        words = said.split()
        return words[-1] if words and _ID.fullmatch(words[-1]) else None

    def find(self, name: str) -> str | None:
        found = [job for job in self._listed().values() if job.name == name]
        found = found or [job for job in self._vouched().values() if job.name == name]
        if not found and self._accounting:
            found = [job for job in self._accounted(name).values() if job.name == name]
        return min((job.scheduler_id for job in found), key=int, default=None)

    def jobs(self) -> dict[str, SchedulerJob]:
        found = {number: job for number, job in self._listed().items() if job.name.startswith(self._prefix)}
        if any(job.state is SchedulerState.QUEUED for job in found.values()):
            text = self._ask("qstat", "-j", f"{self._prefix}*", "-xml", may_fail=_NO_SUCH_JOB)
            why = reasons(text) if text else {}
            found = {number: replace(job, reason=why.get(number, job.reason)) for number, job in found.items()}
        self._seen = found
        return self._vouched() | found

    def history(self, scheduler_ids: Iterable[str]) -> dict[str, SchedulerJob]:
        wanted = {number for number in scheduler_ids if _ID.fullmatch(number)}
        if not wanted:
            return {}
        known = self._accounted(f"{self._prefix}*") if self._accounting else {}
        return {number: job for number, job in (self._vouched() | known).items() if number in wanted}

    def cancel(self, scheduler_id: str) -> None:
        if not _ID.fullmatch(scheduler_id):
            return
        said = self._ask("qdel", scheduler_id, may_fail=_NO_SUCH_JOB)
        job = self._seen.get(scheduler_id)
        if job is not None and "has deleted job" in said:
            over = replace(job, state=SchedulerState.CANCELLED, reason="deleted by qdel", end_time=self._clock.now())
            self._deleted[scheduler_id] = (self._clock.monotonic(), over)

    def queues(self) -> dict[str, QueueLimits]:
        return queue_limits(self._ask("qconf", "-sq", "*"))

    def time_left_sec(self, scheduler_id: str) -> float | None:
        if not _ID.fullmatch(scheduler_id):
            return None
        job = self._listed().get(scheduler_id)
        if job is None or job.start_time is None or job.wall_time_min is None:
            return None
        return job.wall_time_min * 60 - (self._clock.now() - job.start_time).total_seconds()

    def _listed(self) -> dict[str, SchedulerJob]:
        return listed(self._ask("qstat", "-u", "$user", "-r", "-xml"), self._slots)

    def _accounted(self, pattern: str) -> dict[str, SchedulerJob]:
        words = ("qacct", "-d", str(HISTORY_DAYS), "-j", pattern)
        return accounted(self._ask(*words, may_fail=("not found",)), self._slots)

    def _vouched(self) -> dict[str, SchedulerJob]:
        """What qdel said to have deleted while it waited."""
        since = self._clock.monotonic() - REMEMBER_SEC
        self._deleted = {number: (at, job) for number, (at, job) in self._deleted.items() if at >= since}
        return {number: job for number, (_, job) in self._deleted.items()}
