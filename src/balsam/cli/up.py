"""`balsam up`: a service and a local Site under one supervisor, for a person with a laptop.

Starts both as child processes on loopback, restarts either when it dies, and on SIGINT or SIGTERM ends the local
allocations, then the agent, then the service, so that no process is left. It goes on restarting them until the
allocations ended; when that takes too long, or at a second signal, the scheduler ends them without service and agent.
State lives under BALSAM_HOME; the port is remembered there, so that a client finds the service again after a restart.
"""

import fcntl
import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from balsam.cli.output import json_option, print_json
from balsam.domain.states import BATCH_JOB_ENDED, BatchJobState

if TYPE_CHECKING:
    from balsam.cli.supervisor import Child, Supervisor
    from balsam.client.client import Client
    from balsam.client.settings import ClientSettings
    from balsam.site.control import InitializedSite

# Longer than a launcher takes for Jobs that ignore SIGTERM and for the delivery of what they did.
END_ALLOCATIONS_SEC = 60.0
START_PATIENCE_SEC = 10.0
# While it ends: a call that hangs keeps the supervisor from starting again what the call waits for.
END_PATIENCE_SEC = {"retry_for_sec": 0.5, "connect_timeout_sec": 1.0, "read_timeout_sec": 4.0}


@click.command()
@click.option("--port", type=click.IntRange(0, 65_535), help="0 takes a free port. [default: the last one, or free]")
@click.option(
    *("--site", "site_path"),
    type=click.Path(path_type=Path),
    help="Site directory. [default: the last one, or BALSAM_HOME/site]",
)
@click.option("--name", default="local", show_default=True, help="Name of the Site, when it is created now.")
@json_option
def up(port: int | None, site_path: Path | None, name: str, as_json: bool) -> None:
    """Run a service and a local Site in this terminal until Ctrl-C.

    With --json: prints one line once ready, {"url": ..., "site": {"id": ..., "name": ..., "path": ...}}.
    """
    from balsam.client.credentials import balsam_home

    home = balsam_home()
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    site_dir = (site_path or Path(_remembered().get("site") or home / "site")).resolve()
    with _only_one(home):
        status = _run(home, port, site_dir, name, as_json)
    sys.exit(status)


def _run(home: Path, port: int | None, site_dir: Path, name: str, as_json: bool) -> int:
    from balsam.cli.supervisor import Child, Supervisor
    from balsam.client.browser import browser_link
    from balsam.client.credentials import SERVICE_FILE, read_mapping

    log_dir = home / "log"
    log_dir.mkdir(mode=0o700, exist_ok=True)
    wanted_port = int(_remembered().get("port") or 0) if port is None else port
    service_log = log_dir / "service.log"
    service = Child("service", _service_command(home, wanted_port, service_log), service_log)
    with Supervisor(on_event=lambda text: click.echo(f"balsam up: {text}", err=True)) as supervisor:
        supervisor.start(service)
        running = supervisor.wait_until(service, lambda: _is_of(read_mapping(home / SERVICE_FILE), service.pid))
        # A restarted service must be found where the clients know it.
        service.command = _service_command(home, _port_of(running["url"]), service_log)
        _remember(port=_port_of(running["url"]), site=str(site_dir))
        client = _client(_service_settings(home), {"retry_for_sec": START_PATIENCE_SEC})
        site = _make_site(client, site_dir, name)
        agent = Child("agent", _agent_command(site.path), log_dir / "agent.log")
        supervisor.start(agent)
        ready = {"url": running["url"], "site": _facts(site)}
        status = _stay_up(supervisor, agent, ready, as_json, partial(browser_link, client.transport, running["url"]))
        _shut_down(supervisor, client, site, agent, service)
    return status


def _stay_up(
    supervisor: "Supervisor", agent: "Child", ready: dict[str, Any], as_json: bool, link: Callable[[], str]
) -> int:
    """Until a signal; 130 when that came before all was ready."""
    from balsam.site.control import site_status

    site = Path(ready["site"]["path"])
    try:
        supervisor.wait_until(agent, lambda: (status := site_status(site)) and status.pid == agent.pid)
    except click.Abort:  # the agent may already look after allocations of an earlier start: they are ended as well
        return 130
    _say_ready(ready, as_json, link)
    supervisor.run_until_signal()
    return 0


def _facts(site: "InitializedSite") -> dict[str, Any]:
    return {"id": site.id, "name": site.name, "path": str(site.path)}


