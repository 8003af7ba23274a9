"""Leaving `with BalsamExecutor()` ends what was begun in it, and nothing else."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from typing import Any

import pytest

from balsam.api import DeadlineExceeded, NotConfigured
from balsam.libensemble import BalsamExecutor, executor, revocation
from tests.libensemble.fake_job import FakeBatchJob, FakeJob


class Jobs:
    """The manager of Jobs: remembers what it was asked to cancel."""

    def __init__(self, error: Exception | None = None) -> None:
        self.cancelled: list[dict[str, Any]] = []
        self.error = error

    def filter(self, **filters: Any) -> dict[str, Any]:
        return filters

    def cancel(self, query: dict[str, Any], reason: str, *, deadline_sec: float) -> int:
        if self.error is not None:
            raise self.error
        self.cancelled.append(query)
        return 1


def answer_with(monkeypatch: pytest.MonkeyPatch, allocation: FakeBatchJob) -> FakeBatchJob:
    """The service knows this BatchJob, by whatever id."""
    objects = type("Objects", (), {"get": staticmethod(lambda id: allocation)})
    monkeypatch.setattr(executor, "BatchJob", type("BatchJob", (), {"objects": objects}))
    return allocation


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> Jobs:
    made = Jobs()
    monkeypatch.setattr(FakeJob, "objects", made, raising=False)
    return made


def submit(exctr: BalsamExecutor, **options: Any) -> dict[str, Any]:
    tags: dict[str, Any] = exctr.submit(app_name="hello", app_args={"my_name": "x"}, **options).process.fields["tags"]
    return tags


@pytest.mark.parametrize("error", [None, KeyboardInterrupt, ValueError])
def test_tasks_and_allocations_of_the_block_are_ended_however_it_is_left(
    exctr: BalsamExecutor, jobs: Jobs, monkeypatch: pytest.MonkeyPatch, error: type[BaseException] | None
) -> None:
    allocation = answer_with(monkeypatch, FakeBatchJob())
    try:
        with exctr as same:
            assert same is exctr
            exctr.allocations.append(allocation)
            here = submit(exctr, tags={"kind": "a"})
            in_worker = pickle.loads(pickle.dumps(exctr)).own_tags
            if error is not None:
                raise error
    except (KeyboardInterrupt, ValueError) as raised:
        assert type(raised) is error
    [asked] = jobs.cancelled
    assert asked["tags"] == in_worker and in_worker.items() < here.items() and here["kind"] == "a"
    assert not {"JOB_FINISHED", "FAILED", "CANCELLED"} & {str(state) for state in asked["state"]}
    assert allocation.state == "finished"
    assert submit(exctr) == {}


def test_what_a_worker_began_that_ran_the_script_itself_ends_with_the_outer_block(
    exctr: BalsamExecutor, jobs: Jobs
) -> None:
    """Over tcp: libEnsemble ends such a worker by a signal, so that it leaves no block by itself."""
    code = "from balsam.libensemble import *; import json; print(json.dumps(BalsamExecutor().__enter__().own_tags))"
    with exctr:
        ours = exctr.own_tags
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    theirs = json.loads(done.stdout)
    assert ours.items() < theirs.items()  # so a worker that leaves ends its own only
    assert jobs.cancelled[0]["tags"] == ours
    with BalsamExecutor(), BalsamExecutor() as inner:
        assert len(inner.own_tags) == 1  # two blocks of one process have nothing to do with each other
    assert not [name for name in os.environ if name.startswith("BALSAM_LIBE")]


def test_two_blocks_do_not_meet(exctr: BalsamExecutor, jobs: Jobs) -> None:
    for _ in range(2):
        with exctr:
            submit(exctr)
    first, second = jobs.cancelled
    assert first["tags"] != second["tags"]


def test_what_can_t_be_ended_is_said_and_dry_runs_need_no_service(
    exctr: BalsamExecutor, jobs: Jobs, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    jobs.error = NotConfigured("no service")
    with exctr:
        exctr.submit(app_name="hello", app_args={"my_name": "x"}, dry_run=True)
    assert caplog.text == ""
    jobs.error = DeadlineExceeded("the service can't be reached")
    monkeypatch.setattr(revocation, "GONE_SEC", 0.05)
    with exctr:
        exctr.allocations.append(answer_with(monkeypatch, FakeBatchJob(obeys_after=None)))
        tags = submit(exctr)
    assert f"balsam job cancel --tag libe_executor={tags['libe_executor']}" in caplog.text
    assert "Allocation 5 was not seen to end" in caplog.text
