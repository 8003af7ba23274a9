"""Tests that users wrote for the executor of libEnsemble 1.5 patch Job, BatchJob and EventLog with mocks; they pass.

Such mocks answer every attribute with another mock, so that times, states and ids may be no such thing at all.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator
from unittest import mock

import pytest
from libensemble.executors.executor import Application, TimeoutExpired

from balsam.libensemble import BalsamExecutor

MODULE = "libensemble.executors.balsam_executor"


class LibeApp:
    """Not even an ApplicationDefinition."""

    site = "libe-unit-test"
    command_template = "python simdir/py_startup.py"

    def sync() -> None:  # type: ignore[misc]  # called on the class
        pass


@pytest.fixture
def exctr() -> BalsamExecutor:
    made = BalsamExecutor()
    made.register_app(LibeApp, calc_type="sim", precedent="fake/dir")
    made.register_app(LibeApp, app_name="test")
    return made


@pytest.fixture
def job() -> Iterator[mock.MagicMock]:
    with mock.patch(f"{MODULE}.Job") as patched, mock.patch(f"{MODULE}.EventLog"):
        yield patched.return_value


def test_registration_and_default_submissions(exctr: BalsamExecutor, job: mock.MagicMock) -> None:
    assert isinstance(exctr.apps["python"], Application)
    assert exctr.submit(calc_type="sim") in exctr.list_of_tasks
    task = exctr.submit(app_name="test", workdir="output", machinefile="nope")
    assert task.workdir == os.path.join(exctr.workflow_name, "output")
    assert task == exctr.get_task(task.id)


def test_polling_follows_the_mock_s_state(exctr: BalsamExecutor, job: mock.MagicMock) -> None:
    task = exctr.submit(calc_type="sim")
    for state, expected in (("PREPROCESSED", "WAITING"), ("RUNNING", "RUNNING"), ("FAILED", "FAILED")):
        job.state = state
        task.poll()
        assert task.state == expected
    job.state = "JOB_FINISHED"
    task = exctr.submit(calc_type="sim")
    task.poll()
    assert (task.state, task.running(), task.done()) == ("FINISHED", False, True)


def test_waiting_with_a_mock_ends_in_time(exctr: BalsamExecutor, job: mock.MagicMock) -> None:
    task = exctr.submit(calc_type="sim")
    job.state = "RUNNING"
    with pytest.raises(TimeoutExpired):
        task.wait(timeout=0.3)
    job.state = "JOB_FINISHED"
    task.wait(timeout=3)
    task.wait(timeout=3)
    assert task.done()


def test_times_that_are_none_or_mocks_or_naive(exctr: BalsamExecutor, job: mock.MagicMock) -> None:
    job.state = "RUNNING"
    task = exctr.submit(calc_type="sim", wait_on_start=True)
    assert task.running()
    assert task.runtime == 0
    job.started_at, job.ended_at = datetime.datetime(2022, 4, 21, 20, 29, 33), None  # noqa: DTZ001
    assert task.running()
    assert 0 <= task.runtime < 5


def test_killing_with_a_mock_does_not_hang(exctr: BalsamExecutor, job: mock.MagicMock) -> None:
    task = exctr.submit(calc_type="sim")
    task.kill()
    assert (task.finished, task.state) == (True, "USER_KILLED")
    job.cancel.assert_called_once()


def test_allocations_with_a_mock(exctr: BalsamExecutor) -> None:
    with mock.patch(f"{MODULE}.BatchJob"):
        alloc = exctr.submit_allocation(site_id="libe-unit-test", num_nodes=1, wall_time_min=30)
        assert alloc in exctr.allocations
        alloc.scheduler_id = None
        assert not exctr.revoke_allocation(alloc, timeout=0.3)
        alloc.scheduler_id = 1
        assert exctr.revoke_allocation(alloc, timeout=0.3)
