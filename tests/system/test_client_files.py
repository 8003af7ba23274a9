"""Inputs out, results home, over a real service, agent and launcher: nobody but the SDK moves a file."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from balsam.client.client import Client
from balsam.client.errors import TransferFailed, ValidationFailed
from balsam.client.settings import ClientSettings
from balsam.libensemble import BalsamExecutor
from balsam.wire.jobs import JobsCreate, JobsCreated
from tests.system.live_site import LiveSite, live_site

pytestmark = pytest.mark.slow

WAIT_SEC = 60.0
SLOTS = {
    "input": {"required": False, "direction": "in", "local_path": "in.dat"},
    "inputs": {"required": False, "direction": "in", "local_path": "inputs", "recursive": True},
    "result": {"required": False, "direction": "out", "local_path": "out.dat"},
    "results": {"required": False, "direction": "out", "local_path": "run/**/*.h5", "recursive": True},
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveSite]:
    with live_site(tmp_path_factory.mktemp("live") / "home") as site:
        yield site


@pytest.fixture
def client(site: LiveSite, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    with client_of(site, monkeypatch) as client:
        yield client


@pytest.fixture(scope="module", autouse=True)
def allocation(site: LiveSite) -> None:
    with pytest.MonkeyPatch.context() as patch, client_of(site, patch) as client:
        client.BatchJob.objects.create(
            site_id=site.id, num_nodes=1, wall_time_min=20, job_mode="mpi", queue="local", project="local"
        )


def client_of(site: LiveSite, patch: pytest.MonkeyPatch) -> Client:
    patch.setenv("BALSAM_HOME", str(site.home))
    return Client(ClientSettings.load())


def app(client: Client, at: LiveSite, command: str, **slots: Any) -> Any:
    used = {name: SLOTS[name] for name in slots}
    attributes = {"site": at.name, "command_template": command, "transfers": used}
    return type("Files", (client.ApplicationDefinition,), attributes)


def submit(client: Client, at: LiveSite, command: str, workdir: str, **paths: Any) -> Any:
    transfers = {name: f"client:{path}" for name, path in paths.items()}
    return app(client, at, command, **paths).submit(workdir, transfers=transfers)


def test_a_file_there_and_another_one_home(site: LiveSite, client: Client, tmp_path: Path) -> None:
    given, taken = tmp_path / "in put.dat", tmp_path / "deep" / "er" / "result.dat"
    given.write_bytes(content := os.urandom(3_000_000))
    job = submit(client, site, "cat in.dat in.dat > out.dat", "one", input=given, result=taken)
    assert job.result(timeout=WAIT_SEC) is None
    assert taken.read_bytes() == content + content
    assert job.arrived()
    assert [path.name for path in taken.parent.iterdir()] == ["result.dat"]
    (item,) = client.TransferItem.objects.filter(job_id=job.id, direction="out")
    assert item.collected_at is not None


def test_trees_and_patterns_with_odd_names(site: LiveSite, client: Client, tmp_path: Path) -> None:
    names = ["a b.h5", "-rf.h5", "new\nline.h5", "ünï.h5", "deep/er/c.h5", "not this.txt"]
    for name in names:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_text(name)
    (tmp_path / "in" / "empty.h5").touch()
    job = submit(client, site, "mv inputs run", "two", inputs=tmp_path / "in", results=tmp_path / "out")
    assert job.wait(timeout=WAIT_SEC), job.explain()
    home = {str(path.relative_to(tmp_path / "out")): path for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert sorted(home) == sorted(["empty.h5", *names[:-1]])
    assert all(path.read_text() == name for name, path in home.items() if name != "empty.h5")


def test_many_come_home_in_the_background(site: LiveSite, client: Client, tmp_path: Path) -> None:
    """Also those that nobody waits for by name, and those of another process of the same user."""
    one = app(client, site, "echo $RANDOM > out.dat", result=tmp_path)
    jobs = [
        one.submit(f"many/{number}", transfers={"result": f"client:{tmp_path}/{number}.dat"}, save=False)
        for number in range(20)
    ]
    client.Job.objects.bulk_create(jobs)
    done, not_done = client.Job.objects.wait(jobs, timeout=WAIT_SEC)
    assert len(done) == 20 and not not_done
    assert all((tmp_path / f"{number}.dat").read_text() for number in range(20))


def test_another_process_of_the_same_user_waits(site: LiveSite, client: Client, tmp_path: Path) -> None:
    submitted = f"""
        from balsam.api import ApplicationDefinition, Job

        class Later(ApplicationDefinition):
            site = "{site.name}"
            command_template = "echo later > out.dat"
            transfers = {{"result": {SLOTS["result"]!r}}}

        print(Later.submit("later", transfers={{"result": "client:{tmp_path}/later.dat"}}).id)
    """
    job = client.Job.objects.get(id=int(site.run(submitted)))
    assert job.wait(timeout=WAIT_SEC)
    assert (tmp_path / "later.dat").read_text() == "later\n"


def test_bars_of_bytes(site: LiveSite, client: Client, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tree" / "deep").mkdir(parents=True)
    (tmp_path / "tree" / "small").write_bytes(bytes(400_000))
    (tmp_path / "tree" / "deep" / "large").write_bytes(os.urandom(9_600_000))
    transfers = {"inputs": f"client:{tmp_path}/tree", "result": f"client:{tmp_path}/out.dat"}
    files = app(client, site, "cat inputs/small inputs/deep/large > out.dat", inputs=1, result=1)
    for number in range(2):  # the second time the service has it
        jobs = [files.submit(f"bars/{number}/{one}", transfers=transfers, save=False) for one in range(2)]
        client.Job.objects.bulk_create(jobs, progress=True)
        shown = capfd.readouterr().err
        assert "sending" in shown and "10.0M/10.0M" in shown, "one source of two Jobs is read once"
    assert client.Job.objects.wait(jobs, timeout=WAIT_SEC, progress=False).not_done == []
    client.Job.objects.bulk_create([files.submit("bars/quiet", transfers=transfers, save=False)])
    assert capfd.readouterr() == ("", ""), "a script is not disturbed"


def test_a_path_that_this_user_never_named_is_not_written(
    site: LiveSite, client: Client, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A result belongs to the machine that submitted; another one asks for it with a directory of its own."""
    app(client, site, "echo secret > out.dat", result=1).sync()
    app_id = client.App.objects.get(name="Files").id
    row = {"app_id": app_id, "workdir": "foreign", "transfers": {"result": f"client:{tmp_path}/victim"}}
    body, key = JobsCreate.model_validate({"jobs": [row]}), client.transport.new_key()
    reply = client.transport.request("POST", "/jobs", body=body, reply=JobsCreated, idempotency_key=key)
    job = client.Job.objects.get(id=reply.ids[0])
    assert job.wait(timeout=WAIT_SEC)
    assert not (tmp_path / "victim").exists()
    (arrived,) = job.fetch(tmp_path / "here", progress=True)
    assert "fetching" in (shown := capfd.readouterr().err) and "7.00/7.00" in shown
    assert arrived.path == str(tmp_path / "here" / "foreign" / "victim") and not arrived.error
    assert Path(arrived.path).read_text() == "secret\n"


