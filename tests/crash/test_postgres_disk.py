"""The disk of PostgreSQL is full: writes are refused as a whole (507), reads go on, and space heals it (S1, S5).

The disk of its log of writes is another matter: PostgreSQL itself goes down (PANIC), until there is room.
"""

from __future__ import annotations

import os
import random
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from balsam.server.database_address import DatabaseAddress
from balsam.server.store.postgres.migrate import migrate
from tests.conformance.histories import rows_of
from tests.server.world import Person, furnish, make_user, ok
from tests.services import running_service
from tests.testbed.postgres import PostgresServer, wheel_programs

DISK_MB = 48
LOG_DISK_MB = 160  # pieces of 16 MB
AT_ONCE = 500
PAD_BYTES = 2_000
MOST = 400  # submissions; far more than the disk holds
HEALED_SEC = 60.0


@contextmanager
def small_disk(size_mb: int) -> Iterator[Path]:
    place = Path("/tmp") / f"balsam-disk-{uuid.uuid4().hex[:8]}"  # the server's user has to come here
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size_mb}m,mode=0777", "tmpfs", str(place)],
        capture_output=True,
        check=False,
    )
    if done.returncode != 0:
        place.rmdir()
        pytest.skip("mounting a small file system needs root")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)
        place.rmdir()


@pytest.fixture
def small() -> Iterator[tuple[DatabaseAddress, Path]]:
    """A database on a small disk of its own; the server's log of writes is elsewhere. And that disk."""
    with small_disk(DISK_MB) as place, closing(PostgresServer(wheel_programs())) as server:
        space = place / "space"
        space.mkdir()
        server.own(space)
        server.execute(f"CREATE TABLESPACE small LOCATION '{space}'")
        server.execute("CREATE DATABASE small TABLESPACE small TEMPLATE template0 ENCODING 'UTF8'")
        address = DatabaseAddress(server.url("small"))
        migrate(address)
        yield address, place


@pytest.fixture
def small_log() -> Iterator[tuple[PostgresServer, DatabaseAddress, Path]]:
    """A server whose log of writes is on a small disk of its own, a database of it, and that disk."""
    with small_disk(LOG_DISK_MB) as place, closing(PostgresServer(wheel_programs())) as server:
        server.move_log_of_writes(place)
        with server.migrated() as address:
            yield server, address, place


def fill(place: Path, but_bytes: int) -> Path:
    """Take the room on a disk, but for so much."""
    free, ballast = os.statvfs(place), place / "ballast"
    ballast.write_bytes(b"x" * (free.f_bavail * free.f_bsize - but_bytes))
    return ballast


def submit(client: httpx2.Client, person: Person, key: str, pad_bytes: int = 0) -> httpx2.Response:
    pad = {"data": {"pad": random.Random(key).randbytes(pad_bytes // 2).hex()}}  # nothing that could be compressed
    jobs = [{"app_id": person.app_id, "workdir": f"full/{key}/{n}", **pad} for n in range(AT_ONCE)]
    body: Any = {"jobs": jobs}
    return client.post("/api/jobs", json=body, headers={"Idempotency-Key": key})


def test_f10_a_full_disk_of_the_database(small: tuple[DatabaseAddress, Path], tmp_path: Path) -> None:
    address, place = small
    with running_service(tmp_path / "balsam", env={"BALSAM_DATABASE": address.text}) as service:
        person = furnish(service, make_user(service, "ann"))
        ballast = fill(place, 4_000_000)
        acknowledged: dict[str, list[int]] = {}
        with service.client(person.token) as client:
            for number in range(MOST):
                refused = submit(client, person, f"k{number}")
                if refused.status_code >= 500:
                    break
                acknowledged[f"k{number}"] = ok(refused)["ids"]
            assert refused.status_code == 507 and refused.json()["error"]["code"] == "storage_full", refused.text
            assert "Free space" in refused.text
            total = AT_ONCE * len(acknowledged)
            assert len(acknowledged) > 0 and full_jobs(address) == total, "half a submission is there"
            assert client.get("/readyz").status_code == 200
            assert ok(client.get("/api/jobs", params={"id": acknowledged["k0"][0]}))["count"] == 1
            ballast.unlink()
            last = f"k{len(acknowledged)}"
            ok(submit(client, person, last))
            assert ok(submit(client, person, "k0"))["ids"] == acknowledged["k0"]
            assert full_jobs(address) == total + AT_ONCE
        assert "Traceback" not in service.log


def test_f10_a_full_disk_of_the_databases_log_of_writes(
    small_log: tuple[PostgresServer, DatabaseAddress, Path], tmp_path: Path
) -> None:
    server, address, place = small_log
    with running_service(tmp_path / "balsam", env={"BALSAM_DATABASE": address.text}) as service:
        person = furnish(service, make_user(service, "ann"))
        ballast = fill(place, 4_000_000)  # less than the next piece of the log
        acknowledged: dict[str, list[int]] = {}
        with service.client(person.token) as client:
            for number in range(MOST):
                refused = submit(client, person, f"k{number}", PAD_BYTES)
                if refused.status_code >= 500:
                    break
                acknowledged[f"k{number}"] = ok(refused)["ids"]
            assert refused.status_code in (503, 507) and int(refused.headers["retry-after"]) > 0, refused.text
            assert "PANIC" in server.log, "the server was not brought down"
            again = submit(client, person, f"k{len(acknowledged)}", PAD_BYTES)
            assert again.status_code in (503, 507) and int(again.headers["retry-after"]) > 0, again.text
            ballast.unlink()
            last = f"k{len(acknowledged)}"
            acknowledged[last] = ok(once_it_is_back(server, client, person, last))["ids"]
            assert ok(submit(client, person, "k0", PAD_BYTES))["ids"] == acknowledged["k0"]
            assert full_jobs(address) == AT_ONCE * len(acknowledged), "something acknowledged is lost, or there twice"
            assert client.get("/readyz").status_code == 200
        assert "Traceback" not in service.log


def once_it_is_back(server: PostgresServer, client: httpx2.Client, person: Person, key: str) -> httpx2.Response:
    """The answer to a submission, repeated as long as the service refuses it. A server that gave up its own recovery is
    started again, as its service manager would."""
    deadline = time.monotonic() + HEALED_SEC
    while True:
        if not server.is_running:
            server.start()
        reply = submit(client, person, key, PAD_BYTES)
        if reply.status_code < 500 or time.monotonic() > deadline:
            return reply
        time.sleep(min(int(reply.headers["retry-after"]), 1))


def full_jobs(address: DatabaseAddress) -> int:
    return int(rows_of(address)("SELECT count(*) FROM jobs WHERE workdir LIKE 'full/%'")[0][0])
