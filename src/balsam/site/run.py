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
from dataclasses import asdict
from pathlib import Path

from balsam.client.errors import BalsamError
from balsam.domain.clock import Clock, SystemClock
from balsam.platform.registry import SCHEDULERS
from balsam.platform.scheduler.base import Scheduler, SchedulerConfig
from balsam.site.agent import Agent
from balsam.site.crash_points import crash_point
from balsam.site.directory import SiteDirectory
from balsam.site.launcher_config import launcher_config_maker
from balsam.site.ledger import Ledger
from balsam.site.lock import AgentLock, AgentStatus
from balsam.site.logs import start_logging
from balsam.site.service import ServiceLink
from balsam.site.services.allocations import Allocations
from balsam.site.services.batch_jobs import BatchJobs
from balsam.site.services.delivery import Delivery
from balsam.site.services.files import Files
from balsam.site.services.script import JobTemplate
from balsam.site.services.submission import Submission
from balsam.site.settings import Settings
from balsam.site.settings_file import load_settings
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
    options = parser.parse_args(argv)
    if options.background:
        _leave_parent()
    for name in _NOT_FOR_CHILDREN:
        os.environ.pop(name, None)
    told = _Told(options.ready_fd)
    try:
        run_agent(SiteDirectory(options.site.resolve()), terminal=not options.background, on_status=told.status)
    except (BalsamError, ValueError, OSError) as error:
        log.error("the agent ends: %s", error)
        told.failed(str(error))
        return 1
    except Exception:
        log.exception("the agent ends")
        told.failed("unexpected error; see log/agent.log")
        raise
    return 0


def run_agent(site: SiteDirectory, *, terminal: bool, on_status: Callable[[AgentStatus], None]) -> None:
    """Be the Site's agent until SIGTERM or SIGINT. Raises SiteError, SettingsError and their like."""
    identity = site.identity()
    settings = load_settings(site.settings)
    os.chdir(site.root)
    start_logging(site, settings.logging, terminal=terminal)
    lock = AgentLock.take(site)
    try:
        link = ServiceLink.connect(site, identity.id)
        agent = build_agent(site, settings, lock, link, SystemClock(), on_status)
        log.info("agent of Site %s (%d) at %s starts", identity.name, identity.id, link.url)
        _obey_signals(agent)
        agent.run()
        log.info("agent stopped; allocations run on")
    finally:
        lock.release()


def build_agent(
    site: SiteDirectory,
    settings: Settings,
    lock: AgentLock,
    link: ServiceLink,
    clock: Clock,
    on_status: Callable[[AgentStatus], None],
    scheduler: Scheduler | None = None,
) -> Agent:
    """The parts put together; `scheduler` in place of the one that the settings name. Raises ScriptError."""
    for directory in (site.data, site.log, site.qsubmit):
        directory.mkdir(mode=0o700, exist_ok=True)
    template = JobTemplate.read(site.root / settings.scheduler.job_template_path)
    if scheduler is None:
        make = SCHEDULERS.load(settings.scheduler.scheduler_class)
        scheduler = make(SchedulerConfig(submit_dir=site.qsubmit, clock=clock, crash_point=crash_point))
    ledger = Ledger(site.qsubmit, link.site_id)
    allocations = Allocations(ledger, scheduler, clock)
    make_config = launcher_config_maker(site, settings, link.site_id)
    submission = Submission(site, settings, template, ledger, scheduler, link, lambda: link.url, make_config)
    delivery = Delivery(link, ledger.directory)
    return Agent(
        lock=lock,
        link=link,
        scheduler=scheduler,
        batch_jobs=BatchJobs(ledger, allocations, link, submission, delivery.deliver, clock),
        allocations=allocations,
        submission=submission,
        files=Files(site.data, link.reply_file, clock),
        offer=site_offer(site, settings),
        sync_period_sec=settings.scheduler.sync_period,
        clock=clock,
        on_status=on_status,
    )


def site_offer(site: SiteDirectory, settings: Settings) -> SitePatch:
    """What the service may know of a Site, for early refusals; the Site checks again (S15)."""
    scheduler = settings.scheduler
    return SitePatch(
        path=str(site.root),
        hostname=socket.gethostname(),
        allowed_projects=list(scheduler.allowed_projects),
        allowed_queues={name: QueueLimits(**queue.model_dump()) for name, queue in scheduler.allowed_queues.items()},
        optional_batch_job_params=dict(scheduler.optional_batch_job_params),
    )


class _Told:
    """Whoever started this agent, waiting at the other end of a pipe for one line."""

    def __init__(self, handle: int | None) -> None:
        self._handle = handle
        self._last = ""

    def status(self, status: AgentStatus) -> None:
        if status.state not in (self._last, "starting"):
            log.info("agent is %s%s", status.state, f": {status.detail}" if status.detail else "")
            self._write(asdict(status))
        self._last = status.state

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


def _obey_signals(agent: Agent) -> None:
    def stop(signum: int, frame: object) -> None:
        agent.stop()
        hurry = threading.Timer(STOP_SEC, os._exit, (0,))
        hurry.daemon = True
        hurry.start()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)


if __name__ == "__main__":
    sys.exit(main())
