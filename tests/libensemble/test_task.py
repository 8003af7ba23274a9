"""BalsamTask: states, ends, times, kills and files, with Jobs that need no service."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta

import pytest
from libensemble.executors.executor import STATES, ExecutorException, TimeoutExpired

from balsam.api import SiteOffline, TransferFailed
from balsam.domain.states import DONE_STATES, JobState
from balsam.libensemble import BalsamExecutor, BalsamTask
from balsam.libensemble import task as task_module
from tests.libensemble.fake_job import SERVICE_TIME, FakeJob

Submit = Callable[..., BalsamTask]


def test_every_job_state_has_its_libensemble_state() -> None:
    assert set(task_module.LIBE_STATE) == {str(state) for state in JobState}
    assert set(task_module.LIBE_STATE.values()) <= set(STATES)
    assert {str(state) for state in DONE_STATES} == task_module.FINAL


@pytest.mark.parametrize("state", list(JobState))
def test_only_the_end_states_finish_a_task(submitted: Submit, state: JobState) -> None:
    task = submitted()
    task.process.state = state
    task.poll()
    assert task.finished is (state in DONE_STATES)
    assert task.state == task_module.LIBE_STATE[state]
    assert task.success is (state == JobState.JOB_FINISHED)


def test_an_error_that_the_site_restarts_is_not_the_end(submitted: Submit) -> None:
    task = submitted()
    seen = []
    for state in ("RUNNING", "RUN_ERROR", "RESTART_READY", "RUNNING", "RUN_TIMEOUT", "RUNNING", "RUN_DONE"):
        task.process.state = state
        assert not task.done()
        seen.append(task.state)
    assert seen == ["RUNNING", "RUNNING", "WAITING", "RUNNING", "WAITING", "RUNNING", "RUNNING"]
    task.process.__dict__.update(state="JOB_FINISHED", return_code=0)
    assert task.done()
    assert (task.state, task.errcode, task.success) == ("FINISHED", 0, True)


def test_an_unknown_state_is_an_error_with_its_name(submitted: Submit) -> None:
    task = submitted()
    task.process.state = "NAPPING"
    with pytest.raises(ExecutorException, match="NAPPING"):
        task.poll()


def test_the_exit_code_is_the_errcode(submitted: Submit) -> None:
    task = submitted()
    task.process.__dict__.update(state="FAILED", return_code=42)
    assert task.exception(timeout=5) == 42
    assert task.result() == "FAILED"
    assert not task.success


def test_the_log_of_a_failed_task_says_how_to_learn_why(submitted: Submit, caplog: pytest.LogCaptureFixture) -> None:
    task = submitted()
    task.process.__dict__.update(state="FAILED", return_code=126)
    with caplog.at_level("WARNING"):
        task.poll()
    assert f"state FAILED, errcode 126; `balsam job explain {task.process.id}` says why" in caplog.text


def test_wait_ends_with_the_job(submitted: Submit) -> None:
    task = submitted()
    task.process.will(0.1, state="JOB_FINISHED", return_code=0)
    assert task.wait(timeout=10) is None
    assert task.state == "FINISHED"
    assert 0.05 < task.total_time < 5


@pytest.mark.parametrize("timeout", [0, 0.15])
def test_wait_raises_libensemble_s_timeout_in_time(submitted: Submit, timeout: float) -> None:
    task = submitted()
    task.process.state = "RUNNING"
    begin = time.monotonic()
    with pytest.raises(TimeoutExpired, match=task.name):
        task.wait(timeout=timeout)
    assert timeout <= time.monotonic() - begin < timeout + 0.5
    assert (task.state, task.finished) == ("RUNNING", False)


def test_a_finished_task_asks_no_more(submitted: Submit) -> None:
    task = submitted()
    task.process.state = "JOB_FINISHED"
    task.wait()
    polls = task.process.polls
    assert (task.done(), task.running(), task.cancelled()) == (True, False, False)
    assert task.process.polls == polls


def test_kill_waits_until_the_job_is_seen_cancelled(submitted: Submit) -> None:
    task = submitted()
    task.process.__dict__.update(state="RUNNING", return_code=-15)
    task.kill()
    assert task.process.cancels == 1
    assert task.process.state == "CANCELLED"
    assert (task.state, task.finished, task.success, task.errcode) == ("USER_KILLED", True, False, -15)
    assert task.cancelled()


def test_a_task_shows_its_name_state_and_job(exctr: BalsamExecutor, submitted: Submit) -> None:
    task = submitted()
    assert repr(task) == f"<BalsamTask {task.name}: CREATED, Job {task.process.id}>"
    assert "not submitted" in repr(BalsamTask(exctr.get_app("hello")))


def test_kill_of_a_job_that_ended_first_keeps_its_end(submitted: Submit) -> None:
    task = submitted()
    task.process.__dict__.update(state="RUNNING", return_code=0, killed_to="JOB_FINISHED")
    task.kill()
    assert (task.state, task.success, task.cancelled()) == ("FINISHED", True, False)


def test_kill_of_a_job_whose_results_can_not_be_put_in_place_ends_the_task(
    submitted: Submit, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def arrive(_job: FakeJob, timeout: float | None = None) -> bool:
        raise TransferFailed("a result of Job 1 did not arrive: No space left on device")

    task = submitted()
    task.process.__dict__.update(state="JOB_FINISHED", return_code=0)
    monkeypatch.setattr(FakeJob, "wait", arrive)
    task.kill()
    assert (task.state, task.finished) == ("FINISHED", True) and "No space left" in caplog.text


def test_kill_that_nobody_confirms_ends_in_time_and_says_so(
    submitted: Submit, caplog: pytest.LogCaptureFixture
) -> None:
    task = submitted()
    task.process.__dict__.update(state="RUNNING", killed_to=None)
    begin = time.monotonic()
    task.kill(wait_time=0.1)
    assert 0.1 <= time.monotonic() - begin < 1
    assert (task.state, task.finished) == ("USER_KILLED", True)
    assert "not confirmed" in caplog.text


def test_cancel_does_not_wait(submitted: Submit) -> None:
    task = submitted()
    task.process.__dict__.update(state="RUNNING", killed_to=None)
    begin = time.monotonic()
    task.cancel()
    assert time.monotonic() - begin < 0.05
    assert task.process.cancels == 1
    assert task.cancelled()


@pytest.mark.parametrize("wait_time", [None, 1.5])
def test_a_kill_that_does_not_reach_the_service_returns_in_time_and_arrives_later(
    submitted: Submit, caplog: pytest.LogCaptureFixture, wait_time: float | None
) -> None:
    task = submitted()
    task.process.__dict__.update(state="RUNNING", reached_after=3.0)
    begin = time.monotonic()
    task.kill(wait_time=wait_time)
    assert time.monotonic() - begin < (wait_time or 1.0) + 0.5
    assert (task.state, task.finished, task.process.cancels) == ("USER_KILLED", True, 0)
    assert "did not reach the service" in caplog.text and "recorded" not in caplog.text
    while not task.process.cancels and time.monotonic() - begin < 10:
        time.sleep(0.02)
    assert task.process.cancels == 1


def test_a_second_kill_changes_nothing(submitted: Submit, caplog: pytest.LogCaptureFixture) -> None:
    task = submitted()
    task.kill()
    task.kill()
    assert task.process.cancels == 1
    assert "no longer running" in caplog.text


def test_a_task_that_was_not_submitted_says_so(exctr) -> None:  # type: ignore[no-untyped-def]
    task = BalsamTask(exctr.get_app("hello"))
    for act in (task.poll, task.wait, task.kill, lambda: task.read_file_in_workdir("x")):
        with pytest.raises(ExecutorException):
            act()
    assert not task.workdir_exists()
    assert not task.stdout_exists()


class TestTimes:
    """runtime is the site's; total_time is the caller's."""

    def test_runtime_is_between_start_and_end_on_the_service_s_clock(self, submitted: Submit) -> None:
        task = submitted()
        end = SERVICE_TIME + timedelta(seconds=12.5)
        task.process.__dict__.update(state="JOB_FINISHED", started_at=SERVICE_TIME, ended_at=end)
        task.poll()
        assert task.runtime == 12.5
        assert 0 <= task.total_time < 2
        assert not task.timer.timing

    def test_naive_times_count_as_utc(self, submitted: Submit) -> None:
        task = submitted()
        naive = SERVICE_TIME.replace(tzinfo=None)
        end = SERVICE_TIME + timedelta(seconds=3)
        task.process.__dict__.update(state="JOB_FINISHED", started_at=naive, ended_at=end)
        task.poll()
        assert task.runtime == 3

    def test_without_a_start_there_is_no_runtime(self, submitted: Submit) -> None:
        task = submitted()
        task.process.state = "FAILED"
        task.poll()
        assert task.runtime == 0

    @pytest.mark.parametrize("wrong_by", [timedelta(days=1), timedelta(days=-1)])
    def test_a_running_task_s_runtime_stands_a_clock_that_is_a_day_off(
        self, submitted: Submit, wrong_by: timedelta
    ) -> None:
        task = submitted()
        started = task_module.datetime.now(task_module.UTC) + wrong_by
        task.process.__dict__.update(state="RUNNING", started_at=started)
        task.poll()
        time.sleep(0.1)
        task.poll()
        assert 0.1 <= task.runtime < 2

    def test_runtime_starts_anew_with_a_further_attempt(self, submitted: Submit) -> None:
        task = submitted()
        ahead = task_module.datetime.now(task_module.UTC) + timedelta(hours=1)
        task.process.__dict__.update(state="RUNNING", started_at=ahead)
        task.poll()
        time.sleep(0.1)
        assert task.runtime >= 0.1
        task.process.started_at = ahead + timedelta(seconds=1)
        task.poll()
        assert task.runtime < 0.1

    def test_nobody_asks_for_times_that_nobody_wants(self, submitted: Submit, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each look at them may be a request; waiting and polling must not need one."""
        task = submitted()
        looks: list[str] = []
        monkeypatch.setattr(FakeJob, "started_at", property(lambda self: looks.append("started")), raising=False)
        task.process.state = "RUNNING"
        task.poll()
        task.process.state = "JOB_FINISHED"
        task.wait()
        assert looks == []
        assert task.runtime == 0
        assert looks == ["started"]

    def test_timing_is_in_libensemble_s_own_report(self, exctr, submitted: Submit) -> None:  # type: ignore[no-untyped-def]
        task = submitted()
        task.process.will(0.05, state="JOB_FINISHED")
        task.wait()
        assert float(exctr.new_tasks_timing().rsplit(" ", 1)[-1]) >= 0.03


