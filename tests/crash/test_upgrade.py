"""A service of two processes becomes a newer version under load, as docs/operations.md says: migrate, then one by one.

The newer version is a copy of this one whose wire has one version more and whose schema one step more. Until the last
process is replaced the older code works on the newer schema. Nothing acknowledged is lost, and no request fails.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from balsam.server.database_address import DatabaseAddress
from tests.conformance.histories import rows_of, until
from tests.crash.test_postgres import settle
from tests.server.world import furnish, make_user, ok
from tests.services import RunningService, running_service
from tests.testbed.load import load_on
from tests.testbed.postgres import PostgresServer, wheel_programs

SOURCE = Path(__file__).parents[2] / "src"
MIGRATIONS = Path("balsam/server/store/migrations")
ADDED = "of_the_next_version"
PATIENCE_SEC = 60.0


@dataclass(frozen=True)
class Installation:
    """A link to the version that is installed; what starts next is that version."""

    root: Path

    @property
    def path(self) -> Path:
        return self.root / "installed"

    def install(self, version: Path) -> None:
        """At once, as a link is set."""
        fresh = self.root / "fresh"
        fresh.symlink_to(version)
        fresh.rename(self.path)

    def make_newer(self, wire_version: int = 2) -> Path:
        """The next version, or one after it; its schema only adds."""
        newer = self.root / f"wire-{wire_version}"
        shutil.copytree(SOURCE, newer, ignore=shutil.ignore_patterns("__pycache__"))
        number = 1 + max(int(path.name[:4]) for path in (newer / MIGRATIONS).glob("*.sql"))
        step = f"ALTER TABLE jobs ADD COLUMN {ADDED} TEXT NOT NULL DEFAULT '';\n"
        (newer / MIGRATIONS / f"{number:04d}_next.sql").write_text(step)
        wire = newer / "balsam" / "wire" / "__init__.py"
        assert wire.read_text().count("WIRE_VERSION = 1\n") == 1
        wire.write_text(wire.read_text().replace("WIRE_VERSION = 1\n", f"WIRE_VERSION = {wire_version}\n"))
        return newer


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    made = Installation(tmp_path)
    made.install(SOURCE)
    return made


@pytest.fixture
def address() -> Iterator[DatabaseAddress]:
    with closing(PostgresServer(wheel_programs())) as server, server.migrated() as address:
        yield address


def speaks(service: RunningService) -> int:
    """The newest wire version of whoever answers. Asked without one, as it may be too new for ours."""
    return int(ok(httpx2.get(f"{service.url}/api/version", timeout=PATIENCE_SEC, trust_env=False))["wire_max"])


def replace(service: RunningService, wire_version: int = 2) -> None:
    """Become what is installed, which speaks this version; until the successor alone answers."""
    service.process.send_signal(signal.SIGUSR2)
    streak = 0

    def is_replaced() -> bool:
        nonlocal streak
        streak = streak + 1 if speaks(service) == wire_version else 0
        return streak == 10

    until(is_replaced, PATIENCE_SEC)


def test_f25_an_upgrade_under_load(
    installation: Installation, address: DatabaseAddress, tmp_path: Path, figure: Callable[[str], None]
) -> None:
    env = {"BALSAM_DATABASE": address.text, "PYTHONPATH": str(installation.path)}
    home = tmp_path / "balsam"
    with running_service(home, env=env) as first, running_service(home, env=env) as second:
        person = furnish(first, make_user(first, "ann"))
        with load_on([first, second], person) as load:
            until(lambda: len(load.books.submitted) > 50)
            installation.install(installation.make_newer())
            migrate = [sys.executable, "-m", "balsam.cli.main", "server", "migrate"]
            subprocess.run(migrate, env={**os.environ, **env}, check=True, capture_output=True, timeout=PATIENCE_SEC)
            assert speaks(first) == speaks(second) == 1
            older = len(load.books.submitted)
            until(lambda: len(load.books.submitted) > older + 50)  # older code on the newer schema
            for service in (first, second):
                replace(service)
            newer = len(load.books.submitted)
            until(lambda: len(load.books.submitted) > newer + 50)
        assert rows_of(address)(f"SELECT count(*) FROM jobs WHERE {ADDED} = ''")[0][0] >= len(load.books.submitted)
        assert load.books.failed_at == [], "a request failed"
    settle(address, load.books)
    figure(
        f"an upgrade: {len(load.books.submitted)} Jobs submitted, no request failed; "
        f"the slowest took {load.books.slowest_sec:.1f} s"
    )
