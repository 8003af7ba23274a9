"""The agent with the real service: registration, pushes, the service's death, the file desk, an agent's lease."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from balsam.client.settings import ClientSettings
from balsam.client.transport import Transport
from balsam.site.control import init_site, start_site, stop_site
from balsam.site.directory import SiteDirectory, SiteError
from tests.services import RunningService, running_service
from tests.site.conftest import WAIT_SEC, ask_for_allocation, end_allocations, running_agent, starts, wait_for

pytestmark = pytest.mark.slow


def test_from_init_to_the_end_of_an_allocation(place: SiteDirectory, real: RunningService) -> None:
    with running_agent(place), real.client() as client:
        number = ask_for_allocation(client)
        view = wait_for(client, number, "running")
        assert view["scheduler_id"] and view["start_time"]
        assert client.get("/api/sites/1").json()["is_active"]
        token = json.loads((place.qsubmit / f"balsam-1-{number}" / "credentials.json").read_text())["token"]
        with real.client(token) as launcher:
            assert launcher.get("/api/auth/me").json()["kind"] == "launcher"
            client.patch(f"/api/batch-jobs/{number}", json={"state": "pending_deletion"})
            wait_for(client, number, "finished")
            assert launcher.get("/api/auth/me").status_code == 401
    assert starts(place) == 1


def test_the_service_killed_and_started_again_in_mid_allocation(place: SiteDirectory, real: RunningService) -> None:
    with running_agent(place) as agent:
        with real.client() as client:
            first = ask_for_allocation(client)
            wait_for(client, first, "running")
        real.kill()
        time.sleep(1.0)
        again = real.restart()
        try:
            with again.client() as client:
                second = ask_for_allocation(client)
                wait_for(client, second, "running")
                client.patch(f"/api/batch-jobs/{first}", json={"state": "pending_deletion"})
                wait_for(client, first, "finished")
            assert agent.poll() is None
        finally:
            again.stop()
    assert starts(place) == 2


def test_what_the_site_refuses_is_submit_failed_with_the_reason(place: SiteDirectory, real: RunningService) -> None:
    with running_agent(place), real.client() as client:
        number = ask_for_allocation(client, filter_tags={"a": "b c"})
        view = wait_for(client, number, "submit_failed")
        assert "can't carry safely" in str(view["status_info"])


def test_the_second_agent_is_named_the_first_by_the_service_too_f27(
    place: SiteDirectory, real: RunningService, tmp_path: Path
) -> None:
    """The same Site on a file system whose locks do not reach: a copy of the directory stands for the other host."""
    import shutil

    start_site(place.root)
    other = tmp_path / "other"
    shutil.copytree(place.root, other)
    status = json.loads((other / "agent.json").read_text())
    (other / "agent.json").write_text(json.dumps(status | {"hostname": "login7"}))
    with pytest.raises(SiteError, match="has an agent already: process"):
        start_site(other)
    assert stop_site(place.root)
    start_site(other)  # the lease was given back
    assert stop_site(other)


def test_files_of_a_job_are_read_through_service_and_agent(place: SiteDirectory, real: RunningService) -> None:
    workdir = place.data / "runs" / "one"
    workdir.mkdir(parents=True)
    (workdir / "job.out").write_bytes(b"x" * 100_000 + b"the end\n")
    with running_agent(place), real.client() as client:
        app = client.put("/api/apps", json={"site_id": 1, "name": "Hello", "command_template": "true"}).json()["id"]
        made = client.post("/api/jobs", json={"jobs": [{"app_id": app, "workdir": "runs/one"}]}).json()["ids"][0]
        deadline = time.monotonic() + WAIT_SEC
        while not client.get("/api/sites/1").json()["is_active"]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        begun = time.monotonic()
        tail = client.get(f"/api/jobs/{made}/files/content", params={"path": "job.out", "offset": -8})
        assert (tail.content, tail.headers["x-file-size"]) == (b"the end\n", "100008")
        assert time.monotonic() - begun < 3
        listed = client.get(f"/api/jobs/{made}/files", params={"op": "list"}).json()
        assert [entry["path"] for entry in listed["entries"]] == ["job.out"]
        outside = client.get(f"/api/jobs/{made}/files/content", params={"path": "../../../credentials.json"})
        assert outside.status_code >= 400 and b"blsm" not in outside.content


def test_initialising_at_a_local_service_follows_its_address(tmp_path: Path, real: RunningService) -> None:
    transport = Transport(ClientSettings.load_from_file(real.home / "service.json"))
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("BALSAM_HOME", str(real.home))
        made = init_site(tmp_path / "place", transport=transport)
    transport.close()
    assert json.loads((made.path / "credentials.json").read_text())["follow"] == str(real.home / "service.json")
    real.stop()
    with running_service(real.home) as moved:
        assert moved.url != real.url
        start_site(made.path)
        with moved.client() as client:
            number = ask_for_allocation(client, wall_time_min=1)
            assert wait_for(client, number, "running")
            client.patch(f"/api/batch-jobs/{number}", json={"state": "pending_deletion"})
            wait_for(client, number, "finished")
        assert stop_site(made.path)
    end_allocations(SiteDirectory(made.path))
