"""The disk of PostgreSQL is full: writes are refused as a whole (507), reads go on, and space heals it (S1, S5)."""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import closing
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

DISK = "size=48m,mode=0777"
AT_ONCE = 500
MOST = 400  # submissions; far more than the disk holds


@pytest.fixture
def small() -> Iterator[tuple[DatabaseAddress, Path]]:
    """A database on a small disk of its own; the server's log of writes is elsewhere. And that disk."""
    place = Path("/tmp") / f"balsam-disk-{uuid.uuid4().hex[:8]}"  # the server's user has to come here
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", DISK, "tmpfs", str(place)], capture_output=True, check=False)
    if done.returncode != 0:
        place.rmdir()
        pytest.skip("mounting a small file system needs root")
    try:
        with closing(PostgresServer(wheel_programs())) as server:
            space = place / "space"
            space.mkdir()
            server.own(space)
            server.execute(f"CREATE TABLESPACE small LOCATION '{space}'")
            server.execute("CREATE DATABASE small TABLESPACE small TEMPLATE template0 ENCODING 'UTF8'")
            address = DatabaseAddress(server.url("small"))
            migrate(address)
            yield address, place
    finally:
        subprocess.run(["umount", str(place)], check=True)
        place.rmdir()


def submit(client: httpx2.Client, person: Person, key: str) -> httpx2.Response:
    body: Any = {"jobs": [{"app_id": person.app_id, "workdir": f"full/{key}/{n}"} for n in range(AT_ONCE)]}
    return client.post("/api/jobs", json=body, headers={"Idempotency-Key": key})


def test_f10_a_full_disk_of_the_database(small: tuple[DatabaseAddress, Path], tmp_path: Path) -> None:
    address, place = small
    with running_service(tmp_path / "balsam", env={"BALSAM_DATABASE": address.text}) as service:
        person = furnish(service, make_user(service, "ann"))
        free = os.statvfs(place)
        ballast = place / "ballast"
        ballast.write_bytes(b"x" * (free.f_bavail * free.f_bsize - 4_000_000))
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


def full_jobs(address: DatabaseAddress) -> int:
    return int(rows_of(address)("SELECT count(*) FROM jobs WHERE workdir LIKE 'full/%'")[0][0])
