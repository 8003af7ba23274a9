"""The file cleaner: files of finished Jobs that the App names, in their own workdir, and nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from balsam.domain.globs import Glob
from balsam.domain.states import JobState
from balsam.site.services.cleanup import FileCleaner, remove_matches
from tests.services import running_service
from tests.site.hook_site import HookSite, eventually, hook_site


def tree(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("x")


def cleaned(root: Path, *patterns: str) -> list[str]:
    """What is left in a directory."""
    handle = os.open(root, os.O_RDONLY)
    try:
        remove_matches(handle, [Glob.parse(pattern) for pattern in patterns])
    finally:
        os.close(handle)
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_symlink() or not path.is_dir())


def test_matches_go_and_everything_else_stays(tmp_path: Path) -> None:
    tree(tmp_path, "a.tmp", ".b.tmp", "out", "sub/c.tmp", "sub/deep/er/core", "sub/keep")
    (tmp_path / "dir.tmp").mkdir()
    assert cleaned(tmp_path, "*.tmp", "**/core") == ["out", "sub/c.tmp", "sub/keep"]
    assert (tmp_path / "dir.tmp").is_dir() and (tmp_path / "sub" / "deep" / "er").is_dir()


def test_s15_links_are_no_ways_out(tmp_path: Path) -> None:
    """A link is removed as the file that it is; what it leads to is never seen."""
    tree(tmp_path, "work/x.tmp", "outside/y.tmp", "outside/z.tmp")
    work = tmp_path / "work"
    (work / "dir").symlink_to(tmp_path / "outside")
    (work / "file.tmp").symlink_to(tmp_path / "outside" / "z.tmp")
    (work / "loop").symlink_to(work)
    assert cleaned(work, "**/*.tmp") == ["dir", "loop"]
    assert sorted(path.name for path in (tmp_path / "outside").iterdir()) == ["y.tmp", "z.tmp"]


@pytest.mark.slow
def test_a_deep_tree_needs_no_deep_stack_and_few_descriptors(tmp_path: Path) -> None:
    deep = "/".join(["d"] * 600)
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(600):
        os.mkdir("d", dir_fd=here)
        deeper = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = deeper
    os.close(os.open("x.tmp", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    handle = os.open(tmp_path, os.O_RDONLY)
    assert remove_matches(handle, [Glob.parse("**/*.tmp")]) == 1
    assert os.listdir(here) == []
    os.close(handle)
    os.close(here)
    assert len(deep) > 1000


@pytest.fixture
def place(tmp_path: Path) -> Iterator[HookSite]:
    with running_service(tmp_path / "home") as service, hook_site(service, tmp_path / "site") as site:
        yield site


def finished(site: HookSite, workdir: str, **fields: Any) -> Any:
    class Messy(site.client.ApplicationDefinition):  # type: ignore[name-defined, misc]
        site = "here"
        command_template = "true"
        cleanup_files = ["*.tmp", "scratch/**"]  # noqa: RUF012

    job = Messy.submit(workdir, save=False)
    for name, value in fields.items():
        setattr(job, name, value)
    job.save()
    tree(site.site.data / workdir, "a.tmp", "job.out", "scratch/b/c")
    return job


@pytest.mark.slow
def test_jobs_are_cleaned_once_they_have_finished(place: HookSite) -> None:
    place.settings(file_cleaner={"service_period": 0.2, "cleanup_batch_size": 1})
    done, kept, failed, waiting = (
        finished(place, name, **({"pending_file_cleanup": False} if name == "kept" else {}))
        for name in ("done", "kept", "failed", "waiting")
    )
    assert [job.pending_file_cleanup for job in (done, kept)] == [True, False]
    assert [place.client.Job.objects.get(id=job.id).pending_file_cleanup for job in (done, kept)] == [True, False]
    for job, end, code in ((done, "run_done", 0), (kept, "run_done", 0), (failed, "run_error", 1)):
        place.attempt(job, end, return_code=code)
    with place.running():
        eventually(lambda: not place.client.Job.objects.get(id=done.id).pending_file_cleanup, "it is not cleaned")
        assert {path.name for path in (place.site.data / "done").rglob("*") if path.is_file()} == {"job.out"}
        kept.pending_file_cleanup = True  # wanted after all
        kept.save()
        eventually(lambda: not (place.site.data / "kept" / "a.tmp").exists(), "it is not cleaned")
    for job in (failed, waiting):
        assert (place.site.data / job.workdir / "a.tmp").exists()
        job.refresh_from_db()
        assert job.pending_file_cleanup
    assert [job.id for job in place.client.Job.objects.filter(pending_file_cleanup=True)] == [failed.id, waiting.id]


@pytest.mark.slow
def test_a_job_that_can_not_be_cleaned_is_in_nobodys_way(place: HookSite, tmp_path: Path) -> None:
    """Its flag stays, and those behind it are done."""
    place.settings(file_cleaner={"service_period": 0.2, "cleanup_batch_size": 1})
    bad, good = finished(place, "bad"), finished(place, "good")
    for job in (bad, good):
        place.attempt(job, "run_done", return_code=0)
    (place.site.data / "bad").rename(tmp_path / "elsewhere")
    (place.site.data / "bad").symlink_to(tmp_path / "elsewhere")
    with place.running():
        eventually(lambda: not place.client.Job.objects.get(id=good.id).pending_file_cleanup, "it is not cleaned")
        assert place.log.count("files of Job") == 1
    assert (tmp_path / "elsewhere" / "a.tmp").exists()
    assert place.client.Job.objects.get(id=bad.id).pending_file_cleanup
    assert not (place.site.data / "good" / "a.tmp").exists()


class Service:
    """The service's side of the cleaner, in memory."""

    def __init__(self, jobs: list[Any], apps: list[Any]) -> None:
        self.jobs = {job.id: job for job in jobs}
        self._apps = apps

    def to_clean(self, after: int, limit: int) -> list[Any]:
        return [job for job_id, job in sorted(self.jobs.items()) if job_id > after][:limit]

    def apps(self, ids: Any) -> list[Any]:
        return [app for app in self._apps if app.id in ids]

    def cleaned(self, job_ids: Any) -> None:
        for job_id in job_ids:
            del self.jobs[job_id]


@pytest.mark.slow
def test_s15_an_app_that_may_not_run_here_removes_nothing(place: HookSite) -> None:
    """Whether it was not approved, or the service tells another definition under an approved hash."""
    job = finished(place, "w")
    place.attempt(job, "run_done", return_code=0)
    with place.service.client() as client:
        from balsam.wire.apps import AppView
        from balsam.wire.jobs import JobView

        view = JobView.model_validate(client.get(f"/api/jobs/{job.id}").json())
        app = AppView.model_validate(client.get(f"/api/apps/{job.app_id}").json())
    assert view.state is JobState.JOB_FINISHED
    lie = app.model_copy(update={"cleanup_files": ["job.out"]})
    for told, approved, left in ((app, [], 1), (lie, [app.content_hash], 1), (lie, None, 1), (app, None, 0)):
        service = Service([view], [told])
        FileCleaner(place.site.data, service, lambda it=approved: it, 10, 1.0).run_once()  # type: ignore[misc]
        assert len(service.jobs) == left
        assert (place.site.data / "w" / "job.out").exists()
        assert (place.site.data / "w" / "a.tmp").exists() == bool(left)
