"""What the agent's processing asks of the service: its Session, Jobs that wait for hooks, reports of verdicts.

`HookService` is what `services/processing.py` sees; `ProcessingLink` speaks HTTP for it, through the agent's link. Each
call is tried once. `ServiceAway`: nothing is known, repeat it; each may be repeated (S3). `SessionOver`: for good.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Protocol, TypeVar

from balsam.client.errors import BalsamError, NotFound, SessionEnded, ValidationFailed
from balsam.domain.lease import SessionPurpose
from balsam.site.service import ServiceLink
from balsam.wire.sessions import (
    AcquireReply,
    AcquireRequest,
    RenewReply,
    ReportReply,
    SessionClose,
    SessionCreate,
    SessionView,
)

R = TypeVar("R")
Errors = tuple[type[BalsamError], ...]
RENEW_TRY_SEC = 15.0
# After which a Session is over: one that has ended may still report, and be closed again.
ENDED: Errors = (SessionEnded, NotFound)
UNKNOWN: Errors = (NotFound,)


class SessionOver(Exception):
    """The service knows this Session no longer, or has ended it."""


class RecordsRefused(Exception):
    """The service can't read these records; the text says why."""


class HookService(Protocol):
    """The service as processing sees it. Every method may raise ServiceAway."""

    def new_key(self) -> str:
        """A key under which a creation is carried out once."""
        ...

    def open_processing(self, label: str, key: str) -> SessionView:
        """Open a Session."""
        ...

    def acquire(self, session_id: int, request: AcquireRequest) -> AcquireReply:
        """Jobs that wait for hooks. Raises SessionOver."""
        ...

    def report(self, session_id: int, body: bytes) -> ReportReply:
        """Hand in records; `body` is the JSON of a Report. Raises SessionOver, RecordsRefused."""
        ...

    def renew(self, session_id: int) -> RenewReply:
        """The lease goes on. Raises SessionOver."""
        ...

    def close_session(self, session_id: int, close: SessionClose) -> None:
        """End the lease. One that has ended is no error."""
        ...

    def is_open(self, session_id: int) -> bool:
        """Whether the Session has not ended."""
        ...


class ProcessingLink:
    """`HookService` over HTTP."""

    def __init__(self, link: ServiceLink) -> None:
        self._link = link

    def new_key(self) -> str:
        return self._link.transport.new_key()

    def open_processing(self, label: str, key: str) -> SessionView:
        body = SessionCreate(site_id=self._link.site_id, purpose=SessionPurpose.PROCESSING, label=label)
        request = self._link.transport.request
        return self._link.call(lambda: request("POST", "/sessions", body=body, reply=SessionView, idempotency_key=key))

    def acquire(self, session_id: int, request: AcquireRequest) -> AcquireReply:
        send = self._link.transport.request
        path = f"/sessions/{session_id}/acquire"
        return self._unless(ENDED, lambda: send("POST", path, body=request, reply=AcquireReply, safe_to_repeat=True))

    def report(self, session_id: int, body: bytes) -> ReportReply:
        send = self._link.transport.request
        path = f"/sessions/{session_id}/report"
        try:
            return self._unless(
                UNKNOWN, lambda: send("POST", path, body=body, reply=ReportReply, safe_to_repeat=True), ValidationFailed
            )
        except ValidationFailed as error:
            raise RecordsRefused(str(error)) from error

    def renew(self, session_id: int) -> RenewReply:
        send = self._link.transport.request
        path = f"/sessions/{session_id}/renew"
        return self._unless(
            ENDED, lambda: send("POST", path, reply=RenewReply, safe_to_repeat=True, deadline_sec=RENEW_TRY_SEC)
        )

    def close_session(self, session_id: int, close: SessionClose) -> None:
        send = self._link.transport.request
        path = f"/sessions/{session_id}/close"
        with suppress(SessionOver):
            self._unless(UNKNOWN, lambda: send("POST", path, body=close, safe_to_repeat=True))

    def is_open(self, session_id: int) -> bool:
        return any(session.id == session_id for session in self._link.sessions())

    def _unless(self, over: Errors, call: Callable[[], R], *let: type[BalsamError]) -> R:
        """What `call` returns. The errors in `over` raise SessionOver, those in `let` are raised as they are."""
        try:
            return self._link.call(call, *over, *let)
        except over as error:
            raise SessionOver(str(error)) from error
