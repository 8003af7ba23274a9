"""What the agent asks of the service, and how it bears the service being away or refusing its token.

The services of the agent see `SiteService`; `ServiceLink` is the one that speaks HTTP. Every call is tried once and
raises `ServiceAway` when there was no answer: the agent has other duties and comes back to it. Nothing here ends the
agent: a refused token is said in the log, the credentials file is read again, and the next try may be luckier.
"""

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Protocol, TypeVar

from balsam.client.blobs import ServiceBlobs
from balsam.client.credentials import read_mapping, write_secret_file
from balsam.client.errors import (
    BalsamError,
    Conflict,
    CredentialsError,
    Forbidden,
    NotFound,
    ServiceFault,
    ServiceUnavailable,
    Unauthorized,
    ValidationFailed,
    WireVersionMismatch,
)
from balsam.client.settings import ClientSettings
from balsam.client.transport import EventStream, Transport
from balsam.client.values import checked
from balsam.domain.states import BatchJobState
from balsam.site.directory import SiteDirectory
from balsam.wire.base import Message
from balsam.wire.batch_jobs import (
    BatchJobPatch,
    BatchJobQuery,
    BatchJobsPage,
    BatchJobsPatch,
    BatchJobsPatched,
    BatchJobView,
)
from balsam.wire.limits import MAX_PAGE
from balsam.wire.sessions import Report, ReportReply, SessionsPage, SessionView
from balsam.wire.sites import (
    AgentLeaseReply,
    AgentLeaseRequest,
    FileReply,
    JobTokenCreate,
    SitePatch,
    SiteToken,
    SiteView,
)
from balsam.wire.transfers import (
    DueTransfers,
    DueTransfersQuery,
    TransferItemView,
    TransferPatch,
    TransfersPatch,
    TransfersPatched,
)

log = logging.getLogger(__name__)

OPEN_STATES = [
    BatchJobState.PENDING_SUBMISSION,
    BatchJobState.QUEUED,
    BatchJobState.RUNNING,
    BatchJobState.UNKNOWN,
    BatchJobState.PENDING_DELETION,
]
READ_TIMEOUT_SEC = 30.0
RELEASE_SEC = 2.0
MAX_PATCHES = 500
T = TypeVar("T")


class ServiceAway(Exception):
    """The service did not answer, or not in a way that helps; nothing is known. Come back later."""


class AnotherAgent(Exception):
    """The service has another agent for this Site; the text names its host and process."""


class SiteService(Protocol):
    """The service as the agent's duties see it. Every method may raise ServiceAway."""

    def open_batch_jobs(self) -> list[BatchJobView]:
        """All BatchJobs of the Site that have not ended."""
        ...

    def batch_jobs(self, ids: Iterable[int]) -> dict[int, BatchJobView]:
        """Some BatchJobs, whatever their state; those that do not exist are left out."""
        ...

    def report_batch_jobs(self, patches: Mapping[int, BatchJobPatch]) -> BatchJobsPatched:
        """Tell states; each is taken or refused by itself."""
        ...

    def launcher_token(self, batch_job_id: int) -> SiteToken:
        """A token for the launcher of one BatchJob."""
        ...

    def job_token(self, batch_job_id: int, may_sync_apps: bool) -> SiteToken:
        """A token for the code of the Jobs in one BatchJob."""
        ...

    def sessions(self) -> list[SessionView]:
        """Open Sessions of the Site."""
        ...

    def deliver(self, session_id: int, report: Report) -> ReportReply:
        """Hand in what a dead launcher left. Raises Conflict or NotFound when the service wants none of it."""
        ...


