"""A service without HTTP: use cases over a store, with a clock that stands still. For tests of stores and use cases.

Every method is one call that a client, launcher or agent makes; what it returns is the wire message.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any, TypeVar

from balsam.domain.envelope import Envelope
from balsam.domain.lease import LeaseKind, SessionPurpose
from balsam.domain.lifecycle import Hook
from balsam.domain.roles import Role
from balsam.domain.states import BatchJobState, JobMode, JobState
from balsam.server.principal import Principal
from balsam.server.store.protocol import ReadTx, Store, Tx, Wake
from balsam.server.sweeps.expire_sessions import SessionExpiry
from balsam.server.usecases import (
    accounts,
    acquire,
    apps,
    backlog,
    batch_jobs,
    blobs,
    events,
    jobs,
    report,
    results,
    selection,
    sessions,
    shares,
    sites,
    teams,
    transfers,
)
from balsam.server.usecases.submit import submit_jobs
from balsam.testing.clock import FakeClock
from balsam.wire.apps import AppParameter, AppSync, AppView, PythonCode
from balsam.wire.backlog import Backlog, BacklogQuery
from balsam.wire.base import Deleted
from balsam.wire.batch_jobs import BatchJobCreate, BatchJobPatch, BatchJobView
from balsam.wire.events import EventQuery, EventView
from balsam.wire.jobs import (
    JobCreate,
    JobFilter,
    JobGroupsQuery,
    JobQuery,
    JobsCancel,
    JobsChanged,
    JobsCreate,
    JobsCreated,
    JobsSelect,
    JobView,
)
from balsam.wire.results import ResultsPage, ResultsQuery, ResultView
from balsam.wire.sessions import (
    AcquireReply,
    AcquireRequest,
    GrantedJob,
    LaunchEvent,
    RenewReply,
    Report,
    ReportRecord,
    ReportReply,
    SessionClose,
    SessionCreate,
    SessionView,
)
from balsam.wire.sites import QueueLimits, SiteCreate, SiteView
from balsam.wire.teams import Member, ShareCreate, ShareView, TeamView
from balsam.wire.transfers import (
    ContentEntry,
    SentContent,
    TransferItemView,
    TransferPatch,
    TransferQuery,
    TransfersCollected,
    TransfersPatch,
    TransfersPatched,
)

T = TypeVar("T")
TEMPLATE = "echo {{ name }}"


class StoreWorld:
    """One user `ada` with one Site and one App over the store; more of each can be added."""

    def __init__(self, store: Store, clock: FakeClock | None = None) -> None:
        self.store = store
        self.clock = clock or FakeClock()
        self.wakes: list[Wake] = []
        self._secrets = 0
        self._report_seq: dict[int, int] = {}
        self._acquire_seq: dict[int, int] = {}
        self.expiry = SessionExpiry(self.now)
        self.ada = self.add_user("ada")
        self.site = self.add_site()
        self.app = self.add_app()
        store.subscribe(self.wakes.extend)

    @property
    def now(self) -> datetime:
        return self.clock.now()

    def write(self, fn: Callable[[Tx], T]) -> T:
        return self.store.write_sync(fn)

    def read(self, fn: Callable[[ReadTx], T]) -> T:
        return self.store.read_sync(fn)

    def _secret(self, kind: str) -> str:
        self._secrets += 1
        return f"blsm_{kind}_{self._secrets}"

    # Accounts, Sites, Apps

    def add_user(self, name: str) -> Principal:
        secret = self._secret("user")
        return self.write(lambda tx: accounts.ensure_local_user(tx, name, secret, self.now))

    def add_site(self, user: Principal | None = None, name: str = "laptop", **fields: Any) -> SiteView:
        values: dict[str, Any] = {
            "name": name,
            "path": f"/sites/{name}",
            "allowed_projects": ["local"],
            "allowed_queues": {"local": QueueLimits(max_nodes=4, max_walltime=60)},
            "transfer_locations": {"client": "client:", "scratch": "file:///scratch"},
        }
        message = SiteCreate(**{**values, **fields})
        secret = self._secret("site")
        created = self.write(lambda tx: sites.create_site(tx, user or self.ada, message, secret, self.now))
        return created.site

    def agent(self, site: SiteView | None = None, user: Principal | None = None) -> Principal:
        """The Site's own principal."""
        user = user or self.ada
        return Principal(user.user_id, user.username, "site", site_id=(site or self.site).id)

    def add_app(
        self, user: Principal | None = None, site: SiteView | None = None, name: str = "hello", **fields: Any
    ) -> AppView:
        values: dict[str, Any] = {"command_template": TEMPLATE, "parameters": {"name": AppParameter()}}
        message = AppSync(site_id=(site or self.site).id, name=name, **{**values, **fields})
        return self.write(lambda tx: apps.sync_app(tx, user or self.ada, message, self.now))

    def add_app_with_hooks(self, *hooks: Hook, name: str = "hooked", **fields: Any) -> AppView:
        """An App whose class has hooks; nobody here looks into its envelope."""
        envelope = Envelope.seal(b"never opened", python="3.11", pickler="cloudpickle 3").as_json()
        return self.add_app(name=name, hooks=list(hooks or Hook), code=PythonCode(envelope=envelope), **fields)

    # Teams

    def team(self, leader: Principal, *others: Principal, name: str = "team") -> TeamView:
        """A team of these people."""

        def found(tx: Tx) -> TeamView:
            made = teams.create_team(tx, leader, name, self.now)
            for person in others:
                made = teams.put_member(tx, leader, made.id, Member(username=person.username), self.now)
            return made

        return self.write(found)

    def share(self, owner: Principal, team: TeamView, role: Role, **what: Any) -> ShareView:
        """Give the team a role: `site_id=` or `campaign=`."""
        message = ShareCreate(team_id=team.id, role=role, **what)
        return self.write(lambda tx: shares.put_share(tx, owner, message, self.now))

    # Jobs

    def job(self, **fields: Any) -> JobCreate:
        values = {"app_id": self.app.id, "workdir": "run", "parameters": {"name": "world"}}
        return JobCreate(**{**values, **fields})

    def submit_all(self, jobs: list[JobCreate], user: Principal | None = None) -> JobsCreated:
        return self.write(lambda tx: submit_jobs(tx, user or self.ada, JobsCreate(jobs=jobs), self.now))

    def submit(self, count: int = 1, **fields: Any) -> list[int]:
        return self.submit_all([self.job(**fields) for _ in range(count)]).ids

    def get(self, job_id: int, user: Principal | None = None) -> JobView:
        return self.read(lambda tx: jobs.get_job(tx, user or self.ada, job_id))

    def state(self, job_id: int) -> JobState:
        return self.get(job_id).state

    def page(self, user: Principal | None = None, **query: Any) -> list[JobView]:
        return self.read(lambda tx: jobs.list_jobs(tx, user or self.ada, JobQuery(**query))).results

    def count(self, user: Principal | None = None, **query: Any) -> int:
        found = self.read(lambda tx: jobs.list_jobs(tx, user or self.ada, JobQuery(**query, limit=0))).count
        if found is None:
            raise AssertionError("a list was answered without its count")
        return found

    def counts(self, user: Principal | None = None, **query: Any) -> dict[JobState, int]:
        return self.read(lambda tx: jobs.count_jobs(tx, user or self.ada, JobFilter(**query))).counts

    def events(self, job_id: int) -> list[EventView]:
        query = EventQuery(job_id=[job_id], ordering="timestamp")
        return self.read(lambda tx: events.list_events(tx, self.ada, query)).results

    def event_page(self, user: Principal | None = None, **query: Any) -> list[EventView]:
        return self.read(lambda tx: events.list_events(tx, user or self.ada, EventQuery(**query))).results

    def groups(self, by: str, *path: str, user: Principal | None = None, **query: Any) -> dict[Any, int]:
        """Numbers of Jobs by a value that can be a key."""
        message = JobGroupsQuery(by=by, path=list(path), **query)
        found = self.read(lambda tx: jobs.group_jobs(tx, user or self.ada, message))
        return {group.value: group.count for group in found.groups}

    def newest_events(self, limit: int, **query: Any) -> list[EventView]:
        message = EventQuery(limit=limit, **query)
        return self.read(lambda tx: events.list_events(tx, self.ada, message, with_count=False)).results

    def result(self, job_id: int, user: Principal | None = None) -> ResultView:
        return self.read(lambda tx: results.get_result(tx, user or self.ada, job_id))

    def results(self, ids: list[int], user: Principal | None = None) -> ResultsPage:
        return self.read(lambda tx: results.list_results(tx, user or self.ada, ResultsQuery(id=ids)))

    def _select(self, ids: list[int] | None) -> JobsSelect:
        return JobsSelect(filter=JobFilter(id=ids))

    def cancel(self, ids: list[int] | None = None, reason: str = "", user: Principal | None = None) -> JobsChanged:
        message = JobsCancel(filter=JobFilter(id=ids), reason=reason)
        return run(selection.cancel_selected(self.store, user or self.ada, message, self.now))

    def retry(self, ids: list[int] | None = None, user: Principal | None = None) -> JobsChanged:
        return run(selection.retry_selected(self.store, user or self.ada, self._select(ids), self.now))

    def delete(self, ids: list[int] | None = None, user: Principal | None = None) -> Deleted:
        return run(selection.delete_selected(self.store, user or self.ada, self._select(ids), self.now))

    # Launchers

    def open_session(
        self, kind: LeaseKind = LeaseKind.HEARTBEAT, batch_job_id: int | None = None, who: Principal | None = None
    ) -> SessionView:
        message = SessionCreate(site_id=self.site.id, batch_job_id=batch_job_id, kind=kind)
        return self.write(lambda tx: sessions.open_session(tx, who or self.agent(), message, self.now))

    def open_processing(self, who: Principal | None = None) -> SessionView:
        """The lease of the agent for the hooks that it runs."""
        message = SessionCreate(site_id=self.site.id, purpose=SessionPurpose.PROCESSING)
        return self.write(lambda tx: sessions.open_session(tx, who or self.agent(), message, self.now))

    def acquire_reply(
        self, session_id: int, max_jobs: int = 100, seq: int | None = None, **fields: Any
    ) -> AcquireReply:
        if seq is None:
            seq = self._acquire_seq[session_id] = self._acquire_seq.get(session_id, 0) + 1
        message = AcquireRequest(acquire_seq=seq, max_jobs=max_jobs, **fields)
        return self.write(lambda tx: acquire.acquire_jobs(tx, self.agent(), session_id, message, self.now))

    def acquire(self, session_id: int, max_jobs: int = 100, **fields: Any) -> list[GrantedJob]:
        return self.acquire_reply(session_id, max_jobs, **fields).jobs

    def record(self, session_id: int, job: GrantedJob, event: LaunchEvent, **fields: Any) -> ReportRecord:
        seq = self._report_seq[session_id] = self._report_seq.get(session_id, 0) + 1
        return ReportRecord(seq=seq, job_id=job.id, token=job.token, event=event, at=self.now, **fields)

    def send(self, session_id: int, *records: ReportRecord, who: Principal | None = None) -> ReportReply:
        message = Report(records=list(records))
        return self.write(lambda tx: report.report(tx, who or self.agent(), session_id, message, self.now))

    def tell(self, session_id: int, job: GrantedJob, *happened: LaunchEvent, **fields: Any) -> ReportReply:
        """Report what happened to a Job, in one call."""
        return self.send(session_id, *[self.record(session_id, job, event, **fields) for event in happened])

    def renew(self, session_id: int) -> RenewReply:
        return self.write(lambda tx: sessions.renew_session(tx, self.agent(), session_id, self.now))

    def close(self, session_id: int, *, lost: bool = False) -> None:
        message = SessionClose(lost=lost)
        self.write(lambda tx: sessions.close_session(tx, self.agent(), session_id, message, self.now))

    def sweep(self) -> int:
        return self.expiry.run_once(self.store, self.now)

    def pass_time(self, seconds: float, step: float = 10.0) -> int:
        """Let time pass with the sweep running as it does in the service; returns how many Sessions ended."""
        ended, end = 0, self.now + timedelta(seconds=seconds)
        while self.now < end:
            self.clock.advance(min(step, (end - self.now).total_seconds()))
            ended += self.sweep()
        return ended

    # Files

    def add_blob(self, content: bytes, who: Principal | None = None) -> str:
        """A blob that was sent; its bytes are nowhere."""
        name = hashlib.sha256(content).hexdigest()
        place = f"{name}.{self._secret('place')}"
        self.write(lambda tx: blobs.record(tx, who or self.ada, name, len(content), place, self.now))
        return name

    def content(self, content: bytes, who: Principal | None = None) -> SentContent:
        """One file of this content, sent."""
        name, size = self.add_blob(content, who), len(content)
        entry = ContentEntry(path="a.dat", size_bytes=size, mode=0o644, sha256=name, blob=name)
        return SentContent(is_tree=False, files=1, size_bytes=size, entries=[entry], blobs=[name])

    def transfers(self, **query: Any) -> list[TransferItemView]:
        message = TransferQuery(**query)
        return self.read(lambda tx: transfers.list_transfers(tx, self.ada, message)).results

    def tell_transfer(self, item_id: int, who: Principal | None = None, **patch: Any) -> TransfersPatched:
        message = TransfersPatch(patches={item_id: TransferPatch(**patch)})
        return self.write(lambda tx: transfers.report_transfers(tx, who or self.agent(), message, self.now))

    def collect(self, *item_ids: int) -> TransfersPatched:
        message = TransfersCollected(ids=list(item_ids))
        return self.write(lambda tx: transfers.collect_transfers(tx, self.ada, message, self.now))

    # BatchJobs

    def submit_batch_job(self, user: Principal | None = None, **fields: Any) -> BatchJobView:
        values: dict[str, Any] = {
            "site_id": self.site.id,
            "num_nodes": 1,
            "wall_time_min": 30,
            "job_mode": JobMode.MPI,
            "queue": "local",
            "project": "local",
        }
        message = BatchJobCreate(**{**values, **fields})
        return self.write(lambda tx: batch_jobs.create_batch_job(tx, user or self.ada, message, self.now))

    def backlog(self, tags: dict[str, str] | None = None, **query: Any) -> Backlog:
        """As the Site's agent asks for it."""
        asked = BacklogQuery(tags=[f"{key}:{value}" for key, value in (tags or {}).items()], **query)
        return self.read(lambda tx: backlog.site_backlog(tx, self.agent(), self.site.id, asked))

    def report_batch_job(self, batch_job_id: int, state: BatchJobState, **fields: Any) -> BatchJobView:
        patch = BatchJobPatch(state=state, **fields)
        return self.write(lambda tx: batch_jobs.patch_batch_job(tx, self.agent(), batch_job_id, patch, self.now))

    def drain(self, batch_job_id: int) -> BatchJobView:
        """As the user asks for it."""
        patch = BatchJobPatch(draining=True)
        return self.write(lambda tx: batch_jobs.patch_batch_job(tx, self.ada, batch_job_id, patch, self.now))


def run(call: Awaitable[T]) -> T:
    """The result of an asynchronous call."""

    async def finish() -> T:
        return await call

    return asyncio.run(finish())
