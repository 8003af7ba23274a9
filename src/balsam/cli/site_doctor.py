"""`balsam site doctor`: look at everything a Site needs, and say what to do. `balsam doctor` includes it."""

import os
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from balsam.cli.findings import Finding, guarded, show
from balsam.cli.output import counted, json_option
from balsam.cli.table import age

if TYPE_CHECKING:
    from balsam.site.directory import SiteDirectory
    from balsam.site.run import Plan

LOW_DISK_BYTES = 1_000_000_000


@click.command("doctor")
@click.argument("path", type=click.Path(path_type=Path), required=False)
@json_option
def doctor(path: Path | None, as_json: bool) -> None:
    """Check all that the Site in PATH (default: the Site you stand in) needs; exit code 1 when something does not work.

    Nothing is changed and nothing is submitted.
    """
    from balsam.site.directory import require_site

    site = require_site(path)
    site.identity()
    show(list(findings_of(site)), as_json=as_json)


def findings_of(site: "SiteDirectory") -> Iterator[Finding]:
    """Everything about one Site."""
    identity = site.identity()
    yield Finding("site", "ok", f"{identity.name} (id {identity.id}) of {identity.url} in {site.root}")
    yield from guarded("directories", partial(_directories, site))
    plan: list[Plan] = []
    yield from guarded("settings", partial(_settings, site, plan))
    if plan:
        yield from guarded("scheduler", partial(_scheduler, plan[0]))
        yield from guarded("MPI", partial(_mpi, plan[0]))
    yield from guarded("service", partial(_service, site))
    yield from guarded("agent", partial(_agent, site))


def _directories(site: "SiteDirectory") -> Iterator[Finding]:
    closed = [path for path in (site.root, site.data, site.log, site.qsubmit) if not _takes_files(path)]
    for path in closed:
        yield Finding("directories", "problem", f"{path} can't be written to", f"chmod u+rwx {path}")
    free = shutil.disk_usage(site.root).free
    said = f"{free / 1e9:.1f} GB are free in {site.root}"
    if free < LOW_DISK_BYTES:
        yield Finding("disk", "warning", said, "remove workdirs below data/ that are not needed any more")
    elif not closed:
        yield Finding("directories", "ok", said)


def _takes_files(path: Path) -> bool:
    return not path.exists() or os.access(path, os.R_OK | os.W_OK | os.X_OK)


def _settings(site: "SiteDirectory", plan: "list[Plan]") -> Iterator[Finding]:
    """Also fills `plan`, for the checks that need settings."""
    from balsam.site.run import Plan
    from balsam.site.services.script import ScriptError
    from balsam.site.settings_file import SettingsError, load_settings

    try:
        load_settings(site.settings)
    except SettingsError as error:
        yield Finding(
            "settings", "problem", str(error), "correct the lines; every setting: balsam site sample-settings"
        )
        return
    yield Finding("settings", "ok", str(site.settings))
    try:
        plan.append(Plan.read(site))
    except ScriptError as error:
        yield Finding("template", "problem", str(error), "correct the line; nothing can be submitted before")
        return
    yield Finding("template", "ok", str(plan[0].template.path))
    scheduler = plan[0].settings.scheduler
    for what, allowed in (("queues", scheduler.allowed_queues), ("projects", scheduler.allowed_projects)):
        if not allowed:
            said = f"settings.yml allows no {what}: every allocation is refused"
            yield Finding(what, "problem", said, f"put yours into scheduler.allowed_{what}, then: balsam site sync")


