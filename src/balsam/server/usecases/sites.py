"""Sites: register, list, change, delete; and the lease by which a Site has one agent only."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from balsam.domain.roles import Role
from balsam.server.errors import Conflict, Forbidden, Invalid, NotFound
from balsam.server.principal import Principal
from balsam.server.store.protocol import ReadTx, Store, Tx, Wake
from balsam.server.store.records import (
    AppRow,
    BatchJobRow,
    SessionRow,
    ShareRow,
    SiteRow,
    TokenRow,
    UserRow,
    micros,
    moment,
    moment_or_none,
)
from balsam.server.store.selections import JobSelection
from balsam.server.usecases.accounts import add_token, revoke
from balsam.server.usecases.limits import BadJson, json_text
from balsam.server.usecases.lookups import conditions, matches
from balsam.server.usecases.scope import access_of, find_job, find_site, find_sites
from balsam.wire.base import Deleted, ErrorDetail
from balsam.wire.kinds import SITE_FIELDS
from balsam.wire.sites import (
    AgentLeaseReply,
    AgentLeaseRequest,
    SiteCreate,
    SiteCreated,
    SiteFilter,
    SitePatch,
    SitesPage,
    SiteToken,
    SiteView,
)

AGENT_TTL_SEC = 60.0
AGENT_RENEW_SEC = 20.0
MAX_STATUS_BYTES = 262_144
DELETE_SLICE = 2000


@dataclass(frozen=True, slots=True)
class FileTarget:
    """Where a Job's files are, and whether an agent is there to read them."""

    site_id: int
    workdir: str
    online: bool
    site_name: str
    hostname: str
    heard_at: datetime | None


def create_site(tx: Tx, principal: Principal, message: SiteCreate, secret: str, now: datetime) -> SiteCreated:
    """Register a Site; `secret` becomes its agent's token. Raises Conflict when the owner has one of that name."""
    principal.require("user")
    if principal.site_id is not None:
        raise Forbidden("this token is for one Site; it may not register another one")
    _check_name(tx, principal.user_id, message.name)
    row = SiteRow(
        id=tx.new_id(SiteRow),
        owner_id=principal.user_id,
        name=message.name,
        path=message.path,
        hostname=message.hostname,
        allowed_projects=message.allowed_projects,
        allowed_queues={name: limits.model_dump() for name, limits in message.allowed_queues.items()},
        optional_batch_job_params=message.optional_batch_job_params,
        transfer_locations=message.transfer_locations,
        backfill_windows={},
        queued_jobs={},
        created_at=micros(now),
        last_refresh=None,
        agent_instance="",
        agent_hostname="",
        agent_pid=0,
        agent_renewed_at=None,
        deleted_at=None,
        python=message.python,
        scaling={},
    )
    tx.put(row)
    add_token(tx, principal.user_id, "site", secret, f"site {message.name}", now, site_id=row.id)
    return SiteCreated(site=site_view(tx, principal, row, now), token=SiteToken(token=secret))


def list_sites(tx: ReadTx, principal: Principal, message: SiteFilter, now: datetime) -> SitesPage:
    since = None if message.last_refresh_after is None else micros(message.last_refresh_after)
    wanted = conditions(message.where, SITE_FIELDS)
    rows = [
        site
        for site in find_sites(tx, principal, offered=True)
        if (message.id is None or site.id in message.id)
        and message.name in (None, site.name)
        and (message.path is None or message.path in site.path)
        and (since is None or (site.last_refresh or 0) > since)
        and matches(wanted, partial(_field, site))
    ]
    page = rows[message.offset : message.offset + message.limit]
    return SitesPage(count=len(rows), results=[site_view(tx, principal, site, now) for site in page])


def _field(site: SiteRow, name: str) -> object:
    return site.created_at if name == "creation_date" else getattr(site, name)


def get_site(tx: ReadTx, principal: Principal, site_id: int, now: datetime) -> SiteView:
    return site_view(tx, principal, find_site(tx, principal, site_id, Role.VIEWER), now)


def change_site(tx: Tx, principal: Principal, site_id: int, message: SitePatch, now: datetime) -> SiteView:
    """Change what is given; the agent calls it with what its settings file says."""
    principal.require("user", "site")
    site = find_site(tx, principal, site_id, Role.OWNER)
    changes: dict[str, Any] = message.model_dump(exclude_unset=True, exclude_none=True)
    for name in ("backfill_windows", "queued_jobs", "scaling"):
        try:
            json_text(changes.get(name, {}), name, MAX_STATUS_BYTES)
        except BadJson as error:
            raise Invalid([ErrorDetail(where=name, message=str(error))]) from None
    if changes.get("name", site.name) != site.name:
        _check_name(tx, site.owner_id, changes["name"])
    site = replace(site, **changes)
    tx.put(site)
    if principal.kind == "user":
        tx.wake(Wake("site", site.id, "site_changed", {}))
    return site_view(tx, principal, site, now)


def issue_site_token(tx: Tx, principal: Principal, site_id: int, secret: str, now: datetime) -> SiteToken:
    """A further token for the Site's agent."""
    principal.require("user")
    site = find_site(tx, principal, site_id, Role.OWNER)
    # The Site's owner's, whoever asked: it lives as long as that account.
    add_token(tx, site.owner_id, "site", secret, f"site {site.name}", now, site_id=site.id)
    return SiteToken(token=secret)


