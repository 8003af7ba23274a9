"""The launcher's rules as a pure step: what happened goes in, what to do comes out. No I/O, no clock, no random.

`loop.py` carries the outputs out; the seeded simulation drives this same code. Its parts: `intake` (Jobs that wait),
`attempts` (Jobs that run) on `runs` (who holds which cores), `run_records` (what is told). Here are the lease, the
drain, and who hears what. Together they promise: a Job starts only while our lease holds and the one process group of
it that we know of is gone (S6); cores, GPUs and node shares are taken and given back through one NodePool, and only
after `Gone` (S9); a lease that is over stays over (S6); at the drain every Job is reported as what became of it (L3).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from balsam.domain.lease import HeldLease
from balsam.launcher.attempts import Attempts
from balsam.launcher.intake import Intake
from balsam.launcher.machine_messages import (
    AcquireRefused,
    CancelRequested,
    Checkpoint,
    CheckpointAsked,
    Drain,
    Exit,
    Exited,
    ExitReason,
    Fenced,
    Gone,
    Granted,
    Input,
    LeaseEnded,
    LeaseRenewed,
    Lost,
    NodeDown,
    NodesLost,
    NodesSilent,
    NodeUp,
    Note,
    Output,
    Preparing,
    RanksApart,
    RuleMet,
    SessionOpened,
    StartDelayed,
    Started,
    StartFailed,
    Storage,
    Work,
)
from balsam.launcher.machine_settings import MachineSettings
from balsam.launcher.run_records import RunRecords
from balsam.launcher.runs import Killing, Runs


class Machine:
    """One launcher partition. Call `step` with what happened, and again at `wake_at` with nothing."""

    def __init__(self, settings: MachineSettings) -> None:
        self._settings = settings
        self._lease: HeldLease | None = None
        self._is_over = False  # of the lease, as of this step
        self._draining = ""
        self._checkpoint_at = settings.checkpoint_at
        self._idle_since: float | None = None
        self._now = -math.inf
        self._out: list[Output] = []
        self._say: Callable[[Output], None] = self._out.append
        self._records = RunRecords(self._say)
        self._runs = Runs(settings.nodes, settings.kill_grace_sec, settings.drain_grace_sec, self._say)
        self._intake = Intake(settings, self._runs, self._records, self._say)
        self._attempts = Attempts(settings, self._runs, self._intake, self._records, self._say)
        self._on = self._hearers()
        self.exit: Exit | None = None

    def _hearers(self) -> dict[type[Input], Callable[[float, Any], None]]:
        intake, attempts = self._intake, self._attempts
        return {
            Exited: attempts.exited,
            Gone: attempts.gone,
            Started: attempts.started,
            Preparing: attempts.preparing,
            StartFailed: attempts.start_failed,
            StartDelayed: attempts.start_delayed,
            CheckpointAsked: attempts.checkpoint_asked,
            RuleMet: attempts.rule_met,
            RanksApart: attempts.ranks_apart,
            Lost: attempts.lost,
            Granted: intake.granted,
            AcquireRefused: intake.refused,
            Work: intake.work,
            Storage: intake.storage,
            CancelRequested: self._cancel_requested,
            Fenced: self._fenced,
            NodeDown: self._node_down,
            NodeUp: self._node_up,
            NodesLost: self._nodes_lost,
            NodesSilent: self._nodes_silent,
            SessionOpened: self._session_opened,
            LeaseRenewed: self._lease_renewed,
            LeaseEnded: self._lease_ended,
            Drain: self._told_to_drain,
        }

    @property
    def lease(self) -> HeldLease | None:
        """The lease of our Session, once it is open."""
        return self._lease

    @property
    def is_idle(self) -> bool:
        """Nothing runs and nothing waits."""
        return not self._runs and not self._intake.queue

    def is_ending(self, job_id: int) -> bool:
        """Whether a run was told to end, or there is none."""
        run = self._runs.get(job_id)
        return run is None or run.killing is not None

    @property
    def running(self) -> tuple[int, ...]:
        """Ids of Jobs that hold a placement."""
        return tuple(self._runs)

    @property
    def queued(self) -> tuple[int, ...]:
        """Ids of Jobs that wait for room."""
        return tuple(self._intake.queue)

    def step(self, now: float, inputs: list[Input]) -> list[Output]:
        """Take what happened up to `now`, return what to do, in order."""
        self._out.clear()
        self._now = now
        if self.exit is not None:
            return []
        self._check_lease(now)
        for happened in inputs:
            self._on[type(happened)](now, happened)
        if self._checkpoint_at is not None and now >= self._checkpoint_at:
            self._have_checkpoints()
        if not self._draining and self._settings.drain_at is not None and now >= self._settings.drain_at:
            self._drain(now, "the wall time is near")
        self._runs.kill_overdue(now)
        self._intake.start(now)
        if self._lease is not None:
            self._intake.ask(now)
        self._end_when_done(now)
        return self._out.copy()

    def wake_at(self) -> float | None:
        """When to be called again if nothing happens; None: only when something does."""
        if self.exit is not None:
            return None
        times = self._runs.next_kills()
        if self._lease is not None and self._lease.until is not None and not self._lease_is_over:
            times.append(self._lease.until)
        if not self._draining:
            if self._settings.drain_at is not None:
                times.append(self._settings.drain_at)
            if self._checkpoint_at is not None:
                times.append(self._checkpoint_at)
            if self._idle_since is not None:
                times.append(self._idle_since + self._settings.idle_ttl_sec)
            if self._lease is not None:
                times += self._intake.wakes()
        # What is past was looked at in the last step.
        return min((time for time in times if time > self._now), default=None)

    # The lease

    def _session_opened(self, now: float, happened: SessionOpened) -> None:
        self._lease = happened.lease
        self._intake.appetite.hint()

    def _lease_renewed(self, now: float, happened: LeaseRenewed) -> None:
        if self._lease is not None:
            self._lease.renewed(happened.sent_at)

    def _lease_ended(self, now: float, happened: LeaseEnded) -> None:
        if self._lease is not None:
            self._lease.end()
        self._check_lease(now, happened.reason)

    def _check_lease(self, now: float, reason: str = "it was not renewed in time") -> None:
        """S6: once over, kill everything at once, report nothing, end."""
        if self._lease is None or not self._lease.is_over(now):
            return
        self._is_over = True
        self._records.silence()
        if not self._draining:
            self._say(Note(f"the lease is over: {reason}; killing {len(self._runs)} Jobs"))
        self._draining = self._draining or "lease ended"
        self._intake.close()
        for job_id in self._runs:
            self._runs.kill(now, job_id, Killing.LEASE, "the lease ended")

    @property
    def _lease_is_over(self) -> bool:
        return self._is_over

    # Users' and the service's wishes

    def _cancel_requested(self, now: float, happened: CancelRequested) -> None:
        for job_id in happened.job_ids:
            self._intake.give_back(job_id)
            self._runs.kill(now, job_id, Killing.CANCEL, "cancelled")

    def _fenced(self, now: float, happened: Fenced) -> None:
        """S7. A newer grant of the same Job is not meant."""
        for job_id, token in happened.jobs:
            self._intake.fence(job_id, token)
            run = self._runs.get(job_id)
            if run is not None and run.job.token <= token:
                self._runs.kill(now, job_id, Killing.FENCED, "it is not ours any more")

    # Nodes

    def _node_down(self, now: float, happened: NodeDown) -> None:
        self._runs.set_usable(happened.node, False)

    def _node_up(self, now: float, happened: NodeUp) -> None:
        self._runs.set_usable(happened.node, True)
        self._intake.appetite.hint()

    def _nodes_lost(self, now: float, happened: NodesLost) -> None:
        """What had ranks there is lost and told so; it runs again elsewhere. What fits no more is given back."""
        for node in happened.nodes:
            why = f"node {self._settings.nodes[node].name} was lost"
            struck = self._runs.lose(node)
            self._say(Note(f"{why}, and with it {len(struck)} Jobs"))
            for job_id in struck:
                self._runs.kill(now, job_id, Killing.LOST_NODE, why)
        self._intake.give_back_what_never_fits(now)

    def _nodes_silent(self, now: float, happened: NodesSilent) -> None:
        """What has ended there ended for want of them, and runs again. On the rest is decided when more is known."""
        for node in happened.nodes:
            why = f"node {self._settings.nodes[node].name} does not answer"
            for job_id in self._runs.silence(node):
                self._runs.kill(now, job_id, Killing.LOST_NODE, why)

    # The end

    def _told_to_drain(self, now: float, happened: Drain) -> None:
        self._drain(now, happened.reason)

    def _drain(self, now: float, reason: str) -> None:
        if self._draining:
            return
        self._draining = reason
        # One that ended by itself can't be cut off; what it left behind is being killed anyway.
        alive = [job_id for job_id in self._runs if (run := self._runs.get(job_id)) is not None and run.exited is None]
        waiting = len(self._intake.queue)
        self._say(Note(f"draining: {reason}; {len(alive)} Jobs are told to end, {waiting} given back"))
        self._intake.close()
        for job_id in alive:
            self._runs.kill(now, job_id, Killing.DRAIN, reason)

    def _have_checkpoints(self) -> None:
        """Once: what starts from now on knew how little time there was."""
        self._checkpoint_at = None
        if self._draining:
            return
        for job_id in self._runs:
            run = self._runs.get(job_id)
            if run is not None and run.started and run.exited is None and run.killing is None:
                self._say(Checkpoint(job_id))

    def _end_when_done(self, now: float) -> None:
        if self._runs or self._intake.queue:
            self._idle_since = None
            return
        if self._lease_is_over:
            self._exit(ExitReason.LEASE_ENDED, "the lease ended")
        elif self._draining:
            self._exit(ExitReason.DRAINED, self._draining)
        elif self._lease is not None:
            self._idle_since = now if self._idle_since is None else self._idle_since
            if now - self._idle_since >= self._settings.idle_ttl_sec:
                self._exit(ExitReason.IDLE, f"nothing to run for {self._settings.idle_ttl_sec:g} s")

    def _exit(self, reason: ExitReason, text: str) -> None:
        self.exit = Exit(reason, text)
        self._say(self.exit)