class TestFiles:
    """Files are the site's, never those of this machine."""

    def test_a_site_whose_agent_is_away_for_a_moment_is_waited_for(
        self, submitted: Submit, caplog: pytest.LogCaptureFixture
    ) -> None:
        task = submitted()
        answers: list[Exception | str] = [SiteOffline("agent away"), SiteOffline("agent away"), "content"]

        def read_text(name: str) -> str:
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

        task.process.read_text = read_text
        assert task.read_stdout() == "content"
        assert caplog.text.count("agent away") == 1

    def test_a_site_that_stays_away_is_an_error(self, submitted: Submit, monkeypatch: pytest.MonkeyPatch) -> None:
        def offline(name: str) -> str:
            raise SiteOffline("agent away")

        monkeypatch.setattr(task_module, "SITE_PATIENCE_SEC", 0.6)
        task = submitted()
        task.process.read_text = task.process.file_exists = offline
        for look in (task.read_stdout, task.stdout_exists):
            begin = time.monotonic()
            with pytest.raises(SiteOffline):
                look()
            assert 0.6 <= time.monotonic() - begin < 3

    def test_output_is_the_job_s_one_stream(self, submitted: Submit) -> None:
        task = submitted()
        assert not task.stdout_exists()
        task.process.files_there["job.out"] = "Hello, World\n"
        assert task.stdout_exists()
        assert task.stderr_exists()
        assert task.read_stdout() == task.read_stderr() == "Hello, World\n"

    def test_other_files(self, submitted: Submit) -> None:
        task = submitted()
        assert not task.workdir_exists()
        task.process.files_there["forces.stat"] = "1.5\n"
        assert task.workdir_exists()
        assert task.file_exists_in_workdir("forces.stat")
        assert task.read_file_in_workdir("forces.stat") == "1.5\n"

    def test_a_missing_file_is_a_value_error_as_in_the_base_class(self, submitted: Submit) -> None:
        with pytest.raises(ValueError, match=r"nothing\.txt not found"):
            submitted().read_file_in_workdir("nothing.txt")
