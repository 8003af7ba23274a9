"""Look-ups by id that only find what the caller may see (S14). Every use case gets its rows through here.

What belongs to somebody else is answered exactly like what does not exist.
"""

from balsam.server.errors import NotFound
from balsam.server.principal import Principal
from balsam.server.store.protocol import ReadTx
from balsam.server.store.records import AppRow, BatchJobRow, HotJob, JobRow, SessionRow, SiteRow


def own_site(tx: ReadTx, principal: Principal, site_id: int) -> SiteRow:
    """The Site, of this owner; for a site or launcher token only its own one."""
    site = tx.get(SiteRow, site_id)
    if site is None or site.owner_id != principal.user_id or site.deleted_at is not None:
        raise NotFound
    _check_site(principal, site.id)
    return site


def own_sites(tx: ReadTx, principal: Principal) -> list[SiteRow]:
    """All Sites the caller may see."""
    sites = tx.find(SiteRow, owner_id=principal.user_id, deleted_at=None)
    return [site for site in sites if principal.site_id in (None, site.id)]


def own_app(tx: ReadTx, principal: Principal, app_id: int) -> AppRow:
    app = tx.get(AppRow, app_id)
    if app is None or app.owner_id != principal.user_id:
        raise NotFound
    _check_site(principal, app.site_id)
    return app


def own_job(tx: ReadTx, principal: Principal, job_id: int) -> JobRow:
    principal.require("user", "site")
    jobs = tx.jobs([job_id])
    if not jobs or jobs[0].owner_id != principal.user_id:
        raise NotFound
    _check_site(principal, jobs[0].site_id)
    return jobs[0]


def may_see_job(principal: Principal, job: HotJob) -> bool:
    """Whether the Job is the caller's, and for a site token of that Site (S14)."""
    return job.owner_id == principal.user_id and principal.site_id in (None, job.site_id)


def own_batch_job(tx: ReadTx, principal: Principal, batch_job_id: int) -> BatchJobRow:
    batch_job = tx.get(BatchJobRow, batch_job_id)
    if batch_job is None or batch_job.owner_id != principal.user_id:
        raise NotFound
    _check_site(principal, batch_job.site_id)
    if principal.kind == "launcher" and batch_job.id != principal.batch_job_id:
        raise NotFound
    return batch_job


def own_session(tx: ReadTx, principal: Principal, session_id: int) -> SessionRow:
    """The Session, ended or not. A launcher sees those of its BatchJob only."""
    session = tx.get(SessionRow, session_id)
    if session is None or session.owner_id != principal.user_id:
        raise NotFound
    _check_site(principal, session.site_id)
    if principal.kind == "launcher" and session.batch_job_id != principal.batch_job_id:
        raise NotFound
    return session


def _check_site(principal: Principal, site_id: int) -> None:
    if principal.site_id is not None and principal.site_id != site_id:
        raise NotFound