def renew_agent(
    tx: Tx, principal: Principal, site_id: int, message: AgentLeaseRequest, now: datetime
) -> AgentLeaseReply:
    """Open or renew the claim to be the Site's only agent. Raises Conflict `agent_running` while another one lives."""
    principal.require("user", "site")
    site = find_site(tx, principal, site_id, Role.OWNER)
    other = site.agent_instance not in ("", message.instance, message.replaces)
    if other and is_online(site, now):
        raise Conflict(
            "agent_running",
            f"Site {site.name!r} has an agent already: process {site.agent_pid} on {site.agent_hostname},"
            f" last heard of at {moment_or_none(site.agent_renewed_at)}; stop it with `balsam site stop` there",
        )
    at = micros(now)
    tx.put(
        replace(
            site,
            agent_instance=message.instance,
            agent_hostname=message.hostname,
            agent_pid=message.pid,
            agent_renewed_at=at,
            last_refresh=at,
        )
    )
    return AgentLeaseReply(ttl_sec=AGENT_TTL_SEC, renew_sec=AGENT_RENEW_SEC)


def release_agent(tx: Tx, principal: Principal, site_id: int, instance: str, now: datetime) -> None:
    """The agent stops in order. Nothing happens when another one holds the claim."""
    principal.require("user", "site")
    site = find_site(tx, principal, site_id, Role.OWNER)
    if site.agent_instance == instance:
        tx.put(replace(site, agent_instance="", agent_renewed_at=None, last_refresh=micros(now)))


def is_online(site: SiteRow, now: datetime) -> bool:
    """Whether the Site's agent was heard of within its lease."""
    if site.agent_renewed_at is None:
        return False
    return now < moment(site.agent_renewed_at) + timedelta(seconds=AGENT_TTL_SEC)


def check_stream(tx: ReadTx, principal: Principal, site_id: int) -> None:
    """Whether the caller may hear the Site's stream and answer its file requests."""
    principal.require("user", "site")
    find_site(tx, principal, site_id, Role.OWNER)


def file_target(tx: ReadTx, principal: Principal, job_id: int, now: datetime) -> FileTarget:
    """Where to ask for the files of a Job."""
    job = find_job(tx, principal, job_id, Role.VIEWER)
    site = tx.get(SiteRow, job.site_id)
    if site is None or site.deleted_at is not None:
        raise NotFound
    heard = moment_or_none(site.last_refresh)
    return FileTarget(site.id, job.workdir, is_online(site, now), site.name, site.hostname, heard)


async def delete_site(store: Store, principal: Principal, site_id: int, clock_now: Callable[[], datetime]) -> Deleted:
    """Remove a Site with everything that belongs to it.

    First it disappears and its tokens end; then its Jobs are removed in slices, so that no write takes long. What an
    interruption leaves is removed by the sweep `prune`.
    """
    await store.write(lambda tx: hide_site(tx, principal, site_id, clock_now()), principal.user_id)
    while await store.write(lambda tx: remove_slice(tx, site_id), principal.user_id):
        pass
    return Deleted(deleted=1)


def hide_site(tx: Tx, principal: Principal, site_id: int, now: datetime) -> None:
    """The Site is gone for everybody from here on, and its name is free."""
    principal.require("user")
    site = find_site(tx, principal, site_id, Role.OWNER)
    # Names have no control characters: the old name is free, and nobody can take this one.
    tx.put(replace(site, deleted_at=micros(now), name=f"{site.name}\x1f{site.id}"))
    revoke(tx, tx.find(TokenRow, site_id=site.id), now)
    tx.wake(Wake("site", site.id, "site_changed", {}))


def remove_slice(tx: Tx, site_id: int) -> bool:
    """Remove a slice of what a hidden Site has left; False once everything is gone."""
    site = tx.get(SiteRow, site_id)
    if site is None:
        return False
    jobs = tx.job_ids(JobSelection(site.owner_id, site_ids=(site.id,)), 0, DELETE_SLICE)
    if jobs:
        tx.delete_jobs(jobs)
        return True
    for kind in (TokenRow, ShareRow, SessionRow, BatchJobRow, AppRow):
        for row in tx.find(kind, site_id=site.id):
            tx.remove(kind, row.id)
    tx.remove(SiteRow, site.id)
    return False


def _check_name(tx: ReadTx, owner_id: int, name: str) -> None:
    if tx.find(SiteRow, owner_id=owner_id, name=name):
        raise Conflict("site_exists", f"there is a Site named {name!r} of this owner already; choose another name")


def site_view(tx: ReadTx, principal: Principal, site: SiteRow, now: datetime) -> SiteView:
    owner = tx.get(UserRow, site.owner_id)
    return SiteView(
        id=site.id,
        name=site.name,
        path=site.path,
        hostname=site.hostname,
        owner=owner.username if owner else "",
        role=access_of(tx, principal).offered(site.owner_id, site.id) or Role.VIEWER,
        allowed_projects=site.allowed_projects,
        allowed_queues=site.allowed_queues,
        optional_batch_job_params=site.optional_batch_job_params,
        transfer_locations=site.transfer_locations,
        backfill_windows=site.backfill_windows,
        queued_jobs=site.queued_jobs,
        python=site.python,
        scaling=site.scaling,
        creation_date=moment(site.created_at),
        last_refresh=moment_or_none(site.last_refresh),
        is_active=is_online(site, now),
    )
