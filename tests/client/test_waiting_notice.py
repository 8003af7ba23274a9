"""Who waits for Jobs that do not go on is told why: once for each reason, of one Job at a time, ever more seldom."""

from __future__ import annotations

import logging
import math

import pytest

from balsam.client import waiting_notice
from balsam.client.errors import ServiceUnavailable
from balsam.client.waiting_notice import Question, WaitingNotice
from balsam.client.watcher import Watch
from balsam.domain.states import JobState
from balsam.wire.jobs import JobExplanation

NO_ALLOCATION = ("Site 'a' has no allocation, running or queued.", ["Ask for one: `balsam queue submit`."])
NO_ROOM = ("It will be granted as soon as a launcher of its Site has room.", [])


class World:
    """Watches, a clock and a service that explains."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.why: dict[int, tuple[str, list[str]]] = {}
        self.asked: list[int] = []
        self.is_away = False
        self.watches: list[Watch] = []
        self.notice = WaitingNotice(self.explain)
        monkeypatch.setattr(waiting_notice.time, "monotonic", lambda: self.now)

    def explain(self, job_id: int) -> JobExplanation:
        self.asked.append(job_id)
        if self.is_away:
            raise ServiceUnavailable("away")
        summary, reasons = self.why.get(job_id, NO_ALLOCATION)
        state = next(watch.state for watch in self.watches if watch.job_id == job_id)
        return JobExplanation(id=job_id, state=state, summary=summary, reasons=reasons)

    def wait_for(self, job_id: int, state: JobState = JobState.PREPROCESSED, since: float | None = None) -> Watch:
        watch = Watch(job_id, state, None)
        watch.waiters[lambda _: None] = self.now if since is None else since  # type: ignore[index]
        self.watches.append(watch)
        return watch

    def look(self, after_sec: float) -> Question | None:
        self.now += after_sec
        if not self.notice.is_due():
            return None
        question = self.notice.question(self.watches)
        if question is not None:
            self.notice.tell(question)
        return question


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> World:
    caplog.set_level(logging.INFO, "balsam.client")
    return World(monkeypatch)


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(record.levelname, record.getMessage()) for record in caplog.records]


def test_it_is_told_after_a_while_with_what_to_do(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.wait_for(7)
    assert world.look(0) is None and world.look(14.9) is None
    world.wait_for(8)
    assert world.look(5) == Question(7, pytest.approx(19.9), 1)
    assert told(caplog) == [
        (
            "WARNING",
            "Waiting for Job 7 (PREPROCESSED) and for 1 more that do not run since 20 s: "
            "Site 'a' has no allocation, running or queued. Ask for one: `balsam queue submit`.",
        )
    ]


def test_a_day_of_waiting_is_one_line_and_few_questions(world: World, caplog: pytest.LogCaptureFixture) -> None:
    for job_id in range(1, 1001):
        world.wait_for(job_id)
    for _ in range(24 * 720):
        world.look(5)
    assert len(told(caplog)) == 1
    assert 140 < len(world.asked) < 160
    assert world.asked[:3] == [1, 2, 3], "each in its turn"


def test_each_reason_is_told_and_a_childs_last(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.wait_for(1, JobState.AWAITING_PARENTS)
    world.wait_for(2)
    world.wait_for(3)
    world.why = {2: NO_ROOM, 1: ("It waits for 1 of its 1 parents to finish.", ["Job 2 (a) is PREPROCESSED."])}
    for _ in range(100):
        world.look(5)
    assert [level for level, _ in told(caplog)] == ["INFO", "WARNING"]
    assert set(world.asked) == {2, 3}
    del world.watches[1:]
    world.look(600)
    assert told(caplog)[-1][1].endswith("It waits for 1 of its 1 parents to finish. Job 2 (a) is PREPROCESSED.")


@pytest.mark.parametrize("state", [JobState.RUNNING, JobState.JOB_FINISHED, JobState.FAILED])
def test_nothing_is_told_of_a_job_that_runs_or_is_done(world: World, state: JobState) -> None:
    world.wait_for(1, state)
    assert [world.look(20) for _ in range(5)] == [None] * 5


def test_a_job_that_moves_is_left_alone(world: World) -> None:
    watch = world.wait_for(1)
    for state in (JobState.RUNNING, JobState.RUN_DONE, JobState.POSTPROCESSED):
        assert world.look(10) is None
        watch.state, watch.state_since = state, world.now
    assert world.look(14) is None
    assert world.look(5) == Question(1, pytest.approx(49), 0)


def test_nothing_is_told_of_a_job_that_nobody_waits_for(world: World) -> None:
    world.wait_for(1, since=math.inf)
    world.watches.append(Watch(2, JobState.PREPROCESSED, None))
    assert [world.look(20) for _ in range(5)] == [None] * 5


def test_another_wait_is_told_again(world: World, caplog: pytest.LogCaptureFixture) -> None:
    for job_id in (1, 2):
        world.watches = []
        world.look(700)
        world.wait_for(job_id)
        world.look(5)
        world.look(16)
    assert len(told(caplog)) == 2


def test_a_job_that_moved_on_meanwhile_and_a_service_that_is_away(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    watch = world.wait_for(1)
    world.is_away = True
    assert world.look(20) is not None
    world.is_away = False
    assert world.look(1) is None, "not at once again"
    world.look(15)
    assert len(told(caplog)) == 1
    question = Question(1, 20.0, 0)
    watch.state = JobState.RUNNING
    world.why = {1: ("It runs.", ["something else"])}
    world.notice.tell(question)
    assert len(told(caplog)) == 1
