"""What the caller may see and do: the one place that knows about owners and shares (S14). Every use case gets its rows
through here.

Everything belongs to a Site, and a Site to the person who registered it. A team may have a role at a Site, or in a
campaign, which is the Jobs of one owner that carry the tag `campaign=NAME`. What the caller may not see is answered
exactly like what does not exist; what may be seen and not changed, with 403 and the role it takes.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pydantic_core import from_json

from balsam.domain.roles import CAMPAIGN_TAG, Role, stronger
from balsam.server.errors import Forbidden, NotFound
from balsam.server.principal import Principal
from balsam.server.store.protocol import ReadTx
from balsam.server.store.records import (
    AppRow,
    BatchJobRow,
    HotJob,
    JobRow,
    MembershipRow,
    SessionRow,
    ShareRow,
    ShownJob,
    SiteRow,
)

_CampaignKey = tuple[int, str]  # owner, name


@dataclass(frozen=True, slots=True)
class Part:
    """Jobs at the Sites of one owner that the caller may see, or change. `site_ids` None: at all of them."""

    owner_id: int
    site_ids: tuple[int, ...] | None = None
    tags: tuple[tuple[str, str], ...] = ()
    submitter_id: int | None = None

    def with_tags(self, wanted: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
        """The tags of a filter within this part."""
        return wanted + tuple(tag for tag in self.tags if tag not in wanted)


@dataclass(frozen=True, slots=True)
class Access:
    """The roles of one caller, as they are in this transaction. What is the caller's own is not listed."""

    principal: Principal
    sites: Mapping[int, Role] = field(default_factory=dict)
    campaigns: Mapping[_CampaignKey, Role] = field(default_factory=dict)

    def at_site(self, owner_id: int, site_id: int) -> Role | None:
        """The caller's role at a Site of this owner. The tokens of agents, launchers and Jobs have theirs only."""
        if self.principal.kind != "user":
            return Role.OWNER if self.principal.site_id == site_id else None
        if self.principal.site_id not in (None, site_id):
            return None
        return Role.OWNER if self.principal.user_id == owner_id else self.sites.get(site_id)

    def of_job(self, job: JobRow) -> Role | None:
        """The caller's role towards a Job: at its Site or in its campaign, whichever is more."""
        return self.of_tags(job.owner_id, job.site_id, job.tags)

    def of_tags(self, owner_id: int, site_id: int, tags: Mapping[str, str]) -> Role | None:
        """The caller's role towards a Job of these tags at this Site."""
        at_site = self.at_site(owner_id, site_id)
        if not self.campaigns or self.principal.site_id not in (None, site_id):
            return at_site
        return stronger(at_site, self.campaigns.get((owner_id, tags.get(CAMPAIGN_TAG, ""))))

    def may_change(self, job: JobRow) -> bool:
        """Whether the caller may change a Job: as its owner, or as its submitter who still may."""
        role = self.of_job(job)
        return role is Role.OWNER or (role is Role.SUBMITTER and job.submitter_id == self.principal.user_id)

    def submits_in_campaigns_of(self, owner_id: int) -> bool:
        """Whether some campaign of this owner takes Jobs of the caller, who then sees the owner's Sites and Apps."""
        return any(owner == owner_id and role.includes(Role.SUBMITTER) for (owner, _), role in self.campaigns.items())

    def offered(self, owner_id: int, site_id: int) -> Role | None:
        """As `at_site`, for the Site itself and its Apps: those who submit in a campaign see them as well."""
        role = self.at_site(owner_id, site_id)
        if role is None and self.principal.site_id in (None, site_id) and self.submits_in_campaigns_of(owner_id):
            return Role.VIEWER
        return role


def access_of(tx: ReadTx, principal: Principal) -> Access:
    """What this caller was given by others, one look-up for those who were given nothing."""
    if principal.kind != "user":
        return Access(principal)
    teams = tx.find(MembershipRow, user_id=principal.user_id)
    if not teams:
        return Access(principal)
    sites: dict[int, Role] = {}
    campaigns: dict[_CampaignKey, Role] = {}
    for share in tx.find(ShareRow, team_id=tuple(team.team_id for team in teams)):
        if share.owner_id == principal.user_id:
            continue
        if share.site_id is not None:
            sites[share.site_id] = stronger(sites.get(share.site_id), share.role) or share.role
        elif share.campaign is not None:
            key = (share.owner_id, share.campaign)
            campaigns[key] = stronger(campaigns.get(key), share.role) or share.role
    return Access(principal, sites, campaigns)


