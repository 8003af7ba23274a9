"""Transfers with a real service and a real agent: kill -9 at every crash point, the service's death, a full disk."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from balsam.site.crash_points import TRANSFER_CRASH_POINTS
from balsam.site.directory import SiteDirectory
from tests.server.world import make_blob, ok, stage_in
from tests.services import RunningService
from tests.site.conftest import running_agent
from tests.testbed.rclone_serve import require_rclone
from tests.testbed.sshd import Sshd, running_sshd

pytestmark = pytest.mark.slow

INPUT, RESULT = os.urandom(700_000), os.urandom(900_000)
WAIT_SEC = 30.0
SLOTS = {
    "input": {"required": False, "direction": "in", "local_path": "in.dat"},
    "result": {"required": False, "direction": "out", "local_path": "out.dat"},
    "scratch": {"required": False, "direction": "out", "local_path": "out.dat"},
    "far": {"required": False, "direction": "out", "local_path": "out.dat"},
    "parameters": {"required": False, "direction": "in", "local_path": "parameters.dat"},
}


@pytest.fixture
def user(real: RunningService) -> Iterator[httpx2.Client]:
    with real.client() as client:
        yield client


def submit(user: httpx2.Client, workdir: str = "run", **transfers: Any) -> int:
    app = {"site_id": 1, "name": "stage", "command_template": "true", "transfers": SLOTS}
    app_id = ok(user.put("/api/apps", json=app))["id"]
    body = {"jobs": [{"app_id": app_id, "workdir": workdir, "transfers": transfers}]}
    job_id: int = ok(user.post("/api/jobs", json=body))["ids"][0]
    return job_id


def run(real: RunningService, site: SiteDirectory, job_id: int, **files: bytes) -> None:
    """Do what a launcher does, and leave files in the workdir."""
    workdir = site.data / "run"
    workdir.mkdir(exist_ok=True)
    for name, content in files.items():
        (workdir / f"{name}.dat").write_bytes(content)
    token = json.loads(site.credentials.read_text())["token"]
    at = "2026-01-01T00:00:00Z"
    with real.client(token) as launcher:
        session = ok(launcher.post("/api/sessions", json={"site_id": 1}))["id"]
        granted = ok(launcher.post(f"/api/sessions/{session}/acquire", json={"acquire_seq": 1, "max_jobs": 9}))["jobs"]
        (job,) = [job for job in granted if job["id"] == job_id]
        records = [
            {"seq": seq, "job_id": job_id, "token": job["token"], "event": event, "at": at}
            for seq, event in enumerate(("started", "run_done"), 1)
        ]
        ok(launcher.post(f"/api/sessions/{session}/report", json={"records": records}))


def wait_for(user: httpx2.Client, job_id: int, state: str) -> dict[str, Any]:
    deadline = time.monotonic() + WAIT_SEC
    while True:
        job: dict[str, Any] = ok(user.get(f"/api/jobs/{job_id}"))
        if job["state"] == state:
            return job
        assert time.monotonic() < deadline, ok(user.get(f"/api/jobs/{job_id}/explain"))
        time.sleep(0.02)


def item(user: httpx2.Client, job_id: int, slot: str = "result") -> dict[str, Any]:
    found = ok(user.get("/api/transfers", params={"job_id": job_id}))["results"]
    (one,) = [row for row in found if row["slot"] == slot]
    return dict(one)


def fetched(user: httpx2.Client, job_id: int) -> bytes:
    (entry,) = item(user, job_id)["content"]["entries"]
    query = {"offset": entry["offset"], "length": entry["size_bytes"]}
    content = user.get(f"/api/blobs/{entry['blob']}", params=query).content
    assert hashlib.sha256(content).hexdigest() == entry["sha256"]
    return content


def given(user: httpx2.Client) -> dict[str, Any]:
    return stage_in(make_blob(user, INPUT), len(INPUT))


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with running_sshd(tmp_path_factory.mktemp("sshd")) as running:
        yield running


def test_in_and_out_and_to_locations_of_the_site(
    real: RunningService,
    place: SiteDirectory,
    user: httpx2.Client,
    tmp_path: Path,
    sshd: Sshd,
) -> None:
    scratch, far = tmp_path / "scratch", tmp_path / "far"
    scratch.mkdir()
    far.mkdir()
    (far / "in.dat").write_bytes(INPUT)
    with place.settings.open("a") as settings:
        locations = f"{{scratch: 'file://{scratch}', far: '{sshd.url('rsync', far)}'}}"
        settings.write(f"transfers:\n  transfer_locations: {locations}\n")
    with running_agent(place):
        while "scratch" not in ok(user.get("/api/sites/1"))["transfer_locations"]:
            time.sleep(0.02)
        job_id = submit(
            user,
            input=given(user),
            parameters="far:/in.dat",
            result="client:/home/ada/out.dat",
            scratch="scratch:/a/copy.dat",
            far="far:/a/",
        )
        wait_for(user, job_id, "PREPROCESSED")
        assert (place.data / "run" / "parameters.dat").read_bytes() == INPUT
        assert (place.data / "run" / "in.dat").read_bytes() == INPUT
        run(real, place, job_id, out=RESULT)
        wait_for(user, job_id, "JOB_FINISHED")
        assert fetched(user, job_id) == RESULT
        assert (scratch / "a" / "copy.dat").read_bytes() == RESULT
        assert (far / "a" / "out.dat").read_bytes() == RESULT


def test_a_transfer_is_begun_when_it_is_due(real: RunningService, place: SiteDirectory, user: httpx2.Client) -> None:
    """By push: nobody waits for the next look, which is half a minute away."""
    with running_agent(place):
        first = submit(user, input=given(user))
        wait_for(user, first, "PREPROCESSED")
        begin = time.monotonic()
        second = submit(user, input=given(user))
        wait_for(user, second, "PREPROCESSED")
        assert time.monotonic() - begin < 5


@pytest.mark.parametrize("point", TRANSFER_CRASH_POINTS)
@pytest.mark.parametrize("direction", ["in", "out"])
def test_killed_at(
    point: str,
    direction: str,
    real: RunningService,
    place: SiteDirectory,
    user: httpx2.Client,
) -> None:
    """F4: the next agent carries it to its end, and the content is right."""
    if direction == "out":
        job_id = submit(user, result="client:/home/ada/out.dat")
        run(real, place, job_id, out=RESULT)
    else:
        job_id = submit(user, input=given(user))
    with running_agent(place, BALSAM_CRASH_POINT=point) as agent:
        assert agent.wait(20) == -signal.SIGKILL, f"the agent never came through {point}"
    with running_agent(place):
        wait_for(user, job_id, "JOB_FINISHED" if direction == "out" else "PREPROCESSED")
    if direction == "out":
        assert fetched(user, job_id) == RESULT
    else:
        assert (place.data / "run" / "in.dat").read_bytes() == INPUT
    assert not [path for path in (place.data / "run").iterdir() if path.name.startswith(".")]


def test_every_crash_point_stands_in_the_code_and_is_listed() -> None:
    source = Path(__file__).parents[2] / "src" / "balsam" / "site" / "services" / "transfers.py"
    assert set(re.findall(r"crash_point\(\"([a-z-]+)\"\)", source.read_text())) == set(TRANSFER_CRASH_POINTS)


def test_the_agent_is_killed_in_the_middle_of_a_large_file(
    real: RunningService,
    place: SiteDirectory,
    user: httpx2.Client,
) -> None:
    large = os.urandom(1_000_000) * 200
    job_id = submit(user, result="client:/home/ada/out.dat")
    run(real, place, job_id, out=large)
    uploads = real.data_dir / "blobs" / "uploads"
    with running_agent(place) as agent:
        deadline = time.monotonic() + WAIT_SEC
        while sum(path.stat().st_size for path in uploads.iterdir()) < 20_000_000:
            assert time.monotonic() < deadline
        agent.kill()
        agent.wait()
    before = sum(path.stat().st_size for path in uploads.iterdir())
    assert 0 < before < len(large), "it was over before it was killed"
    with running_agent(place):
        wait_for(user, job_id, "JOB_FINISHED")
    assert fetched(user, job_id) == large


@pytest.mark.parametrize("scheme", ["rsync", "sftp"])
def test_the_agent_is_killed_in_the_middle_of_what_a_program_sends(
    real: RunningService, place: SiteDirectory, user: httpx2.Client, tmp_path: Path, sshd: Sshd, scheme: str
) -> None:
    """The program that it leaves behind does no harm, and what that had sent is no obstacle."""
    if scheme == "sftp":
        require_rclone()
    far, large = tmp_path / "far", os.urandom(1_000_000) * 200
    far.mkdir()
    with place.settings.open("a") as settings:
        settings.write(f"transfers:\n  transfer_locations: {{far: '{sshd.url(scheme, far)}'}}\n")

    def arrived() -> dict[str, int]:
        return {str(path.relative_to(far)): path.stat().st_size for path in far.rglob("*") if path.is_file()}

    with running_agent(place) as agent:
        deadline = time.monotonic() + WAIT_SEC
        while "far" not in ok(user.get("/api/sites/1"))["transfer_locations"]:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        job_id = submit(user, far="far:/out.dat")
        run(real, place, job_id, out=large)
        while sum(arrived().values()) < 5_000_000:
            assert time.monotonic() < deadline
        agent.kill()
        agent.wait()
    assert item(user, job_id, "far")["state"] != "done", "it was over before it was killed"
    assert arrived().get("out.dat", len(large)) == len(large), "half of a file has its name"
    with running_agent(place):
        wait_for(user, job_id, "JOB_FINISHED")
    assert arrived() == {"out.dat": len(large)}
    assert (far / "out.dat").read_bytes() == large


def test_the_service_is_killed_in_the_middle_of_a_large_file(
    real: RunningService,
    place: SiteDirectory,
    user: httpx2.Client,
) -> None:
    large = os.urandom(1_000_000) * 200
    job_id = submit(user, result="client:/home/ada/out.dat")
    run(real, place, job_id, out=large)
    uploads = real.data_dir / "blobs" / "uploads"
    with running_agent(place):
        deadline = time.monotonic() + WAIT_SEC
        while sum(path.stat().st_size for path in uploads.iterdir()) < 20_000_000:
            assert time.monotonic() < deadline
        real.kill()
        again = real.restart()
        try:
            with again.client() as same_user:
                wait_for(same_user, job_id, "JOB_FINISHED")
                assert fetched(same_user, job_id) == large
        finally:
            again.stop()


def test_a_missing_result_fails_the_job_with_its_name(
    real: RunningService,
    place: SiteDirectory,
    user: httpx2.Client,
) -> None:
    job_id = submit(user, result="client:/home/ada/out.dat")
    run(real, place, job_id, other=b"x")
    with running_agent(place):
        assert wait_for(user, job_id, "FAILED")["failure"] == "transfer"
    said = ok(user.get(f"/api/jobs/{job_id}/explain"))
    assert "transfer 'result': there is no out.dat" in str(said)


def test_a_full_disk_at_the_site_is_waited_for_f10(
    real: RunningService,
    place: SiteDirectory,
    user: httpx2.Client,
) -> None:
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place.data)]
    place.data.mkdir(exist_ok=True)
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("only root may mount a small file system")
    try:
        (place.data / "others").write_bytes(bytes(600_000))
        with running_agent(place):
            job_id = submit(user, input=given(user))
            deadline = time.monotonic() + WAIT_SEC
            while item(user, job_id, "input")["state"] != "inactive":
                assert time.monotonic() < deadline
                time.sleep(0.05)
            assert "No space left" in item(user, job_id, "input")["transfer_info"]["error"]
            assert "No space left" in str(ok(user.get(f"/api/jobs/{job_id}/explain")))
            assert list((place.data / "run").iterdir()) == [], "something half-written is left"
            (place.data / "others").unlink()
            wait_for(user, job_id, "PREPROCESSED")
        assert (place.data / "run" / "in.dat").read_bytes() == INPUT
    finally:
        subprocess.run(["umount", str(place.data)], check=True)


def test_a_cancelled_job_stops_its_transfers(real: RunningService, place: SiteDirectory, user: httpx2.Client) -> None:
    """The Site hears of it, and does not tell the service of what is not due any more for ever."""
    with running_agent(place):
        job_id = submit(user, input=given(user))
        ok(user.post("/api/jobs/cancel", json={"filter": {"id": [job_id]}}))
        later = submit(user, "later", input=given(user))
        wait_for(user, later, "PREPROCESSED")
    assert ok(user.get(f"/api/jobs/{job_id}"))["state"] in ("CANCELLED", "PREPROCESSED")
    assert item(user, job_id, "input")["state"] in ("awaiting_job", "done")


def test_without_the_section_the_site_takes_no_files(
    real: RunningService,
    place: SiteDirectory,
    user: httpx2.Client,
) -> None:
    with place.settings.open("a") as settings:
        settings.write("transfers: null\n")
    with running_agent(place):
        deadline = time.monotonic() + WAIT_SEC
        while ok(user.get("/api/sites/1"))["transfer_locations"]:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        app = {"site_id": 1, "name": "stage", "command_template": "true", "transfers": SLOTS}
        app_id = ok(user.put("/api/apps", json=app))["id"]
        job = {"app_id": app_id, "workdir": "x", "transfers": {"result": "client:/x"}}
        refused = user.post("/api/jobs", json={"jobs": [job]})
        assert refused.status_code == 422 and "no transfer location 'client'" in refused.text
