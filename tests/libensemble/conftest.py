"""An executor whose Jobs are fakes, and libEnsemble's one global put back afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from libensemble.executors.executor import Executor

from balsam.libensemble import BalsamExecutor, BalsamTask, executor
from tests.libensemble.fake_job import FakeJob


class Hello:
    """What the executor asks of an App, without a service behind it."""

    site = "my-balsam-site"
    command_template = "/path/to/hello.app {{ my_name }}"


@pytest.fixture(autouse=True)
def _libensemble_left_clean() -> Iterator[None]:
    yield
    Executor.executor = None


@pytest.fixture
def exctr(monkeypatch: pytest.MonkeyPatch) -> BalsamExecutor:
    monkeypatch.setattr(executor, "Job", FakeJob)
    monkeypatch.setattr(FakeJob, "created", [])
    made = BalsamExecutor()
    made.register_app(Hello, app_name="hello", calc_type="sim")
    return made


@pytest.fixture
def submitted(exctr: BalsamExecutor) -> Callable[..., BalsamTask]:
    def submit(**options: Any) -> BalsamTask:
        return exctr.submit(app_name="hello", app_args={"my_name": "World"}, **options)

    return submit
