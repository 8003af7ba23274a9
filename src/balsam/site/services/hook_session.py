"""The Session under which the agent holds Jobs for their hooks, with its outbox; and those that others left.

Used by processing.py, in its one thread. The outbox is also the note of the Session's id: a Session whose outbox lies
in the directory has not been ended by whoever opened it.
"""

import errno
import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from balsam.client.outbox import PATTERN, Outbox, OutboxError, batch_length, encode, outbox_path, read_outbox
from balsam.domain.clock import Clock
from balsam.domain.lease import HeldLease, LeaseKind
from balsam.site.crash_points import crash_point
from balsam.site.processing_link import HookService, RecordsRefused, SessionOver
from balsam.site.services import hook_records
from balsam.wire.sessions import AcquireReply, AcquireRequest, ReportReply, SessionClose

log = logging.getLogger(__name__)

Holder = Mapping[str, Any]  # which process on which machine, as it stands in the outbox
_NUMBER = re.compile(r"session-(\d+)\.outbox")


class HookSession:
    """An open Session. All calls may raise ServiceAway, and SessionOver once it has ended."""

    def __init__(self, service: HookService, number: int, outbox: Outbox, lease: HeldLease, renew_sec: float) -> None:
        self.id = number
        self.lease = lease
        self.renew_sec = renew_sec
        self._service = service
        self._outbox = outbox
        self._acquire_seq = 0
        self._asked: AcquireRequest | None = None

    @classmethod
    def open(cls, service: HookService, directory: Path, holder: Holder, key: str, clock: Clock) -> "HookSession":
        """Open a Session, or take the one that was opened under this key before. Raises ServiceAway, OutboxError."""
        sent_at = clock.monotonic()
        label = f"hooks, process {holder.get('pid')} on {holder.get('hostname')}"
        view = service.open_processing(label, key)
        crash_point("after-processing-session-before-outbox")
        outbox = Outbox(outbox_path(directory, view.id), view.id, holder)
        lease = HeldLease(LeaseKind.HEARTBEAT, sent_at, view.ttl_sec, view.margin_sec)
        return cls(service, view.id, outbox, lease, view.renew_sec)

    @property
    def undelivered(self) -> int:
        """Records that the service has not acknowledged."""
        return len(self._outbox.unacked)

    def acquire(self, most: int, known_apps: dict[int, str]) -> AcquireReply:
        """Up to so many Jobs that wait for a hook. A question that was not answered is put again (S3)."""
        if self._asked is None:
            self._acquire_seq += 1
            self._asked = AcquireRequest(acquire_seq=self._acquire_seq, max_jobs=most, known_apps=known_apps)
        reply = self._service.acquire(self.id, self._asked)
        self._asked = None
        return reply

    def record(self, facts: list[hook_records.Fact]) -> None:
        """Write facts down, safe against the loss of power (S1). Raises OutboxError; then none was."""
        self._outbox.append(facts)
        self._outbox.sync()

    def deliver(self) -> list[int]:
        """Hand in what the service has not acknowledged; Jobs whose end users want."""
        cancel: list[int] = []
        while texts := self._outbox.unacked:
            batch = texts[: batch_length(len(text) for text in texts)]
            for reply in report_all(self._service, self.id, batch):
                crash_point("after-verdict-report-before-ack")
                self._outbox.ack(reply.acked_seq)
                cancel.extend(reply.cancel)
        return cancel

    def close(self, reason: str) -> None:
        """End the Session in order, once everything was delivered."""
        self._service.close_session(self.id, SessionClose(reason=reason))
        self._outbox.close(remove=True)

    def abandon(self) -> None:
        """Leave it, with its outbox, to `settle_others`."""
        self._outbox.close()


def report_all(service: HookService, session_id: int, texts: list[bytes]) -> list[ReportReply]:
    """Report records in order. One that the service can't read fails its Job, or it would be held for ever."""
    try:
        return [service.report(session_id, b'{"records":[' + b",".join(texts) + b"]}")]
    except RecordsRefused as error:
        if len(texts) > 1:
            middle = len(texts) // 2
            return report_all(service, session_id, texts[:middle]) + report_all(service, session_id, texts[middle:])
        log.error("the service refuses what a hook told: %s", error)
        return [service.report(session_id, b'{"records":[' + hook_records.in_place_of(texts[0], str(error)) + b"]}")]


def settle_others(service: HookService, directory: Path, own: int | None, is_dead: Callable[[Holder], bool]) -> bool:
    """Hand in what earlier Sessions left and end them, so that their Jobs wait for no time-out (L4).

    Whether none is left: that of an agent which may live on another machine ends by its lease. Raises ServiceAway.
    """
    left = False
    for path in sorted(directory.glob(PATTERN)):
        match = _NUMBER.fullmatch(path.name)
        if match is None or int(match[1]) == own:
            continue
        left |= not _settle(service, path, int(match[1]), is_dead)
    return not left


def _settle(service: HookService, path: Path, number: int, is_dead: Callable[[Holder], bool]) -> bool:
    try:
        contents = read_outbox(path)
    except OutboxError as error:
        log.warning("%s", error)
        if error.errno != errno.EILSEQ:  # it can't be read now, and may have verdicts
            return False
        # Its writer died before it acquired anything, or the disk is damaged; the Session ends by its lease.
        path.unlink(missing_ok=True)
        return True
    if not is_dead(contents.header):
        if service.is_open(number):
            return False
        log.info("session %d of %s has ended", number, contents.header.get("hostname"))
        path.unlink(missing_ok=True)
        return True
    texts = [encode(record) for record in contents.records]
    log.info("session %d of an earlier agent: delivering %d records", number, len(texts))
    try:
        while texts:
            length = batch_length(len(text) for text in texts)
            report_all(service, number, texts[:length])
            texts = texts[length:]
        service.close_session(number, SessionClose(lost=True, reason="its agent died"))
    except SessionOver as over:
        log.warning("session %d: the service wants nothing more of it: %s", number, over)
    path.unlink(missing_ok=True)
    return True
