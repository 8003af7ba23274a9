"""The Jobs' processes as the loop sees them: started, signalled, reaped, and gone only when nothing of them lives (S9).

Used by the loop alone. Turns the machine's Start and Signal into system calls, and what the kernel and the workers say
into the machine's inputs. A Job that a warm worker runs is gone with the worker's answer, which comes when the worker
has seen the end of everything the Job started; a worker that does not stay, or ended by itself, is looked after like
any command.
"""

import logging
import select
from dataclasses import dataclass, replace
from signal import SIGTERM, Signals
from typing import Protocol

from balsam.domain.clock import Clock
from balsam.launcher import endings
from balsam.launcher.checkpoint import checkpoint_signal
from balsam.launcher.machine_messages import (
    Checkpoint,
    CheckpointAsked,
    Exited,
    Gone,
    Input,
    Preparing,
    Signal,
    Start,
    StartDelayed,
    Started,
    StartFailed,
)
from balsam.launcher.memory_kills import MemoryKills
from balsam.launcher.plans import CommandPlan, NotStarted, Prepared, WorkerPlan
from balsam.launcher.process import (
    Child,
    ExitStatus,
    SpawnError,
    close_child,
    group_exists,
    kill,
    reap,
    send,
    signal_group,
    terminate,
)
from balsam.launcher.starter import Starter
from balsam.launcher.step_signals import StepSignals
from balsam.launcher.sweep import Run, Sweeper
from balsam.launcher.workdir import DataRoot
from balsam.launcher.workers import Worker, Workers
from balsam.worker.protocol import Answer

log = logging.getLogger("balsam.launcher")

# The methods that say how a Job is started only put texts together.
LONGEST_PREPARATION_SEC = 30.0


@dataclass(slots=True)
class _Live:
    """A Job that was started. `child` or `worker` runs it, until that was reaped or has answered.

    `kill_at` is set once it is to end; `last` is what is said when all of it is gone. `prepare_until` is set while
    methods run that say how it is to be started. `checkpoint`: the signal that tells it that the end is near.
    """

    order: Start
    run: Run
    child: Child | None = None
    plan: CommandPlan | None = None
    worker: Worker | None = None
    kill_at: float | None = None
    last: Input | None = None
    prepare_until: float | None = None
    is_doubtful: bool = False
    checkpoint: Signals | None = None


class Doubts(Protocol):
    """Asked about the ends of Jobs that had ranks on other nodes."""

    def is_doubtful(self, order: Start, return_code: int) -> bool:
        """Whether this end may be that of a lost node."""
        ...

    def doubt(self, said: Input, order: Start) -> None:
        """Say this of a Job when it is known which nodes are lost."""
        ...


@dataclass(slots=True)
class _Behind:
    """A start that waits for the end of workers without a Job that may still hold memory on its GPUs."""

    order: Start
    prepared: Prepared | None
    remains: Run
    workers: set[Worker]