class ServiceLink:
    """`SiteService` over HTTP for the Site with this number, with the credentials in its directory."""

    def __init__(self, site: SiteDirectory, site_id: int, transport: Transport) -> None:
        self.site_id = site_id
        self._site = site
        self._transport = transport
        self._trouble = ""

    @classmethod
    def connect(cls, site: SiteDirectory, site_id: int) -> "ServiceLink":
        """Opens no connection yet. Raises CredentialsError or NotConfigured when the credentials can't be used."""
        follow_local_service(site.credentials)
        settings = ClientSettings.load_from_file(site.credentials)
        patient = ClientSettings(
            url=settings.url,
            token=settings.token,
            source=settings.source,
            read_timeout_sec=READ_TIMEOUT_SEC,
            retry_for_sec=0.0,
        )
        return cls(site, site_id, Transport(patient))

    @property
    def url(self) -> str:
        return self._transport.url

    @property
    def token(self) -> str:
        return self._transport.settings.token

    def site(self) -> SiteView:
        """The Site as the service knows it. Raises ServiceAway."""
        return self.call(lambda: self._transport.request("GET", f"/sites/{self.site_id}", reply=SiteView))

    @property
    def transport(self) -> Transport:
        """The connections, for a caller that says by `call` how its requests may fail."""
        return self._transport

    def open_batch_jobs(self) -> list[BatchJobView]:
        found: list[BatchJobView] = []
        while True:
            after = len(found)
            page = self._page(BatchJobQuery(site_id=[self.site_id], state=OPEN_STATES, limit=MAX_PAGE, offset=after))
            found += page.results
            if len(found) >= page.count or not page.results:
                return found

    def batch_jobs(self, ids: Iterable[int]) -> dict[int, BatchJobView]:
        found: dict[int, BatchJobView] = {}
        wanted = sorted(ids)
        for start in range(0, len(wanted), MAX_PATCHES):
            some = wanted[start : start + MAX_PATCHES]
            page = self._page(BatchJobQuery(site_id=[self.site_id], id=some, limit=MAX_PATCHES))
            found |= {view.id: view for view in page.results}
        return found

    def report_batch_jobs(self, patches: Mapping[int, BatchJobPatch]) -> BatchJobsPatched:
        body = BatchJobsPatch(patches=dict(patches))
        return self.call(lambda: self._transport.request("PATCH", "/batch-jobs", reply=BatchJobsPatched, body=body))

    def launcher_token(self, batch_job_id: int) -> SiteToken:
        path = f"/batch-jobs/{batch_job_id}/token"
        return self.call(lambda: self._transport.request("POST", path, reply=SiteToken, safe_to_repeat=True))

    def job_token(self, batch_job_id: int, may_sync_apps: bool) -> SiteToken:
        path, body = f"/batch-jobs/{batch_job_id}/job-token", JobTokenCreate(may_sync_apps=may_sync_apps)
        return self.call(lambda: self._transport.request("POST", path, body=body, reply=SiteToken, safe_to_repeat=True))

    def sessions(self) -> list[SessionView]:
        return self.call(lambda: self._transport.request("GET", "/sessions", reply=SessionsPage)).results

    def deliver(self, session_id: int, report: Report) -> ReportReply:
        path = f"/sessions/{session_id}/report"
        return self.call(
            lambda: self._transport.request("POST", path, reply=ReportReply, body=report, safe_to_repeat=True),
            Conflict,
            NotFound,
        )

    def due_transfers(self, limit: int) -> list[TransferItemView]:
        """TransferItems that the Site is to work on, by turns of those who submitted."""
        query, path = DueTransfersQuery(limit=limit), "/transfers/due"
        return self.call(lambda: self._transport.request("GET", path, reply=DueTransfers, query=query)).results

    def report_transfers(self, patches: Mapping[int, TransferPatch]) -> TransfersPatched:
        """Tell how TransferItems go; each is taken or refused by itself."""
        body = TransfersPatch(patches=dict(patches))
        return self.call(lambda: self._transport.request("PATCH", "/transfers", reply=TransfersPatched, body=body))

    def blobs(self) -> ServiceBlobs:
        """Content of files at the service, to send and to fetch."""
        return ServiceBlobs(self._transport)

    def hold_agent_lease(self, request: AgentLeaseRequest) -> AgentLeaseReply:
        """Open or renew the claim to be the Site's only agent. Raises AnotherAgent, ServiceAway."""
        path = f"/sites/{self.site_id}/agent"
        try:
            return self.call(
                lambda: self._transport.request("POST", path, reply=AgentLeaseReply, body=request, safe_to_repeat=True),
                Conflict,
            )
        except Conflict as error:
            raise AnotherAgent(str(error)) from error

    def release_agent_lease(self, instance: str) -> None:
        """Let the next agent start at once."""
        path, query = f"/sites/{self.site_id}/agent", _Instance(instance=instance)
        self.call(lambda: self._transport.request("DELETE", path, query=query, deadline_sec=RELEASE_SEC))

    def update_site(self, patch: SitePatch) -> None:
        """Tell what the Site offers."""
        path = f"/sites/{self.site_id}"
        self.call(lambda: self._transport.request("PATCH", path, reply=SiteView, body=patch))

    def rename_site(self, name: str) -> None:
        """Give the Site another name. Raises Conflict when the owner has one of that name, ValidationFailed."""
        path, patch = f"/sites/{self.site_id}", checked(SitePatch, "Site", {"name": name})
        self.call(
            lambda: self._transport.request("PATCH", path, reply=SiteView, body=patch), Conflict, ValidationFailed
        )

    def reply_file(self, request_id: str, reply: FileReply) -> None:
        """Answer a file request. One that nobody waits for any more is no error."""
        path = f"/file-requests/{request_id}"
        try:
            self.call(lambda: self._transport.request("PUT", path, body=reply), NotFound, Conflict)
        except (NotFound, Conflict):
            log.debug("nobody waits for file request %s any more", request_id)

    def events(self) -> EventStream:
        """The Site's stream of pushes; raises a BalsamError out of the iteration when the service refuses it."""
        return self._transport.stream(f"/sites/{self.site_id}/stream")

    def trouble(self, error: BalsamError) -> str:
        """Say once what is wrong with the way to the service, and look whether the credentials tell a better one."""
        text = _explain(error, self._site)
        if text != self._trouble:
            # The transport itself says when the service is away and when it is back.
            level = logging.DEBUG if isinstance(error, ServiceUnavailable) else logging.ERROR
            log.log(level, "%s", text)
            self._trouble = text
        follow_local_service(self._site.credentials)
        return text

    def close(self) -> None:
        self._transport.close()

    def _page(self, query: BatchJobQuery) -> BatchJobsPage:
        return self.call(lambda: self._transport.request("GET", "/batch-jobs", reply=BatchJobsPage, query=query))

    def call(self, send: Callable[[], T], *let: type[BalsamError]) -> T:
        """What `send` returns. Raises ServiceAway for whatever goes wrong, but lets these errors through."""
        try:
            answer = send()
        except let:
            raise
        except BalsamError as error:
            raise ServiceAway(self.trouble(error)) from error
        if self._trouble:
            log.info("service at %s answers again", self.url)
            self._trouble = ""
        return answer


