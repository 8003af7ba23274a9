"""What a live service says to requests that can't be carried out: the status, the row, the numbers and the names.

And a live Site whose disk is full: the Job that can't write fails and says why, everything else goes on (F10).
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.server.world import batch_job_body, make_app, make_jobs, make_site, ok
from tests.services import RunningService, running_service
from tests.system.live_site import LiveSite, eventually, live_site

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with running_service(tmp_path_factory.mktemp("bad-input") / "home") as running:
        yield running


@pytest.fixture
def client(service: RunningService) -> Iterator[httpx2.Client]:
    with service.client() as client:
        yield client


@pytest.fixture
def site(client: httpx2.Client) -> dict[str, Any]:
    found: dict[str, Any] = make_site(client)["site"]
    return found


@pytest.fixture
def app_id(client: httpx2.Client, site: dict[str, Any]) -> int:
    return make_app(client, site["id"])


def refused(reply: httpx2.Response, status: int, code: str) -> dict[str, str]:
    """What is wrong, by place; the whole message under ''."""
    assert reply.status_code == status, reply.text
    error = reply.json()["error"]
    assert error["code"] == code
    assert error["request_id"]
    return {"": error["message"], **{detail["where"]: detail["message"] for detail in error["details"]}}


def test_parents_can_t_be_changed_so_that_there_are_no_cycles(client: httpx2.Client, app_id: int) -> None:
    (first,) = make_jobs(client, app_id)
    (second,) = make_jobs(client, app_id, parent_ids=[first])
    body: dict[str, Any] = {"patches": {str(first): {"parent_ids": [second]}}}
    why = refused(client.patch("/api/jobs", json=body), 422, "invalid")
    assert why[f"patches.{first}.parent_ids"] == "unknown field"
    body = {"filter": {"id": [first]}, "patch": {"parent_ids": [second]}}
    why = refused(client.post("/api/jobs/update", json=body), 422, "invalid")
    assert why["patch.parent_ids"] == "unknown field"
    assert ok(client.get(f"/api/jobs/{first}"))["parent_ids"] == []


def test_nobody_is_its_own_parent(client: httpx2.Client, app_id: int) -> None:
    (last,) = make_jobs(client, app_id)
    jobs = [{"app_id": app_id, "workdir": "own", "parent_ids": [last + 1]}]
    why = refused(client.post("/api/jobs", json={"jobs": jobs}), 404, "not_found")
    assert "parents are submitted before their children" in why["jobs[0].parent_ids[0]"]


def test_an_unknown_parent_is_named_by_its_row(client: httpx2.Client, app_id: int) -> None:
    before = ok(client.get("/api/jobs?limit=0"))["count"]
    (known,) = make_jobs(client, app_id)
    jobs = [{"app_id": app_id, "workdir": f"row/{row}", "parent_ids": [known]} for row in range(5)]
    jobs[3]["parent_ids"] = [known, 987_654]
    why = refused(client.post("/api/jobs", json={"jobs": jobs}), 404, "not_found")
    assert set(why) == {"", "jobs[3].parent_ids[1]"}
    assert "987654" in why["jobs[3].parent_ids[1]"]
    assert ok(client.get("/api/jobs?limit=0"))["count"] == before + 1, "some of the rows were created"


def test_an_unknown_app_is_named_by_its_row(client: httpx2.Client, app_id: int) -> None:
    jobs = [{"app_id": app_id, "workdir": "a"}, {"app_id": 987_654, "workdir": "b"}]
    why = refused(client.post("/api/jobs", json={"jobs": jobs}), 404, "not_found")
    assert "987654" in why["jobs[1].app_id"]


@pytest.mark.parametrize(
    ("change", "where", "named"),
    [
        ({"num_nodes": 5}, "num_nodes", ["at most 4 nodes", "5 are asked for"]),
        ({"wall_time_min": 601}, "wall_time_min", ["at most 600 minutes", "601 are asked for"]),
        ({"queue": "lokal"}, "queue", ["'lokal'", "local"]),
        ({"project": "nobody"}, "project", ["'nobody'", "local"]),
        ({"optional_params": {"volume": "11"}}, "optional_params.volume", ["none"]),
        ({"partitions": [{"job_mode": "mpi", "num_nodes": 3}]}, "partitions", ["3 nodes", "has 1"]),
        ({"job_mode": "quantum"}, "job_mode", ["mpi", "serial"]),
        ({"num_nodes": 0}, "num_nodes", ["1"]),
    ],
    ids=str,
)
def test_an_allocation_that_the_site_does_not_allow(
    client: httpx2.Client, site: dict[str, Any], change: dict[str, Any], where: str, named: list[str]
) -> None:
    body = {**batch_job_body(site["id"]), **change}
    why = refused(client.post("/api/batch-jobs", json=body), 422, "invalid")
    assert [text for text in named if text not in why[where]] == [], why
    assert where in why[""]
    assert ok(client.get(f"/api/batch-jobs?site_id={site['id']}"))["count"] == 0


def test_as_many_as_the_site_allows_is_allowed(client: httpx2.Client, site: dict[str, Any]) -> None:
    ok(client.post("/api/batch-jobs", json={**batch_job_body(site["id"]), "num_nodes": 4, "wall_time_min": 600}))


def test_a_job_larger_than_every_allocation_is_explained_with_both_numbers(
    client: httpx2.Client, site: dict[str, Any], app_id: int
) -> None:
    ok(client.post("/api/batch-jobs", json={**batch_job_body(site["id"]), "num_nodes": 3}))
    (large,) = make_jobs(client, app_id, num_nodes=7)
    said = ok(client.get(f"/api/jobs/{large}/explain"))
    assert any("3 nodes" in reason and "7" in reason for reason in said["reasons"]), said


def test_an_unknown_site(client: httpx2.Client) -> None:
    refused(client.post("/api/batch-jobs", json=batch_job_body(987_654)), 404, "not_found")
    app = {"site_id": 987_654, "name": "a", "command_template": "echo"}
    refused(client.put("/api/apps", json=app), 404, "not_found")
    refused(client.get("/api/sites/987654"), 404, "not_found")


def test_impossible_moves_are_409(client: httpx2.Client, site: dict[str, Any]) -> None:
    again = {"name": site["name"], "path": "/home/ann/other"}
    why = refused(client.post("/api/sites", json=again), 409, "site_exists")
    assert site["name"] in why[""]
    token = ok(client.post(f"/api/sites/{site['id']}/token"))["token"]
    batch_job = ok(client.post("/api/batch-jobs", json=batch_job_body(site["id"])))["id"]
    as_site = {"Authorization": f"Bearer {token}"}
    path = f"/api/batch-jobs/{batch_job}"
    for state in ("queued", "running", "finished"):
        ok(client.patch(path, json={"state": state}, headers=as_site))
    why = refused(client.patch(path, json={"state": "running"}, headers=as_site), 409, "illegal_move")
    assert "finished" in why[""] and "running" in why[""]


# A disk that is full

TMPFS = "size=1m,nr_inodes=40,mode=0700"
FILL = """
import sys
print("filling", flush=True)
try:
    with open("big", "wb", buffering=0) as file:
        while True:
            file.write(bytes(65536))
