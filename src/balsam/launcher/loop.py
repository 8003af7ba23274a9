"""The launcher: one thread around epoll that carries out what the machine decides and tells it what happened.

`python -m balsam.launcher.loop PARTITION.json`, started by the guardian. It waits for: ends of children (pidfds), the
courier's messages, the guardian's end, signals, and the machine's next appointment. Nothing in here decides anything
about Jobs; that is `machine.py`. It never waits for the network or for another process (S6: a frozen loop is a lost
lease, which the guardian ends).
"""

from __future__ import annotations

import logging
import os
import select
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from balsam.client.outbox import Outbox, OutboxError, outbox_path
from balsam.domain.clock import Clock, SystemClock
from balsam.domain.lease import HeldLease, LeaseKind
from balsam.launcher.apps import AppShelf
from balsam.launcher.courier_link import CourierLink, CourierProcess
from balsam.launcher.guardian import END_ENV, EXIT_CONFIG
from balsam.launcher.guardian_link import GuardianLink
from balsam.launcher.machine import Machine
from balsam.launcher.machine_messages import (
    Acquire,
    AcquireRefused,
    CancelRequested,
    Drain,
    Exited,
    ExitReason,
    Fenced,
    Gone,
    Granted,
    Input,
    LaunchJob,
    LeaseEnded,
    LeaseRenewed,
    Note,
    Output,
    Record,
    SessionOpened,
    Signal,
    Start,
    StartDelayed,
    Started,
    StartFailed,
    Storage,
    Work,
)
from balsam.launcher.partition import Partition
from balsam.launcher.process import Child, SpawnError, close_child, group_exists, kill, reap, terminate
from balsam.launcher.proctable import ALLOCATION_ENV, find_descendants, kill_until_gone
from balsam.launcher.reports import Reports
from balsam.launcher.starter import NotStarted, Starter
from balsam.launcher.sweep import Run, Sweeper
from balsam.launcher.workdir import DataRoot, WorkdirError

log = logging.getLogger("balsam.launcher")

EXIT_LEASE = 75
EXIT_ORPHANED = 1
CLOSE_SEC = 20.0
COURIER_DELAYS_SEC = (0.1, 1.0, 5.0)


@dataclass(slots=True)
class _Live:
    """A started Job. `child` is None once its first process was reaped."""

    run: Run
    child: Child | None
    spreads: bool
    workdir: str
    kill_at: float | None = None


