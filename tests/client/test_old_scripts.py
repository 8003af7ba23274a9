"""What scripts for Balsam 0.7 do, as its user guide writes it: names, assignment of states, paths, old modules."""

from __future__ import annotations

import importlib
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from balsam.client import errors
from balsam.client.client import Client
from balsam.client.remote_path import RemotePath
from balsam.domain.states import BatchJobState, JobState
from tests.client.runner import Runner


def failed_jobs(hello: Any, runner: Runner, count: int = 3) -> list[Any]:
    jobs = hello.submit, [hello.submit(f"old/{i}", name="x", tags={"n": str(i)}, save=False) for i in range(count)]
    made: list[Any] = hello._client().Job.objects.bulk_create(jobs[1])
    runner.finish(runner.start(), return_code=1)
    hello._client().Job.objects.bulk_refresh(made)
    assert {job.state for job in made} == {JobState.FAILED}
    return made


def test_a_failed_job_is_run_again_by_assignment(hello: Any, runner: Runner, client: Client) -> None:
    (job,) = failed_jobs(hello, runner, 1)
    assert job.return_code == 1
    job.num_nodes = 4
    job.state = "RESTART_READY"
    job.state_data = {"why": "more nodes"}
    job.state_timestamp = datetime(2026, 1, 2, 3, 4)  # noqa: DTZ001 - as scripts write it: UTC
    assert job.state is JobState.RESTART_READY and job.poll_state() is JobState.FAILED, "not before it is saved"
    job.save()
    assert (job.state, job.num_nodes, job.state_data) == (JobState.RESTART_READY, 4, None)
    event = client.EventLog.objects.filter(job_id=job.id).first()
    assert (event.from_state, event.to_state, event.actor) == ("FAILED", "RESTART_READY", "user")
    assert event.data == {"why": "more nodes"}
    assert event.reported_at == datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
    job.state = JobState.restart_ready
    job.save()
    job.state = "CANCELLED"
    job.save()
    assert job.state is JobState.CANCELLED and job.done()
    job.state = "READY"
    job.save()
    assert job.state is JobState.PREPROCESSED, "from its inputs on"


def test_a_query_is_run_again_by_update_in_one_request(hello: Any, runner: Runner, client: Client) -> None:
    jobs = failed_jobs(hello, runner)
    mine = client.Job.objects.filter(id=jobs)
    changed = mine.filter(state="FAILED", tags={"n": ["0"]}).count()
    assert changed == 0
    assert mine.filter(state="FAILED").update(num_nodes=2, state="RESTART_READY") == 3
    assert mine.count_by("state") == {JobState.RESTART_READY: 3}
    assert mine.filter(num_nodes=2).count() == 3
    assert mine.update(state="RESTART_READY") == 3, "who is there already is there"
    for number, job in enumerate(jobs[:2]):
        job.refresh_from_db()
        job.state = ["CANCELLED", "RESTART_READY"][number]
        job.data = {"number": number}
    client.Job.objects.bulk_update(jobs[:2])
    assert [job.state for job in jobs[:2]] == ["CANCELLED", "RESTART_READY"]
    assert [job.data for job in jobs[:2]] == [{"number": 0}, {"number": 1}]


def test_states_that_nobody_can_be_put_into(hello: Any, runner: Runner, client: Client) -> None:
    (done,) = failed_jobs(hello, runner, 1)
    done.retry()
    runner.run_all()
    done.refresh_from_db()
    assert done.state is JobState.JOB_FINISHED
    done.state = "RESTART_READY"
    done.num_nodes = 3
    with pytest.raises(errors.Conflict, match="it is JOB_FINISHED and can't become RESTART_READY; nothing was changed"):
        done.save()
    refused = client.Job.objects.filter(id=done).update(state="RESTART_READY", num_nodes=3)
    assert (refused, list(refused.refused)) == (0, [done.id])
    done.refresh_from_db()
    assert done.num_nodes == 1
    done.state = "FAILED"
    with pytest.raises(errors.ValidationFailed, match=r"can't be set to FAILED: RESTART_READY \(run it again\)"):
        done.save()
    done.refresh_from_db()
    done.state_data = {"a": 1}
    with pytest.raises(errors.ValidationFailed, match="goes with a state"):
        done.save()
    with pytest.raises(ValueError, match="NO_STATE"):
        done.state = "NO_STATE"
    with pytest.raises(AttributeError, match="once it is saved"):
        hello.submit("a", name="x", save=False).state = "READY"


def test_a_running_job_is_cancelled_by_assignment_when_it_is_gone(hello: Any, runner: Runner) -> None:
    job = hello.submit("a", name="x")
    runner.start()
    job.refresh_from_db()
    job.state = "CANCELLED"
    job.save()
    assert (job.state, job.cancel_requested) == (JobState.RUNNING, True)


