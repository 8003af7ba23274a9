"""`balsam doctor`: check this machine, the login, the service and the Site you stand in, and say what to do."""

import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import click

from balsam import __version__
from balsam.cli.output import json_option, print_json


@dataclass(frozen=True)
class Finding:
    """One check: `status` is ok, warning or problem; `fix` says what to do."""

    check: str
    status: str
    message: str
    fix: str = ""


@click.command()
@json_option
def doctor(as_json: bool) -> None:
    """Check what a first user needs; exit code 1 when something does not work."""
    findings = [finding for check in (_machine, _mpi, _service, _site) for finding in _guarded(check)]
    if as_json:
        print_json([asdict(finding) for finding in findings])
    for finding in findings if not as_json else ():
        mark = {"ok": "ok     ", "warning": "warning", "problem": "PROBLEM"}[finding.status]
        click.echo(f"{mark}  {finding.check}: {finding.message}")
        if finding.fix:
            click.echo(f"         -> {finding.fix}")
    if any(finding.status == "problem" for finding in findings):
        sys.exit(1)


def _guarded(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from check()
    except Exception as error:  # a check that fails is a finding, whatever it raised
        yield Finding(check.__name__.strip("_"), "problem", f"{type(error).__name__}: {error}")


def _machine() -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding("balsam", "ok", f"{__version__} on Python {version}")
    if shutil.which("bash") is None:
        yield Finding("bash", "problem", "bash is not on PATH", "install bash: commands with shell syntax need it")


def _mpi() -> Iterator[Finding]:
    from balsam.platform.mpirun.detect import detect

    found = detect()
    yield Finding("MPI", "ok", f"{found.mpirun.name}: {found.reason}")


def _service() -> Iterator[Finding]:
    from balsam.api import default_client
    from balsam.client.errors import BalsamError

    try:
        client = default_client()
        version = client.version()
    except BalsamError as error:
        yield Finding("service", "problem", str(error), "start one with 'balsam up', or log in with 'balsam login URL'")
        return
    yield Finding("service", "ok", f"{version.service} at {client.url}")
    skew = abs((datetime.now(UTC) - version.now).total_seconds())
    if skew > 60:
        yield Finding("clock", "warning", f"this machine and the service differ by {skew:.0f} s", "set the clock (NTP)")
    try:
        yield Finding("login", "ok", f"as {client.who_am_i().username}")
    except BalsamError as error:
        yield Finding("login", "problem", str(error), f"balsam login {client.url}")


def _site() -> Iterator[Finding]:
    from balsam.site.control import site_status
    from balsam.site.directory import find_site

    here = find_site()
    if here is None:
        return
    status = site_status(here.root)
    if status is None:
        yield Finding("site", "warning", f"no agent runs for {here.root}", f"balsam site start {here.root}")
    else:
        yield Finding("site", "ok", f"agent of {here.root} runs as process {status.pid} on {status.hostname}")
