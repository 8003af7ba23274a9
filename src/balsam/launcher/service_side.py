"""The loop's side of the service: the courier and its successors, the Session, what is asked and what is reported.

Used by the loop alone. A courier that dies is replaced, and the new one repeats what was not answered. What the service
says is appended to `inputs` in the machine's words.
"""

import logging
import os
import select
from collections.abc import Callable
from pathlib import Path
from typing import Any

from balsam.client.outbox import Outbox, outbox_path
from balsam.domain.clock import Clock
from balsam.domain.lease import HeldLease, LeaseKind
from balsam.launcher.apps import AppShelf
from balsam.launcher.courier_link import CourierLink
from balsam.launcher.machine_messages import (
    Acquire,
    AcquireRefused,
    CancelRequested,
    Drain,
    Fenced,
    Granted,
    Input,
    LaunchJob,
    LeaseEnded,
    LeaseRenewed,
    Record,
    SessionOpened,
    Storage,
    Work,
)
from balsam.launcher.partition import Partition
from balsam.launcher.process import SpawnError
from balsam.launcher.reports import Reports

log = logging.getLogger("balsam.launcher")

COURIER_DELAYS_SEC = (0.1, 1.0, 5.0)


class ServiceSide:
    """One Session and who carries its messages."""

    def __init__(
        self,
        epoll: select.epoll,
        partition: Partition,
        apps: AppShelf,
        make_courier: Callable[[dict[str, Any]], CourierLink],
        clock: Clock,
        inputs: list[Input],
    ) -> None:
        self._epoll = epoll
        self._partition = partition
        self._apps = apps
        self._make_courier = make_courier
        self._clock = clock
        self._inputs = inputs
        self._courier: CourierLink | None = None
        self._courier_fd = -1
        self._awaited = 0  # events that the epoll object watches the courier for
        self._courier_at: float | None = 0.0
        self._deaths = 0
        self._session: dict[str, Any] | None = None
        self._acquiring: dict[str, Any] | None = None
        self._reports: Reports | None = None
        self._at = ""
        self.refused = ""
        self.is_closed = False
        self.is_over = False

    @property
    def can_close(self) -> bool:
        """There is a Session that is not over, and somebody who can carry the message."""
        return self._session is not None and not self.is_over and self._courier is not None

    def due(self, idle: bool) -> float | None:
        """When to call `ensure_courier` and `flush`."""
        times = [self._courier_at, None if self._reports is None else self._reports.due(idle)]
        return min((time for time in times if time is not None), default=None)

    def ensure_courier(self, now: float) -> None:
        """Start a courier when there is none and it is time."""
        if self._courier_at is None or now < self._courier_at:
            return
        self._courier_at = None
        try:
            self._courier = self._make_courier(self._errand())
        except SpawnError as error:
            self._lost(str(error))
            return
        self._courier_fd = self._courier.fileno()
        self._awaited = select.EPOLLIN
        self._epoll.register(self._courier_fd, self._awaited)
        if self._reports is not None:
            self._reports.hand_over(self._courier)
        if self._acquiring is not None:
            self._courier.send(self._acquiring)

    def heard(self, fd: int, event: int) -> bool:
        """Whether `fd` is the courier's; its messages are taken."""
        courier = self._courier
        if courier is None or fd != self._courier_fd:
            return False
        if event & select.EPOLLOUT:
            courier.flush()
        messages = courier.receive() if event & ~select.EPOLLOUT else []
        if messages is None:
            self.stop()
            self._lost("it ended")
            return True
        for message in messages:
            self._on[message["is"]](self, message)
        return True

    def acquire(self, order: Acquire) -> None:
        """Ask for Jobs."""
        request: dict[str, Any] = {name: getattr(order, name) for name in Acquire.__slots__}
        request |= {"filter_tags": dict(order.filter_tags), "known_apps": self._apps.known}
        self._acquiring = {"do": "acquire", "request": request}
        if self._courier is not None:
            self._courier.send(self._acquiring)

    def report(self, record: Record) -> None:
        """Take a fact for the service."""
        if self._reports is None:
            return
        # One time for all facts of a turn of the loop.
        self._at = self._at or self._clock.now().isoformat()
        self._reports.add(record, self._at)

    def flush(self, now: float, idle: bool) -> None:
        """Write and send what is due; the end of a turn of the loop."""
        self._at = ""
        if self._reports is not None:
            due = self._reports.due(idle)
            if due is not None and now >= due:
                self.flush_reports(now)
        if self._courier is not None:
            wanted = select.EPOLLIN | (select.EPOLLOUT if self._courier.wants_to_send else 0)
            if wanted != self._awaited:
                self._epoll.modify(self._courier_fd, wanted)
                self._awaited = wanted

    def flush_reports(self, now: float) -> None:
        """Write what waits into the outbox, due or not."""
        if self._reports is None:
            return
        worked = self._reports.works
        self._reports.flush(now, self._courier)
        self._tell_change(worked, self._reports.works)

    def _tell_change(self, worked: bool, works: bool) -> None:
        if works is not worked:
            self._inputs.append(Storage(works))

    def close(self, reason: str) -> None:
        """Ask for the end of the Session, after everything was delivered; `is_closed` tells when."""
        if self._courier is not None:
            self._courier.send({"do": "close", "reason": reason})

    def stop(self) -> None:
        """End the courier."""
        if self._courier is not None:
            self._epoll.unregister(self._courier_fd)
            self._courier.close()
        self._courier, self._courier_fd = None, -1

    def leave(self) -> None:
        """The end: stop, and leave to others what is not delivered."""
        self.stop()
        if self._reports is not None:
            if self._reports.undelivered:
                log.warning("%d results are left in the outbox for others to deliver", self._reports.undelivered)
            self._reports.close(delivered=self.is_closed)

    def _errand(self) -> dict[str, Any]:
        config = self._partition.config
        return {
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

    def _lost(self, reason: str) -> None:
        delay = COURIER_DELAYS_SEC[min(self._deaths, len(COURIER_DELAYS_SEC) - 1)]
        self._deaths += 1
        log.error("the courier is gone (%s); another one in %g s", reason, delay)
        self._courier_at = self._clock.monotonic() + delay

    # Messages

    def _opened(self, message: dict[str, Any]) -> None:
        session = message["session"]
        path = outbox_path(Path(self._partition.config.directory), session["id"])
        # OutboxError ends this launcher: without it no result could be kept.
        self._reports = Reports(Outbox(path, session["id"], {"partition": self._partition.index}))
        self._session = session
        lease = HeldLease(LeaseKind(session["kind"]), message["sent_at"], session["ttl_sec"], session["margin_sec"])
        log.info("session %d, lease kind %s", session["id"], lease.kind.value)
        self._inputs.append(SessionOpened(lease))

    def _refused(self, message: dict[str, Any]) -> None:
        self.refused = message["reason"]

    def _granted(self, message: dict[str, Any]) -> None:
        reply = message["reply"]
        self._acquiring = None
        for view in reply["apps"]:
            self._apps.add(view)
        self._inputs.append(Granted(reply["acquire_seq"], tuple(LaunchJob.from_wire(job) for job in reply["jobs"])))

    def _acquire_refused(self, message: dict[str, Any]) -> None:
        self._acquiring = None
        self._inputs.append(AcquireRefused(message["acquire_seq"], message["reason"]))

    def _reported(self, message: dict[str, Any]) -> None:
        if self._reports is not None:
            worked = self._reports.works
            self._reports.confirmed(message)
            self._tell_change(worked, self._reports.works)
        if message["fenced"]:
            self._inputs.append(Fenced(tuple((job_id, token) for job_id, token in message["fenced"])))
        self._cancelled(message["cancel"])

    def _renewed(self, message: dict[str, Any]) -> None:
        self._inputs.append(LeaseRenewed(message["sent_at"]))
        self._cancelled(message["cancel"])

    def _cancel(self, message: dict[str, Any]) -> None:
        self._cancelled(message["job_ids"])

    def _cancelled(self, job_ids: list[int]) -> None:
        if job_ids:
            self._inputs.append(CancelRequested(tuple(job_ids)))

    def _work(self, message: dict[str, Any]) -> None:
        self._inputs.append(Work())

    def _closing(self, message: dict[str, Any]) -> None:
        self._inputs.append(Drain("the BatchJob is to end"))

    def _ended(self, message: dict[str, Any]) -> None:
        self.is_over = True
        self._inputs.append(LeaseEnded(message["reason"]))

    def _closed(self, message: dict[str, Any]) -> None:
        self.is_closed = True

    _on: dict[str, Callable[["ServiceSide", dict[str, Any]], None]] = {  # noqa: RUF012 - never changed
        "opened": _opened,
        "refused": _refused,
        "granted": _granted,
        "acquire_refused": _acquire_refused,
        "reported": _reported,
        "renewed": _renewed,
        "cancel": _cancel,
        "work": _work,
        "closing": _closing,
        "ended": _ended,
        "closed": _closed,
    }