class Children:
    """The Jobs that were started and are not seen gone. What happens to them is appended to `inputs`.

    `cores` of all nodes: idle workers and running Jobs together are never more. `steps`: the way to ranks that
    have a program for it. `out_of_memory`: a line by which mpirun tells that ranks were killed for want of memory.
    """

    def __init__(
        self,
        epoll: select.epoll,
        starter: Starter,
        data: DataRoot,
        sweeper: Sweeper,
        clock: Clock,
        error_tail_lines: int,
        cores: int,
        inputs: list[Input],
        memory_kills: MemoryKills | None = None,
        doubts: Doubts | None = None,
        steps: StepSignals | None = None,
        out_of_memory: bytes | None = None,
    ) -> None:
        self._epoll = epoll
        self._starter = starter
        self._data = data
        self._sweeper = sweeper
        self._clock = clock
        self._error_tail_lines = error_tail_lines
        self._free_cores = cores
        self._inputs = inputs
        self._memory_kills = memory_kills or MemoryKills()
        self._doubts = doubts
        self._steps = steps
        self._out_of_memory = out_of_memory
        self._live: dict[int, _Live] = {}
        self._job_of_pidfd: dict[int, int] = {}
        self._preparing: dict[int, _Live] = {}
        self._behind: list[_Behind] = []
        self._workers = Workers(epoll, clock, self._answered, self._worker_ended)

    @property
    def count(self) -> int:
        """How many Jobs were started and are not seen gone."""
        return len(self._live)

    # Starting

    def start(self, order: Start) -> None:
        """Start a Job."""
        self._free_cores -= _cores(order)
        self._begin(order, None, Run(str(order.job.id), str(order.job.attempt), ()))

    def _begin(self, order: Start, prepared: Prepared | None, remains: Run) -> None:
        """Start a Job, or go on once its App's methods said how. `remains`: by what is left of those it is found."""
        try:
            plan = self._starter.plan(order.job, order.placement, prepared)
            if self._has_to_wait(order, prepared, remains, plan):
                return
            if isinstance(plan, WorkerPlan):
                self._call(order, plan)
            else:
                self._execute(order, plan, remains, is_first=prepared is None)
        except NotStarted as error:
            self._not_started(order, remains, StartFailed(order.job.id, error.return_code, str(error)))
        except SpawnError as error:
            self._not_started(order, remains, StartDelayed(order.job.id, str(error)))
        self._workers.leave_idle(max(0, self._free_cores))

    def _has_to_wait(
        self, order: Start, prepared: Prepared | None, remains: Run, plan: CommandPlan | WorkerPlan
    ) -> bool:
        if not order.job.resources.gpus_per_rank:
            return False
        gpus = frozenset((share.node, gpu) for share in order.placement.shares for gpu in share.gpu_ids)
        key = plan.key if isinstance(plan, WorkerPlan) else None
        others = self._workers.holders_of(gpus, key)
        if others:
            self._behind.append(_Behind(order, prepared, remains, set(others)))
            for worker in others:
                self._workers.end(worker)
        return bool(others)

    def _call(self, order: Start, plan: WorkerPlan) -> None:
        job = order.job
        worker = self._starter.call(job, plan, self._workers)
        run = Run(str(job.id), str(job.attempt), (worker.child.group,), (worker.name,))
        live = self._live[job.id] = _Live(order, run, worker=worker, checkpoint=checkpoint_signal(plan.env))
        if not plan.prepares:
            self._inputs.append(Started(job.id))
            return
        live.prepare_until = self._clock.monotonic() + LONGEST_PREPARATION_SEC
        self._preparing[job.id] = live
        self._inputs.append(Preparing(job.id))

    def _execute(self, order: Start, plan: CommandPlan, remains: Run, *, is_first: bool) -> None:
        job = order.job
        child = self._starter.execute(job, plan, is_first=is_first)
        run = Run(remains.job_id, remains.attempt, (child.group, *remains.sessions), remains.workers)
        self._live[job.id] = _Live(order, run, child=child, plan=plan, checkpoint=checkpoint_signal(plan.env))
        self._job_of_pidfd[child.pidfd] = job.id
        self._epoll.register(child.pidfd, select.EPOLLIN)
        self._inputs.append(Started(job.id))

    def _not_started(self, order: Start, remains: Run, said: Input) -> None:
        live = self._live[order.job.id] = _Live(order, remains, last=said)
        if remains.sessions:
            self._sweeper.hold(remains, self._clock.monotonic())
        else:
            self._over(live)

    # Ending

    def signal(self, order: Signal) -> None:
        """Ask a Job to end, or kill it."""
        live = self._live.get(order.job_id)
        if live is None:
            return
        live.kill_at = order.kill_at
        group = None
        if live.child is not None:
            group = live.child.group
        elif live.worker is not None:
            live.worker.doomed = True
            group = live.worker.child.group
        if group is None:
            self._sweeper.hold(live.run, order.kill_at)
        elif order.kill:
            kill(group)
        else:
            self._send(live, group, SIGTERM)

    def checkpoint(self, order: Checkpoint) -> None:
        """Tell a Job that the end is near, when there is a signal for that."""
        live = self._live.get(order.job_id)
        if live is None or live.checkpoint is None or live.kill_at is not None:
            return
        running = live.child if live.worker is None else live.worker.child
        if running is not None:
            self._send(live, running.group, live.checkpoint)
            self._inputs.append(CheckpointAsked(order.job_id))

    def _send(self, live: _Live, group: int, number: Signals) -> None:
        """Give the ranks a signal that they may catch."""
        plan, child = live.plan, live.child
        if plan is not None and plan.reach == "step" and self._steps is not None:
            self._steps.send(plan.step, number, lambda: self._unknown_step(live))
        elif number is SIGTERM:
            terminate(group)
        elif plan is not None and plan.reach != "group" and child is not None:
            send(child, number)
        else:
            signal_group(group, number)

    def _unknown_step(self, live: _Live) -> None:
        """There are no ranks: the mpirun alone is to end, unless it has."""
        if live.kill_at is not None and live.child is not None:
            terminate(live.child.group)

    def heard(self, fd: int) -> bool:
        """Whether `fd` is a child's, which ended, or a worker's."""
        job_id = self._job_of_pidfd.get(fd)
        if job_id is None:
            return self._workers.heard(fd) or (self._steps is not None and self._steps.heard(fd))
        live = self._live[job_id]
        if live.child is not None:
            self._ended(live, live.child)
        return True

    def due(self) -> float | None:
        """When to call `sweep`."""
        times = [live.prepare_until for live in self._preparing.values()]
        times += [self._sweeper.due(), self._workers.due(), None if self._steps is None else self._steps.due()]
        return min((time for time in times if time is not None), default=None)

    def sweep(self, now: float) -> None:
        """Look for what ended Jobs left behind, and for what has taken too long."""
        self._workers.end_overdue(now)
        if self._steps is not None:
            self._steps.tick(now)
        for live in list(self._preparing.values()):
            if live.prepare_until is not None and now >= live.prepare_until and live.worker is not None:
                live.prepare_until = None
                self._workers.end(live.worker)
        due = self._sweeper.due()
        if due is not None and now >= due:
            for run in self._sweeper.sweep(now):
                self._over(self._live[int(run.job_id)])
            self._sweeper.took(self._clock.monotonic() - now)

    def close(self) -> None:
        """No Job is left: end the workers."""
        self._workers.close()
        if self._steps is not None:
            self._steps.close()

    def _ended(self, live: _Live, child: Child) -> None:
        status = reap(child)
        if status is None:
            return
        self._epoll.unregister(child.pidfd)
        del self._job_of_pidfd[child.pidfd]
        close_child(child)
        live.child = None
        plan = live.plan
        spreads, python_exe, left = False, None, None
        if plan is not None:
            spreads, python_exe, left = plan.spreads, plan.python_exe, self._starter.take(plan)
        job_id, is_killed = live.order.job.id, live.kill_at is not None
        said = endings.ended_command(job_id, status, left, is_killed, python_exe, lambda: self._tail(live))
        self._inputs.append(self._blamed(said, status, spreads, live))
        if self._doubts is not None and spreads and not is_killed:
            live.is_doubtful = self._doubts.is_doubtful(live.order, status.code)
        now = self._clock.monotonic()
        # An mpirun that failed says nothing of its ranks; one that ended well collected them.
        if live.kill_at is not None or (spreads and status.code) or group_exists(child.group):
            self._sweeper.hold(live.run, now if live.kill_at is None else live.kill_at)
        else:
            self._sweeper.retire(live.run, now)
            self._over(live)

    def _answered(self, worker: Worker, answer: Answer) -> None:
        """A worker carried out its call. One that stays has seen everything gone that the Job had started (S9)."""
        live = None if worker.job_id is None else self._live.get(worker.job_id)
        if live is None or live.worker is not worker or live.last is not None:
            return
        job_id = live.order.job.id
        stays = answer.get("stays") is True and not worker.doomed
        if job_id in self._preparing:
            self._prepared(live, worker, answer, stays)
            return
        self._inputs.append(endings.answered(job_id, answer))
        live.last = Gone(job_id)
        self._part(live, worker, stays, answer)
        if stays:
            self._over(live)

    def _prepared(self, live: _Live, worker: Worker, answer: Answer, stays: bool) -> None:
        job_id = live.order.job.id
        del self._preparing[job_id]
        if answer["code"] or "prepared" not in answer or live.kill_at is not None:
            live.last = endings.not_prepared(job_id, answer) if live.kill_at is None else _given_up(job_id)
            self._part(live, worker, stays, answer)
            if stays:
                self._over(live)
            return
        del self._live[job_id]
        worker.job_id = None
        self._part(live, worker, stays, answer)
        remains = live.run._replace(sessions=(), workers=()) if stays else live.run
        self._begin(live.order, answer["prepared"], remains)

    def _part(self, live: _Live, worker: Worker, stays: bool, answer: Answer) -> None:
        if stays:
            live.worker = None
            self._workers.keep(worker)
            return
        if answer.get("left"):
            log.info("Job %d left %s behind; its worker is ended", live.order.job.id, answer["left"])
        self._workers.end(worker)

    def _worker_ended(self, worker: Worker, status: ExitStatus) -> None:
        for behind in [behind for behind in self._behind if worker in behind.workers]:
            behind.workers.discard(worker)
            if not behind.workers:
                self._behind.remove(behind)
                self._begin(behind.order, behind.prepared, behind.remains)
        live = None if worker.job_id is None else self._live.get(worker.job_id)
        if live is None or live.worker is not worker:
            return
        live.worker = None
        now, job_id, is_killed = self._clock.monotonic(), live.order.job.id, live.kill_at is not None
        if live.last is None:
            said = endings.ended_worker(job_id, status, is_killed, lambda: self._tail(live))
            if self._preparing.pop(job_id, None) is None:
                self._inputs.append(self._blamed(said, status, False, live))
                live.last = Gone(job_id)
            elif is_killed:
                live.last = _given_up(job_id)
            else:
                live.last = _not_in_time(job_id) if live.prepare_until is None else _ended_early(job_id, said.message)
        self._sweeper.hold(live.run, now if live.kill_at is None else live.kill_at)

    def _over(self, live: _Live) -> None:
        """Nothing of the Job lives."""
        job_id = live.order.job.id
        del self._live[job_id]
        self._free_cores += _cores(live.order)
        said = Gone(job_id) if live.last is None else live.last
        if live.is_doubtful and self._doubts is not None:
            self._doubts.doubt(said, live.order)
        else:
            self._inputs.append(said)

    def _blamed(self, said: Exited, status: ExitStatus, spreads: bool, live: _Live) -> Exited:
        """With the word that the kernel killed it for want of memory, when it did."""
        if live.kill_at is not None or status.code == 0:
            return said
        killed = spreads and self._mpirun_tells(live)
        killed = killed or (endings.was_killed(status, spreads) and self._memory_kills.claim())
        return replace(said, out_of_memory=True) if killed else said

    def _mpirun_tells(self, live: _Live) -> bool:
        pattern = self._out_of_memory
        return pattern is not None and self._data.output_says(live.order.job.workdir, pattern)

    def _tail(self, live: _Live) -> str:
        return self._data.tail(live.order.job.workdir, self._error_tail_lines)


def _cores(order: Start) -> int:
    return sum([len(share.cpu_ids) for share in order.placement.shares])


def _given_up(job_id: int) -> StartDelayed:
    return StartDelayed(job_id, "it was told to end before it had started")


def _not_in_time(job_id: int) -> StartFailed:
    what = f"shell_preamble(), get_environ_vars() or get_arg_str() took longer than {LONGEST_PREPARATION_SEC:g} s"
    return StartFailed(job_id, endings.FAILED, what)


def _ended_early(job_id: int, message: str) -> StartFailed:
    return StartFailed(job_id, endings.FAILED, message.replace("run()", "a method that says how the Job is started"))
