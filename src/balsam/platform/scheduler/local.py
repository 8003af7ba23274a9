"""The local process scheduler: an allocation is this machine, its batch script a process session of its own.

Used by the agent of a Site without a batch system. It starts what it is given at once and promises what a real
scheduler does: a name runs at most once whatever dies when (S11), the wall time is enforced, and an allocation is over
only when none of its processes is left (S9), also those that left the session. Allocations outlive the agent; the next
agent finds them by their files, and by the environment variable BALSAM_LOCAL_ALLOCATION.
"""

import logging
import shutil
import threading
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import ClassVar

from balsam.platform.processes import ProcessId
from balsam.platform.scheduler import options
from balsam.platform.scheduler.base import (
    BackfillWindow,
    QueueLimits,
    SchedulerConfig,
    SchedulerJob,
    SchedulerState,
    SchedulerUnavailable,
    SubmitRefused,
    SubmitRequest,
)
from balsam.platform.scheduler.commands import a_name
from balsam.platform.scheduler.local_files import BATCH_SHELL, Record, RecordDir, UnreadableRecord
from balsam.platform.scheduler.local_run import LocalRun, Machine
from balsam.platform.scheduler.local_watch import EndWatch

log = logging.getLogger(__name__)

LISTED_AFTER_END_SEC = 600.0
_SHORT_PAUSE_SEC = 0.1