except OSError as error:
    print(error, flush=True)
for number in range(100):
    open(f"small-{number}", "w").close()
"""
DISK_FULL = """
import json, time
from pathlib import Path
from balsam.api import ApplicationDefinition, BatchJob, Job

class Filler(ApplicationDefinition):
    site = "{name}"
    command_template = "{python} {filler} {{{{ word }}}}"

class Writer(ApplicationDefinition):
    site = "{name}"
    command_template = "echo {{{{ word }}}}"

def submit(app, workdir):
    job = Job(app_id=app, workdir=workdir, parameters={{"word": workdir}})
    job.save()
    return job

def told(job):
    assert job.wait(60), job.explain()
    return [str(job.state.value), " ".join(job.explain().reasons)]

batch = BatchJob.objects.create(
    site_id={id}, num_nodes=1, wall_time_min=10, job_mode="mpi", queue="local", project="local")
print(json.dumps(told(submit(Writer, "before"))))
Path("running").write_text("")
print(json.dumps(told(submit(Filler, "filler"))))
print(json.dumps(told(submit(Writer, "no-room"))))
for path in Path("{data}/filler").iterdir():
    path.unlink()
after = submit(Writer, "after")
print(json.dumps(told(after)))
print(json.dumps([after.read_text("job.out"), after.batch_job_id == batch.id]))
Path("done").write_text("")
while Path("running").exists():
    time.sleep(0.02)
batch.cancel()
while batch.state != "finished":
    time.sleep(0.05)
    batch.refresh_from_db()
"""


@pytest.fixture
def small_disk_site(tmp_path: Path) -> Iterator[LiveSite]:
    """A Site whose data directory is a file system of 1 MiB."""
    with live_site(tmp_path / "home") as running:
        data = running.path / "data"
        data.mkdir(exist_ok=True)
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", TMPFS, "tmpfs", str(data)], capture_output=True, text=True, check=False
        )
        if mounted.returncode != 0:
            pytest.skip("only root may mount a small file system")
        try:
            yield running
        finally:
            eventually(lambda: _unmounted(data), f"{data} is still in use")


def _unmounted(path: Path) -> bool:
    return subprocess.run(["umount", str(path)], capture_output=True, check=False).returncode == 0


def test_a_full_disk_fails_the_job_that_writes_and_no_more(small_disk_site: LiveSite) -> None:
    site = small_disk_site
    filler = site.home / "filler.py"
    filler.write_text(FILL)
    code = DISK_FULL.format(name=site.name, id=site.id, python=sys.executable, filler=filler, data=site.path / "data")
    running = site.begin(code)
    mark, parts = site.home / "scripts" / "running", ("service", "agent", "guardian", "launcher")
    eventually(lambda: mark.exists() or running.poll() is not None, "the allocation did not start", 60)
    before = {part: site.pids(part) for part in parts}
    eventually(lambda: mark.with_name("done").exists() or running.poll() is not None, "the Jobs did not end", 60)
    after = {part: site.pids(part) for part in parts}
    mark.unlink()
    out, err = running.communicate(timeout=60)
    assert running.returncode == 0, f"{out}\n{err}"
    first, filled, no_room, freed, output = map(json.loads, out.splitlines())
    assert first[0] == "JOB_FINISHED"
    assert filled[0] == "FAILED" and "No space left on device" in filled[1], filled
    assert no_room[0] == "FAILED" and "No space left on device" in no_room[1], no_room
    assert "no-room" in no_room[1], no_room
    assert freed[0] == "JOB_FINISHED"
    assert output == ["after\n", True]
    assert before == after and all(before.values()), (before, after)
