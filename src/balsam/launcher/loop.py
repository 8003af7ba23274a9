"""The launcher: one thread around epoll that carries out what the machine decides and tells it what happened.

Run by `entry` in the process that the guardian starts. It waits for: ends of children (pidfds), the courier's messages,
the guardian's end, signals, and the machine's next appointment. Nothing in here decides anything about Jobs; that is
`machine.py`. It never waits for the network or for another process: a frozen loop is a lost lease, which the guardian
ends (S6).
"""

from __future__ import annotations

import logging
import os
import select
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from balsam.client.outbox import OutboxError
from balsam.domain.clock import Clock, SystemClock
from balsam.launcher.children import Children
from balsam.launcher.courier_link import CourierLink
from balsam.launcher.engines.base import Engine
from balsam.launcher.fleet import Fleet
from balsam.launcher.guardian import END_ENV, EXIT_CONFIG, RESTART_ENV
from balsam.launcher.guardian_link import GuardianLink
from balsam.launcher.line_link import LineLink
from balsam.launcher.machine import Machine
from balsam.launcher.machine_messages import (
    Acquire,
    Checkpoint,
    Drain,
    Exited,
    ExitReason,
    Input,
    Note,
    Output,
    Record,
    Signal,
    Start,
)
from balsam.launcher.monitors import Monitors
from balsam.launcher.node_watch import NodeWatch
from balsam.launcher.open_files import FILES_PER_JOB, allow_files
from balsam.launcher.partition import Partition
from balsam.launcher.proctable import ALLOCATION_ENV, find_descendants, kill_until_gone
from balsam.launcher.service_side import ServiceSide
from balsam.launcher.step_signals import StepSignals
from balsam.launcher.sweep import Sweeper
from balsam.launcher.wiring import Parts, build_parts
from balsam.launcher.workdir import WorkdirError

log = logging.getLogger("balsam.launcher")

EXIT_LEASE = 75
EXIT_ORPHANED = 1
CLOSE_SEC = 20.0
# A batch system that ends an allocation may signal all of its processes at once.
SIGNAL_SKEW_SEC = 0.2
ENDED_BY_A_SIGNAL = frozenset(128 + number for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL))


