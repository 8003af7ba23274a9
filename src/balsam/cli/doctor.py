"""`balsam doctor`: check this machine, the login, the service and the Site you stand in, and say what to do."""

import shutil
import sys
from collections.abc import Iterator
from datetime import UTC, datetime

import click

from balsam import __version__
from balsam.cli.findings import Finding, guarded, show
from balsam.cli.output import json_option


@click.command()
@json_option
def doctor(as_json: bool) -> None:
    """Check what a first user needs, and all that `balsam site doctor` checks when you stand in a Site.

    Exit code 1 when something does not work.
    """
    checks = (("machine", _machine), ("MPI", _mpi), ("service", _service), ("site", _site))
    show([finding for name, check in checks for finding in guarded(name, check)], as_json=as_json)


def _machine() -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding("balsam", "ok", f"{__version__} on Python {version}")
    if shutil.which("bash") is None:
        yield Finding("bash", "problem", "bash is not on PATH", "install bash: commands with shell syntax need it")


def _mpi() -> Iterator[Finding]:
    from balsam.platform.mpirun.detect import detect

    found = detect()
    yield Finding("MPI", "ok", found.reason)


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
    from balsam.cli.site_doctor import findings_of
    from balsam.site.directory import find_site

    here = find_site()
    if here is not None:
        yield from findings_of(here)