def test_delete_takes_the_id(hello: Any, client: Client) -> None:
    job = hello.submit("a", name="x")
    kept = job.id
    job.delete()
    assert job.id is None and job.workdir == "a"
    job.delete()
    for act in (job.save, job.refresh_from_db, job.poll_state, job.cancel):
        with pytest.raises(client.Job.DoesNotExist, match=f"Job {kept} was deleted"):
            act()
    assert not client.Job.objects.filter(id=kept).exists()
    hello.submit("b", name="x")
    with pytest.raises(errors.ValidationFailed, match="leave it out to select all"):
        client.Job.objects.filter(id=job.id).delete()


def test_paths_are_joined(client: Client, site: Any, hello: Any) -> None:
    job = hello.submit(Path("ensemble") / "1", name="x")
    assert job.workdir == "ensemble/1"
    for workdir in (job.workdir, client.Job.objects.get(id=job.id).workdir):
        assert (workdir.name, workdir.parts, str(workdir.parent), workdir.stem) == (
            *("1", ("ensemble", "1"), "ensemble", "1"),
        )
        assert (
            site.path / "data" / workdir == job.resolve_workdir(site.path / "data") == Path(site.path, "data", workdir)
        )
        assert Path("/x") / workdir == Path("/x/ensemble/1") and "/x" / workdir == Path("/x/ensemble/1")
        assert workdir.joinpath("job.out") == Path("ensemble/1/job.out")
        assert not workdir.is_absolute() and site.path.is_absolute()
    assert RemotePath.of(Path("a.b")).suffix == ".b" and RemotePath("a").as_posix() == "a"
    job.workdir = Path("ensemble/2")
    job.save()
    assert client.Job.objects.get(id=job.id).workdir == "ensemble/2"
    with pytest.raises(TypeError, match="is no path"):
        job.workdir = 3


def test_partitions_are_objects(client: Client, site: Any) -> None:
    made = client.BatchJob.objects.create(
        site_id=site.id, num_nodes=3, wall_time_min=5, job_mode="mpi", queue="local", project="local",
        partitions=[{"job_mode": "mpi", "num_nodes": 1, "filter_tags": {"role": "leader"}},
                    {"job_mode": "serial", "num_nodes": 2}],
    )  # fmt: skip
    for one in (made, client.BatchJob.objects.get(id=made.id)):
        assert [(part.job_mode, part.num_nodes, part.filter_tags) for part in one.partitions] == [
            ("mpi", 1, {"role": "leader"}),
            ("serial", 2, {}),
        ]
    made.save()
    with pytest.raises(errors.ValidationFailed, match=r"partitions\[0\].num_nodes"):
        client.BatchJob(site_id=1, num_nodes=1, wall_time_min=1, job_mode="mpi", queue="q", project="p",
                        partitions=[{"job_mode": "mpi"}])  # fmt: skip


def test_names_and_members(api: Any) -> None:
    assert api.JobState.job_finished is api.JobState.JOB_FINISHED and api.JobMode.mpi == "mpi"
    assert len(api.JobState) == len(set(api.JobState)) == 15 and api.JobState("FAILED").name == "FAILED"
    assert BatchJobState.pending_deletion is BatchJobState.PENDING_DELETION
    assert api.TransferDirection.stage_in == "in"
    assert str(api.JobTransferItem("laptop", Path("/a"))) == "laptop:/a"
    with pytest.raises(ValueError, match="not absolute"):
        api.JobTransferItem("laptop", "a")
    assert api.client is api.default_client()
    assert "client" in dir(api) and "site_config" in dir(api)
    from balsam.client import NotAuthenticatedError, RESTClient
    from balsam.schemas import DONE_STATES, JobOrdering

    assert RESTClient is api.Client and issubclass(api.Unauthorized, NotAuthenticatedError)
    assert api.JobState.cancelled if hasattr(api.JobState, "cancelled") else api.JobState.CANCELLED in DONE_STATES
    assert api.Job.objects.order_by(JobOrdering.last_update_desc) is not None
    for name in ("balsam.api", "balsam.client", "balsam.config"):
        with pytest.raises(AttributeError, match="nonsense"):
            importlib.import_module(name).nonsense  # noqa: B018


def test_recent_things_by_a_naive_time(api: Any, client: Client, hello: Any) -> None:
    hello.submit("recent", name="x")
    hour_ago = datetime.now(UTC).replace(tzinfo=None) - timedelta(hours=1)
    assert client.Job.objects.filter(last_update_after=hour_ago, workdir__contains="recent").count() == 1
    assert client.Site.objects.filter(last_refresh_after=hour_ago).count() == 0


