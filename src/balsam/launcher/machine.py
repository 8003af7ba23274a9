"""The launcher's rules as a pure step: what happened goes in, what to do comes out. No I/O, no clock, no random.

`loop.py` carries the outputs out; the seeded simulation drives this same code. It promises: a Job starts only while
our lease holds and the one process group of it that we know of is gone (S6); cores, GPUs and node shares are taken and
given back through one NodePool, and only after `Gone` (S9); a lease that is over stays over (S6); one acquire at a time
under numbers that grow (S3); at the drain every Job is reported as what became of it (L3).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from balsam.domain.failure import Failure
from balsam.domain.job import Shape
from balsam.domain.lease import HeldLease
from balsam.domain.monitors import MonitorAction
from balsam.domain.packing import Node
from balsam.launcher.appetite import Appetite, Room
from balsam.launcher.bad_nodes import START_SEC, BadNodes
from balsam.launcher.job_queue import JobQueue
from balsam.launcher.machine_messages import (
    NO_DATA,
    Acquire,
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
    LaunchJob,
    LeaseEnded,
    LeaseRenewed,
    Lost,
    NodeDown,
    NodesLost,
    NodeUp,
    Note,
    Outcome,
    Output,
    Preparing,
    Record,
    RuleMet,
    SessionOpened,
    StartDelayed,
    Started,
    StartFailed,
    Storage,
    Work,
)
from balsam.launcher.runs import Killing, Run, Runs

START_AGAIN_SEC = 1.0
# A Job that others overtook for so long gets the next room alone.
OVERTAKEN_SEC = 60.0
CHECKPOINT_WHY = "the wall time is near: it was asked for a checkpoint, and ended with exit code"


@dataclass(frozen=True, slots=True)
class MachineSettings:
    """What a launcher partition is told. `end` is when the allocation ends, `drain_at` when the Jobs must begin to.

    `checkpoint_at`: when Jobs that run are told that this is near.
    """

    nodes: tuple[Node, ...]
    serial: bool = False
    filter_tags: Mapping[str, str] = field(default_factory=dict)
    sort_by: str = "fifo"
    allows_packing: bool = True
    most_running: int = 1000
    kill_grace_sec: float = 10.0
    drain_grace_sec: float = 10.0
    idle_ttl_sec: float = 60.0
    max_failed_starts_per_node: int = 3
    end: float | None = None
    drain_at: float | None = None
    checkpoint_at: float | None = None


class Machine:
    """One launcher partition. Call `step` with what happened, and again at `wake_at` with nothing."""

    def __init__(self, settings: MachineSettings) -> None:
        self._settings = settings
        self._lease: HeldLease | None = None
        self._is_over = False  # of the lease, as of this step
        self._queue = JobQueue()
        self._most_gpus = max((len(node.gpu_ids) for node in settings.nodes), default=0)
        self._runs = Runs(settings.nodes, settings.kill_grace_sec, settings.drain_grace_sec, self._say)
        self._appetite = Appetite()
        # The last node is never set aside, so there is nothing to watch on a single one.
        self._bad_nodes = BadNodes(settings.max_failed_starts_per_node if len(settings.nodes) > 1 else 0)
        self._acquire_seq = 0
        self._draining = ""
        self._checkpoint_at = settings.checkpoint_at
        self._stores = True
        self._start_not_before = -math.inf
        self._idle_since: float | None = None
        self._now = -math.inf
        self._out: list[Output] = []
        self.exit: Exit | None = None

    @property
    def lease(self) -> HeldLease | None:
        """The lease of our Session, once it is open."""
        return self._lease

    @property
    def is_idle(self) -> bool:
        """Nothing runs and nothing waits."""
        return not self._runs and not self._queue

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
        return tuple(self._queue)

    def step(self, now: float, inputs: list[Input]) -> list[Output]:
        """Take what happened up to `now`, return what to do, in order."""
        self._out, self._now = [], now
        if self.exit is not None:
            return []
        self._check_lease(now)
        for happened in inputs:
            self._hear(now, happened)
        if self._checkpoint_at is not None and now >= self._checkpoint_at:
            self._have_checkpoints()
        if not self._draining and self._settings.drain_at is not None and now >= self._settings.drain_at:
            self._drain(now, "the wall time is near")
        self._runs.kill_overdue(now)
        self._start_queued(now)
        self._ask(now)
        self._end_when_done(now)
        return self._out

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
            if self._lease is not None and self._appetite.in_flight is None and self._runs.pool.free_nodes > 0:
                times.append(self._appetite.wake_at())
            if self._queue:
                times.append(self._start_not_before)
        # What is past was looked at in the last step.
        return min((time for time in times if time > self._now), default=None)

    def _hear(self, now: float, happened: Input) -> None:
        match happened:
            case Exited():
                self._exited(now, happened)
            case Gone():
                self._gone(now, happened.job_id)
            case Started():
                self._started(now, happened.job_id)
            case Preparing() | CheckpointAsked():
                self._hear_of_run(now, happened)
            case Granted():
                self._granted(now, happened)
            case CancelRequested() | Fenced() | RuleMet():
                self._hear_of_wish(now, happened)
            case StartFailed():
                self._start_failed(now, happened)
            case StartDelayed():
                self._start_delayed(now, happened)
            case Lost() | NodeDown() | NodeUp():
                self._hear_of_node(happened)
            case _:
                self._hear_of_lease(now, happened)

    def _hear_of_run(self, now: float, happened: Preparing | CheckpointAsked) -> None:
        run = self._runs.get(happened.job_id)
        if run is None:
            return
        if isinstance(happened, CheckpointAsked):
            run.checkpoint_asked = True
        else:
            self._preparing(now, run)

    def _hear_of_wish(self, now: float, happened: CancelRequested | Fenced | RuleMet) -> None:
        match happened:
            case CancelRequested():
                self._cancel(now, happened.job_ids)
            case Fenced():
                self._fenced(now, happened.jobs)
            case RuleMet():
                self._rule_met(now, happened)

    def _hear_of_node(self, happened: Lost | NodeDown | NodeUp) -> None:
        match happened:
            case Lost():
                self._lost(happened)
            case NodeDown():
                self._runs.set_usable(happened.node, False)
            case NodeUp():
                self._runs.set_usable(happened.node, True)
                self._appetite.hint()

    def _hear_of_lease(self, now: float, happened: Input) -> None:
        match happened:
            case AcquireRefused():
                self._acquire_refused(now, happened)
            case SessionOpened():
                self._lease = happened.lease
                self._appetite.hint()
            case LeaseRenewed() if self._lease is not None:
                self._lease.renewed(happened.sent_at)
            case LeaseEnded():
                if self._lease is not None:
                    self._lease.end()
                self._check_lease(now, happened.reason)
            case Drain():
                self._drain(now, happened.reason)
            case NodesLost():
                self._nodes_lost(now, happened.nodes)
            case Work():
                self._appetite.hint()
            case Storage():
                self._stores = happened.works

    # The lease

    def _check_lease(self, now: float, reason: str = "it was not renewed in time") -> None:
        """S6: once over, kill everything at once, report nothing, end."""
        if self._lease is None or not self._lease.is_over(now):
            return
        self._is_over = True
        if not self._draining:
            self._say(Note(f"the lease is over: {reason}; killing {len(self._runs)} Jobs"))
        self._draining = self._draining or "lease ended"
        for job_id in self._queue:
            self._queue.take(job_id)
        for job_id in self._runs:
            self._runs.kill(now, job_id, Killing.LEASE, "the lease ended")

    @property
    def _lease_is_over(self) -> bool:
        return self._is_over

    def _drain(self, now: float, reason: str) -> None:
        if self._draining:
            return
        self._draining = reason
        # One that ended by itself can't be cut off; what it left behind is being killed anyway.
        alive = [job_id for job_id in self._runs if (run := self._runs.get(job_id)) is not None and run.exited is None]
        self._say(Note(f"draining: {reason}; {len(alive)} Jobs are told to end, {len(self._queue)} given back"))
        for job_id in self._queue:
            self._give_back(job_id)
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

    # Nodes

    def _nodes_lost(self, now: float, nodes: tuple[int, ...]) -> None:
        """What had ranks there is lost and told so; it runs again elsewhere. What fits no more is given back."""
        for node in nodes:
            why = f"node {self._settings.nodes[node].name} was lost"
            struck = self._runs.lose(node)
            self._say(Note(f"{why}, and with it {len(struck)} Jobs"))
            for job_id in struck:
                self._runs.kill(now, job_id, Killing.LOST_NODE, why)
        self._give_back_what_never_fits(now)

    def _judge_nodes(self, now: float, run: Run) -> tuple[str, dict[str, str]]:
        """A node that fails Jobs as they start gets no more of them; returns words and data for the Job's record."""
        suspect = self._bad_nodes.over(run.job.id, is_own_end=run.killing is None and not run.checkpoint_asked)
        if suspect is None or not self._runs.set_aside(suspect.node):
            return "", {}
        self._bad_nodes.set_aside(suspect.node)
        name = self._settings.nodes[suspect.node].name
        why = (
            f"node {name} is set aside for the rest of this allocation: "
            f"{suspect.jobs} Jobs in a row failed there within {START_SEC:g} s, of Apps that start well on other nodes"
        )
        self._say(Note(why))
        self._give_back_what_never_fits(now)
        return why, {"node_set_aside": name}

    def _give_back_what_never_fits(self, now: float) -> None:
        for job_id in self._queue:
            queued = self._queue.get(job_id)
            if queued is not None and self._can_never_run(now, queued):
                self._give_back(job_id)

    # Getting Jobs

    def _granted(self, now: float, reply: Granted) -> None:
        if self._appetite.in_flight is None or reply.acquire_seq != self._acquire_seq:
            return
        usable = 0
        for job in reply.jobs:
            job = self._as_run_here(job)
            if self._lease_is_over:
                continue
            if self._draining or self._can_never_run(now, job):
                self._record(Outcome.RELEASED, job)
                continue
            self._enqueue(job)
            usable += 1
        self._appetite.answered(now, self._room(), usable, len(reply.jobs) - usable)

    def _enqueue(self, job: LaunchJob) -> None:
        self._queue.put(job)
        run = self._runs.get(job.id)
        if run is not None and run.job.token < job.token:  # S6: granted anew while an earlier run of it lives here
            self._runs.kill(self._now, job.id, Killing.FENCED, "it was granted again")

    def _give_back(self, job_id: int) -> None:
        job = self._queue.take(job_id)
        if job is not None:
            self._record(Outcome.RELEASED, job)

    def _cancel(self, now: float, job_ids: tuple[int, ...]) -> None:
        for job_id in job_ids:
            self._give_back(job_id)
            self._runs.kill(now, job_id, Killing.CANCEL, "cancelled")

    def _as_run_here(self, job: LaunchJob) -> LaunchJob:
        if self._settings.allows_packing or self._settings.serial or job.resources.node_packing_count == 1:
            return job
        return replace(job, resources=replace(job.resources, node_packing_count=1))

    def _can_never_run(self, now: float, job: LaunchJob) -> bool:
        if not self._runs.pool.could_ever_fit(job.resources):
            self._say(Note(f"Job {job.id} is given back: no node here has what it asks for ({job.resources})"))
            return True
        return self._is_too_long(now, job)

    def _is_too_long(self, now: float, job: LaunchJob) -> bool:
        left = self._minutes_left(now)
        return left is not None and job.resources.wall_time_min > left

    def _minutes_left(self, now: float) -> int | None:
        """Minutes until the end of the allocation, begun ones counted: an estimate in minutes is no sharper."""
        return None if self._settings.end is None else max(0, math.ceil((self._settings.end - now) / 60))

    def _acquire_refused(self, now: float, refused: AcquireRefused) -> None:
        if self._appetite.in_flight is not None and refused.acquire_seq == self._acquire_seq:
            self._appetite.refused(now)
            self._say(Note(f"the service refuses to give Jobs: {refused.reason}"))

    def _room(self) -> Room:
        return Room(
            free_nodes=self._runs.pool.free_nodes - self._queue.nodes,
            total_nodes=self._runs.pool.usable_nodes,
            free_cores=self._runs.free_cores,
            queued=len(self._queue),
        )

    def _ask(self, now: float) -> None:
        if self._appetite.in_flight is not None or self._lease is None or self._draining or not self._stores:
            return
        if len(self._runs) >= self._settings.most_running:
            return
        portion = self._appetite.portion(now, self._room())
        if portion is None:
            return
        self._acquire_seq += 1
        self._appetite.sent(portion)
        settings = self._settings
        self._say(
            Acquire(
                acquire_seq=self._acquire_seq,
                max_jobs=portion.max_jobs,
                max_wall_time_min=self._minutes_left(now),
                max_nodes_per_job=1 if settings.serial else max(1, self._runs.pool.usable_nodes),
                max_aggregate_nodes=portion.max_aggregate_nodes,
                max_gpus_per_node=self._most_gpus,
                serial_only=settings.serial,
                filter_tags=settings.filter_tags,
                sort_by=settings.sort_by,
            )
        )

    # Starting

    def _start_queued(self, now: float) -> None:
        if self._draining or not self._stores or not self._queue or now < self._start_not_before:
            return
        full: set[Shape] = set()
        left = self._minutes_left(now)
        while self._runs.free_cores and len(self._runs) < self._settings.most_running:
            # A Job whose earlier run is not gone stays where it is (S6).
            waiting = self._queue.next(full, self._runs)
            if waiting is None:
                return
            job = waiting.job
            if left is not None and job.resources.wall_time_min > left:
                self._give_back(job.id)
                continue
            if self._runs.place(job):
                self._queue.take(job.id)
                self._idle_since = None
                continue
            full.add(job.resources.shape)
            waiting.overtaken_since = now if waiting.overtaken_since is None else waiting.overtaken_since
            if now - waiting.overtaken_since >= OVERTAKEN_SEC:
                return

    def _preparing(self, now: float, run: Run) -> None:
        run.preparing = True
        if run.killing is not None:
            self._runs.signal(now, run)

    def _started(self, now: float, job_id: int) -> None:
        run = self._runs.get(job_id)
        if run is None:
            return
        run.started = True
        self._bad_nodes.began(now, run.job, run.placement)
        self._record_start(run.job)
        if run.killing is not None:
            self._runs.signal(now, run)

    def _start_failed(self, now: float, failed: StartFailed) -> None:
        run = self._runs.get(failed.job_id)
        if run is None:
            return
        self._runs.free(run)
        self._bad_nodes.began(now, run.job, run.placement)
        self._bad_nodes.exited(now, run.job.id, is_well=False)
        said, data = self._judge_nodes(now, run)
        if run.killing in (Killing.CANCEL, Killing.FENCED):
            self._record(Outcome.RELEASED, run.job)
        else:
            self._record_start(run.job)
            code, why = failed.return_code, _lines(failed.message, said)
            self._record(Outcome.RUN_ERROR, run.job, code, why, data, failed.result, Failure.NOT_STARTED)

    def _start_delayed(self, now: float, delayed: StartDelayed) -> None:
        run = self._runs.get(delayed.job_id)
        if run is None:
            return
        self._runs.free(run)
        self._start_not_before = now + START_AGAIN_SEC
        if run.killing is None and not self._draining:
            self._say(Note(f"Job {run.job.id} waits: {delayed.reason}"))
            self._queue.put_first(run.job)
        else:
            self._record(Outcome.RELEASED, run.job)

    def _rule_met(self, now: float, met: RuleMet) -> None:
        """Of a Job that ends for another reason already nothing is said."""
        run = self._runs.get(met.job_id)
        if run is None or not run.started or run.killing is not None or run.job.token != met.token:
            return
        if met.action is MonitorAction.KILL:
            run.rule = met
            self._runs.kill(now, met.job_id, Killing.MONITOR, met.message)
            return
        data = {"monitor": met.monitor, **met.data} if met.monitor else dict(met.data)
        changes = {"merge_tags": dict(met.tags)} if met.tags else {}
        self._record(Outcome.NOTED, run.job, message=met.message, data=data, changes=changes)

    # Ending

    def _exited(self, now: float, exited: Exited) -> None:
        run = self._runs.get(exited.job_id)
        if run is not None and run.exited is None:
            run.exited = exited
            self._bad_nodes.exited(now, run.job.id, is_well=exited.return_code == 0)

    def _gone(self, now: float, job_id: int) -> None:
        """S9: only now the slot is free, and only now the end is told, or another launcher could start it beside."""
        run = self._runs.get(job_id)
        if run is None or run.exited is None:
            return
        self._runs.free(run)
        self._appetite.ended(now, run.job.resources.node_footprint)
        said, aside = self._judge_nodes(now, run)
        exited = run.exited
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
                why = _lines(exited.message, said)
                self._record(Outcome.RUN_ERROR, run.job, code, why, data, exited.result, exited.failure)
            case Killing.MONITOR:
                self._record_rule(run, code, data)
            case Killing.LOST_NODE:
                self._record(Outcome.RUN_ERROR, run.job, code, run.why, data, failure=Failure.LOST_NODE)
            case Killing.DRAIN:
                self._record(Outcome.RUN_TIMEOUT, run.job, code, run.why)
            case Killing.CANCEL:
                self._record(Outcome.KILLED, run.job, code, run.why)
            case Killing.FENCED | Killing.LEASE:
                self._record(Outcome.RELEASED, run.job)

    def _record_rule(self, run: Run, code: int, data: Mapping[str, Any]) -> None:
        if run.rule is None:
            raise AssertionError(f"Job {run.job.id} was ended by a rule that is not known")
        told = {**data, "monitor": run.rule.monitor, **run.rule.data}
        allowed = run.rule.restarts
        self._record(Outcome.RUN_ERROR, run.job, code, run.why, told, failure=Failure.MONITOR, restarts=allowed)

    def _lost(self, lost: Lost) -> None:
        """Said as what it is; whether and where it runs again is the service's to decide (S6)."""
        run = self._runs.get(lost.job_id)
        if run is None:
            return
        self._runs.free(run)
        self._bad_nodes.over(run.job.id, is_own_end=False)
        if run.killing in (Killing.FENCED, Killing.LEASE):
            self._record(Outcome.RELEASED, run.job)
            return
        if not run.started:
            self._record_start(run.job)
        if run.killing is Killing.CANCEL:
            self._record(Outcome.KILLED, run.job, None, run.why)
        else:
            self._record(Outcome.RUN_TIMEOUT, run.job, None, lost.reason, failure=Failure.LOST_NODE)

    def _fenced(self, now: float, jobs: tuple[tuple[int, int], ...]) -> None:
        """S7. A newer grant of the same Job is not meant."""
        for job_id, token in jobs:
            queued, run = self._queue.get(job_id), self._runs.get(job_id)
            if queued is not None and queued.token <= token:
                self._give_back(job_id)
            if run is not None and run.job.token <= token:
                self._runs.kill(now, job_id, Killing.FENCED, "it is not ours any more")

    def _say(self, output: Output) -> None:
        self._out.append(output)

    def _record_start(self, job: LaunchJob) -> None:
        """With the nodes that it occupies: utilization is reckoned from the EventLog alone."""
        self._record(Outcome.STARTED, job, data={"num_nodes": job.resources.node_footprint})

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
        if not self._is_over:  # S6: who lost the lease has nothing to say any more
            said = (return_code, message, data or NO_DATA, result, failure, changes or NO_DATA, restarts)
            self._out.append(Record(outcome, job.id, job.token, *said))

    def _end_when_done(self, now: float) -> None:
        if self._runs or self._queue:
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


def _lines(*texts: str) -> str:
    return "\n".join(text for text in texts if text)
