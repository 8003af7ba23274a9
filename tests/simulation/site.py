"""The Site's agent in the simulation: the real BatchJobs, Allocations, Delivery, Submission and Ledger.

`SimAgent` does what `site/agent.py` does around them: one loop woken by pushes and by time. It may die at every crash
point of the shipping code, at every question to the scheduler, and in between; the next one goes on from the ledger.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from balsam.client.errors import BalsamError, Conflict, NotFound
from balsam.platform.scheduler.base import SchedulerUnavailable
from balsam.server.usecases import batch_job_lists
from balsam.server.usecases import batch_jobs as batch_job_cases
from balsam.site import ledger as ledger_module
from balsam.site.agent import FIRST_PAUSE_SEC, LONGEST_PAUSE_SEC
from balsam.site.ledger import Ledger
from balsam.site.service import MAX_PATCHES, OPEN_STATES, ServiceAway
from balsam.site.services import allocations as allocations_module
from balsam.site.services import batch_jobs as batch_jobs_module
from balsam.site.services import submission as submission_module
from balsam.site.services.allocations import Allocations
from balsam.site.services.batch_jobs import BatchJobs
from balsam.site.services.breaker import Breaker
from balsam.site.services.budget import Budget
from balsam.site.services.delivery import Delivery
from balsam.site.services.submission import Submission
from balsam.site.settings import BudgetSettings
from balsam.wire.batch_jobs import (
    BatchJobPatch,
    BatchJobQuery,
    BatchJobsPatch,
    BatchJobsPatched,
    BatchJobView,
)
from balsam.wire.limits import MAX_PAGE
from balsam.wire.sessions import Report, ReportReply
from balsam.wire.sites import JobTokenCreate, SiteToken
from tests.simulation.cluster import launcher_json
from tests.simulation.disk import SimPath
from tests.simulation.faults import AgentDies
from tests.simulation.hooks import WITH_CRASH_POINTS, SimHooks
from tests.simulation.kernel import Mailbox, NodeClock, Process, Task
from tests.simulation.service import SITE_TOKEN, LinkLost, Network

if TYPE_CHECKING:
    from tests.simulation.world import World

PERIOD_SEC = 30.0
SITE = "/site"


class _Link:
    """`SiteService` over the simulated network: each call is tried once."""

    def __init__(self, world: World, network: Network) -> None:
        self.world, self.network = world, network

    def _call(self, use: Any, *let: type[BalsamError]) -> Any:
        try:
            return self.network.call_at_once(SITE_TOKEN, use)
        except let:
            raise
        except (LinkLost, BalsamError) as error:
            raise ServiceAway(str(error)) from error

    def _page(self, **query: Any) -> list[BatchJobView]:
        message = BatchJobQuery(site_id=[self.world.service.site_id], limit=MAX_PAGE, **query)
        page = self._call(lambda tx, who, now: batch_job_lists.list_batch_jobs(tx, who, message))
        return list(page.results)

    def open_batch_jobs(self) -> list[BatchJobView]:
        return self._page(state=OPEN_STATES)

    def batch_jobs(self, ids: Iterable[int]) -> dict[int, BatchJobView]:
        wanted = sorted(ids)
        return {view.id: view for view in self._page(id=wanted)} if wanted else {}

    def report_batch_jobs(self, patches: Mapping[int, BatchJobPatch]) -> BatchJobsPatched:
        assert len(patches) <= MAX_PATCHES
        message = BatchJobsPatch(patches=dict(patches))
        return self._call(lambda tx, who, now: batch_job_cases.patch_batch_jobs(tx, who, message, now))

    def launcher_token(self, batch_job_id: int) -> SiteToken:
        def use(tx: Any, who: Any, now: Any) -> SiteToken:
            secret = self.world.service.secret()  # by the service, for each time it is carried out
            return batch_job_cases.issue_launcher_token(tx, who, batch_job_id, secret, now)

        return self._call(use)

    def job_token(self, batch_job_id: int, may_sync_apps: bool) -> SiteToken:
        def use(tx: Any, who: Any, now: Any) -> SiteToken:
            secret = self.world.service.secret()
            wanted = JobTokenCreate(may_sync_apps=may_sync_apps)
            return batch_job_cases.issue_job_token(tx, who, batch_job_id, wanted, secret, now)

        return self._call(use)

    def sessions(self) -> list[Any]:
        raise NotImplementedError("the agent's duties do not ask for it")

    def deliver(self, session_id: int, report: Report) -> ReportReply:
        return self._call(self.world.service.report(session_id, report), Conflict, NotFound)


class _Template:
    def render(self, values: Mapping[str, Any]) -> str:
        return str(values["launcher_cmd"])


def _settings() -> Any:
    queue = SimpleNamespace(max_nodes=4, max_walltime=600, max_queued_jobs=0)
    scheduler = SimpleNamespace(
        allowed_queues={"local": queue}, allowed_projects=["local"], optional_batch_job_params={}
    )
    return SimpleNamespace(scheduler=scheduler, filter_tags={}, apps=SimpleNamespace(accept="owner"))


class SimAgent(Process):
    """The agent's process on the login node."""

    def __init__(self, world: World, clock: NodeClock, network: Network) -> None:
        super().__init__(world.kernel, "agent")
        self.world = world
        self._wakes = Mailbox(world.kernel)
        directory = SimpleNamespace(root=SimPath(SITE), qsubmit=SimPath(f"{SITE}/qsubmit"))
        link = _Link(world, network)
        self.ledger = Ledger(directory.qsubmit, world.service.site_id)
        breaker = Breaker(clock)
        self.allocations = Allocations(self.ledger, world.cluster, clock, breaker.lives, breaker.ended)
        submission = Submission(
            directory,  # type: ignore[arg-type]
            _settings(),
            _Template(),  # type: ignore[arg-type]
            self.ledger,
            world.cluster,
            link,
            lambda: "sim",
            self._launcher_config,
            clock,
            breaker,
            Budget(BudgetSettings(), self.ledger.all_records),
        )
        deliver = Delivery(link, self.ledger.directory).deliver
        self.batch_jobs = BatchJobs(self.ledger, self.allocations, link, submission, deliver, clock)
        world.cluster.watch(lambda scheduler_id: self._wakes.put("scheduler"))
        self.spawn(self._work())
        self.hooks = SimHooks(world, self, clock, network) if world.profile.hooks else None

    def _launcher_config(self, view: BatchJobView, directory: object) -> str:
        return launcher_json(view.site_id, view.id, directory, self.world.lease_kind.value, view.num_nodes)

    def die(self) -> None:
        super().die()
        if self.hooks is not None:
            self.hooks.died()
        self.world.service.listeners.pop(("site", self.world.service.site_id), None)

    def _listen(self) -> None:
        """The stream of pushes; a broken one is opened again by the next listing."""
        key = ("site", self.world.service.site_id)
        if self.world.service.up and key not in self.world.service.listeners:
            self.world.service.listeners[key] = self._pushed
            if self.hooks is not None:
                self.hooks.heard("hello", {})

    def _pushed(self, event: str, data: Any) -> None:
        if self.hooks is not None:
            self.hooks.heard(event, data)
        if event != "cut":
            self._wakes.put("service")

    def _work(self) -> Task:
        """As `Agent._work`."""
        list_at = poll_at = 0.0
        pause_sec = FIRST_PAUSE_SEC
        reasons = {"start"}
        while True:
            now = self.kernel.now
            listing = "service" in reasons or now >= list_at
            polling = "scheduler" in reasons or (now >= poll_at and self.allocations.any_open)
            heard = self._pass(listing, polling)
            if listing:
                self._listen()
                list_at = now + PERIOD_SEC
            if polling:
                poll_at = now + PERIOD_SEC
            wait_sec = list_at - now
            if not heard or self.batch_jobs.has_unfinished_business:
                wait_sec, pause_sec = pause_sec, min(pause_sec * 2, LONGEST_PAUSE_SEC)
                if not heard:
                    list_at = min(list_at, now + wait_sec)
            else:
                pause_sec = FIRST_PAUSE_SEC
            if self.allocations.any_open:
                wait_sec = min(wait_sec, poll_at - now)
            yield self._wakes.wait(max(0.05, min(wait_sec, list_at - now)))
            reasons = set(self._wakes.take())

    def _pass(self, listing: bool, polling: bool) -> bool:
        self.world.disk.writer = "agent"
        try:
            return self.batch_jobs.run_once(listing=listing, polling=polling)
        except AgentDies:
            self.die()
            return False
        except (ServiceAway, OSError, SchedulerUnavailable) as error:
            self.world.say(f"a pass of the agent failed: {error!r}")
            return False


def patches(world: World) -> list[tuple[object, str, object]]:
    """What the agent's modules get instead of files and crash points."""

    def write_json(path: object, content: dict[str, Any]) -> None:
        world.disk.write_text(path, json.dumps(content, default=str))

    def write_credentials(path: object, url: str, token: str, follow: object = None) -> None:
        world.disk.write_text(path, json.dumps({"url": url, "token": token}))

    return [
        (ledger_module, "write_json", write_json),
        (submission_module, "write_secret_file", world.disk.write_text),
        (submission_module, "write_credentials", write_credentials),
        *((module, "crash_point", world.crash_point) for module in (*_OF_BATCH_JOBS, *WITH_CRASH_POINTS)),
    ]


_OF_BATCH_JOBS = (batch_jobs_module, allocations_module, submission_module)