class _Instance(Message):
    instance: str


def follow_local_service(credentials: Path) -> bool:
    """A local service that was started again may have another port: take its address from the file it writes.

    The credentials name that file under `follow`; the Site's token stays. Whether the address was changed.
    """
    try:
        own = read_mapping(credentials)
        followed = own.get("follow") if own else None
        if not own or not isinstance(followed, str):
            return False
        service = read_mapping(Path(followed))
        url = service.get("url") if service else None
        if not isinstance(url, str) or url == own.get("url"):
            return False
        write_secret_file(credentials, _json({**own, "url": url}))
    except CredentialsError as error:
        log.error("%s", error)
        return False
    log.info("the local service is at %s now", url)
    return True


def followed_file(credentials: Path) -> Path | None:
    """The file of a local service that these credentials follow. Raises CredentialsError."""
    named = (read_mapping(credentials) or {}).get("follow")
    return Path(named) if isinstance(named, str) else None


def write_credentials(path: Path, url: str, token: str, follow: Path | None = None) -> None:
    """Leave address and token for an agent or a launcher, 0600. Raises CredentialsError."""
    content = {"url": url, "token": token}
    write_secret_file(path, _json(content if follow is None else {**content, "follow": str(follow)}))


def _json(content: Mapping[str, object]) -> str:
    return json.dumps(content, indent=1) + "\n"


def _explain(error: BalsamError, site: SiteDirectory) -> str:
    if error.code == "account_disabled":  # another token would be refused as well
        return f"the service refuses this Site's agent: {error}"
    if isinstance(error, Unauthorized):
        return (
            f"the service does not accept the token in {site.credentials}; it was revoked, or the service is another "
            f"one. The owner of the Site makes a new one with: balsam token rotate {site.root}"
        )
    if isinstance(error, NotFound | Forbidden):
        return f"the service does not know this Site any more ({error}); was it deleted there?"
    if isinstance(error, WireVersionMismatch | ServiceFault | ServiceUnavailable):
        return str(error)
    return f"the service refused a request of the agent: {error}"