def test_what_can_not_be_read_is_told_before_anything_is_submitted(
    site: LiveSite, client: Client, tmp_path: Path
) -> None:
    with pytest.raises(ValidationFailed, match=r"transfers.input: can't be sent: .*there is no"):
        submit(client, site, "true", "missing", input=tmp_path / "nothing.dat")
    with pytest.raises(ValidationFailed, match="is a directory; only a slot with `recursive`"):
        submit(client, site, "true", "missing", input=tmp_path)


def test_a_place_that_can_not_be_written_is_told_and_tried_again(
    site: LiveSite, client: Client, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    job = submit(client, site, "echo x > out.dat", "blocked", result=tmp_path / "file" / "out.dat")
    with pytest.raises(TransferFailed, match=rf"result of Job {job.id} did not arrive.*Not a directory|File exists"):
        job.wait(timeout=WAIT_SEC)
    (tmp_path / "file").unlink()
    assert job.wait(timeout=WAIT_SEC)
    assert (tmp_path / "file" / "out.dat").read_text() == "x\n"


def test_libensemble_finds_results_at_home_when_a_task_is_finished(
    site: LiveSite, client: Client, tmp_path: Path
) -> None:
    executor = BalsamExecutor()
    executor.register_app(app(client, site, "cat in.dat > out.dat", input=1, result=1), app_name="copy")
    (tmp_path / "in").write_text("forces")

    def submitted(name: str) -> Any:
        transfers = {"input": f"client:{tmp_path}/in", "result": f"client:{tmp_path}/{name}"}
        return executor.submit(app_name="copy", transfers=transfers)

    waited, polled = submitted("waited.stat"), submitted("polled.stat")
    waited.wait(timeout=WAIT_SEC)
    assert waited.state == "FINISHED" and (tmp_path / "waited.stat").read_text() == "forces"
    deadline = time.monotonic() + WAIT_SEC
    while not polled.finished:
        assert time.monotonic() < deadline
        polled.poll()
    assert polled.state == "FINISHED" and (tmp_path / "polled.stat").read_text() == "forces"
