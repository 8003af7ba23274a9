"""What the command line does to a Site: make it, start and stop its agent, look how the agent is.

Every function takes the path of a directory in the Site (default: the one you stand in, or BALSAM_SITE_PATH) and raises
SiteError with what to do when it can't.
"""

import contextlib
import json
import os
import select
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from balsam.platform.processes import is_alive, send
from balsam.site.directory import SiteDirectory, SiteError, require_site
from balsam.site.init import InitializedSite, init_site
from balsam.site.lock import AgentStatus, is_locked, read_status
from balsam.site.logs import LOG_FILE
from balsam.site.move import refuse_supervised
from balsam.site.reload import ANSWER_SEC, ask_to_reload, running_agent, wait_for_answer
from balsam.wire.sites import SitePatch

__all__ = [
    "AgentStatus",
    "InitializedSite",
    "SyncedSite",
    "init_site",
    "site_status",
    "start_site",
    "stop_site",
    "sync_site",
]

START_SEC = 60.0
STOP_SEC = 20.0
_LOOK_AGAIN_SEC = 0.05
_READY_FD = 3


@dataclass(frozen=True, slots=True)
class SyncedSite:
    """What a Site offers from now on, and its agent; None when none runs."""

    offer: SitePatch
    agent: AgentStatus | None


def start_site(path: Path | None = None, *, foreground: bool = False, timeout_sec: float = START_SEC) -> AgentStatus:
    """Start the Site's agent; returns when it is up.

    In the background (default) the agent leaves this process and terminal behind. State `waiting` in the answer means
    that it runs and the service can't be reached yet. With `foreground` it runs here and returns when it was stopped.
    Raises SiteError when it can't start or another agent runs, SettingsError for a fault in settings.yml.
    """
    site = require_site(path)
    if is_locked(site):
        status = read_status(site)
        who = f"process {status.pid} on {status.hostname}" if status else "a process that did not leave its name"
        raise SiteError(f"the agent of {site.root} runs already: {who}")
    if foreground:
        return _run_here(site)
    site.log.mkdir(mode=0o700, exist_ok=True)
    read_end, write_end = os.pipe()
    try:
        pid = _spawn(site, write_end)
    finally:
        os.close(write_end)
    try:
        os.waitpid(pid, 0)  # only the short-lived parent of the agent
        return _hear(site, read_end, timeout_sec)
    finally:
        os.close(read_end)


def stop_site(path: Path | None = None, *, timeout_sec: float = STOP_SEC) -> bool:
    """Stop the agent and wait until it is gone; allocations run on. False when none was running.

    Raises SiteError when the agent is on another host, or does not end in time.
    """
    site = require_site(path)
    status = read_status(site)
    if status is None or (not is_locked(site) and not status.is_alive):
        return False
    refuse_supervised(status, site)
    if not status.is_of_this_host:
        raise SiteError(
            f"the agent of {site.root} runs on {status.hostname} as process {status.pid}; stop it there: "
            f"ssh {status.hostname} balsam site stop {site.root}"
        )
    if not send(status.process, signal.SIGTERM):
        return False
    deadline = time.monotonic() + timeout_sec
    while is_alive(status.process):
        if time.monotonic() >= deadline:
            raise SiteError(
                f"the agent (process {status.pid}) did not end within {timeout_sec:g} s; its log is "
                f"{site.log / LOG_FILE}. It may be killed at any time without harm: kill -9 {status.pid}"
            )
        time.sleep(_LOOK_AGAIN_SEC)
    return True


def site_status(path: Path | None = None) -> AgentStatus | None:
    """How the agent is; None when none runs. An agent on another host is told as it last wrote."""
    return running_agent(require_site(path))


def sync_site(path: Path | None = None, *, timeout_sec: float = ANSWER_SEC) -> SyncedSite:
    """Have settings.yml and job-template.sh take effect: the running agent begins anew with them, in its own process.

    Allocations, their launchers and Jobs are not touched. Without an agent the service is told what the Site offers.
    Raises SettingsError, ScriptError (nothing was changed then), SiteError.
    """
    from balsam.site.run import Plan, site_offer
    from balsam.site.service import ServiceAway, ServiceLink

    site = require_site(path)
    plan = Plan.read(site)
    offer = site_offer(site, plan.settings)
    if running_agent(site) is not None:
        return SyncedSite(offer, wait_for_answer(site, ask_to_reload(site, site.root), timeout_sec))
    link = ServiceLink.connect(site, plan.identity.id)
    try:
        link.update_site(offer)
    except ServiceAway as error:
        raise SiteError(f"no agent runs for {site.root}, and the service was not told: {error}") from error
    finally:
        link.close()
    return SyncedSite(offer, None)


def _run_here(site: SiteDirectory) -> AgentStatus:
    from balsam.site.run import run_agent

    run_agent(site, terminal=True, on_status=lambda status: None)
    status = read_status(site)
    if status is None:
        raise SiteError(f"{site.agent_status} is missing after the agent's end; see {site.log / LOG_FILE}")
    return status


def _spawn(site: SiteDirectory, ready: int) -> int:
    options = ["--site", str(site.root), "--background", "--ready-fd", str(_READY_FD)]
    words = [sys.executable, "-m", "balsam.site", *options]
    output = site.log / "agent.err"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    actions = [
        (os.POSIX_SPAWN_DUP2, ready, _READY_FD),
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(output), flags, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    return os.posix_spawn(sys.executable, words, os.environ, file_actions=actions)


def _hear(site: SiteDirectory, read_end: int, timeout_sec: float) -> AgentStatus:
    """How the start went, in the agent's own words."""
    if not select.select([read_end], [], [], timeout_sec)[0]:
        raise SiteError(f"the agent did not say within {timeout_sec:g} s that it is up; see {site.log / LOG_FILE}")
    line = os.read(read_end, 65536)
    content = {}
    with contextlib.suppress(ValueError):
        content = json.loads(line)
    if "error" in content:
        raise SiteError(f"the agent did not start: {content['error']}")
    if not content:
        raise SiteError(f"the agent died while it started:\n{_tail(site.log / 'agent.err')}")
    return AgentStatus(**content)


def _tail(path: Path) -> str:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    return "\n".join(lines[-10:]) or f"(nothing in {path})"