def access_to(tx: ReadTx, principal: Principal, homes: Iterable[tuple[int, int]]) -> Access:
    """As `access_of`, for what is at these places only, each an owner and a Site: nothing is looked up when all of them
    are the caller's own."""
    alone = Access(principal)
    own = all(alone.at_site(owner_id, site_id) is Role.OWNER for owner_id, site_id in homes)
    return alone if own else access_of(tx, principal)


def find_site(tx: ReadTx, principal: Principal, site_id: int, need: Role) -> SiteRow:
    """The Site. Raises NotFound, or Forbidden to those who see it and lack the role."""
    site = tx.get(SiteRow, site_id)
    if site is None or site.deleted_at is not None:
        raise NotFound
    access = access_to(tx, principal, [(site.owner_id, site.id)])
    require(access.offered(site.owner_id, site.id), need, f"Site {site.name!r}")
    return site


def find_sites(tx: ReadTx, principal: Principal, *, offered: bool = False) -> list[SiteRow]:
    """All Sites whose Jobs and allocations the caller may see; `offered`: and those that take their Jobs."""
    access = access_of(tx, principal)
    own = tx.find(SiteRow, owner_id=principal.user_id, deleted_at=None)
    shared = tx.find(SiteRow, id=tuple(access.sites), deleted_at=None) if access.sites else []
    if offered and access.campaigns:
        owners = {owner for owner, _ in access.campaigns if access.submits_in_campaigns_of(owner)}
        shared += tx.find(SiteRow, owner_id=tuple(owners), deleted_at=None)
    sites = {site.id: site for site in (*own, *shared) if principal.site_id in (None, site.id)}
    return [sites[site_id] for site_id in sorted(sites)]


def find_app(tx: ReadTx, principal: Principal, app_id: int, need: Role) -> AppRow:
    app = tx.get(AppRow, app_id)
    if app is None:
        raise NotFound
    access = access_to(tx, principal, [(app.owner_id, app.site_id)])
    require(access.offered(app.owner_id, app.site_id), need, f"App {app.name!r}")
    return app


def seen_jobs(tx: ReadTx, access: Access, job_ids: Iterable[int]) -> dict[int, HotJob]:
    """Those of the Jobs that the caller may see, by id."""
    found = tx.hot_jobs(job_ids)
    doubtful = [job.id for job in found.values() if access.at_site(job.owner_id, job.site_id) is None]
    in_campaigns = tx.jobs(doubtful) if doubtful and access.campaigns else ()
    hidden = set(doubtful) - {job.id for job in in_campaigns if access.of_job(job) is not None}
    return {job_id: job for job_id, job in found.items() if job_id not in hidden} if hidden else found


def find_job(tx: ReadTx, principal: Principal, job_id: int, need: Role) -> JobRow:
    """The Job; `need` SUBMITTER: to change it, which takes that it is the caller's own."""
    principal.require("user", "site", "job")
    jobs = tx.jobs([job_id])
    if not jobs:
        raise NotFound
    access = access_to(tx, principal, [(jobs[0].owner_id, jobs[0].site_id)])
    require(access.of_job(jobs[0]), need, f"Job {job_id}")
    if need is not Role.VIEWER and not access.may_change(jobs[0]):
        raise not_yours(f"Job {job_id}")
    return jobs[0]


def find_shown_job(tx: ReadTx, principal: Principal, job_id: int) -> ShownJob:
    """The Job for who wants to see it."""
    principal.require("user", "site", "job")
    jobs = tx.shown_jobs([job_id])
    if not jobs:
        raise NotFound
    job = jobs[0]
    access = access_to(tx, principal, [(job.owner_id, job.site_id)])
    require(access.of_tags(job.owner_id, job.site_id, from_json(job.tags)), Role.VIEWER, f"Job {job_id}")
    return job


