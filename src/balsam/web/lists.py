"""The pages with many things on them: the first one, Jobs, allocations, Sites; and the stream that keeps them fresh."""

from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response

from balsam.domain.failure import Failure
from balsam.domain.states import BATCH_JOB_ENDED, BatchJobState, JobState
from balsam.server.broker import Mailbox
from balsam.server.errors import NotFound
from balsam.server.routes.streams import EventStream
from balsam.server.store.protocol import Tx
from balsam.server.usecases import batch_job_lists, batch_jobs, jobs, sites
from balsam.server.usecases.overview import overview
from balsam.web.frame import HOME, Frame, Visit
from balsam.wire.batch_jobs import BatchJobPatch, BatchJobQuery
from balsam.wire.jobs import JobQuery, JobView
from balsam.wire.sites import SiteFilter

JOBS_ON_A_PAGE = 50
ALLOCATIONS_ON_A_PAGE = 100


class Lists:
    """The handlers."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame

    async def root(self, request: Request) -> Response:
        """Who comes without a path is a person."""
        return self._frame.go(HOME)

    async def first(self, visit: Visit) -> Response:
        """Counts by state and Site, and why Jobs wait or have failed."""
        call = visit.call
        found = await call.read(lambda tx: overview(tx, call.principal, call.now))
        template = "_overview.html" if visit.wants_part else "overview.html"
        return self._frame.show(visit, template, found=found, states=list(JobState))

    async def jobs(self, visit: Visit) -> Response:
        """A page of Jobs, newest first."""
        call, given = visit.call, visit.request.query_params
        query = _query(given)
        page = await call.read(lambda tx: jobs.list_jobs(tx, call.principal, query))
        found = await call.read(lambda tx: sites.list_sites(tx, call.principal, SiteFilter(), call.now))
        rest = [(name, value) for name, value in given.multi_items() if value and name != "after"]
        following = _following(rest, page.results)
        template = "_jobs.html" if visit.wants_part else "jobs.html"
        return self._frame.show(
            visit,
            template,
            page=page,
            following=following,
            here=f"{HOME}/jobs?{urlencode([*rest, *_after(given)])}",
            given=given,
            names={site.id: site.name for site in found.results},
            sites=found.results,
            states=list(JobState),
            failures=list(Failure),
        )

    async def allocations(self, visit: Visit) -> Response:
        """BatchJobs, newest first."""
        call = visit.call
        query = BatchJobQuery(ordering="-id", limit=ALLOCATIONS_ON_A_PAGE, offset=_number(visit.request, "offset"))
        page = await call.read(lambda tx: batch_job_lists.list_batch_jobs(tx, call.principal, query))
        found = await call.read(lambda tx: sites.list_sites(tx, call.principal, SiteFilter(), call.now))
        after = query.offset + len(page.results)
        return self._frame.show(
            visit,
            "allocations.html",
            page=page,
            following=f"{HOME}/allocations?offset={after}" if after < page.count else "",
            names={site.id: site.name for site in found.results},
        )

    async def end_allocation(self, visit: Visit) -> Response:
        """Ask for the end of one that lives; one that has ended is left as it is."""
        call, number = visit.call, visit.number("batch_job_id")
        await self._frame.form(visit)

        def end(tx: Tx) -> None:
            if batch_jobs.get_batch_job(tx, call.principal, number).state not in BATCH_JOB_ENDED:
                ending = BatchJobPatch(state=BatchJobState.PENDING_DELETION)
                batch_jobs.patch_batch_job(tx, call.principal, number, ending, call.now)

        await call.write(end)
        return self._frame.go(f"{HOME}/allocations")

    async def sites(self, visit: Visit) -> Response:
        """Sites and what they take."""
        call = visit.call
        found = await call.read(lambda tx: sites.list_sites(tx, call.principal, SiteFilter(), call.now))
        return self._frame.show(visit, "sites.html", found=found)

    async def nothing(self, visit: Visit) -> Response:
        """An address that no page has, but for a slash at its end."""
        path = visit.request.path_params["path"]
        if path and not path.endswith("/"):
            raise NotFound
        return self._frame.go(f"{HOME}/{path}".rstrip("/"))

    async def stream(self, visit: Visit) -> Any:
        """Tells the page that some Job changed; the page asks for itself."""
        call = visit.call
        topics = await call.read(lambda tx: jobs.heard(tx, call.principal))
        user_id = call.principal.user_id

        async def allowed() -> None:
            return None

        return EventStream(call, Mailbox([("access", user_id), *topics]), ("user", user_id), allowed)


def _query(given: Any) -> JobQuery:
    """The filter in the address. Raises ValidationError for what can't be."""
    fields: dict[str, Any] = {"ordering": "-id", "limit": JOBS_ON_A_PAGE}
    for name in ("state", "failure", "site_id", "batch_job_id", "parent_id", "tags"):
        values = [value.strip() for value in given.getlist(name) if value.strip()]
        if values:
            fields[name] = [_tag(value) for value in values] if name == "tags" else values
    for name, field in (("app_name",) * 2, ("submitted_by",) * 2, ("workdir", "workdir__contains"), ("after",) * 2):
        if given.get(name, "").strip():
            fields[field] = given[name].strip()
    return JobQuery.model_validate(fields, strict=False)


def _tag(text: str) -> str:
    """The filter for a tag that was typed as pages and command show it, KEY=VALUE, or as the API has it."""
    key, sign, value = text.partition("=")
    return f"{key}:{value}" if sign and ":" not in key else text


def _after(given: Any) -> list[tuple[str, str]]:
    return [("after", given["after"])] if given.get("after") else []


def _following(rest: list[tuple[str, str]], shown: list[JobView]) -> str:
    """The address of the next page; empty on the last one."""
    if len(shown) < JOBS_ON_A_PAGE:
        return ""
    return f"{HOME}/jobs?{urlencode([*rest, ('after', str(shown[-1].id))])}"


def _number(request: Request, name: str) -> int:
    text = request.query_params.get(name, "0")
    if not text.isdecimal() or len(text) > 9:
        raise NotFound
    return int(text)
