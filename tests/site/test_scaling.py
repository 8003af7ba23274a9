"""The services that ask for allocations, over the use cases of the real service: what they ask for, when, and once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from balsam.domain.states import BATCH_JOB_ENDED, BatchJobState
from balsam.platform.scheduler.base import BackfillWindow, SchedulerJob, SchedulerState, SchedulerUnavailable
from balsam.server.errors import Invalid
from balsam.server.store.memory import MemoryStore
from balsam.server.usecases.batch_job_lists import list_batch_jobs
from balsam.server.usecases.batch_jobs import create_batch_job
from balsam.server.usecases.idempotent import once
from balsam.site.ledger import Entry
from balsam.site.service import ServiceAway
from balsam.site.services.asked import KEPT_FOR, AskedBatchJobs, RequestRefused
from balsam.site.services.breaker import FAILURES, Breaker
from balsam.site.services.elastic_queue import ElasticQueue
from balsam.site.services.queue_maintainer import QueueMaintainer
from balsam.site.services.scaling import Scaling
from balsam.site.settings import ElasticQueueSettings, QueueMaintainerSettings, QueueSettings, Settings
from balsam.testing.clock import FakeClock
from balsam.testing.store_world import StoreWorld
from balsam.wire.backlog import Backlog, BacklogQuery
from balsam.wire.batch_jobs import BatchJobCreate, BatchJobQuery, BatchJobView
from balsam.wire.sites import SitePatch

ELASTIC = ElasticQueueSettings(
    submit_project="local",
    submit_queue="local",
    min_wall_time_min=10,
    max_wall_time_min=40,
    max_num_nodes=3,
    max_queue_wait_time_min=10,
    max_queued_jobs=2,
)
KEEPING = QueueMaintainerSettings(submit_project="local", submit_queue="local", num_queued_jobs=2, wall_time_min=5)


@dataclass
class WorldService:
    """What the agent asks of the service, answered by its use cases. `away`: no answer before the work is done;
    `lose_reply`: the work is done and nobody hears of it.
    """

    world: StoreWorld
    away: bool = False
    lose_reply: bool = False
    asked: int = 0

    def backlog(self, query: BacklogQuery) -> Backlog:
        self._reach()
        tags = dict(text.split(":", 1) for text in query.tags or ())
        return self.world.backlog(tags, **query.model_dump(exclude={"tags"}))

    def ask_batch_job(self, body: BatchJobCreate, key: str) -> BatchJobView:
        self._reach()
        self.asked += 1
        world, agent = self.world, self.world.agent()
        digest = hashlib.sha256(body.model_dump_json(exclude_unset=True).encode()).hexdigest()
        try:
            made = world.write(
                lambda tx: once(
                    tx,
                    agent,
                    key,
                    digest,
                    BatchJobView,
                    world.now,
                    lambda: create_batch_job(tx, agent, body, world.now),
                )
            )
        except Invalid as error:
            raise RequestRefused(str(error.details)) from error
        if self.lose_reply:
            raise ServiceAway("the answer was lost")
        return made

    def end_batch_job(self, batch_job_id: int) -> None:
        self.world.report_batch_job(batch_job_id, BatchJobState.PENDING_DELETION)

    def batch_jobs(self, ids: Iterable[int]) -> Mapping[int, BatchJobView]:
        self._reach()
        query = BatchJobQuery(id=list(ids))
        return {one.id: one for one in self.world.read(lambda tx: list_batch_jobs(tx, self.world.ada, query)).results}

    def _reach(self) -> None:
        if self.away:
            raise ServiceAway("no route to host")


@dataclass
class Place:
    """A Site's scaling without its agent."""

    directory: Path
    world: StoreWorld = field(default_factory=lambda: StoreWorld(MemoryStore(), FakeClock()))
    windows: list[BackfillWindow] = field(default_factory=list)
    unavailable: bool = False
    held_back: str = ""
    open_here: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.service = WorldService(self.world)

    def elastic(self, tags: dict[str, str] | None = None, **wanted: Any) -> ElasticQueue:
        settings = Settings(filter_tags=tags or {})
        queues = {"local": QueueSettings(max_nodes=4, max_walltime=60)}
        scheduler = settings.scheduler.model_copy(update={"allowed_queues": queues})
        return ElasticQueue(
            self.world.site.id,
            settings.model_copy(update={"scheduler": scheduler}),
            ELASTIC.model_copy(update=wanted),
            self.record("elastic_queue"),
            self.service,
            self.backfill_windows,
            lambda: self.open_here,
            lambda request: self.held_back,
            self.world.clock,
        )

    def keeping(self) -> QueueMaintainer:
        return QueueMaintainer(
            self.world.site.id, {}, KEEPING, self.record("queue_maintainer"), self.service, lambda _: self.held_back
        )

    def record(self, name: str) -> AskedBatchJobs:
        return AskedBatchJobs(self.directory / f"{name}.json", self.service, self.world.clock)

    def backfill_windows(self) -> dict[str, list[BackfillWindow]]:
        if self.unavailable:
            raise SchedulerUnavailable("squeue: timed out")
        return {"local": self.windows}

    def batch_jobs(self) -> list[BatchJobView]:
        """Those that have not ended."""
        query = BatchJobQuery()
        found = self.world.read(lambda tx: list_batch_jobs(tx, self.world.ada, query)).results
        return [one for one in found if one.state not in BATCH_JOB_ENDED]

    def shapes(self) -> list[tuple[int, int]]:
        return [(one.num_nodes, one.wall_time_min) for one in self.batch_jobs()]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_it_asks_for_what_waits_and_no_more(place: Place) -> None:
    queue = place.elastic()
    assert not queue.run_once()
    assert "no Job waits" in queue.said
    place.world.submit(8, node_packing_count=4)
    place.world.submit(1, parent_ids=place.world.submit(1, num_nodes=3))
    assert queue.run_once()
    assert place.shapes() == [(3, 35)], "max_wall_time_min without its pad, and as many nodes as it may ask for"
    assert queue.run_once()
    assert place.shapes() == [(3, 35), (2, 35)]
    assert not queue.run_once()
    assert "take all that waits" in queue.said
    place.world.submit(9)
    assert not queue.run_once()
    assert "max_queued_jobs" in queue.said