class Loop:
    """One launcher partition. `end` is when the allocation ends, `make_courier` starts a courier for an errand,
    `make_hub` the hub.
    """

    def __init__(
        self,
        partition: Partition,
        parts: Parts,
        make_courier: Callable[[dict[str, Any]], CourierLink],
        guardian: GuardianLink | None,
        allocation: str,
        end: float,
        clock: Clock,
        make_hub: Callable[[list[str]], LineLink] = LineLink,
    ) -> None:
        self._partition = partition
        self._guardian = guardian
        self._allocation = allocation
        self._end = end
        self._clock = clock
        settings = partition.machine_settings(end)
        self._machine = Machine(settings)
        self._epoll = select.epoll()
        self._inputs: list[Input] = []
        self._node_watch = self._watch_of_nodes(parts)
        cores = sum(len(node.cpu_ids) for node in partition.nodes)
        self._fleet: Fleet | None = None
        if partition.is_spread:
            self._fleet = Fleet(self._epoll, partition, parts.apps, allocation, end, clock, self._inputs, make_hub)
        else:
            allow_files(FILES_PER_JOB * min(cores, settings.most_running))
        self._children = self._fleet or Children(
            self._epoll,
            parts.starter,
            parts.data,
            Sweeper(allocation),
            clock,
            partition.config.error_tail_num_lines,
            cores,
            self._inputs,
            doubts=self._node_watch,
            steps=self._way_to_steps(parts),
            out_of_memory=parts.out_of_memory,
        )
        data_path = Path(partition.config.data_path)
        self._monitors = Monitors(
            self._epoll, parts.apps, data_path, clock, self._inputs, ranks_apart=parts.ranks_apart
        )
        self._service = ServiceSide(self._epoll, partition, parts.apps, make_courier, clock, self._inputs)
        self._told_until: float | None = None
        self._is_restart = int(os.environ.get(RESTART_ENV, "0")) > 0
        self._wake_fd = _take_signals()
        self._epoll.register(self._wake_fd, select.EPOLLIN)
        if guardian is not None:
            self._epoll.register(guardian.fileno(), select.EPOLLIN)

    def _watch_of_nodes(self, parts: Parts) -> NodeWatch | None:
        """None where all nodes are this machine, or nobody can be asked."""
        partition = self._partition
        if partition.is_local or parts.nodes_left is None:
            return None
        environ = {**os.environ, "LC_ALL": "C"}
        directory = Path(partition.config.directory) / f"watch-{partition.index}"
        directory.mkdir(exist_ok=True)
        return NodeWatch(
            self._epoll,
            parts.nodes_left,
            environ,
            directory,
            partition.nodes,
            parts.data,
            self._clock,
            self._inputs,
        )

    def _way_to_steps(self, parts: Parts) -> StepSignals | None:
        if parts.signaller is None:
            return None
        environ = {**os.environ, "LC_ALL": "C"}
        output = Path(self._partition.config.directory) / f"step-signals-{self._partition.index}.out"
        return StepSignals(self._epoll, parts.signaller, environ, output, self._clock)

    def run(self) -> int:
        """Run until the machine says that it is over; returns the exit status for the guardian. Raises OutboxError."""
        while self._machine.exit is None:
            self._turn()
            if self._service.refused:
                log.error("the service gives no Session: %s", self._service.refused)
                self._service.stop()
                return EXIT_CONFIG
            if self._fleet is not None and self._fleet.failed:
                # What ran on the nodes ends with the hub; the guardian starts another launcher.
                log.error("no Jobs can be run: %s", self._fleet.failed)
                self._service.flush_reports(self._clock.monotonic())
                return EXIT_ORPHANED
        log.info("ending: %s", self._machine.exit.text)
        self._say_goodbye(self._machine.exit.reason)
        return EXIT_LEASE if self._machine.exit.reason is ExitReason.LEASE_ENDED else 0

    def _turn(self) -> None:
        """Wait for something, hear all of it, let the machine decide, carry it out.

        What carrying out brings (a Job has started) is heard in the next turn, which then does not wait: in a stream of
        short Jobs it goes together with the end of another one, and the machine takes one step for both.
        """
        self._wait(0.0 if self._inputs else self._patience())
        if any(isinstance(said, Exited) and self._is_unexplained(said) for said in self._inputs):
            self._hear_of_our_own_end()
        now = self._clock.monotonic()
        if self._may_report():
            self._service.ensure_courier(now)
        self._children.sweep(now)
        if self._node_watch is not None:
            self._node_watch.tick(now)
        self._monitors.follow(now, self._machine.is_ending)
        self._let_decide(now)
        self._monitors.tick(now)
        if self._fleet is not None:
            self._fleet.flush()
        self._service.flush(self._clock.monotonic(), self._machine.is_idle)
        self._tell_guardian()

    def _may_report(self) -> bool:
        """S6: the service hears of an earlier launcher's end only when nothing of it can live on any node."""
        return self._fleet is None or not self._is_restart or self._fleet.is_settled

    def _wait(self, longest_sec: float) -> None:
        """Until something happens, and hear of it; negative: for as long as that takes."""
        for fd, event in self._epoll.poll(longest_sec):
            self._hear(fd, event)

    def _patience(self) -> float:
        """Seconds until something is due; negative: nothing ever is."""
        times = [
            self._machine.wake_at(),
            self._children.due(),
            self._service.due(self._machine.is_idle) if self._may_report() else None,  # the fleet wakes us then
            self._monitors.due(),
            None if self._node_watch is None else self._node_watch.due(),
        ]
        until = min((time for time in times if time is not None), default=None)
        return -1.0 if until is None else max(0.0, until - self._clock.monotonic())

    def _is_unexplained(self, said: Exited) -> bool:
        """Whether a Job died of a signal that we did not send."""
        return said.return_code in ENDED_BY_A_SIGNAL and not self._machine.is_ending(said.job_id)

    def _hear_of_our_own_end(self) -> None:
        """The signal that ended a Job may be for all of us: then that Job was cut off, and its own end is no error."""
        told = [said for said in self._inputs if isinstance(said, Drain)]
        if not told and select.select([self._wake_fd], [], [], SIGNAL_SKEW_SEC)[0]:
            told = [self._signalled()]
        self._inputs[:0] = told

    def _signalled(self) -> Drain:
        names = {signal.Signals(number).name for number in os.read(self._wake_fd, 512)}
        return Drain(f"got {', '.join(sorted(names))}")

    def _hear(self, fd: int, event: int) -> None:
        if self._children.heard(fd) or self._service.heard(fd, event) or self._monitors.heard(fd):
            return
        if self._node_watch is not None and self._node_watch.heard(fd):
            return
        if fd == self._wake_fd:
            self._inputs.append(self._signalled())
        elif self._guardian is not None and self._guardian.guardian_is_gone():
            self._orphaned()

    def _orphaned(self) -> None:
        """S6: nobody watches our lease any more; end everything, keep what is known in the outbox."""
        log.error("the guardian is gone: killing all Jobs")
        kill_until_gone(lambda: find_descendants(os.getpid(), self._allocation))
        self._service.flush_reports(self._clock.monotonic())
        os._exit(EXIT_ORPHANED)

    def _let_decide(self, now: float) -> None:
        heard = self._inputs.copy()
        self._inputs.clear()
        for output in self._machine.step(now, heard):
            self._carry_out(output)

    def _carry_out(self, output: Output) -> None:
        match output:
            case Start():
                self._monitors.begin(output.job, len(output.placement.shares))
                self._children.start(output)
            case Record():
                self._service.report(output)
            case Acquire():
                self._service.acquire(output)
            case Signal():
                self._children.signal(output)
            case Checkpoint():
                self._children.checkpoint(output)
            case Note():
                log.info("%s", output.text)

    def _tell_guardian(self) -> None:
        if self._guardian is None or self._machine.lease is None:
            return
        until = self._machine.lease.until
        if until != self._told_until:
            self._guardian.renew(until)
            self._told_until = until
            if self._fleet is not None:
                self._fleet.lease(until)

    def _say_goodbye(self, reason: ExitReason) -> None:
        """Deliver what is left and close the Session, for as long as there is time (L3)."""
        self._children.close()
        self._monitors.close()
        if self._node_watch is not None:
            self._node_watch.close()
        give_up_at = min(self._clock.monotonic() + CLOSE_SEC, self._end - self._partition.margin_sec * 0.2)
        self._service.flush_reports(self._clock.monotonic())
        if reason is not ExitReason.LEASE_ENDED:
            self._service.close(reason.value)
            while self._service.can_close and not self._service.is_closed:
                now = self._clock.monotonic()
                if now >= give_up_at:
                    break
                self._service.flush(now, idle=True)
                if self._fleet is not None:
                    self._fleet.flush()
                # Nobody decides any more, so nothing else that is due or was heard would ever be done.
                due = self._service.due(idle=True)
                self._wait(max(0.0, (give_up_at if due is None else min(due, give_up_at)) - now))
        self._service.leave()


def _take_signals() -> int:
    """SIGTERM and SIGINT wake the loop: a descriptor that becomes readable."""
    wake_fd, wake_write_fd = os.pipe()
    os.set_blocking(wake_fd, False)
    os.set_blocking(wake_write_fd, False)
    signal.set_wakeup_fd(wake_write_fd, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    return wake_fd


def run_partition(
    partition: Partition,
    guardian: GuardianLink | None,
    find_engine: Callable[[], Engine],
    make_courier: Callable[[dict[str, Any]], CourierLink],
) -> int:
    """Run a partition to its end; returns the exit status for the guardian. `find_engine`: see `engine_for`."""
    allocation, end = os.environ[ALLOCATION_ENV], float(os.environ[END_ENV])
    try:
        parts = build_parts(partition, os.environ, allocation, find_engine=lambda *_: find_engine())
    except (WorkdirError, LookupError, ImportError) as error:
        log.error("%s", error)
        return EXIT_CONFIG
    try:
        return Loop(partition, parts, make_courier, guardian, allocation, end, SystemClock()).run()
    except OutboxError as error:
        log.error("%s", error)
        return EXIT_ORPHANED