class Loop:
    """One launcher partition. `make_courier` starts a courier for an errand."""

    def __init__(
        self,
        partition: Partition,
        starter: Starter,
        apps: AppShelf,
        data: DataRoot,
        make_courier: Callable[[dict[str, Any]], CourierLink],
        guardian: GuardianLink | None,
        allocation: str,
        end: float,
        clock: Clock,
    ) -> None:
        self._partition = partition
        self._starter = starter
        self._apps = apps
        self._data = data
        self._make_courier = make_courier
        self._guardian = guardian
        self._allocation = allocation
        self._end = end
        self._clock = clock
        self.machine = Machine(partition.machine_settings(end))
        self._sweeper = Sweeper(allocation)
        self._epoll = select.epoll()
        self._live: dict[int, _Live] = {}
        self._job_of_pidfd: dict[int, int] = {}
        self._courier: CourierLink | None = None
        self._courier_fd = -1
        self._courier_at: float | None = 0.0
        self._courier_deaths = 0
        self._session: dict[str, Any] | None = None
        self._acquiring: dict[str, Any] | None = None
        self._reports: Reports | None = None
        self._refused = ""
        self._closed = False
        self._told_until: float | None = None
        self._inputs: list[Input] = []
        self._wake_fd = self._take_signals()
        for fd in (self._wake_fd, guardian.fileno() if guardian else -1):
            if fd >= 0:
                self._epoll.register(fd, select.EPOLLIN)

    def _take_signals(self) -> int:
        wake_fd, wake_write_fd = os.pipe()
        os.set_blocking(wake_fd, False)
        os.set_blocking(wake_write_fd, False)
        signal.set_wakeup_fd(wake_write_fd, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        return wake_fd

    def run(self) -> int:
        """Run until the machine says that it is over; returns the exit status for the guardian."""
        while self.machine.exit is None:
            self._turn()
            if self._refused:
                log.error("the service gives no Session: %s", self._refused)
                self._stop_courier()
                return EXIT_CONFIG
        log.info("ending: %s", self.machine.exit.text)
        self._say_goodbye(self.machine.exit.reason)
        return EXIT_LEASE if self.machine.exit.reason is ExitReason.LEASE_ENDED else 0

    def _turn(self) -> None:
        """Wait for something, hear all of it, let the machine decide, carry it out."""
        now = self._clock.monotonic()
        for fd, event in self._epoll.poll(self._timeout(now)):
            self._hear(fd, event)
        now = self._clock.monotonic()
        self._ensure_courier(now)
        self._sweep(now)
        heard, self._inputs = self._inputs, []
        outputs = self.machine.step(now, heard)
        while outputs:
            for output in outputs:
                self._carry_out(output)
            heard, self._inputs = self._inputs, []
            outputs = self.machine.step(self._clock.monotonic(), heard) if heard else []
        self._flush()
        self._tell_guardian()

    def _timeout(self, now: float) -> float:
        times = [self.machine.wake_at(), self._sweeper.due(), self._courier_at]
        if self._reports is not None:
            times.append(self._reports.due(self.machine.is_idle))
        until = min((time for time in times if time is not None), default=None)
        return -1 if until is None else max(0.0, until - now)

    # Hearing

    def _hear(self, fd: int, event: int) -> None:
        job_id = self._job_of_pidfd.get(fd)
        if job_id is not None:
            self._child_ended(job_id)
        elif fd == self._courier_fd:
            self._hear_courier(event)
        elif fd == self._wake_fd:
            names = {signal.Signals(number).name for number in os.read(fd, 512)}
            if names:
                self._inputs.append(Drain(f"got {', '.join(sorted(names))}"))
        elif self._guardian is not None and self._guardian.guardian_is_gone():
            self._orphaned()

    def _orphaned(self) -> None:
        """S6: nobody watches our lease any more; end everything, keep what is known in the outbox."""
        log.error("the guardian is gone: killing all Jobs")
        kill_until_gone(lambda: find_descendants(os.getpid(), self._allocation))
        if self._reports is not None:
            self._reports.flush(self._clock.monotonic(), None)
        os._exit(EXIT_ORPHANED)

    def _child_ended(self, job_id: int) -> None:
        live = self._live[job_id]
        child = live.child
        status = reap(child) if child is not None else None
        if child is None or status is None:
            return
        self._epoll.unregister(child.pidfd)
        del self._job_of_pidfd[child.pidfd]
        close_child(child)
        live.child = None
        message = ""
        if status.code and live.kill_at is None:
            tail = self._data.tail(live.workdir, self._partition.config.error_tail_num_lines)
            message = f"{status.describe()}\n{tail}".rstrip("\n")
        name = status.describe().removeprefix("killed by ") if status.signal is not None else ""
        self._inputs.append(Exited(job_id, status.code, name, message))
        now = self._clock.monotonic()
        # An mpirun that failed says nothing of its ranks; one that ended well collected them.
        if live.kill_at is not None or (live.spreads and status.code) or group_exists(child.group):
            self._sweeper.hold(live.run, now if live.kill_at is None else live.kill_at)
        else:
            self._sweeper.retire(live.run, now)
            self._gone(job_id)

    def _gone(self, job_id: int) -> None:
        del self._live[job_id]
        self._inputs.append(Gone(job_id))

    def _sweep(self, now: float) -> None:
        due = self._sweeper.due()
        if due is not None and now >= due:
            for run in self._sweeper.sweep(now):
                self._gone(int(run.job_id))

    # The courier

    def _ensure_courier(self, now: float) -> None:
        if self._courier_at is None or now < self._courier_at:
            return
        config = self._partition.config
        errand: dict[str, Any] = {
            "credentials_path": config.credentials_path,
            "directory": config.directory,
            "partition": self._partition.index,
            "resume": self._session,
            "create": {
                "site_id": config.site_id,
                "batch_job_id": config.batch_job_id,
                "kind": config.lease_kind.value,
                "label": f"{os.uname().nodename} pid {os.getpid()} partition {self._partition.index}",
            },
        }
        self._courier_at = None
        try:
            self._courier = self._make_courier(errand)
        except SpawnError as error:
            self._courier_lost(str(error))
            return
        self._courier_fd = self._courier.fileno()
        self._epoll.register(self._courier_fd, select.EPOLLIN)
        if self._reports is not None:
            self._reports.hand_over(self._courier)
        if self._acquiring is not None:
            self._courier.send(self._acquiring)

    def _courier_lost(self, reason: str) -> None:
        delay = COURIER_DELAYS_SEC[min(self._courier_deaths, len(COURIER_DELAYS_SEC) - 1)]
        self._courier_deaths += 1
        log.error("the courier is gone (%s); another one in %g s", reason, delay)
        self._courier_at = self._clock.monotonic() + delay

    def _hear_courier(self, event: int) -> None:
        courier = self._courier
        if courier is None:
            return
        if event & select.EPOLLOUT:
            courier.flush()
        messages = courier.receive() if event & ~select.EPOLLOUT else []
        if messages is None:
            self._stop_courier()
            self._courier_lost("it ended")
            return
        for message in messages:
            self._courier_says(message)

    def _stop_courier(self) -> None:
        if self._courier is not None:
            self._epoll.unregister(self._courier_fd)
            self._courier.close()
        self._courier, self._courier_fd = None, -1

    def _courier_says(self, message: dict[str, Any]) -> None:
        match message["is"]:
            case "granted":
                self._granted(message["reply"])
            case "reported":
                if self._reports is not None:
                    self._reports.confirmed(message)
                if message["fenced"]:
                    self._inputs.append(Fenced(tuple((job_id, token) for job_id, token in message["fenced"])))
                self._cancel(message["cancel"])
            case "work":
                self._inputs.append(Work())
            case "renewed":
                self._inputs.append(LeaseRenewed(message["sent_at"]))
                self._cancel(message["cancel"])
            case "cancel":
                self._cancel(message["job_ids"])
            case "opened":
                self._opened(message)
            case "acquire_refused":
                self._acquiring = None
                self._inputs.append(AcquireRefused(message["acquire_seq"], message["reason"]))
            case "closing":
                self._inputs.append(Drain("the BatchJob is to end"))
            case "ended":
                self._inputs.append(LeaseEnded(message["reason"]))
            case "refused":
                self._refused = message["reason"]
            case "closed":
                self._closed = True

    def _cancel(self, job_ids: list[int]) -> None:
        if job_ids:
            self._inputs.append(CancelRequested(tuple(job_ids)))

    def _opened(self, message: dict[str, Any]) -> None:
        session = message["session"]
        path = outbox_path(Path(self._partition.config.directory), session["id"])
        try:
            outbox = Outbox(path, session["id"], {"partition": self._partition.index})
        except OutboxError as error:
            # Without it no result could be kept; the guardian's next launcher may find room again.
            log.error("%s", error)
            raise SystemExit(EXIT_ORPHANED) from error
        self._session = session
        self._reports = Reports(outbox)
        lease = HeldLease(LeaseKind(session["kind"]), message["sent_at"], session["ttl_sec"], session["margin_sec"])
        log.info("session %d, lease %s", session["id"], lease.kind.value)
        self._inputs.append(SessionOpened(lease))

    def _granted(self, reply: dict[str, Any]) -> None:
        self._acquiring = None
        for view in reply["apps"]:
            self._apps.add(view)
        self._inputs.append(Granted(reply["acquire_seq"], tuple(LaunchJob.from_wire(job) for job in reply["jobs"])))

    # Doing

    def _carry_out(self, output: Output) -> None:
        match output:
            case Start():
                self._start(output)
            case Record() if self._reports is not None:
                self._reports.add(output, self._clock.now())
            case Acquire():
                self._acquire(output)
            case Signal():
                self._signal(output)
            case Note():
                log.info("%s", output.text)

    def _start(self, order: Start) -> None:
        job = order.job
        try:
            started = self._starter.start(job, order.placement)
        except NotStarted as error:
            self._inputs.append(StartFailed(job.id, error.return_code, str(error)))
            return
        except SpawnError as error:
            self._inputs.append(StartDelayed(job.id, str(error)))
            return
        child = started.child
        self._live[job.id] = _Live(
            Run(str(job.id), str(job.attempt), (child.group,)), child, started.spreads, job.workdir
        )
        self._job_of_pidfd[child.pidfd] = job.id
        self._epoll.register(child.pidfd, select.EPOLLIN)
        self._inputs.append(Started(job.id))

    def _signal(self, order: Signal) -> None:
        live = self._live.get(order.job_id)
        if live is None:
            return
        live.kill_at = order.kill_at
        if live.child is None:
            self._sweeper.hold(live.run, order.kill_at)
        elif order.kill:
            kill(live.child.group)
        else:
            terminate(live.child.group)

    def _acquire(self, order: Acquire) -> None:
        request: dict[str, Any] = {
            "acquire_seq": order.acquire_seq,
            "max_jobs": order.max_jobs,
            "max_wall_time_min": order.max_wall_time_min,
            "max_nodes_per_job": order.max_nodes_per_job,
            "max_aggregate_nodes": order.max_aggregate_nodes,
            "serial_only": order.serial_only,
            "filter_tags": dict(order.filter_tags),
            "sort_by": order.sort_by,
            "known_apps": self._apps.known,
        }
        self._acquiring = {"do": "acquire", "request": request}
        if self._courier is not None:
            self._courier.send(self._acquiring)

    def _tell_guardian(self) -> None:
        if self._guardian is None or self.machine.lease is None:
            return
        until = self.machine.lease.until
        if until != self._told_until:
            self._guardian.renew(until)
            self._told_until = until

    def _flush(self) -> None:
        if self._reports is not None:
            now = self._clock.monotonic()
            due = self._reports.due(self.machine.is_idle)
            if due is not None and now >= due:
                worked = self._reports.works
                self._reports.flush(now, self._courier)
                if self._reports.works is not worked:
                    self._inputs.append(Storage(self._reports.works))
        if self._courier is not None:
            wanted = select.EPOLLIN | (select.EPOLLOUT if self._courier.wants_to_send else 0)
            self._epoll.modify(self._courier_fd, wanted)

    # The end

    def _say_goodbye(self, reason: ExitReason) -> None:
        """Deliver what is left and close the Session, for as long as there is time."""
        give_up_at = min(self._clock.monotonic() + CLOSE_SEC, self._end - self._partition.margin_sec * 0.2)
        if self._reports is not None:
            self._reports.flush(self._clock.monotonic(), self._courier)
        if reason is not ExitReason.LEASE_ENDED and self._session is not None and self._courier is not None:
            self._courier.send({"do": "close", "reason": reason.value})
            while not self._closed and self._courier is not None:
                left = give_up_at - self._clock.monotonic()
                if left <= 0:
                    break
                self._flush()
                for fd, event in self._epoll.poll(left):
                    self._hear(fd, event)
        if self._reports is not None:
            if self._reports.undelivered:
                log.warning("%d results are left in the outbox for the Site's agent", self._reports.undelivered)
            self._reports.close()
        self._stop_courier()


def main(path: str) -> int:
    """Entry point of the process that the guardian starts."""
    logging.basicConfig(
        format="%(asctime)s %(name)s[%(process)d]: %(message)s", level=os.environ.get("BALSAM_LOG_LEVEL", "INFO")
    )
    partition = Partition.from_json(Path(path).read_text())
    clock = SystemClock()
    guardian = GuardianLink.from_environ()
    allocation = os.environ[ALLOCATION_ENV]
    end = float(os.environ[END_ENV])
    from balsam.launcher.wiring import build_starter

    try:
        starter, apps, data = build_starter(partition, os.environ, allocation)
    except (WorkdirError, LookupError) as error:
        log.error("%s", error)
        return EXIT_CONFIG
    return Loop(partition, starter, apps, data, CourierProcess, guardian, allocation, end, clock).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