def test_what_runs_already_takes_what_it_has_room_for(place: Place) -> None:
    queue = place.elastic()
    (batch_job,) = [place.world.submit_batch_job(num_nodes=4, wall_time_min=30)]
    place.world.report_batch_job(batch_job.id, BatchJobState.RUNNING, start_time=place.world.now)
    place.world.submit(6)
    session = place.world.open_session(batch_job_id=batch_job.id)
    place.world.acquire(session.id, 3)
    assert queue.run_once()
    assert place.shapes()[1:] == [(2, 35)]
    place.world.clock.advance(29.5 * 60)
    assert queue.run_once()
    assert place.shapes()[2:] == [(1, 35)], "Jobs were counted on an allocation that ends in half a minute"


def test_it_serves_the_jobs_of_its_tags_and_mode(place: Place) -> None:
    queue = place.elastic({"experiment": "a"}, job_mode="serial")
    place.world.submit(3)
    place.world.submit(2, tags={"experiment": "a"}, ranks_per_node=2)
    assert not queue.run_once()
    assert "other tags, ranks or GPUs" in queue.said
    place.world.submit(2, tags={"experiment": "a", "size": "b"})
    assert queue.run_once()
    (asked,) = place.batch_jobs()
    assert (asked.num_nodes, asked.filter_tags, asked.job_mode) == (2, {"experiment": "a"}, "serial")


def test_it_fits_into_a_window_that_its_own_waiting_ones_leave(place: Place) -> None:
    queue = place.elastic()
    place.windows = [BackfillWindow(3, 25)]
    place.world.submit(2)
    assert queue.run_once()
    place.world.submit(3)
    assert queue.run_once()
    assert place.shapes() == [(2, 20), (1, 20)]
    assert "idle for 25 min" in queue.said
    place.unavailable = True
    place.world.report_batch_job(place.batch_jobs()[0].id, BatchJobState.FINISHED)
    assert not queue.run_once()
    assert queue.said == "paused: the scheduler does not answer: squeue: timed out"


def test_its_own_that_queue_for_too_long_are_ended_and_others_are_not(place: Place) -> None:
    place.world.submit(3)
    yours = place.world.submit_batch_job(num_nodes=2)
    queue = place.elastic()
    assert queue.run_once()
    (_, own) = place.batch_jobs()
    for _ in range(11):
        assert not queue.run_once()
        place.open_here = {yours.id, own.id}
        place.world.clock.advance(60)
    place.world.clock.jump(-86_400)
    assert queue.run_once()
    states = {one.id: one.state for one in place.batch_jobs()}
    assert states[own.id] is BatchJobState.PENDING_DELETION
    assert states[yours.id] is BatchJobState.PENDING_SUBMISSION
    assert queue.run_once(), "it does not ask anew"
    assert len(place.batch_jobs()) == 3
    assert not queue.run_once(), "the one that is to end still counts: the limit is two"


def test_a_jump_of_the_clock_ends_nothing(place: Place) -> None:
    place.world.submit(1)
    queue = place.elastic()
    queue.run_once()
    queue.run_once()
    place.world.clock.jump(86_400)
    queue.run_once()
    assert [one.state for one in place.batch_jobs()] == [BatchJobState.PENDING_SUBMISSION]