class LocalScheduler:
    """Runs batch scripts on this machine.

    More than one node is a pretence for tests and trials: `node.local` deals this machine's cores out. The script gets
    BALSAM_BATCH_NAME, BALSAM_SCHEDULER_ID and BALSAM_NUM_NODES in its environment. During the agent's absence nobody
    enforces the wall time; the guardian in the allocation keeps its own.
    """

    options: ClassVar = {
        "kill_grace_sec": "from the SIGTERM of a cancel to SIGKILL (60)",
        "max_nodes": "requests for more nodes are refused (no limit)",
    }
    doubt_sec = 0.0  # whether a script was started is on disk, and the claim lets it run once

    def __init__(self, config: SchedulerConfig) -> None:
        options.refuse_unknown(config.options, self.options)
        self._files = RecordDir(config.submit_dir)
        self._clock = config.clock
        self._crash_point = config.crash_point
        self._prefix = config.name_prefix
        self._kill_grace_sec = options.positive(config.options, "kill_grace_sec", 60.0)
        self._max_nodes = options.positive(config.options, "max_nodes", float("inf"))
        self._machine = Machine.here()
        self._lock = threading.RLock()
        self._runs: dict[str, LocalRun] = {}
        self._active: set[str] = set()
        self._unreadable: dict[str, str] = {}
        self._watch: EndWatch | None = None
        self._load()

    def render(self, script_path: Path, name: str, request: SubmitRequest) -> list[str]:
        """The shell that runs the script, as it is started here."""
        self._refuse_impossible(script_path, name, request)
        stem = self._files.stem(name)
        return [
            "/bin/sh",
            "-c",
            BATCH_SHELL,
            name,
            str(script_path.resolve()),
            shutil.which("bash") or "/bin/sh",
            str(stem),
        ]

    def submit(self, script_path: Path, name: str, request: SubmitRequest) -> str:
        """Start the script now, once for each name; see the protocol."""
        command = self.render(script_path, name, request)
        with self._lock:
            known = self.find(name)
            if known is not None:
                return known
            run = self._intend(script_path, name, request)
            self._crash_point("before-start")
            self._start(run, command)
            self._crash_point("after-start")
        self._wake()
        return run.record.scheduler_id

    def find(self, name: str) -> str | None:
        """An intent whose script never started counts as not submitted: submitting again starts it."""
        with self._lock:
            if name in self._unreadable:
                raise SchedulerUnavailable(
                    f"{self._files.stem(name)}.json can't be read ({self._unreadable[name]}): whether {name} was "
                    "started is not known; move the file away when no process of it is left, and start the agent again"
                )
            run = self._runs.get(name)
            return run.record.scheduler_id if run and run.was_started() else None

    def jobs(self) -> dict[str, SchedulerJob]:
        """Living allocations, and those that ended in the last ten minutes. Enforces wall times on the way."""
        with self._lock:
            now = self._clock.now()
            listed: dict[str, SchedulerJob] = {}
            for name in sorted(name for name in self._active if name.startswith(self._prefix)):
                job = self._step(self._runs[name])
                if job is None:
                    continue
                if job.end_time and (now - job.end_time).total_seconds() > LISTED_AFTER_END_SEC:
                    self._active.discard(name)
                else:
                    listed[job.scheduler_id] = job
            return listed

    def history(self, scheduler_ids: Iterable[str]) -> dict[str, SchedulerJob]:
        """The record of every allocation ever submitted from this directory."""
        wanted = set(scheduler_ids)
        with self._lock:
            found = [self._step(run) for run in self._runs.values() if run.record.scheduler_id in wanted]
        return {job.scheduler_id: job for job in found if job}

    def cancel(self, scheduler_id: str) -> None:
        """SIGTERM to the script's process group now, SIGKILL to every process of it after `kill_grace_sec`."""
        with self._lock:
            for run in self._runs.values():
                if run.record.scheduler_id == scheduler_id and not run.record.is_over:
                    run.stop("cancelled", self._kill_grace_sec)
                    self._step(run)
        self._wake()

    def queues(self) -> dict[str, QueueLimits]:
        limit = None if self._max_nodes == float("inf") else int(self._max_nodes)
        return {"local": QueueLimits(max_nodes=limit)}

    def backfill_windows(self) -> dict[str, list[BackfillWindow]]:
        return {}

    def time_left_sec(self, scheduler_id: str) -> float | None:
        with self._lock:
            runs = [run for run in self._runs.values() if run.record.scheduler_id == scheduler_id]
            return (
                max(0.0, runs[0].due_sec()) if runs and runs[0].was_started() and not runs[0].record.is_over else None
            )

    def watch(self, on_change: Callable[[str], None]) -> bool:
        with self._lock:
            if self._watch is None:
                self._watch = EndWatch(self._next_look, on_change)
        return True

    def close(self) -> None:
        """Stop watching; batch scripts run on."""
        with self._lock:
            watch, self._watch = self._watch, None
        if watch:
            watch.close()

    def _load(self) -> None:
        for found in self._files.load_all():
            if isinstance(found, UnreadableRecord):
                self._unreadable[found.args[0]] = found.args[1]
                log.error("%s.json can't be read: %s", self._files.stem(found.args[0]), found.args[1])
            else:
                self._add(found)

    def _add(self, record: Record) -> LocalRun:
        run = LocalRun(record, self._files, self._clock, self._machine)
        self._runs[record.name] = run
        self._active.add(record.name)
        return run

    def _refuse_impossible(self, script_path: Path, name: str, request: SubmitRequest) -> None:
        a_name(name)
        if not script_path.is_file():
            raise SubmitRefused(f"batch script {script_path} does not exist")
        if not 1 <= request.num_nodes <= self._max_nodes:
            raise SubmitRefused(f"{request.num_nodes} nodes requested; this scheduler has 1 to {self._max_nodes:g}")
        if request.wall_time_min < 1:
            raise SubmitRefused(f"wall time of {request.wall_time_min} min requested; it must be at least 1")

    def _intend(self, script_path: Path, name: str, request: SubmitRequest) -> LocalRun:
        """Write down what is about to be started, under the id that it will have (S11)."""
        earlier = self._runs.get(name)
        record = Record(
            scheduler_id=earlier.record.scheduler_id if earlier else self._new_id(),
            mark=earlier.record.mark if earlier else uuid.uuid4().hex,
            name=name,
            script=str(script_path.resolve()),
            host=self._machine.host,
            boot_id=self._machine.boot_id,
            queue=request.queue,
            project=request.project,
            num_nodes=request.num_nodes,
            wall_time_min=request.wall_time_min,
            start_time=self._clock.now().isoformat(),
            start_mono=self._clock.monotonic(),
        )
        try:
            self._files.save(record)
        except OSError as error:
            raise SchedulerUnavailable(f"can't write {self._files.stem(name)}.json: {error}") from error
        return self._add(record)

    def _new_id(self) -> str:
        """Seconds since the epoch, made unique: not used again even when the directory was emptied meanwhile."""
        used = {run.record.scheduler_id for run in self._runs.values()}
        number = int(self._clock.now().timestamp())
        while str(number) in used:
            number += 1
        return str(number)

    def _start(self, run: LocalRun, command: list[str]) -> None:
        stem = self._files.stem(run.record.name)
        try:
            run.start(command, stem.with_name(f"{stem.name}.output"))
        except OSError as error:
            raise SchedulerUnavailable(f"can't start {run.record.script}: {error}") from error

    def _step(self, run: LocalRun) -> SchedulerJob | None:
        was_over = run.record.is_over
        job = run.step()
        if self._watch and run.record.is_over and not was_over:
            self._watch.announce(run.record.scheduler_id)
        return job

    def _wake(self) -> None:
        watch = self._watch
        if watch:
            watch.wake()

    def _next_look(self) -> tuple[list[ProcessId], float | None]:
        """For the watch: step all; whose end to wait for, and after how many seconds to look again."""
        with self._lock:
            leaders: list[ProcessId] = []
            pauses: list[float] = []
            for job in self.jobs().values():
                if job.state is not SchedulerState.RUNNING:
                    continue
                run = self._runs[job.name]
                leader = run.leader()
                if leader:
                    leaders.append(leader)
                pauses.append(max(_SHORT_PAUSE_SEC, run.due_sec()) if leader else _SHORT_PAUSE_SEC)
            return leaders, min(pauses, default=None)
