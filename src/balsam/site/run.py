"""The agent's process: puts the parts together, obeys signals, and says when it is up.

`python -m balsam.site --site DIR` stays in the foreground (`balsam site start --foreground`, `balsam up`). With
`--background` it leaves the terminal and its parent behind, and tells through `--ready-fd` how the start went.
"""

import argparse
import contextlib
import json
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote

from balsam.client.errors import BalsamError
from balsam.client.pickling import python_version
from balsam.domain.clock import Clock, SystemClock
from balsam.domain.transfers import CLIENT
from balsam.platform.registry import SCHEDULERS
from balsam.platform.scheduler.base import Scheduler, SchedulerConfig, SchedulerUnavailable
from balsam.site.agent import Agent
from balsam.site.crash_points import crash_point
from balsam.site.directory import SiteDirectory, SiteError, SiteIdentity
from balsam.site.former_paths import remove_former_paths
from balsam.site.job_duties import make_cleaner, make_processing
from balsam.site.launcher_config import launcher_config_maker
from balsam.site.ledger import Ledger
from balsam.site.lock import AgentLock, AgentStatus
from balsam.site.logs import start_logging
from balsam.site.reload import LOOK_SIGNAL, pending_request
from balsam.site.scaling_duties import make_scaling
from balsam.site.service import ServiceLink
from balsam.site.services.allocations import Allocations
from balsam.site.services.batch_jobs import BatchJobs
from balsam.site.services.breaker import Breaker
from balsam.site.services.budget import Budget
from balsam.site.services.delivery import Delivery
from balsam.site.services.files import Files
from balsam.site.services.last_words import last_words
from balsam.site.services.script import JobTemplate
from balsam.site.services.submission import Submission
from balsam.site.services.transfers import TransferLimits, Transfers
from balsam.site.settings import Settings, TransferSettings
from balsam.site.settings_environment import in_effect
from balsam.site.settings_file import load_settings
from balsam.transfer.base import TransferBackend
from balsam.transfer.locations import GlobusHere, open_location
from balsam.transfer.service import ServiceBackend
from balsam.wire.sites import QueueLimits, SitePatch

log = logging.getLogger(__name__)

# After a SIGTERM the agent gets so long for a request that is under way; it may die at any instant anyway (L4).
STOP_SEC = 5.0
# Tokens and patience of the person who starts the agent have no business in what the agent starts.
_NOT_FOR_CHILDREN = ("BALSAM_TOKEN", "BALSAM_URL", "BALSAM_CLIENT_PATH", "BALSAM_RETRY_FOR_SEC")


def main(argv: list[str] | None = None) -> int:
    """Exit code 0 after a stop that was asked for, 1 when the agent could not run."""
    parser = argparse.ArgumentParser(prog="python -m balsam.site", description="The agent of a Site.")
    parser.add_argument("--site", type=Path, required=True, metavar="DIR", help="the Site's directory")
    parser.add_argument("--background", action="store_true", help="leave terminal and parent")
    parser.add_argument("--ready-fd", type=int, metavar="N", help="tell there how the start went, in one line of JSON")
    parser.add_argument("--supervised", action="store_true", help="the parent starts it again when it ends")
    options = parser.parse_args(argv)
    if options.background:
        _leave_parent()
    for name in _NOT_FOR_CHILDREN:
        os.environ.pop(name, None)
    told = _Told(options.ready_fd)
    try:
        site, terminal = SiteDirectory(options.site.resolve()), not options.background
        run_agent(site, terminal=terminal, on_status=told.status, supervised=options.supervised)
    except (BalsamError, ValueError, OSError) as error:
        log.error("the agent ends: %s", error)
        told.failed(str(error))
        return 1
    except Exception:
        log.exception("the agent ends")
        told.failed("unexpected error; see log/agent.log")
        raise
    return 0


def run_agent(
    site: SiteDirectory, *, terminal: bool, on_status: Callable[[AgentStatus], None], supervised: bool = False
) -> None:
    """Be the Site's agent until SIGTERM or SIGINT. Raises SiteError, SettingsError and their like."""
    plan = Plan.read(site)
    start_logging(site, plan.settings.logging, terminal=terminal)
    lock = AgentLock.take(site, supervised)
    try:
        reloads = _Reloads(lock, plan)
        signals = _Signals()
        while reloads.begin_anew or signals.agent is None:
            plan = reloads.take()
            os.chdir(plan.site.root)
            start_logging(plan.site, plan.settings.logging, terminal=terminal)
            link = ServiceLink.connect(plan.site, plan.identity.id)
            agent = build_agent(plan, lock, link, SystemClock(), _logged(on_status), reload_wanted=reloads.wanted)
            log.info("agent of Site %s (%d) at %s starts", plan.identity.name, plan.identity.id, link.url)
            signals.obeyed_by(agent)
            agent.run()
        log.info("agent stopped; allocations run on")
    finally:
        lock.release()


