"""Who waits for a task that does not start learns why, in libEnsemble's log, and polling is held up by nothing."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from libensemble.executors.executor import TimeoutExpired

from balsam.api import ServiceUnavailable
from balsam.libensemble import BalsamTask, task, waiting

Submit = Callable[..., BalsamTask]
NO_QUEUE = ("Site 'a' has no allocation, running or queued.", ["BatchJob 3 could not be submitted: no queue 'debg'."])
NO_ROOM = ("It will be granted as soon as a launcher of its Site has room.", [])


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(waiting, "FIRST_SEC", 0.01)
    monkeypatch.setattr(waiting, "ANSWER_SEC", 0.002)
    monkeypatch.setattr(task, "_notice", waiting.WaitingNotice(["PREPROCESSED"]))
    yield


def waits(submitted: Submit, why: tuple[str, list[str]]) -> BalsamTask:
    made = submitted()
    made.process.__dict__.update(state="PREPROCESSED", why=why)
    return made


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str, str]]:
    return [
        (record.name, record.levelname, record.getMessage())
        for record in caplog.records
        if "waits to run" in record.getMessage()
    ]


def test_wait_tells_the_reason_once_while_it_stays_the_same(
    submitted: Submit, caplog: pytest.LogCaptureFixture
) -> None:
    waiting_task = waits(submitted, NO_QUEUE)
    with pytest.raises(TimeoutExpired):
        waiting_task.wait(timeout=0.15)
    [(name, level, text)] = told(caplog)
    assert (name, level) == ("libensemble.executors.balsam_executor", "MANAGER_WARNING")
    assert waiting_task.name in text and text.endswith(f"{NO_QUEUE[0]} {NO_QUEUE[1][0]}")
    assert 2 <= waiting_task.process.explained <= 5  # after 10, 20, 40, 80 ms: ever more seldom


def test_a_new_reason_is_told_and_one_that_is_no_fault_stays_in_the_log(
    submitted: Submit, caplog: pytest.LogCaptureFixture
) -> None:
    waiting_task = waits(submitted, NO_QUEUE)
    waiting_task.process.will(0.05, why=NO_ROOM)
    waiting_task.process.will(0.25, state="JOB_FINISHED")
    waiting_task.wait(timeout=30)
    assert [level for _, level, _ in told(caplog)] == ["MANAGER_WARNING", "INFO"]


def test_polling_tells_as_well_and_is_not_held_up_by_a_slow_answer(
    submitted: Submit, caplog: pytest.LogCaptureFixture
) -> None:
    waiting_task = waits(submitted, NO_QUEUE)
    answered = waiting_task.process.explains_after = threading.Event()
    deadline = time.monotonic() + 30
    while not waiting_task.process.explained and time.monotonic() < deadline:
        waiting_task.poll()
    waiting_task.poll()  # the answer is still to come
    assert told(caplog) == []
    answered.set()
    while not told(caplog) and time.monotonic() < deadline:
        waiting_task.poll()
    assert len(told(caplog)) == 1


def test_a_task_that_started_or_whose_service_is_away_tells_nothing(
    submitted: Submit, caplog: pytest.LogCaptureFixture
) -> None:
    started, unheard = waits(submitted, NO_QUEUE), waits(submitted, NO_QUEUE)
    started.process.state = "RUNNING"
    unheard.process.explain_raises = ServiceUnavailable("away")
    for one in (started, unheard):
        with pytest.raises(TimeoutExpired):
            one.wait(timeout=0.05)
    assert (started.process.explained, told(caplog)) == (0, [])
    assert unheard.process.explained >= 1


def test_many_tasks_of_a_process_ask_no_more_often_than_one(
    submitted: Submit, caplog: pytest.LogCaptureFixture
) -> None:
    many = [waits(submitted, NO_QUEUE) for _ in range(50)]
    deadline = time.monotonic() + 0.15
    while time.monotonic() < deadline:
        for one in many:
            one.poll()
    assert sum(one.process.explained for one in many) <= 5
    assert len(told(caplog)) == 1
