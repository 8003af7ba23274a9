"""Results at the caller: values, exceptions with the Site's traceback, and words for everything else."""

from __future__ import annotations

import pickle
import threading
import traceback
from typing import Any

import pytest

from balsam.client.client import Client
from balsam.client.encoding import encode
from balsam.client.errors import JobCancelled, JobFailed, NoResult, NotFound, RemoteError
from balsam.client.pickling import NotOpened, seal
from balsam.wire.results import JobResult, RunError
from tests.client.runner import Runner

TRACE = "Traceback (most recent call last):\n  File app.py, line 3, in run\nZeroDivisionError: by zero\n"


class Known(Exception):
    pass


def ended(runner: Runner, job: Any, result: JobResult | None, return_code: int = 0) -> Any:
    runner.finish(runner.start(), return_code, result)
    return job


@pytest.mark.parametrize("value", [None, 12, {"a": [1.5, "x"]}, (1, {2, 3}), float("inf"), b"bytes"])
def test_a_value_comes_back_as_it_was_returned(hello: Any, runner: Runner, value: Any) -> None:
    job = ended(runner, hello.submit("a", name="x"), None if value is None else JobResult(value=encode(value)))
    assert job.result(timeout=30) == value
    assert type(job.result_nowait()) is type(value)


def test_waiting_is_by_push_and_ends_in_time(hello: Any, runner: Runner) -> None:
    job = hello.submit("a", name="x")
    with pytest.raises(TimeoutError, match=r"is not done after .* s: it is PREPROCESSED, its explain\(\) says why"):
        job.result(timeout=0.05)
    with pytest.raises(job.NoResult, match="no result yet: it is PREPROCESSED"):
        job.result_nowait()
    assert job.NoResult is NoResult
    timer = threading.Timer(0.2, ended, (runner, job, JobResult(value=5)))
    timer.start()
    assert job.result() == 5
    timer.join()


def failure(exception: Any, kind: str = "builtins.ZeroDivisionError") -> JobResult:
    return JobResult(error=RunError(type=kind, message="by zero", traceback=TRACE, exception=exception))


def test_an_exception_is_raised_again_with_the_remote_traceback(hello: Any, runner: Runner) -> None:
    told = failure(seal(ZeroDivisionError("by zero")).as_json())
    job = ended(runner, hello.submit("a", name="x"), told, 1)
    with pytest.raises(ZeroDivisionError, match="by zero") as caught:
        job.result()
    assert "line 3, in run" in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("exception", "why"),
    [
        (None, "can't be pickled"),
        ({**seal(Known()).as_json(), "python": "3.9"}, "Python 3.9"),
        (seal(SystemExit(3)).as_json(), "it is a SystemExit, which would end this program"),
        ({"$envelope": 1}, "nothing else"),
    ],
)
def test_an_exception_that_can_t_be_made_here_is_named(hello: Any, runner: Runner, exception: Any, why: str) -> None:
    job = ended(runner, hello.submit("a", name="x"), failure(exception, "mine.Special"), 1)
    with pytest.raises(RemoteError, match=r"mine\.Special: by zero") as caught:
        job.result()
    error = caught.value
    assert why in str(error)
    assert (error.remote_type, error.remote_message, error.remote_traceback) == ("mine.Special", "by zero", TRACE)
    assert "line 3, in run" in "".join(traceback.format_exception(error))
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.remote_type) == (RemoteError, str(error), "mine.Special")


def test_a_command_returns_none_or_says_how_it_failed(hello: Any, runner: Runner) -> None:
    assert ended(runner, hello.submit("a", name="x"), None).result() is None
    job = ended(runner, hello.submit("a", name="x"), None, 3)
    with pytest.raises(JobFailed, match="failed with return code 3") as caught:
        job.result()
    assert (caught.value.job_id, caught.value.state, caught.value.return_code) == (job.id, "FAILED", 3)
    assert pickle.loads(pickle.dumps(caught.value)).return_code == 3


def test_a_cancelled_job_has_no_result(hello: Any) -> None:
    job = hello.submit("a", name="x")
    job.cancel("changed my mind")
    with pytest.raises(JobCancelled, match="changed my mind"):
        job.result()


def test_a_deleted_job_does_not_exist(hello: Any) -> None:
    job = hello.submit("a", name="x")
    job.delete()
    with pytest.raises(NotFound):
        job.result_nowait()


def test_a_damaged_value_is_not_opened(hello: Any, runner: Runner) -> None:
    value = {**seal({1, 2}).as_json(), "python": "3.9"}
    job = ended(runner, hello.submit("a", name="x"), JobResult(value=value))
    with pytest.raises(NotOpened, match=r"Python 3\.9"):
        job.result()


def test_children_read_the_results_of_their_parents(hello: Any, runner: Runner, client: Client) -> None:
    parents = [hello.submit(f"p{number}", name="x") for number in range(3)]
    for number, job_id in enumerate(runner.start()):
        runner.finish([job_id], result=JobResult(value=number))
    child = hello.submit("child", name="x", parent_ids=[job.id for job in parents])
    assert sorted(parent.result() for parent in client.Job.objects.get(id=child.id).parent_query()) == [0, 1, 2]
