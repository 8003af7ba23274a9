"""Sessions: what a launcher says. Acquire and report are the service's busiest calls."""

from balsam.domain.scopes import Scope
from balsam.server.auth.needs import HOLDER, USER_OR_SITE
from balsam.server.broker import Mailbox
from balsam.server.routes.call import Call
from balsam.server.routes.endpoint import Routes
from balsam.server.routes.streams import EventStream
from balsam.server.usecases import acquire, report, sessions
from balsam.wire.limits import MAX_BODY_BYTES
from balsam.wire.sessions import (
    AcquireReply,
    AcquireRequest,
    RenewReply,
    Report,
    ReportReply,
    SessionClose,
    SessionCreate,
    SessionsPage,
    SessionView,
)

routes = Routes("sessions", reads=Scope.JOBS_READ, writes=Scope.SESSIONS_RUN)


@routes.get("/sessions", needs=USER_OR_SITE)
async def list_sessions(call: Call) -> SessionsPage:
    """Open Sessions."""
    return await call.read(lambda tx: sessions.list_sessions(tx, call.principal))


@routes.post("/sessions", needs=HOLDER, status=201)
async def open_session(call: Call, body: SessionCreate) -> SessionView:
    """Open a lease."""
    return await call.create(SessionView, lambda tx: sessions.open_session(tx, call.principal, body, call.now))


@routes.get("/sessions/{session_id}", needs=HOLDER)
async def get_session(call: Call, session_id: int) -> SessionView:
    """One Session."""
    return await call.read(lambda tx: sessions.get_session(tx, call.principal, session_id))


@routes.post("/sessions/{session_id}/acquire", needs=HOLDER)
async def acquire_jobs(call: Call, session_id: int, body: AcquireRequest) -> AcquireReply:
    """Grant runnable Jobs to the Session."""
    return await call.write(lambda tx: acquire.acquire_jobs(tx, call.principal, session_id, body, call.now))


@routes.post("/sessions/{session_id}/report", needs=HOLDER, body_limit=MAX_BODY_BYTES)
async def report_jobs(call: Call, session_id: int, body: Report) -> ReportReply:
    """What happened to held Jobs, in order."""
    return await call.write(lambda tx: report.report(tx, call.principal, session_id, body, call.now))


@routes.post("/sessions/{session_id}/renew", needs=HOLDER)
async def renew_session(call: Call, session_id: int) -> RenewReply:
    """The holder lives; 409 `session_ended` when its lease is over."""
    reply = await call.write(lambda tx: sessions.renew_session(tx, call.principal, session_id, call.now))
    call.service.metrics.renewed("session")
    return reply


@routes.post("/sessions/{session_id}/close", needs=HOLDER, status=204)
async def close_session(call: Call, session_id: int, body: SessionClose) -> None:
    """End the lease in order."""
    await call.write(lambda tx: sessions.close_session(tx, call.principal, session_id, body, call.now))


@routes.get("/sessions/{session_id}/stream", needs=HOLDER, media_type="text/event-stream", scope=Scope.SESSIONS_RUN)
async def session_stream(call: Call, session_id: int) -> EventStream:
    """Server-sent events for the holder: hello, work, cancel, closing."""

    async def allowed() -> None:
        await call.read(lambda tx: sessions.check_stream(tx, call.principal, session_id))

    session = await call.read(lambda tx: sessions.check_stream(tx, call.principal, session_id))
    box = Mailbox([("session", session_id), ("work", session.site_id)])
    return EventStream(call, box, ("session", session_id), allowed)