def find_batch_job(tx: ReadTx, principal: Principal, batch_job_id: int, need: Role) -> BatchJobRow:
    """The BatchJob; `need` SUBMITTER: to change it, which takes that the caller asked for it."""
    row = tx.get(BatchJobRow, batch_job_id)
    if row is None or (principal.kind in ("launcher", "job") and row.id != principal.batch_job_id):
        raise NotFound
    role = access_to(tx, principal, [(row.owner_id, row.site_id)]).at_site(row.owner_id, row.site_id)
    require(role, need, f"BatchJob {row.id}")
    if need is not Role.VIEWER and role is Role.SUBMITTER and row.submitter_id != principal.user_id:
        raise not_yours(f"BatchJob {row.id}")
    return row


def find_session(tx: ReadTx, principal: Principal, session_id: int, need: Role) -> SessionRow:
    """The Session, ended or not. A launcher sees those of its BatchJob only."""
    return checked_session(tx, principal, tx.get(SessionRow, session_id), need)


def checked_session(tx: ReadTx, principal: Principal, session: SessionRow | None, need: Role) -> SessionRow:
    """As `find_session`, of one that was read already."""
    if session is None or (principal.kind == "launcher" and session.batch_job_id != principal.batch_job_id):
        raise NotFound
    access = access_to(tx, principal, [(session.owner_id, session.site_id)])
    require(access.at_site(session.owner_id, session.site_id), need, f"Session {session.id}")
    return session


def parts(tx: ReadTx, principal: Principal, need: Role) -> list[Part]:
    """The Jobs that the caller may see, or with SUBMITTER may change, in parts that have no Job in common.

    But for one: a Job that somebody may change as its submitter and as owner of its campaign is in both parts.
    """
    own = Part(principal.user_id, None if principal.site_id is None else (principal.site_id,))
    access = access_of(tx, principal)
    found = [own]
    covered: set[int] = set()
    for role, submitter in _grants(principal, need):
        shared = tuple(site for site, has in access.sites.items() if site not in covered and has.includes(role))
        sites = tx.find(SiteRow, id=shared, deleted_at=None) if shared else []
        by_owner: dict[int, list[int]] = {}
        for site in sites:
            if principal.site_id in (None, site.id):
                by_owner.setdefault(site.owner_id, []).append(site.id)
        found += [Part(owner, tuple(ids), submitter_id=submitter) for owner, ids in by_owner.items()]
        if submitter is None:
            covered.update(site.id for site in sites)
    for (owner, name), has in access.campaigns.items():
        found += _campaign_part(tx, principal, owner, name, has, need, covered)
    return found


def _grants(principal: Principal, need: Role) -> list[tuple[Role, int | None]]:
    """(role, whose Jobs it takes in): to change Jobs, an owner's role takes in all, a submitter's only theirs."""
    if need is Role.VIEWER:
        return [(Role.VIEWER, None)]
    return [(Role.OWNER, None), (Role.SUBMITTER, principal.user_id)]


def _campaign_part(
    tx: ReadTx, principal: Principal, owner: int, name: str, has: Role, need: Role, covered: set[int]
) -> list[Part]:
    if not has.includes(need):
        return []
    sites = tx.find(SiteRow, owner_id=owner, deleted_at=None)
    rest = tuple(site.id for site in sites if site.id not in covered and principal.site_id in (None, site.id))
    submitter = principal.user_id if need is not Role.VIEWER and has is not Role.OWNER else None
    return [Part(owner, rest, ((CAMPAIGN_TAG, name),), submitter)]


def require(role: Role | None, need: Role, what: str) -> None:
    """Raises NotFound without any role, Forbidden with one that does not suffice."""
    if role is None:
        raise NotFound
    if not role.includes(need):
        raise Forbidden(f"{what} is shared with you as {role}; this takes the role {need}")


def not_yours(what: str) -> Forbidden:
    """For a submitter who would change what another one made."""
    return Forbidden(f"{what} was submitted by somebody else; as submitter you change only what is yours")
