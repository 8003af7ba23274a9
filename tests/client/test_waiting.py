"""Waiting by push: one stream, no polling, in time, through outages, in forked and spawned processes."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from balsam.client import errors, waiting_notice, watcher
from balsam.client.client import Client
from balsam.client.settings import ClientSettings
from balsam.client.transport import PooledLink, RawRequest
from balsam.domain.states import JobState
from balsam.wire.sessions import LaunchEvent
from tests.client.conftest import hello_app, new_site
from tests.client.runner import Runner
from tests.services import RunningService


class Traffic:
    """Requests of this client, by path; streams as well. Not of others in this process, nor of a poll for safety."""

    def __init__(self, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        self.paths: list[str] = []
        monkeypatch.setattr(watcher, "SAFETY_POLL_SEC", 600.0)

        def counted(original: Callable[..., Any]) -> Callable[..., Any]:
            def call(link: PooledLink, request: RawRequest) -> Any:
                if link is client.transport._link:
                    self.paths.append(request.url.split("/api", 1)[1].split("?")[0])
                return original(link, request)

            return call

        monkeypatch.setattr(PooledLink, "send", counted(PooledLink.send))
        monkeypatch.setattr(PooledLink, "open", counted(PooledLink.open))


def connect(client: Client, job: Any) -> None:
    """Have the stream up and everything read that was not sure."""
    job.poll_state()
    deadline = time.monotonic() + 30
    while client.watcher.epoch is None or (job._watch is not None and not job._watch.sure):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def later(seconds: float, act: Callable[[], Any]) -> threading.Timer:
    timer = threading.Timer(seconds, act)
    timer.start()
    return timer


def test_wait_returns_as_soon_as_the_job_is_done(hello: Any, client: Client, runner: Runner) -> None:
    job = hello.submit("a", name="x")
    connect(client, job)
    done_at: list[float] = []

    def run() -> None:
        runner.run_all()
        done_at.append(time.monotonic())

    timer = later(0.3, run)
    assert job.wait(timeout=30)
    returned_at = time.monotonic()
    timer.join()
    assert returned_at - done_at[0] < 1.0  # far below both polls
    assert (job.state, job.return_code, job.done()) == (JobState.JOB_FINISHED, 0, True)
    assert job.started_at is not None and job.ended_at >= job.started_at
    assert job.attempt == 1


def test_wait_ends_in_time(hello: Any) -> None:
    job = hello.submit("a", name="x")
    start = time.monotonic()
    assert not job.wait(timeout=0.4)
    assert 0.4 <= time.monotonic() - start < 1.5
    assert not job.wait(timeout=0)
    assert not job.wait(timeout=-1)


def test_who_waits_is_told_why_it_does_not_start(
    hello: Any, client: Client, runner: Runner, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(waiting_notice, "FIRST_SEC", 0.1)
    monkeypatch.setattr(waiting_notice, "LOOK_SEC", 0.05)
    monkeypatch.setattr(watcher, "LOOK_SEC", 0.05)

    def told() -> list[str]:
        return [record.getMessage() for record in caplog.records if "Waiting for" in record.getMessage()]

    job = hello.submit("a", name="x")
    connect(client, job)
    time.sleep(0.3)
    assert told() == [], "nobody waits yet"
    waiting = threading.Thread(target=job.wait)
    waiting.start()
    deadline = time.monotonic() + 30
    while not told() and time.monotonic() < deadline:
        time.sleep(0.01)
    [line] = told()
    assert line.startswith(f"Waiting for Job {job.id} (PREPROCESSED) since 0 s: Site ")
    assert "has no allocation" in line and "balsam queue submit --site" in line
    runner.run_all()
    waiting.join(30)
    assert job.done() and len(told()) == 1


def test_a_failed_and_a_cancelled_job_are_done(hello: Any, client: Client, runner: Runner) -> None:
    bad, gone = hello.submit("a", name="x"), hello.submit("b", name="x")
    timer = later(0.2, lambda: (gone.cancel(), runner.finish(runner.start(), return_code=3)))
    done, not_done = client.Job.objects.wait([bad, gone], timeout=30)
    timer.join()
    assert (done, not_done) == ([bad, gone], [])
    assert (bad.state, bad.return_code) == (JobState.FAILED, 3)
    assert gone.state is JobState.CANCELLED


def test_waiting_sends_no_request_while_the_stream_is_up(
    hello: Any, client: Client, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    traffic = Traffic(client, monkeypatch)
    job = hello.submit("a", name="x")
    connect(client, job)
    traffic.paths.clear()
    timer = later(1.5, runner.run_all)
    deadline = time.monotonic() + 60
    polls = 0
    while job.poll_state() not in ("JOB_FINISHED",):
        polls += 1
        assert time.monotonic() < deadline
    timer.join()
    assert polls > 1000
    assert traffic.paths == []
    second = hello.submit("b", name="x")
    timer = later(0.5, runner.run_all)
    assert second.wait(timeout=60)
    timer.join()
    assert traffic.paths == ["/jobs"]  # the submission itself


def test_nothing_is_sure_before_the_greeting_of_a_connection_was_read(
    hello: Any, client: Client, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrived, go_on = threading.Event(), threading.Event()
    connected = watcher.Watcher._connected

    def late(self: watcher.Watcher) -> None:
        arrived.set()
        assert go_on.wait(30)
        connected(self)

    monkeypatch.setattr(watcher.Watcher, "_connected", late)
    job = hello.submit("a", name="x")
    job.poll_state()
    assert arrived.wait(30)
    assert client.watcher.epoch is None
    client.watcher._read_again(everything=True)
    assert not job._watch.sure
    go_on.set()
    runner.run_all()
    assert job.wait(timeout=60)


def test_what_happened_before_the_first_look_is_not_missed(hello: Any, client: Client, runner: Runner) -> None:
    other = hello.submit("other", name="x")
    connect(client, other)
    made = hello.submit("made", name="x")
    read = client.Job.objects.get(id=made.id)
    runner.run_all()
    assert other.wait(timeout=30)
    start = time.monotonic()
    assert read.wait(timeout=30)
    assert made.wait(timeout=30)
    assert time.monotonic() - start < 5  # not by the safety poll


def test_as_completed_over_1000_jobs_uses_one_stream_and_few_requests(
    hello: Any, client: Client, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = client.Job.objects.bulk_create([hello.submit(f"m/{i}", name="x", save=False) for i in range(1000)])
    jobs = list(client.Job.objects.filter(id=[job.id for job in made]))
    traffic = Traffic(client, monkeypatch)

    def run() -> None:
        job_ids = runner.start(1000)
        for start in range(0, 1000, 50):
            runner.finish(job_ids[start : start + 50])

    timer = later(0.5, run)
    seen = [job.id for job in client.Job.objects.as_completed(jobs, timeout=100)]
    timer.join()
    assert sorted(seen) == [job.id for job in jobs]
    assert traffic.paths.count("/jobs/stream") == 1
    assert len(traffic.paths) <= 20


def test_as_completed_gives_done_ones_first_and_times_out(hello: Any, client: Client, runner: Runner) -> None:
    done = hello.submit("a", name="x")
    runner.run_all()
    assert done.wait(timeout=30)
    never = hello.submit("b", name="x")
    found = client.Job.objects.as_completed([never, done], timeout=0.3)
    assert next(found) == done
    with pytest.raises(TimeoutError, match="1 of 2"):
        next(found)


def test_first_completed(hello: Any, client: Client, runner: Runner) -> None:
    jobs = [hello.submit(f"f/{i}", name="x") for i in range(3)]
    timer = later(0.2, lambda: runner.finish(runner.start(1)))
    done, not_done = client.Job.objects.wait(jobs, timeout=10, return_when="FIRST_COMPLETED")
    timer.join()
    assert (len(done), len(not_done)) == (1, 2)
    with pytest.raises(ValueError, match="ALL_COMPLETED or FIRST_COMPLETED"):
        client.Job.objects.wait(jobs, return_when="SOMETIME")


def test_several_instances_and_threads_wait_for_the_same_job(hello: Any, client: Client, runner: Runner) -> None:
    job = hello.submit("a", name="x")
    twins = [client.Job.objects.get(id=job.id) for _ in range(4)]
    answers: list[bool] = []
    threads = [threading.Thread(target=lambda twin=twin: answers.append(twin.wait(10))) for twin in twins]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    runner.run_all()
    done, _ = client.Job.objects.wait([job, job, twins[0]], timeout=30)
    assert len(done) == 3
    for thread in threads:
        thread.join()
    assert answers == [True] * 4


def test_running_is_seen_by_polling(hello: Any, client: Client, runner: Runner) -> None:
    job = hello.submit("a", name="x")
    assert job.poll_state() is JobState.PREPROCESSED
    assert job.started_at is None
    runner.start()
    deadline = time.monotonic() + 10
    while job.poll_state() is not JobState.RUNNING:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert job.started_at is not None


def test_a_deleted_job_ends_the_wait(hello: Any, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watcher, "SAFETY_POLL_SEC", 0.3)
    job = hello.submit("a", name="x")
    client.Job.objects.filter(id=job.id).delete()
    with pytest.raises(client.Job.DoesNotExist, match="deleted"):
        job.wait(timeout=30)


def test_a_push_that_was_lost_is_made_good_by_the_safety_poll(
    hello: Any, client: Client, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher, "SAFETY_POLL_SEC", 0.5)
    job = hello.submit("a", name="x")
    connect(client, job)
    monkeypatch.setattr(watcher.Watcher, "_pushed", lambda self, states: None)
    runner.run_all()
    assert job.wait(timeout=30)


def test_watches_of_forgotten_jobs_go_away(hello: Any, client: Client) -> None:
    job = hello.submit("a", name="x")
    connect(client, job)
    assert len(client.watcher._watches) == 1
    del job
    gc.collect()
    assert len(client.watcher._watches) == 0


def test_a_wrong_token_ends_the_wait_at_once(service: RunningService, hello: Any) -> None:
    job = hello.submit("a", name="x")
    with Client(ClientSettings(service.url, "blsm_user_wrong")) as stranger:
        foreign = stranger.Job._from_row(dict(job._row))
        start = time.monotonic()
        with pytest.raises(errors.Unauthorized, match="balsam login"):
            foreign.wait(timeout=20)
        assert time.monotonic() - start < 5


@pytest.fixture
def own(own_service: RunningService) -> Iterator[tuple[RunningService, Client, Any]]:
    with Client(ClientSettings(own_service.url, own_service.token, source=own_service.home / "service.json")) as client:
        yield own_service, client, new_site(client)


def test_wait_with_a_timeout_ends_in_time_while_the_service_is_down(own: Any, caplog: pytest.LogCaptureFixture) -> None:
    service, client, site = own
    job = hello_app(client, site).submit("a", name="x")
    connect(client, job)
    service.kill()
    start = time.monotonic()
    with caplog.at_level(logging.WARNING, "balsam"):
        assert not job.wait(timeout=3)
    assert 2.9 < time.monotonic() - start < 4.5
    said = [record.getMessage() for record in caplog.records if "can't be reached" in record.getMessage()]
    assert len(said) == 1
    assert job.poll_state() is JobState.PREPROCESSED


def test_cancel_with_a_deadline_ends_in_time_while_the_service_is_down(own: Any) -> None:
    service, client, site = own
    job = hello_app(client, site).submit("a", name="x")
    service.kill()
    for cancel in (lambda: job.cancel(deadline_sec=1), lambda: client.Job.objects.cancel([job], deadline_sec=1)):
        start = time.monotonic()
        with pytest.raises(errors.DeadlineExceeded):
            cancel()
        assert 0.5 < time.monotonic() - start < 2.5
    again = service.restart()
    try:
        job.cancel(deadline_sec=20)
        assert job.state is JobState.CANCELLED
    finally:
        again.stop()


def test_l_wait_survives_a_service_that_is_killed_and_started_again(own: Any) -> None:
    service, client, site = own
    job = hello_app(client, site).submit("a", name="x")
    connect(client, job)
    answer: list[bool] = []
    waiter = threading.Thread(target=lambda: answer.append(job.wait()), daemon=True)
    waiter.start()
    with Runner(client.url, site) as runner:
        runner.start()
        service.kill()
        time.sleep(1)
        assert waiter.is_alive()
        again = service.restart()
        try:
            runner.finish(list(runner.tokens))
            waiter.join(20)
            assert answer == [True]
            assert (job.state, job.return_code) == (JobState.JOB_FINISHED, 0)
        finally:
            again.stop()


def test_what_happened_while_the_stream_was_down_is_read_after_it(own: Any) -> None:
    _, client, site = own
    job = hello_app(client, site).submit("a", name="x")
    connect(client, job)
    with Runner(client.url, site) as runner:
        client.watcher._stream._connect, connect_ = _refused, client.watcher._stream._connect  # type: ignore[union-attr]
        client.watcher._stream._reply.abort()  # type: ignore[union-attr]
        runner.run_all()
        client.watcher._stream._connect = connect_  # type: ignore[union-attr]
        assert job.wait(timeout=20)


def _refused() -> Any:
    from balsam.client.transport import LinkError

    raise LinkError("refused", maybe_done=False)


def test_a_forked_child_waits_with_a_stream_of_its_own(hello: Any, client: Client, runner: Runner) -> None:
    job = hello.submit("a", name="x")
    other = hello.submit("b", name="x")
    connect(client, job)
    child = os.fork()
    if child == 0:
        good = False
        try:
            good = job.wait(timeout=20) and other.wait(timeout=20) and job.return_code == 0
        finally:
            os._exit(0 if good else 1)
    time.sleep(0.5)
    runner.run_all()
    assert job.wait(timeout=30)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert client.watcher.epoch is not None


def _wait_in_worker(job: Any, answers: Any) -> None:
    answers.put((job.wait(timeout=30), str(job.state)))


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_job_waits_in_a_spawned_process(hello: Any, runner: Runner, method: Any) -> None:
    job = hello.submit("a", name="x")
    context = multiprocessing.get_context(method)
    answers = context.Queue()
    worker = context.Process(target=_wait_in_worker, args=(job, answers))
    worker.start()
    time.sleep(0.3)
    runner.run_all()
    assert answers.get(timeout=60) == (True, "JOB_FINISHED")
    worker.join(30)
    assert worker.exitcode == 0
    if method == "forkserver":
        from multiprocessing import forkserver

        forkserver._forkserver._stop()  # type: ignore[attr-defined]


def test_a_process_that_watches_exits_promptly_and_without_noise(service: RunningService, hello: Any) -> None:
    job = hello.submit("a", name="x")
    program = f"""
import time
from balsam.api import Job
job = Job.objects.get(id={job.id})
while Job._client().watcher.epoch is None:
    job.poll_state()
    time.sleep(0.01)
print("watching", flush=True)
"""
    environment = {**os.environ, "BALSAM_URL": service.url, "BALSAM_TOKEN": service.token}
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, "watching\n", "")
    assert time.monotonic() - start < 10


def test_an_interrupted_wait_is_interrupted(hello: Any) -> None:
    job = hello.submit("a", name="x")
    timer = later(0.3, lambda: os.kill(os.getpid(), signal.SIGINT))
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        job.wait(timeout=30)
    assert time.monotonic() - start < 5
    timer.join()


def test_started_jobs_can_be_cancelled_and_waited_for(hello: Any, client: Client, runner: Runner) -> None:
    job = hello.submit("a", name="x")
    runner.start()
    job.cancel()
    assert job.cancel_requested
    assert job.state is JobState.RUNNING
    timer = later(0.3, lambda: runner.tell(list(runner.tokens), LaunchEvent.KILLED))
    assert job.wait(timeout=30)
    timer.join()
    assert job.state is JobState.CANCELLED
