"""The courier: the launcher's child process that speaks HTTP, so that nothing blocks the loop that spawns.

`python -m balsam.launcher.courier FD`; JSON lines over the socket FD, described in `courier_link.py`. Threads here are
fine: one each for acquiring, reporting, renewing (on a connection of its own, never behind a bulk send) and listening.
It promises: records go out in order, each batch until it is answered, first what a dead predecessor left; a call that
may have been carried out is repeated under its own number (S3). Its end of file means that the launcher is gone.
"""

import contextlib
import json
import logging
import os
import queue
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from http import HTTPStatus
from itertools import islice
from pathlib import Path
from random import SystemRandom
from typing import Any, NamedTuple, TypeVar

from balsam.client.errors import (
    BalsamError,
    NotFound,
    ServiceFault,
    ServiceUnavailable,
    SessionEnded,
    Unauthorized,
    ValidationFailed,
    WireVersionMismatch,
)
from balsam.client.outbox import PATTERN, OutboxError, bare, batch_length, encode, outbox_path, read_outbox
from balsam.client.settings import ClientSettings
from balsam.client.transport import Transport
from balsam.wire.sessions import (
    AcquireReply,
    AcquireRequest,
    RenewReply,
    ReportReply,
    SessionClose,
    SessionCreate,
    SessionView,
)
from balsam.wire.stream import JobIds, StreamEvent

log = logging.getLogger("balsam.courier")
T = TypeVar("T")

TRY_SEC = 4.0
LONGEST_PAUSE_SEC = 3.0
RENEW_TRY_SEC = 15.0
READ_TIMEOUT_SEC = 30.0
READ_BYTES = 1 << 16
# So long an answer is not believed that may be of a proxy, or of a service whose new token is on its way to us.
DOUBT_SEC = 60.0
# After these the Session can't be used any more.
OVER = (SessionEnded, NotFound, Unauthorized)


@dataclass(frozen=True, slots=True)
class Errand:
    """What the loop says at the start. `resume`: the JSON of an open Session, when an earlier courier died."""

    credentials_path: str
    directory: str
    partition: int
    create: dict[str, Any]
    resume: dict[str, Any] | None = None


class Packed(NamedTuple):
    """A record on its way: `text` is its JSON, which the loop or an earlier launcher wrote. It is read only when the
    service has something to say of it."""

    text: bytes
    is_bare: bool = False

    @property
    def record(self) -> dict[str, Any]:
        record: dict[str, Any] = json.loads(self.text)
        return record


