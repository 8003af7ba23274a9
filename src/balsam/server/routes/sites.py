"""Sites, their agents' tokens, leases and streams."""

from balsam.domain.scopes import Scope
from balsam.server.auth import tokens
from balsam.server.auth.needs import SITE, USER, USER_OR_SITE, USER_SITE_OR_JOB
from balsam.server.broker import Mailbox, frame
from balsam.server.errors import Forbidden
from balsam.server.routes.call import Call
from balsam.server.routes.endpoint import Routes
from balsam.server.routes.streams import EventStream
from balsam.server.store.protocol import Tx
from balsam.server.usecases import backlog, sites
from balsam.wire.backlog import Backlog, BacklogQuery
from balsam.wire.base import Deleted, Message, Short
from balsam.wire.sites import (
    AgentLeaseReply,
    AgentLeaseRequest,
    FileReply,
    SiteCreate,
    SiteCreated,
    SiteFilter,
    SitePatch,
    SitesPage,
    SiteToken,
    SiteView,
)
from balsam.wire.stream import StreamEvent

routes = Routes("sites", reads=Scope.JOBS_READ, writes=Scope.SITES_ADMIN)


class AgentRelease(Message):
    """Which agent gives up its claim."""

    instance: Short


@routes.search("/sites", needs=USER_SITE_OR_JOB)
async def list_sites(call: Call, query: SiteFilter) -> SitesPage:
    """The caller's Sites."""
    return await call.read(lambda tx: sites.list_sites(tx, call.principal, query, call.now))


@routes.post("/sites", needs=USER, status=201, audit="site_made")
async def create_site(call: Call, body: SiteCreate) -> SiteCreated:
    """Register a Site; the answer has its agent's token, shown this once."""
    secret, key = tokens.mint("site"), call.idempotency_key()
    call.note(name=body.name)

    def create(tx: Tx) -> SiteCreated:
        fresh: list[SiteCreated] = []

        def do() -> SiteCreated:
            fresh.append(sites.create_site(tx, call.principal, body, secret, call.now))
            return fresh[0].model_copy(update={"token": SiteToken(token="")})  # kept without the secret

        kept = call.once(tx, key, SiteCreated, do)
        if fresh:
            return fresh[0]
        # A repeat: the first secret was never stored, so the Site gets a further token.
        return kept.model_copy(
            update={"token": sites.issue_site_token(tx, call.principal, kept.site.id, secret, call.now)}
        )

    return await call.write(create)


@routes.get("/sites/{site_id}", needs=USER_SITE_OR_JOB)
async def get_site(call: Call, site_id: int) -> SiteView:
    """One Site."""
    return await call.read(lambda tx: sites.get_site(tx, call.principal, site_id, call.now))


@routes.patch("/sites/{site_id}", needs=USER_OR_SITE)
async def change_site(call: Call, site_id: int, body: SitePatch) -> SiteView:
    """Change fields; what is not given stays."""
    return await call.write(lambda tx: sites.change_site(tx, call.principal, site_id, body, call.now))


@routes.delete("/sites/{site_id}", needs=USER)
async def delete_site(call: Call, site_id: int) -> Deleted:
    """Delete a Site with its Apps, Jobs, BatchJobs and tokens."""
    done = await sites.delete_site(call.service.store, call.principal, site_id, call.service.clock.now)
    await call.audit("site_removed")
    return done


@routes.get("/sites/{site_id}/backlog", needs=USER_OR_SITE)
async def get_backlog(call: Call, site_id: int, query: BacklogQuery) -> Backlog:
    """What waits to run at the Site, and the allocations that will take of it. Costs the same whatever the number."""
    return await call.read(lambda tx: backlog.site_backlog(tx, call.principal, site_id, query))


@routes.post("/sites/{site_id}/token", needs=USER, status=201, audit="token_made")
async def issue_site_token(call: Call, site_id: int) -> SiteToken:
    """A new token for the Site's agent."""
    secret = tokens.mint("site")
    return await call.write(lambda tx: sites.issue_site_token(tx, call.principal, site_id, secret, call.now))


@routes.post("/sites/{site_id}/agent", needs=USER_OR_SITE)
async def renew_agent(call: Call, site_id: int, body: AgentLeaseRequest) -> AgentLeaseReply:
    """Open or renew the claim to be the Site's only agent; 409 `agent_running` names the other one."""
    reply = await call.write(lambda tx: sites.renew_agent(tx, call.principal, site_id, body, call.now))
    call.service.metrics.renewed("agent")
    return reply


@routes.delete("/sites/{site_id}/agent", needs=USER_OR_SITE, status=204)
async def release_agent(call: Call, site_id: int, query: AgentRelease) -> None:
    """Give the claim up, at a clean stop."""
    await call.write(lambda tx: sites.release_agent(tx, call.principal, site_id, query.instance, call.now))


@routes.get("/sites/{site_id}/stream", needs=SITE, media_type="text/event-stream")
async def site_stream(call: Call, site_id: int) -> EventStream:
    """Server-sent events for the Site's agent: hello, batch_jobs, file_request, site_changed."""

    async def allowed() -> None:
        await call.read(lambda tx: sites.check_stream(tx, call.principal, site_id))

    await allowed()
    waiting = [frame(StreamEvent.FILE_REQUEST, data) for data in call.service.files.waiting(site_id)]
    return EventStream(call, Mailbox([("site", site_id)]), ("site", site_id), allowed, waiting)


@routes.put("/file-requests/{request_id}", needs=SITE, status=204)
async def answer_file_request(call: Call, request_id: str, body: FileReply) -> None:
    """The agent's answer to a `file_request`; taken once, from the Site that was asked."""
    if call.principal.site_id is None:
        raise Forbidden("this token belongs to no Site")
    await call.service.files.answer(call.principal.site_id, request_id, body)