def _shut_down(
    supervisor: "Supervisor", client: "Client", site: "InitializedSite", agent: "Child", service: "Child"
) -> None:
    """End allocations, agent and service, in this order; no process is left behind (S9).

    Launchers drain, report and end while service and agent hear them. What is left then the scheduler ends by itself.
    """
    from balsam.site.leftovers import end_leftovers

    hasty = _client(client.settings, END_PATIENCE_SEC)
    if not supervisor.run_until(lambda: _allocations_ended(hasty, site.id), END_ALLOCATIONS_SEC):
        why = "a second signal" if supervisor.is_hurried else f"they did not end within {END_ALLOCATIONS_SEC:.0f} s"
        supervisor.on_event(f"not waiting for the allocations any longer: {why}")
    hasty.close()
    supervisor.stop(agent)
    end_leftovers(site.path, lambda count: supervisor.on_event(f"the scheduler ends {count} allocation(s) by force"))
    supervisor.stop(service)


def _service_settings(home: Path) -> "ClientSettings":
    """Those of our own service, whatever other login this user has."""
    from balsam.client.credentials import SERVICE_FILE
    from balsam.client.settings import ClientSettings

    return ClientSettings.load_from_file(home / SERVICE_FILE)


def _client(settings: "ClientSettings", patience: Mapping[str, Any]) -> "Client":
    from balsam.client.client import Client

    return Client(replace(settings, **patience))


def _make_site(client: "Client", site_dir: Path, name: str) -> "InitializedSite":
    """The Site; one that exists keeps its name."""
    from balsam.site.control import init_site
    from balsam.site.directory import SiteDirectory

    exists = SiteDirectory(site_dir).marker.exists()
    return init_site(site_dir, None if exists else name, transport=client.transport)


def _allocations_ended(client: "Client", site_id: int) -> bool:
    """Whether the Site has no live allocation; asks for the end of those it has. False while nobody answers."""
    from balsam.client.errors import BalsamError

    live = [state for state in BatchJobState if state not in BATCH_JOB_ENDED]
    try:
        found = list(client.BatchJob.objects.filter(site_id=site_id, state=live))
        for batch_job in found:
            if batch_job.state is not BatchJobState.PENDING_DELETION:
                batch_job.cancel()
    except BalsamError:  # the service is on its way back, or will not come back: the caller has the time
        return False
    return not found


def _service_command(home: Path, port: int, log: Path) -> list[str]:
    where = ["--data-dir", str(home / "service"), "--log-file", str(log)]
    return [sys.executable, "-m", "balsam.server", "--host", "127.0.0.1", "--port", str(port), *where]


def _agent_command(site: Path) -> list[str]:
    return [sys.executable, "-m", "balsam.site", "--site", str(site), "--supervised"]


def _say_ready(ready: dict[str, Any], as_json: bool, link: Callable[[], str]) -> None:
    if as_json:
        print_json(ready)
        return
    site = ready["site"]
    click.echo(f"Service at {ready['url']} (API: {ready['url']}/docs)")
    click.echo(f"In a browser, once within five minutes: {link()} (a new link: balsam open)")
    click.echo(f"Site {site['name']} (id {site['id']}) in {site['path']}")
    click.echo("Ready; Ctrl-C stops both.")


def _is_of(service_file: dict[str, Any] | None, pid: int) -> dict[str, Any] | None:
    """The service file, once it was written by the process with this pid."""
    return service_file if service_file is not None and service_file.get("pid") == pid else None


def _port_of(url: str) -> int:
    return int(url.rpartition(":")[2].strip("/"))


def follow_site(old: Path, new: Path) -> None:
    """The Site of the last start has moved: the next start finds it there."""
    if _remembered().get("site") == str(old):
        _remember(site=str(new))


def _remembered() -> dict[str, Any]:
    """Port and Site of the last start."""
    from balsam.client.credentials import balsam_home

    try:
        content = json.loads((balsam_home() / "up.json").read_text())
        return {"port": int(content.get("port") or 0), "site": str(content.get("site") or "")}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _remember(**facts: Any) -> None:
    from balsam.client.credentials import balsam_home, write_secret_file

    # Whole or not at all: with a port that is forgotten, every client would look for the service in vain.
    write_secret_file(balsam_home() / "up.json", json.dumps({**_remembered(), **facts}))


class _only_one:  # noqa: N801 - reads as a statement where it is used
    """Holds BALSAM_HOME for one `balsam up`; the lock ends with the process, however it ends."""

    def __init__(self, home: Path) -> None:
        self._path = home / "up.lock"
        self._file: IO[str] | None = None

    def __enter__(self) -> None:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._file = os.fdopen(os.open(self._path, flags, 0o600), "a+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            other = self._file.read().strip() or "unknown"
            raise click.ClickException(
                f"'balsam up' runs already for {self._path.parent} (process {other}); "
                "stop it first, or set BALSAM_HOME to another directory"
            ) from None
        self._file.truncate(0)
        self._file.write(str(os.getpid()))
        self._file.flush()

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