@dataclass(frozen=True, slots=True)
class Plan:
    """What an agent is made of, read and checked before anything is started or stopped for it."""

    site: SiteDirectory
    identity: SiteIdentity
    settings: Settings
    template: JobTemplate

    @classmethod
    def read(cls, site: SiteDirectory) -> "Plan":
        """Raises SiteError, SettingsError, ScriptError."""
        settings, _ = in_effect(load_settings(site.settings), os.environ)
        template = JobTemplate.read(site.root / settings.scheduler.job_template_path)
        return cls(site, site.identity(), settings, template)


class _Reloads:
    """Wishes to begin anew: each is checked, answered, and kept until the present agent has ended."""

    def __init__(self, lock: AgentLock, plan: Plan) -> None:
        self._lock = lock
        self._plan = plan
        self.begin_anew = False

    def take(self) -> Plan:
        """What the next agent is made of."""
        self.begin_anew = False
        return self._plan

    def wanted(self) -> bool:
        """Whether the agent is to end for another one; a wish that can't be fulfilled is refused."""
        request = pending_request(self._plan.site, self._lock.answered)
        if request is None:
            return False
        site = SiteDirectory(Path(request.root))
        try:
            plan = Plan.read(site)
            if plan.identity.id != self._plan.identity.id:
                raise SiteError(f"{site.root} is Site {plan.identity.id}, not {self._plan.identity.id}")
            make_scheduler(plan, SystemClock()).close()
        except (SiteError, SchedulerUnavailable, ValueError, OSError) as error:
            log.error("the settings are not loaded again: %s", error)
            self._lock.answer(request.number, str(error))
            return False
        self._plan, self.begin_anew = plan, True
        self._lock.answer(request.number)
        self._lock.move_to(site)
        log.info("beginning anew in %s with the settings that are there", site.root)
        return True


def build_agent(
    plan: Plan,
    lock: AgentLock,
    link: ServiceLink,
    clock: Clock,
    on_status: Callable[[AgentStatus], None],
    scheduler: Scheduler | None = None,
    reload_wanted: Callable[[], bool] = lambda: False,
) -> Agent:
    """The parts put together; `scheduler` in place of the one that the settings name."""
    site, settings = plan.site, plan.settings
    for directory in (site.data, site.log, site.qsubmit):
        directory.mkdir(mode=0o700, exist_ok=True)
    scheduler = scheduler or make_scheduler(plan, clock)
    ledger = Ledger(site.qsubmit, link.site_id)
    breaker, budget = Breaker(clock), Budget(settings.budget, ledger.all_records)
    allocations = Allocations(
        ledger, scheduler, clock, breaker.lives, breaker.ended, lambda entry: last_words(ledger.output(entry))
    )
    make_config = launcher_config_maker(site, settings, link.site_id)
    submission = Submission(
        site, settings, plan.template, ledger, scheduler, link, lambda: link.url, make_config, clock, breaker, budget
    )
    delivery = Delivery(link, ledger.directory)
    return Agent(
        lock=lock,
        link=link,
        scheduler=scheduler,
        batch_jobs=BatchJobs(ledger, allocations, link, submission, delivery.deliver, clock),
        allocations=allocations,
        submission=submission,
        files=Files(site.data, link.reply_file, clock),
        transfers=_transfers(site, settings.transfers, link, clock),
        processing=make_processing(site, settings, link, clock),
        cleaner=make_cleaner(site, settings, link),
        scaling=make_scaling(site, settings, link, scheduler, ledger, breaker, budget, clock),
        offer=site_offer(site, settings),
        sync_period_sec=settings.scheduler.sync_period,
        clock=clock,
        on_status=on_status,
        reload_wanted=reload_wanted,
        tidy_up=lambda: remove_former_paths(site, {entry.batch_job_id for entry in ledger}),
    )


