"""One allocation of the local scheduler: is it started, does it live, make it end, see it gone.

Only `local` uses this, under its lock. `step` looks and does what is due; it may be called at any time and as often as
one likes, by any later agent on the same machine.
"""

import contextlib
import logging
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from balsam.domain.clock import Clock
from balsam.platform import processes
from balsam.platform.processes import ProcessId, ProcessInfo
from balsam.platform.scheduler.base import SchedulerJob, SchedulerState, SchedulerUnavailable
from balsam.platform.scheduler.local_files import Record, RecordDir

log = logging.getLogger(__name__)

MARKER = "BALSAM_LOCAL_ALLOCATION"
WALL_TIME_GRACE_SEC = 30.0


@dataclass(frozen=True, slots=True)
class Machine:
    """Where processes can be seen: a host name and one boot of it."""

    host: str
    boot_id: str

    @classmethod
    def here(cls) -> "Machine":
        return cls(os.uname().nodename, processes.boot_id())


class LocalRun:
    """The processes of one record."""

    def __init__(self, record: Record, files: RecordDir, clock: Clock, machine: Machine) -> None:
        self.record = record
        self._files = files
        self._clock = clock
        self._machine = machine
        self._child: subprocess.Popen[bytes] | None = None
        self._claim: ProcessId | None = None
        self._seen_alive: ProcessId | None = None
        self._terminated: set[ProcessId] = set()

    def start(self, shell: list[str], output: Path) -> None:
        """Start the shell as leader of a new session; OSError when the system can't."""
        environment = {
            **os.environ,
            MARKER: self.record.mark,
            "BALSAM_BATCH_NAME": self.record.name,
            "BALSAM_SCHEDULER_ID": self.record.scheduler_id,
            "BALSAM_NUM_NODES": str(self.record.num_nodes),
        }
        # 0600 whatever the umask, which is left as it is for the Jobs.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        with os.fdopen(os.open(output, flags, 0o600), "ab") as stream:
            self._child = subprocess.Popen(
                shell,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                cwd=self._files.directory,
                env=environment,
                start_new_session=True,
            )

    def was_started(self) -> bool:
        """Whether the script runs, ran, or a shell that is about to run it lives (S11)."""
        return (
            self.record.is_over
            or self._child is not None
            or self._claimed_by() is not None
            or (self._is_visible and any(True for _ in self._living()))
        )

    def step(self) -> SchedulerJob | None:
        """Look at the allocation and do what is due; None for an intent that never started."""
        record = self.record
        if record.is_over:
            return record.as_job(SchedulerState(record.end_state), record.end_reason)
        if record.host != self._machine.host:
            where = f"it was started on host {record.host} and this is {self._machine.host}; start the agent there"
            return record.as_job(SchedulerState.UNKNOWN, where)
        if not self.was_started():
            return None
        if not self._is_visible:
            return self._end("the machine was restarted meanwhile")
        # Reaped before the claim is read: a shell that ended without a claim will never make one.
        code = self._child.poll() if self._child else None
        if code is not None and self._claimed_by() is None:
            return self._end(f"its shell ended with code {code} before the script ran")
        leader = self.leader()
        return self._step_with(leader) if leader else self._step_without_leader()

    def leader(self) -> ProcessId | None:
        """The shell around the batch script, while it lives."""
        leader = self._claimed_by()
        if leader is None and self._child:
            info = processes.look(self._child.pid)
            leader = info.id if info else None
        if leader is None or not processes.is_alive(leader):
            return None
        self._seen_alive = leader
        return leader

    def stop(self, cause: str, grace_sec: float) -> None:
        """Decide that the allocation has to end; an earlier decision is only ever brought forward."""
        kill_mono = self._clock.monotonic() + grace_sec
        record = self.record
        if record.kill_mono is not None and record.kill_mono <= kill_mono:
            return
        record.stop_cause = record.stop_cause or cause
        record.kill_mono = kill_mono
        log.info("stopping allocation %s: %s", record.name, cause or "its script ended")
        self._save_if_possible()

    def due_sec(self) -> float:
        """Seconds until the next deadline of the allocation."""
        due = self.record.wall_time_end_mono if self.record.kill_mono is None else self.record.kill_mono
        return due - self._clock.monotonic()

    @property
    def _is_visible(self) -> bool:
        """Whether its processes, if there are any, are among those of this machine since this boot."""
        return Machine(self.record.host, self.record.boot_id) == self._machine

    def _claimed_by(self) -> ProcessId | None:
        if self._claim is None or self._claim.pid == 0:
            self._claim = self._files.claim(self.record.name)
        return self._claim

    def _step_with(self, leader: ProcessId) -> SchedulerJob:
        record = self.record
        if self._clock.monotonic() >= record.wall_time_end_mono:
            self.stop(f"wall time of {record.wall_time_min} min reached", WALL_TIME_GRACE_SEC)
        if record.kill_mono is not None and self._clock.monotonic() >= record.kill_mono:
            # The shell last: it can then still record the exit code of a killed script.
            if not self._kill(leader):
                processes.send(leader, signal.SIGKILL)
        elif record.kill_mono is not None and leader not in self._terminated:
            self._terminated.add(leader)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(leader.pid, signal.SIGTERM)
        return record.as_job(SchedulerState.RUNNING, record.stop_cause)

    def _step_without_leader(self) -> SchedulerJob:
        claim = self._claimed_by()
        # The claim is made empty and then written: who looked in between saw no leader of a shell that lives.
        is_starting = claim is None or claim.pid == 0 or processes.is_alive(claim)
        is_kill_due = self.record.kill_mono is not None and self.due_sec() <= 0 and not is_starting
        left = self._kill(self._seen_alive) if is_kill_due else list(self._members(self._seen_alive))
        if not left:
            return self._end("")
        if is_starting:
            return self.record.as_job(SchedulerState.RUNNING, "starting")
        # Like any scheduler: what a script leaves behind ends with it.
        self.stop("", WALL_TIME_GRACE_SEC)
        pids = {info.id.pid for info in left}
        for info in left:
            if not is_kill_due and info.parent not in pids and info.id not in self._terminated:
                # Only the topmost: a guardian or launcher among them ends the rest in its own order.
                self._terminated.add(info.id)
                processes.send(info.id, signal.SIGTERM)
        return self.record.as_job(SchedulerState.RUNNING, f"its script ended; {len(left)} of its processes are left")

    def _kill(self, leader: ProcessId | None) -> list[ProcessInfo]:
        """SIGKILL to the members, to each as soon as it is seen."""
        killed = []
        for info in self._members(leader):
            processes.send(info.id, signal.SIGKILL)
            killed.append(info)
        return killed

    def _members(self, leader: ProcessId | None) -> Iterator[ProcessInfo]:
        """Living processes of the allocation but for its leader, if that was ever seen. Raises SchedulerUnavailable."""
        # A session id is sure to be ours only if this object saw its leader alive: later it may be used again.
        return (info for info in self._living(leader.pid if leader else None) if info.id != leader)

    def _living(self, session: int | None = None) -> Iterator[ProcessInfo]:
        try:
            yield from processes.marked(MARKER, self.record.mark, session)
        except OSError as error:
            raise SchedulerUnavailable(f"processes can't be looked for now: {error.strerror}") from error

    def _end(self, lost: str) -> SchedulerJob:
        """Record that no process is left. `lost` says why there can be no exit code."""
        record = self.record
        record.exit_code = None if lost else self._files.exit_code(record.name)
        what = "" if record.exit_code == 0 else _explain(record.exit_code, lost)
        record.end_reason = "; ".join(part for part in (record.stop_cause, what) if part)
        record.end_time = self._clock.now().isoformat()
        record.end_state = SchedulerState.FINISHED if record.exit_code == 0 else SchedulerState.FAILED
        self._save_if_possible()
        return record.as_job(SchedulerState(record.end_state), record.end_reason)

    def _save_if_possible(self) -> None:
        """For what the next agent would find out by itself: a full disk must not keep an allocation from ending."""
        try:
            self._files.save(self.record)
        except OSError as error:
            log.warning("can't write %s.json: %s", self._files.stem(self.record.name), error)


def _explain(exit_code: int | None, lost: str) -> str:
    if exit_code is None:
        return lost or "its shell was killed: no exit code"
    try:
        return f"exit code {exit_code} ({signal.Signals(exit_code - 128).name})"
    except ValueError:
        return f"exit code {exit_code}"