def test_transfer_items_are_read(client: Client) -> None:
    assert list(client.TransferItem.objects.filter(direction="in", state=["active", "pending"], job_id=[1])) == []
    assert client.TransferItem.objects.filter(job_state="READY", tags={"a": "b"}, site_id=3).count() == 0
    with pytest.raises(client.TransferItem.DoesNotExist):
        client.TransferItem.objects.get(id=1)
    with pytest.raises(TypeError, match="made with their Jobs"):
        client.TransferItem(job_id=1)


SITE_SCRIPT = """
import sys
from balsam.api import site_config
from balsam.config import SiteConfig, Settings, InvalidSettings, ClientSettings
if sys.argv[1] == "outside":
    assert site_config is None
else:
    assert site_config.site_id == 7 and site_config.name == "here", site_config
    assert str(site_config.data_path) == sys.argv[1] + "/data", site_config.data_path
    assert site_config.log_path.name == "log" and site_config.job_path.name == "qsubmit"
    assert isinstance(site_config.settings, Settings)
    assert SiteConfig(sys.argv[1]).site_path == site_config.site_path
    assert SiteConfig.resolve_site_path() == (site_config.site_path, 7)
    assert SiteConfig(settings=Settings()).settings == Settings()
    print(site_config)
"""


def test_site_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "site"
    (root / "data" / "deep").mkdir(parents=True)
    (root / "log").mkdir()

    def run(where: Path, word: str, **more: str) -> subprocess.CompletedProcess[str]:
        import os

        environ = {key: value for key, value in os.environ.items() if key != "BALSAM_SITE_PATH"}
        command = [sys.executable, "-c", SITE_SCRIPT, word]
        return subprocess.run(command, cwd=where, env={**environ, **more}, capture_output=True, text=True)

    assert run(tmp_path, "outside").returncode == 0
    (root / "settings.yml").write_text("logging: {level: WARNING}\n")
    (root / ".balsam-site").write_text('{"id": 7, "name": "here", "url": "http://127.0.0.1:1"}')
    for done in (run(root / "data" / "deep", str(root)), run(tmp_path, str(root), BALSAM_SITE_PATH=str(root))):
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"SiteConfig(site_id=7, name='here', site_path='{root}')\n"

    from balsam.config import InvalidSettings, SiteConfig

    config = SiteConfig(root)
    path = config.enable_logging("test")
    import logging

    logging.getLogger("balsam.test").warning("to the file")
    assert "to the file" in path.read_text()
    for handler in [one for one in logging.getLogger("balsam").handlers if isinstance(one, logging.FileHandler)]:
        handler.close()
        logging.getLogger("balsam").removeHandler(handler)
    (root / "settings.yml").write_text("logging: {level: LOUD}\n")
    with pytest.raises(InvalidSettings, match=r"line 1.*level"):
        SiteConfig(root).settings  # noqa: B018


def test_client_settings_take_the_old_name_of_the_address(client: Client) -> None:
    from balsam.config import ClientSettings

    settings = ClientSettings(api_root=client.url, token=client.settings.token)
    assert settings == ClientSettings(url=client.url, token=client.settings.token)
    with settings.build_client() as other:
        assert other.Site.objects.count() == client.Site.objects.count()
    with pytest.raises(errors.NotConfigured, match="no address"):
        ClientSettings(token="x")


def test_jobs_of_an_acquire_that_broke_off_come_with_the_next(
    client: Client, site: Any, hello: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S3: they are granted already, and nobody else gets them."""
    hello.submit("a", name="x")
    session = client.Session.objects.create(site_id=site.id)

    def is_away(*_: object, **__: object) -> Any:
        raise errors.ServiceUnavailable("it is away")

    with monkeypatch.context() as patch:
        patch.setattr(client.transport, "search_json", is_away)
        with pytest.raises(errors.ServiceUnavailable):
            session.acquire_jobs(10)
    assert [job.workdir for job in session.acquire_jobs(10)] == ["a"]
    assert session.acquire_jobs(10) == []
    session.delete()


def test_a_session_takes_what_old_scripts_pass(client: Client, site: Any, hello: Any) -> None:
    hello.submit("a", name="x")
    session = client.Session.objects.create(site_id=site.id)
    before = session.heartbeat
    session.tick()
    session.refresh_from_db()
    assert session.heartbeat >= before
    jobs = session.acquire_jobs(10, states={JobState.preprocessed, JobState.restart_ready}, app_ids=set())
    assert [job.workdir for job in jobs] == ["a"]
    with pytest.raises(ValueError, match="PREPROCESSED and RESTART_READY together"):
        session.acquire_jobs(10, states={JobState.STAGED_IN})
    with pytest.raises(ValueError, match="use filter_tags"):
        session.acquire_jobs(10, app_ids={1})
    assert client.Session.objects.filter(id=[session.id]).get() == session
    session.delete()
    assert session.id is None