def make_scheduler(plan: Plan, clock: Clock) -> Scheduler:
    """The scheduler that the settings name. Raises SchedulerUnavailable or ValueError when it can't work here."""
    make: Callable[[SchedulerConfig], Scheduler] = SCHEDULERS.load(plan.settings.scheduler.scheduler_class)
    return make(SchedulerConfig(plan.site.qsubmit, plan.settings.scheduler.scheduler_options, clock, crash_point))


def site_offer(site: SiteDirectory, settings: Settings) -> SitePatch:
    """What the service may know of a Site, for early refusals; the Site checks again (S15)."""
    scheduler = settings.scheduler
    return SitePatch(
        path=str(site.root),
        hostname=socket.gethostname(),
        allowed_projects=list(scheduler.allowed_projects),
        allowed_queues={name: QueueLimits(**queue.model_dump()) for name, queue in scheduler.allowed_queues.items()},
        optional_batch_job_params=dict(scheduler.optional_batch_job_params),
        transfer_locations={} if settings.transfers is None else settings.transfers.offered,
        python=python_version(),
    )


def _transfers(site: SiteDirectory, settings: TransferSettings | None, link: ServiceLink, clock: Clock) -> Transfers:
    """The back ends of the locations that the settings name; none of them without the section (S15)."""
    if settings is None:
        return Transfers(link, {}, TransferLimits(), clock)
    globus = GlobusHere(
        settings.globus_endpoint_id or "", settings.globus_endpoint_site_path or str(site.root), site.globus_tokens
    )
    backends: dict[str, TransferBackend] = {
        alias: open_location(url, site.data, site.spool / f"to-{quote(alias, safe='')}", globus)
        for alias, url in settings.transfer_locations.items()
    }
    if settings.client:
        backends[CLIENT] = ServiceBackend(site.data, link.blobs())
    limits = TransferLimits(
        max_concurrent=settings.max_concurrent_transfers,
        batch_size=settings.transfer_batch_size,
        query_limit=settings.num_items_query_limit,
        period_sec=settings.service_period,
        retry_for_sec=settings.retry_for_min * 60,
    )
    return Transfers(link, backends, limits, clock)


def _logged(on_status: Callable[[AgentStatus], None]) -> Callable[[AgentStatus], None]:
    """As `on_status`, and a line in the log when the agent runs, waits for the service, or stops."""
    last = ""

    def status(status: AgentStatus) -> None:
        nonlocal last
        if status.state not in (last, "starting"):
            log.info("agent is %s%s", status.state, f": {status.detail}" if status.detail else "")
        last = status.state
        on_status(status)

    return status


class _Told:
    """Whoever started this agent, waiting at the other end of a pipe for one line."""

    def __init__(self, handle: int | None) -> None:
        self._handle = handle

    def status(self, status: AgentStatus) -> None:
        if status.state != "starting":
            self._write(asdict(status))

    def failed(self, error: str) -> None:
        self._write({"error": error})

    def _write(self, content: dict[str, object]) -> None:
        if self._handle is None:
            return
        handle, self._handle = self._handle, None
        with contextlib.suppress(OSError):
            os.write(handle, json.dumps(content).encode() + b"\n")
        os.close(handle)


def _leave_parent() -> None:
    """A session of its own and no parent that must wait for it. Nothing has been started in this process yet."""
    os.setsid()
    if os.fork():
        os._exit(0)


class _Signals:
    """SIGTERM and its like end the agent of the moment, and every later one; LOOK_SIGNAL makes it look for wishes.

    A thread hears of them through a pipe that is written to the moment a signal arrives: the main thread, on its way
    into a wait, would run a handler only after it.
    """

    def __init__(self) -> None:
        self.agent: Agent | None = None
        self._stopped = False
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, LOOK_SIGNAL):
            signal.signal(number, lambda *_: None)
        threading.Thread(target=self._listen, args=(reader,), name="signals", daemon=True).start()

    def _listen(self, reader: int) -> None:
        while True:
            for number in os.read(reader, 64):
                if number == LOOK_SIGNAL:
                    self._look()
                else:
                    self._stop()

    def obeyed_by(self, agent: Agent) -> None:
        self.agent = agent
        if self._stopped:
            agent.stop()

    def _stop(self) -> None:
        self._stopped = True
        if self.agent is not None:
            self.agent.stop()
        hurry = threading.Timer(STOP_SEC, os._exit, (0,))
        hurry.daemon = True
        hurry.start()

    def _look(self) -> None:
        if self.agent is not None:
            self.agent.look()


if __name__ == "__main__":
    sys.exit(main())