def _scheduler(plan: "Plan") -> Iterator[Finding]:
    from balsam.domain.clock import SystemClock
    from balsam.platform.scheduler.base import SchedulerUnavailable
    from balsam.site.run import make_scheduler

    name = plan.settings.scheduler.scheduler_class
    try:
        scheduler = make_scheduler(plan, SystemClock())
    except (SchedulerUnavailable, ValueError) as error:
        yield Finding("scheduler", "problem", f"{name}: {error}", "is its software on PATH on this machine?")
        return
    try:
        known, live = scheduler.queues(), scheduler.jobs()
    except SchedulerUnavailable as error:
        yield Finding("scheduler", "problem", f"{name} does not answer: {error}", "ask it yourself, then try again")
        return
    finally:
        scheduler.close()
    yield Finding("scheduler", "ok", f"{name} answers; it has {counted(len(live), 'allocation')} of this Site")
    for queue, allowed in plan.settings.scheduler.allowed_queues.items():
        if not known:  # a scheduler without queues of its own
            return
        limits = known.get(queue)
        if limits is None:
            there = ", ".join(sorted(known))
            yield Finding("queues", "problem", f"{name} has no {queue!r}; it has: {there}", _WHERE_QUEUES)
        elif not limits.is_open:
            yield Finding("queues", "warning", f"{queue} takes no submissions now")
        elif limits.max_nodes is not None and allowed.max_nodes > limits.max_nodes:
            more = f"{queue} gives at most {limits.max_nodes} nodes, and settings.yml allows {allowed.max_nodes}"
            yield Finding("queues", "warning", more, _WHERE_QUEUES)
        elif limits.max_wall_time_min is not None and allowed.max_walltime > limits.max_wall_time_min:
            longer = f"{limits.max_wall_time_min} min, and settings.yml allows {allowed.max_walltime}"
            yield Finding("queues", "warning", f"{queue} gives at most {longer}", _WHERE_QUEUES)
        else:
            yield Finding("queues", "ok", queue)


_WHERE_QUEUES = "correct scheduler.allowed_queues in settings.yml"


def _mpi(plan: "Plan") -> Iterator[Finding]:
    from balsam.platform.mpirun.detect import MpiRunMissing, as_in_allocation, detect
    from balsam.platform.registry import SCHEDULERS

    scheduler = SCHEDULERS.plain_name(plan.settings.scheduler.scheduler_class)
    try:
        found = detect(plan.settings.mpirun_name, as_in_allocation(scheduler, os.environ))
    except MpiRunMissing as error:
        if scheduler == "local":
            raise
        yield Finding("MPI", "warning", f"{error}", "not needed on this host, but in job-template.sh")
        return
    yield Finding("MPI", "ok", found.reason)


def _service(site: "SiteDirectory") -> Iterator[Finding]:
    from balsam.domain.lease import SessionPurpose
    from balsam.site.service import ServiceAway, ServiceLink

    link = ServiceLink.connect(site, site.identity().id)
    try:
        row, sessions = link.site(), link.sessions()
    except ServiceAway as error:
        yield Finding("service", "problem", str(error), "is the service up? The agent goes on once it answers")
        return
    finally:
        link.close()
    launchers = sum(session.purpose is SessionPurpose.RUN for session in sessions)
    said = f"{link.url} takes this Site's token; launchers that report to it now: {launchers}"
    yield Finding("service", "ok", said)
    here = str(site.root)
    if row.path != here:
        told = f"the service knows the directory as {row.path}, and this is {here}"
        yield Finding("path", "warning", told, f"balsam site mv {here} {here}")
    if not row.is_active:
        heard = "never" if row.last_refresh is None else f"last {age(row.last_refresh)} ago"
        asleep = f"the service takes the Site for asleep; it heard its agent {heard}"
        yield Finding("asleep", "warning", asleep, "see the line about the agent")


def _agent(site: "SiteDirectory") -> Iterator[Finding]:
    from balsam.site.lock import read_status
    from balsam.site.reload import running_agent

    status = running_agent(site)
    if status is None:
        last = read_status(site)
        before = "" if last is None or not last.detail else f"; the last one ended: {last.detail}"
        yield Finding("agent", "warning", f"none runs{before}", f"balsam site start {site.root}")
        return
    who = f"process {status.pid} on {status.hostname}"
    if status.state == "running":
        yield Finding("agent", "ok", who)
    else:
        yield Finding("agent", "warning", f"{who} is {status.state}: {status.detail}", f"see {site.log / 'agent.log'}")
    if status.refusal:
        yield Finding("agent", "warning", f"it goes on with old settings: {status.refusal}", "balsam site sync")