@pytest.mark.parametrize("fault", ["away", "lose_reply"])
def test_s11_an_outage_or_a_crash_between_decision_and_creation_never_doubles(place: Place, fault: str) -> None:
    place.world.submit(2)
    setattr(place.service, fault, True)
    queue = place.elastic()
    if fault == "away":
        place.service.away = False
        record = place.record("elastic_queue")
        place.service.away = True
        with pytest.raises(ServiceAway):
            record.ask(BatchJobCreate(**body(place)), "a test")
    else:
        with pytest.raises(ServiceAway):
            queue.run_once()
    setattr(place.service, fault, False)
    again = place.elastic()  # the next agent, which knows what is on disk
    for _ in range(3):
        again.run_once()
    assert place.shapes() == [(2, 35)]
    assert list(json.loads((place.directory / "elastic_queue.json").read_text())["own"]) == ["1"]
    assert place.service.asked >= 1


def body(place: Place) -> dict[str, Any]:
    asked = {"site_id": place.world.site.id, "num_nodes": 2, "wall_time_min": 35, "job_mode": "mpi"}
    return {**asked, "queue": "local", "project": "local"}


def test_an_intent_that_is_too_old_is_given_up(place: Place) -> None:
    record = place.record("elastic_queue")
    place.service.away = True
    with pytest.raises(ServiceAway):
        record.ask(BatchJobCreate(**body(place)), "a test")
    place.service.away = False
    place.world.clock.advance(KEPT_FOR.total_seconds() + 1)
    place.elastic().run_once()
    assert place.batch_jobs() == []


def test_what_the_service_refuses_is_said_and_not_kept(place: Place) -> None:
    place.world.submit(1)
    queue = place.elastic(submit_project="other")
    assert not queue.run_once()
    assert "the service refuses it" in queue.said
    assert "no project 'other'" in queue.said
    assert json.loads((place.directory / "elastic_queue.json").read_text())["intent"] is None


def test_what_holds_back_pauses_both(place: Place) -> None:
    place.world.submit(1)
    place.held_back = "3 BatchJobs in a row came to nothing"
    for service in (place.elastic(), place.keeping()):
        assert not service.run_once()
        assert service.said == "paused: 3 BatchJobs in a row came to nothing"
    assert place.batch_jobs() == []


def test_a_file_that_can_not_be_read_is_begun_anew(place: Place) -> None:
    (place.directory / "elastic_queue.json").write_text("{")
    place.world.submit(1)
    queue = place.elastic()
    assert queue.run_once()
    assert not queue.run_once()


def test_the_queue_maintainer_keeps_its_number_whether_anything_waits_or_not(place: Place) -> None:
    keeping = place.keeping()
    assert keeping.run_once()
    assert keeping.run_once()
    assert not keeping.run_once()
    assert "num_queued_jobs" in keeping.said
    assert place.shapes() == [(1, 5), (1, 5)]
    place.world.report_batch_job(1, BatchJobState.FINISHED)
    assert place.keeping().run_once(), "the next agent does not know which ones are its own"
    assert len(place.batch_jobs()) == 2


def test_each_runs_in_its_period_and_the_service_hears_of_changes(place: Place) -> None:
    clock, told = place.world.clock, []
    place.world.submit(1)
    scaling = Scaling([place.elastic(), place.keeping()], lambda: {"x": 1}, told.append, clock)
    assert scaling.wait_sec == 0
    assert scaling.run_due()
    assert scaling.wait_sec == 60
    assert not scaling.run_due()
    clock.advance(61)
    place.service.away = True
    with pytest.raises(ServiceAway):
        scaling.run_due()
    assert scaling.wait_sec < 0, "what was not done is still due"
    place.service.away = False
    assert scaling.run_due()
    assert sorted(told[0].scaling or {}) == ["elastic_queue", "queue_maintainer", "x"]
    assert all(isinstance(patch, SitePatch) and (patch.scaling or {})["x"] == 1 for patch in told)
    assert Scaling([], dict, told.append, clock).wait_sec > 60


def test_the_breaker_says_when_it_would_hold() -> None:
    clock = FakeClock()
    breaker = Breaker(clock)
    entry = Entry(1, "n", clock.now().isoformat(), "local", project="p", allocation_name="a")
    for _ in range(FAILURES):
        assert breaker.pause("local", "p") == ""
        breaker.ended(entry, _instant_failure(clock))
    assert "3 BatchJobs in a row came to nothing" in breaker.pause("local", "p")
    assert breaker.pause("local", "q") == ""
    clock.advance(3600)
    assert breaker.pause("local", "p") == "", "the trial after the pause is for whoever comes"


def _instant_failure(clock: FakeClock) -> SchedulerJob:
    now = clock.now()
    return SchedulerJob("1", "a", SchedulerState.FAILED, "boom", start_time=now, end_time=now)
