"""The executor travels to worker processes, however they are started and wherever its Apps were defined."""

from __future__ import annotations

import multiprocessing
import pickle
import threading
from multiprocessing.connection import Connection

import pytest
from libensemble.executors.executor import Executor

from balsam.api import ApplicationDefinition
from balsam.libensemble import BalsamExecutor, executor
from tests.libensemble.fake_job import FakeJob


class Hello(ApplicationDefinition):
    """Can be found by name in any process."""

    site = "my-balsam-site"
    command_template = "/path/to/hello.app {{ my_name }}"


def made_here() -> type[ApplicationDefinition]:
    """An App that only this call knows, as those loaded from a service are."""

    class Hidden(ApplicationDefinition):
        """Found by nobody."""

        site = "other-site"
        command_template = "hidden {{ my_name }} {{ word }}"
        parameters = {"word": {"required": False, "default": "by default"}}  # noqa: RUF012

    return Hidden


def work(exctr: BalsamExecutor, answers: Connection) -> None:
    """What a worker process does with the executor that it was given."""
    Executor.executor = exctr
    exctr.set_worker_info(None, 2)
    tasks = [exctr.submit(app_name=name, app_args={"my_name": "a b"}, dry_run=True) for name in ("hello", "hidden")]
    apps = [exctr.get_app(name).pyobj for name in ("hello", "hidden")]
    answers.send(
        {
            "runlines": [task.runline for task in tasks],
            "names": [app.__name__ for app in apps],
            "sites": [app.site for app in apps],
            "docs": [app.__doc__ for app in apps],
            "default": exctr.sim_default_app is exctr.get_app("hello"),
            "comm": exctr.comm,
            "worker": exctr.workerID,
        }
    )


@pytest.fixture
def exctr() -> BalsamExecutor:
    made = BalsamExecutor()
    made.register_app(Hello, app_name="hello", calc_type="sim", desc="says hello")
    made.register_app(made_here(), app_name="hidden")
    return made


@pytest.mark.parametrize("start", ["fork", "spawn", "forkserver"])
def test_a_worker_process_can_submit(exctr: BalsamExecutor, start: str) -> None:
    context = multiprocessing.get_context(start)
    here, there = context.Pipe()
    worker = context.Process(target=work, args=(exctr, there))
    worker.start()
    there.close()  # so that a worker that died is an EOFError at once
    try:
        assert here.poll(60)
        answer = here.recv()
    finally:
        worker.join(60)
        worker.close()
    assert answer == {
        "runlines": ["/path/to/hello.app 'a b'", "hidden 'a b' 'by default'"],
        "names": ["Hello", "Hidden"],
        "sites": ["my-balsam-site", "other-site"],
        "docs": ["Can be found by name in any process.", "Found by nobody."],
        "default": True,
        "comm": None,
        "worker": 2,
    }


def test_tasks_travel_too(exctr: BalsamExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "Job", FakeJob)
    task = exctr.submit(app_name="hidden", app_args={"my_name": "x"})
    task.process.fields["app_id"] = None  # the SDK's own Job knows how to pickle this
    task.process.__dict__.update(state="JOB_FINISHED", return_code=0)
    copy = pickle.loads(pickle.dumps(exctr)).get_task(task.id)
    assert (copy.name, copy.workdir, copy.app.pyobj.__name__) == (task.name, task.workdir, "Hidden")
    assert copy.done()
    assert (copy.state, copy.errcode) == ("FINISHED", 0)


def test_handles_of_this_process_stay_here(exctr: BalsamExecutor) -> None:
    exctr.comm = threading.Lock()  # as unpicklable as a connection
    copy = pickle.loads(pickle.dumps(exctr))
    assert copy.comm is None
    assert copy.get_app("hello").pyobj is Hello
    assert vars(copy.get_app("hello")) == vars(exctr.get_app("hello"))
    assert exctr.comm is not None