class Courier:
    """One Session's way to the service."""

    def __init__(self, sock: socket.socket, errand: Errand) -> None:
        self._errand = errand
        self._sock = sock
        self._send_lock = threading.Lock()
        settings = replace(
            ClientSettings.load_from_file(Path(errand.credentials_path)),
            retry_for_sec=TRY_SEC,
            read_timeout_sec=READ_TIMEOUT_SEC,
        )
        self._transport = Transport(settings)
        self._renewals = Transport(settings)
        self._random = SystemRandom()
        self._acquires: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._records: queue.SimpleQueue[list[Packed]] = queue.SimpleQueue()
        self._closing: dict[str, Any] | None = None
        self._renew_now = threading.Event()
        self._over = threading.Event()
        self._id = 0
        self._renew_sec = 0.0
        self._misfit = ""  # what the service said last that can't take our wire version

    def say(self, **message: Any) -> None:
        """One message to the loop. A loop that is gone needs none."""
        self._say_raw(json.dumps(message, separators=(",", ":")).encode())

    def _say_raw(self, line: bytes) -> None:
        try:
            with self._send_lock:
                self._sock.sendall(line + b"\n")
        except OSError:
            os._exit(0)

    def run(self, lines: Iterator[bytes]) -> None:
        """Take orders until the loop is gone."""
        self._thread(self._open)
        for line in lines:
            order = json.loads(line)
            match order["do"]:
                case "acquire":
                    self._acquires.put(order["request"])
                case "records":
                    texts = list(islice(lines, order["count"]))
                    if len(texts) == order["count"] and texts[-1].endswith(b"\n"):  # else the loop died over them
                        self._records.put([Packed(text[:-1]) for text in texts])
                case "close":
                    self._closing = order
                    self._records.put([])

    def _thread(self, target: Callable[[], None]) -> None:
        threading.Thread(target=self._guarded, args=(target,), daemon=True).start()

    def _guarded(self, target: Callable[[], None]) -> None:
        try:
            target()
        except OVER as error:
            self._end(str(error))
        except Exception:
            # A fault of ours: the loop starts another courier, which repeats what is not answered.
            log.exception("the courier fails")
            os._exit(70)

    def _end(self, reason: str) -> None:
        if not self._over.is_set():
            self._over.set()
            self.say(**{"is": "ended", "reason": reason})

    def _until_answered(self, call: Callable[[], T]) -> T:
        """Repeat a call that is safe to repeat for as long as the service is away. Raises what it refuses with.

        A service that was upgraded too far for this launcher is away for an open Session: it may come back.
        """
        doubtful_since: float | None = None
        while True:
            try:
                answer = call()
                self._misfit = ""
                return answer
            except (ServiceUnavailable, ServiceFault) as error:
                log.debug("%s", error)
            except (NotFound, Unauthorized):
                doubtful_since = doubtful_since or time.monotonic()
                if time.monotonic() - doubtful_since > DOUBT_SEC:
                    raise
            except WireVersionMismatch as error:
                if error.status != HTTPStatus.UPGRADE_REQUIRED or not self._id:
                    raise
                if str(error) != self._misfit:
                    self._misfit = str(error)
                    log.error("%s", error)
            time.sleep(self._random.uniform(0.3, 1.0) * LONGEST_PAUSE_SEC)

    # Opening

    def _open(self) -> None:
        if self._errand.resume is not None:
            session = SessionView.model_validate(self._errand.resume)
        else:
            try:
                self._deliver_predecessors()
                session, sent_at = self._create()
            except BalsamError as error:
                self.say(**{"is": "refused", "reason": str(error)})
                return
            view = session.model_dump_json().encode()
            self._say_raw(b'{"is":"opened","sent_at":%s,"session":%s}' % (repr(sent_at).encode(), view))
        self._id, self._renew_sec = session.id, session.renew_sec
        for work in (self._acquire_loop, self._report_loop, self._renew_loop, self._listen):
            self._thread(work)

    def _create(self) -> tuple[SessionView, float]:
        key = self._transport.new_key()
        body = SessionCreate.model_validate(self._errand.create)

        def call() -> tuple[SessionView, float]:
            sent_at = time.monotonic()
            view = self._transport.request("POST", "/sessions", body=body, reply=SessionView, idempotency_key=key)
            return view, sent_at

        return self._until_answered(call)

    def _deliver_predecessors(self) -> None:
        """What an earlier launcher of this partition left: its results first, then the end of its Session."""
        for path in sorted(Path(self._errand.directory).glob(PATTERN)):
            try:
                contents = read_outbox(path)
            except OutboxError as error:
                log.warning("%s", error)
                continue
            if contents.header.get("partition") != self._errand.partition:
                continue
            session, records = contents.session_id, [Packed(encode(record)) for record in contents.records]
            log.info("session %d of an earlier launcher: delivering %d records", session, len(records))
            try:
                while records:
                    batch, records = _split(records)
                    self._report_all(session, batch)
                self._close(session, lost=True, reason="its launcher died")
            except OVER as error:
                log.warning("session %d: the service wants nothing more of it: %s", session, error)
            path.unlink(missing_ok=True)

    # Talking for an open Session

    def _acquire_loop(self) -> None:
        while True:
            request = self._acquires.get()
            body = AcquireRequest.model_validate(request)
            try:
                reply = self._acquire(body)
            except OVER:
                raise
            except BalsamError as error:
                self.say(**{"is": "acquire_refused", "acquire_seq": body.acquire_seq, "reason": str(error)})
                continue
            self._say_raw(b'{"is":"granted","reply":%s}' % reply.model_dump_json().encode())

    def _acquire(self, body: AcquireRequest) -> AcquireReply:
        path = f"/sessions/{self._id}/acquire"
        return self._until_answered(
            lambda: self._transport.request("POST", path, body=body, reply=AcquireReply, safe_to_repeat=True)
        )

    def _report_loop(self) -> None:
        waiting: list[Packed] = []
        while True:
            if not waiting:
                waiting += self._records.get()
            # Whatever came while the last batch was under way goes with this one.
            while not self._records.empty():
                waiting += self._records.get()
            batch, waiting = _split(waiting)
            if batch:
                self._tell(batch)
            if self._closing is not None and not waiting and self._records.empty():
                with contextlib.suppress(*OVER):
                    self._close(self._id, lost=False, reason=self._closing["reason"])
                self.say(**{"is": "closed"})
                return

    def _tell(self, batch: list[Packed]) -> None:
        self._sync()
        for reply in self._report_all(self._id, batch):
            tokens = _tokens(batch) if reply.fenced else {}
            fenced = [[job_id, tokens[job_id]] for job_id in reply.fenced if job_id in tokens]
            self.say(**{"is": "reported", "acked_seq": reply.acked_seq, "fenced": fenced, "cancel": reply.cancel})

    def _sync(self) -> None:
        """Records are in the file; here they become safe against the loss of power, without the loop's waiting (S1)."""
        try:
            fd = os.open(outbox_path(Path(self._errand.directory), self._id), os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fdatasync(fd)
            finally:
                os.close(fd)
        except OSError as error:
            log.warning("the outbox can't be made safe against the loss of power: %s", error.strerror)

    def _report_all(self, session: int, records: list[Packed]) -> list[ReportReply]:
        """Report in order. Of a record that the service refuses as malformed, only what became of the Job is told; and
        when it refuses that too, it is left out, not sent for ever.
        """
        # The service checks what the loop or an earlier launcher wrote, so it is not checked here as well.
        body = b'{"records":[%s]}' % b",".join(record.text for record in records)
        path = f"/sessions/{session}/report"
        try:
            return [
                self._until_answered(
                    lambda: self._transport.request("POST", path, body=body, reply=ReportReply, safe_to_repeat=True)
                )
            ]
        except ValidationFailed as error:
            if len(records) > 1:
                middle = len(records) // 2
                return self._report_all(session, records[:middle]) + self._report_all(session, records[middle:])
            refused = records[0]
            log.error("the service refuses a record: %r (%s)", refused.text[:2000], error)
            if refused.is_bare:
                return [ReportReply(acked_seq=refused.record["seq"])]
            return self._report_all(session, [Packed(encode(bare(refused.record, str(error))), is_bare=True)])

    def _close(self, session: int, lost: bool, reason: str) -> None:
        body = SessionClose(lost=lost, reason=reason[:1024])
        self._until_answered(
            lambda: self._transport.request("POST", f"/sessions/{session}/close", body=body, safe_to_repeat=True)
        )

    def _renew_loop(self) -> None:

        def call() -> tuple[float, RenewReply]:
            sent_at = time.monotonic()
            path = f"/sessions/{self._id}/renew"
            return sent_at, self._renewals.request(
                "POST", path, reply=RenewReply, safe_to_repeat=True, deadline_sec=RENEW_TRY_SEC
            )

        while True:
            self._renew_now.wait(self._renew_sec)
            self._renew_now.clear()
            sent_at, reply = self._until_answered(call)
            self.say(**{"is": "renewed", "sent_at": sent_at, "cancel": reply.cancel})
            if reply.closing:
                self.say(**{"is": "closing"})

    def _listen(self) -> None:
        while True:
            try:
                self._follow_stream()
            except (NotFound, Unauthorized, WireVersionMismatch) as error:  # the renewals decide if that is the end
                log.debug("%s", error)
                time.sleep(LONGEST_PAUSE_SEC)

    def _follow_stream(self) -> None:
        for event in self._transport.stream(f"/sessions/{self._id}/stream"):
            match event.name:
                case StreamEvent.HELLO:
                    # What was pushed while nobody listened is read again: cancels by the renewal, work by asking.
                    self._renew_now.set()
                    self.say(**{"is": "work"})
                case StreamEvent.WORK:
                    self.say(**{"is": "work"})
                case StreamEvent.CANCEL:
                    told = JobIds.model_validate_json(event.data, extra="ignore")
                    self.say(**{"is": "cancel", "job_ids": told.job_ids})
                case StreamEvent.CLOSING:
                    self.say(**{"is": "closing"})


def _tokens(records: list[Packed]) -> dict[int, int]:
    """By Job id."""
    return {record["job_id"]: record["token"] for record in (packed.record for packed in records)}


def _split(records: list[Packed]) -> tuple[list[Packed], list[Packed]]:
    """What goes into the next report, and what into later ones."""
    length = batch_length(len(record.text) for record in records)
    return records[:length], records[length:]


def main() -> None:
    """Entry point: the socket's descriptor is the only argument; the first line is the errand."""
    logging.basicConfig(format="%(asctime)s %(name)s[%(process)d]: %(message)s", level=logging.INFO)
    sock = socket.socket(fileno=int(sys.argv[1]))
    sock.setblocking(True)
    lines = sock.makefile("rb", buffering=READ_BYTES)
    first = lines.readline()
    if not first:
        return
    try:
        courier = Courier(sock, Errand(**json.loads(first)))
    except BalsamError as error:
        sock.sendall(json.dumps({"is": "refused", "reason": str(error)}).encode() + b"\n")
        return
    courier.run(lines)
    os._exit(0)


if __name__ == "__main__":
    main()
