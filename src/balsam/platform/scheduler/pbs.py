"""PBS Pro and OpenPBS, through qsub, qselect, qstat and qdel.

Written from public documentation and never run on a real PBS; `docs/guides/clusters.md` says what is tested how. One
poll is `qselect` for the user's own ids and one `qstat -f -F dsv` of them; how its lines are read is in `pbs_records`.
"""

import os
import pwd
import re
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

from balsam.platform.scheduler import options
from balsam.platform.scheduler.base import (
    QueueLimits,
    SchedulerConfig,
    SchedulerJob,
    SchedulerUnavailable,
    SubmitRefused,
    SubmitRequest,
)
from balsam.platform.scheduler.command_line import COMMON_OPTIONS, CommandScheduler
from balsam.platform.scheduler.pbs_records import listed, number_of, queue_limits

_ID = re.compile(r"[0-9]{1,12}(\.[A-Za-z0-9][A-Za-z0-9._-]{0,200})?")
# What `qstat` complains of for single ids while it prints the others.
_NO_SUCH_JOB = ("unknown job id", "job has finished", "invalid for state", "illegally formed job identifier")
_NO_HISTORY = ("not configured to maintain job history", "not configured to maintain job history information")


class Pbs(CommandScheduler):
    """`queue` is a queue, `project` an account (`-A`). Ids are kept without the server's name."""

    options: ClassVar = {
        **COMMON_OPTIONS,
        "select": "what follows the number of nodes in `-l select=`, as in ncpus=64:ngpus=4 (nothing)",
        "accounting": "whether the server keeps history: qstat -x for what has ended (true)",
    }
    _outages = (
        "cannot connect to server",
        "communication failure",
        "connection refused",
        "connection timed out",
        "end of file",
        "no permission to connect",
        "pbs_iff",
        "premature end of message",
        "server is down",
        "timeout",
    )
    _has_large_codes = True  # the last byte of PBS's error number
    _forget = ("PBS_DPREFIX", "PBS_JOB", "PBS_O_", "QSTAT_")

    def __init__(self, config: SchedulerConfig) -> None:
        super().__init__(config)
        self._select = options.text(config.options, "select", "").strip(":")
        if not re.fullmatch(r"[A-Za-z0-9_.:=+/,@-]*", self._select):
            raise ValueError(f"option 'select' is {self._select!r}; it must be like ncpus=64:ngpus=4")
        self._accounting = options.flag(config.options, "accounting", True)
        self._user = pwd.getpwuid(os.getuid()).pw_name

    def _words(self, script_path: Path, name: str, request: SubmitRequest) -> list[str]:
        output = self._submit_dir / f"{name}.output"
        if ":" in str(output):  # PBS would take what stands before it for a host
            raise SubmitRefused(f"the Site's directory {self._submit_dir} has a ':', which PBS can't take in a path")
        select = f"{request.num_nodes}:{self._select}" if self._select else str(request.num_nodes)
        hours, minutes = divmod(request.wall_time_min, 60)
        return [
            *("qsub", "-N", name, "-q", request.queue, "-A", request.project),
            *("-l", f"select={select}", "-l", f"walltime={hours:02}:{minutes:02}:00"),
            *("-o", str(output), "-j", "oe", "-r", "n", str(script_path)),
        ]

    def _submitted_id(self, said: str) -> str | None:
        words = said.split()
        return number_of(words[-1]) if words and _ID.fullmatch(words[-1]) else None

    def find(self, name: str) -> str | None:
        found = self._selected("-N", name)
        if not found and self._accounting:
            found = self._selected("-x", "-N", name)
        return min(found, key=int, default=None)

    def jobs(self) -> dict[str, SchedulerJob]:
        every = listed(self._qstat(self._selected()))
        return {number: job for number, job in every.items() if job.name.startswith(self._prefix)}

    def history(self, scheduler_ids: Iterable[str]) -> dict[str, SchedulerJob]:
        wanted = {number_of(one): one for one in scheduler_ids if _ID.fullmatch(one)}
        if not wanted or not self._accounting:
            return {}
        found = listed(self._qstat(sorted(wanted, key=int), "-x"))
        return {wanted[number]: job for number, job in found.items() if number in wanted}

    def cancel(self, scheduler_id: str) -> None:
        if _ID.fullmatch(scheduler_id):
            self._ask("qdel", scheduler_id, may_fail=_NO_SUCH_JOB)

    def queues(self) -> dict[str, QueueLimits]:
        return queue_limits(self._ask("qstat", "-Q", "-f", "-F", "dsv"))

    def time_left_sec(self, scheduler_id: str) -> float | None:
        if not _ID.fullmatch(scheduler_id):
            return None
        job = listed(self._qstat([number_of(scheduler_id)])).get(number_of(scheduler_id))
        if job is None or job.state.is_over or job.start_time is None or job.wall_time_min is None:
            return None
        return job.wall_time_min * 60 - (self._clock.now() - job.start_time).total_seconds()

    def _selected(self, *which: str) -> list[str]:
        """Ids of the user's own jobs, by default those that have not ended."""
        text = self._ask("qselect", *which, "-u", self._user, may_fail=_NO_HISTORY)
        return [number_of(word) for word in text.split() if _ID.fullmatch(word)]

    def _qstat(self, ids: list[str], *more: str) -> str:
        """Full records of these ids, which may have gone meanwhile."""
        if not ids:
            return ""  # without ids it would list everybody's
        answer = self._commands.ask(["qstat", *more, "-f", "-F", "dsv", *ids])
        complaints = [line.lower() for line in answer.err.splitlines() if line.strip()]
        is_harmless = all(any(text in line for text in (*_NO_SUCH_JOB, *_NO_HISTORY)) for line in complaints)
        if answer.code != 0 and (not complaints or not is_harmless or self._is_outage(answer)):
            raise SchedulerUnavailable(answer.complaint)
        return answer.out
