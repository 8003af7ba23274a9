"""The part of the store conformance suite that is about Jobs: decisions, grants, hooks, ends. See store_conformance."""
# ruff: noqa: S101 -- tests that are shipped

import threading
from collections import Counter
from dataclasses import replace
from typing import Any, TypeVar

import pytest

from balsam.domain.failure import Failure
from balsam.domain.job import Resources
from balsam.domain.job_order import FIELDS
from balsam.domain.lifecycle import Hook, Request, decide
from balsam.domain.packing import Node, NodePool
from balsam.domain.states import Actor, JobEvent, JobState
from balsam.server.errors import ServiceError, SessionEnded
from balsam.server.store import selections
from balsam.server.store.protocol import GuardFailed
from balsam.server.store.records import HotJob, JobUpdate, ResultRow, SessionRow, Step
from balsam.server.store.selections import AcquireCriteria, EventSelection, PageWindow
from balsam.testing.store_world import StoreWorld
from balsam.wire.results import JobResult
from balsam.wire.sessions import LaunchEvent

E = LaunchEvent
T = TypeVar("T")
# Ranks on a node, GPUs of each rank, GPUs that they need together.
GPU_SHAPES = [(1, 0, 0), (4, 0.5, 2), (4, 0.6, 4), (3, 1 / 3, 1), (7, 0.3, 3), (2, 2, 4), (5, 1, 5), (9, 1e-12, 1)]


def replayed(world: StoreWorld, job_id: int) -> JobState:
    """The state that a Job's events lead to; checks on the way that they are one unbroken history (S5)."""
    state = JobState.CREATED
    for number, event in enumerate(world.events(job_id), 1):
        assert event.seq == number, f"Job {job_id}: event {number} is numbered {event.seq}"
        assert event.from_state is state, f"Job {job_id}: event {number} leaves {event.from_state}, not {state}"
        state = event.to_state
    return state


class JobRules:
    """States, grants, and what becomes of Jobs."""

    # S4, S5

    def test_s4_a_decision_on_an_old_state_is_not_written(self, world: StoreWorld) -> None:
        (job_id,) = world.submit()
        old = world.read(lambda tx: tx.hot_jobs([job_id]))[job_id]
        session = world.open_session()
        world.acquire(session.id)
        before = (world.get(job_id), world.events(job_id), world.counts())
        with pytest.raises(GuardFailed):
            world.write(lambda tx: tx.apply([_cancelled(old)], 9))
        assert (world.get(job_id), world.events(job_id), world.counts()) == before

    @pytest.mark.parametrize("number", [1, 4], ids=["one", "all"])
    @pytest.mark.parametrize("stale", ["token", "event_seq", "state", "session_id"])
    def test_s4_an_old_state_among_others_stops_all_of_them(self, world: StoreWorld, stale: str, number: int) -> None:
        """What is the same in all rows may be written in a way of its own, and has the same guard."""
        ids = world.submit(4)
        jobs = list(world.read(lambda tx: tx.hot_jobs(ids)).values())
        values: dict[str, Any] = {"token": 7, "event_seq": 7, "state": JobState.RESTART_READY, "session_id": 7}
        wrong = [replace(job, _facts=None, **{stale: values[stale]}) for job in jobs[:number]]
        before = (world.counts(), [world.events(job_id) for job_id in ids])
        with pytest.raises(GuardFailed, match="S4"):
            world.write(lambda tx: tx.apply([_cancelled(job) for job in (*wrong, *jobs[number:])], 9))
        assert (world.counts(), [world.events(job_id) for job_id in ids]) == before
        world.write(lambda tx: tx.apply([_cancelled(job) for job in jobs], 9))
        assert world.count(state=["CANCELLED"]) == 4

    def test_s4_decisions_must_go_on_from_each_other(self, world: StoreWorld) -> None:
        (job_id,) = world.submit()
        job = world.read(lambda tx: tx.hot_jobs([job_id]))[job_id]
        update = _cancelled(job)
        update.steps.append(update.steps[0])
        with pytest.raises(AssertionError, match="S4"):
            world.write(lambda tx: tx.apply([update], 9))
        assert world.state(job_id) is JobState.PREPROCESSED

    @pytest.mark.parametrize("column", ["state", "token", "session_id", "attempt", "owner_id", "event_seq"])
    def test_s4_the_state_machine_is_not_changed_like_other_columns(self, world: StoreWorld, column: str) -> None:
        (job_id,) = world.submit()
        with pytest.raises(ValueError, match="S4"):
            world.write(lambda tx: tx.change_jobs({job_id: {column: 1}}, 9))

    def test_s5_a_note_is_an_event_of_a_job_that_stays_as_it_is(self, world: StoreWorld) -> None:
        (job_id,) = world.submit(tags={"a": "1"})
        session = world.open_session()
        (job,) = world.acquire(session.id)
        world.tell(session.id, job, E.STARTED)
        before, counts = world.get(job_id), world.counts()
        for _ in range(2):
            world.tell(session.id, job, E.NOTED, message="seen", changes={"merge_tags": {"b": "2"}})
        after = world.get(job_id)
        assert (after.state, after.started_at, after.tags) == (
            JobState.RUNNING,
            before.started_at,
            {"a": "1", "b": "2"},
        )
        assert world.counts() == counts
        assert replayed(world, job_id) is JobState.RUNNING
        assert [event.data["message"] for event in world.events(job_id)[-2:]] == ["seen", "seen"]
        world.tell(session.id, job, E.RUN_DONE, return_code=0)
        assert replayed(world, job_id) is JobState.JOB_FINISHED

    @pytest.mark.parametrize("shapes", [1, 3, 20])
    def test_s5_new_jobs_have_their_events_whatever_they_have_in_common(self, world: StoreWorld, shapes: int) -> None:
        (first,) = world.submit()
        wanted = [
            (event.seq, event.from_state, event.to_state, event.actor, event.data) for event in world.events(first)
        ]
        made = world.submit_all([world.job(priority=number % shapes) for number in range(41)])
        for job_id in made.ids:
            found = world.events(job_id)
            assert [(it.seq, it.from_state, it.to_state, it.actor, it.data) for it in found] == wanted
            assert all(it.job_id == job_id and it.timestamp == world.now and it.reported_at is None for it in found)

    def test_s5_the_log_replays_to_the_state(self, world: StoreWorld) -> None:
        parent = world.submit()
        children = world.submit(3, parent_ids=parent)
        session = world.open_session()
        (job,) = world.acquire(session.id)
        world.tell(session.id, job, LaunchEvent.STARTED, LaunchEvent.RUN_TIMEOUT)
        (job,) = world.acquire(session.id)
        assert (job.token, job.attempt) == (2, 2)
        world.tell(session.id, job, LaunchEvent.STARTED, LaunchEvent.RUN_DONE, return_code=0)
        world.cancel([children[0]])
        assert [world.state(job_id) for job_id in (*parent, *children)] == [
            JobState.JOB_FINISHED,
            JobState.CANCELLED,
            JobState.PREPROCESSED,
            JobState.PREPROCESSED,
        ]
        for job_id in (*parent, *children):
            assert replayed(world, job_id) is world.state(job_id)
        attempts = [event.attempt for event in world.events(parent[0])]
        assert attempts == [0, 0, 0, 1, 1, 1, 2, 2, 2, 2]

    # Acquire

    def test_acquire_takes_by_priority_then_age(self, world: StoreWorld) -> None:
        low = world.submit(2, priority=-5)
        middle = world.submit(2)
        high = world.submit(2, priority=7)
        session = world.open_session()
        assert [job.id for job in world.acquire(session.id, 5)] == [*high, *middle, low[0]]
        assert [job.id for job in world.acquire(session.id, 5)] == [low[1]]
        assert world.acquire(session.id, 5) == []

    @pytest.mark.parametrize("tags", [{}, {"a": "b"}])
    @pytest.mark.parametrize(
        ("sort_by", "order"),
        [
            ("fifo", "urgent plain long wide half quarter quarter_long late"),
            ("long_large_first", "urgent wide long half quarter_long plain quarter late"),
            ("smallest_first", "urgent quarter_long quarter half long plain wide late"),
        ],
    )
    def test_acquire_takes_by_priority_then_in_the_order_that_is_asked_for(
        self, world: StoreWorld, tags: dict[str, str], sort_by: str, order: str
    ) -> None:
        shapes: dict[str, dict[str, Any]] = {
            "late": {"priority": -1, "wall_time_min": 90, "node_packing_count": 8},
            "plain": {"wall_time_min": 5},
            "long": {"wall_time_min": 60},
            "wide": {"wall_time_min": 60, "num_nodes": 3},
            "half": {"wall_time_min": 30, "node_packing_count": 2},
            "quarter": {"wall_time_min": 5, "node_packing_count": 4},
            "quarter_long": {"wall_time_min": 10, "node_packing_count": 4},
            "urgent": {"priority": 2, "wall_time_min": 1, "num_nodes": 9},
        }
        ids = {name: world.submit(2, tags=tags, **shape) for name, shape in shapes.items()}
        session = world.open_session()
        jobs = world.acquire(session.id, filter_tags=tags, sort_by=sort_by)
        assert [job.id for job in jobs] == [job_id for name in order.split() for job_id in ids[name]]

    def test_acquire_takes_only_what_fits(self, world: StoreWorld) -> None:
        long = world.submit(wall_time_min=50)
        wide = world.submit(num_nodes=3)
        ranks = world.submit(ranks_per_node=4)
        tagged = world.submit(tags={"a": "1", "b": "2"})
        half = world.submit(2, node_packing_count=2, tags={"a": "1"})
        session = world.open_session()

        def taken(**criteria: Any) -> list[int]:
            jobs = world.acquire(session.id, **criteria)
            for job in jobs:
                world.tell(session.id, job, LaunchEvent.RELEASED)
            return [job.id for job in jobs]

        everything = [*long, *wide, *ranks, *tagged, *half]
        assert taken(max_wall_time_min=49) == [*wide, *ranks, *tagged, *half]
        assert taken(max_wall_time_min=50) == everything
        assert taken(max_nodes_per_job=2) == [*long, *ranks, *tagged, *half]
        assert taken(serial_only=True) == [*long, *tagged, *half]
        assert taken(filter_tags={"a": "1"}) == [*tagged, *half]
        assert taken(filter_tags={"a": "1", "b": "2"}) == tagged
        assert taken(filter_tags={"a": "2"}) == []
        assert taken(max_aggregate_nodes=2.5) == [*long, *ranks, half[0]]
        assert taken(max_aggregate_nodes=0.5) == half[:1]
        assert taken(sort_by="long_large_first", max_jobs=3) == [*long, *wide, *ranks]
        assert taken(max_gpus_per_node=0) == everything
        assert taken() == everything

    @pytest.mark.parametrize("tags", [{}, {"a": "b"}])
    @pytest.mark.parametrize("sort_by", FIELDS)
    def test_l1_unfit_ones_at_the_head_do_not_starve_others(
        self, world: StoreWorld, tags: dict[str, str], sort_by: str
    ) -> None:
        world.submit(120, tags=tags, priority=1, wall_time_min=9, gpus_per_rank=2, ranks_per_node=2)
        fit = world.submit(3, tags=tags, gpus_per_rank=0.5, ranks_per_node=4)
        session = world.open_session()
        limits: dict[str, Any] = {"filter_tags": tags, "sort_by": sort_by, "max_aggregate_nodes": 2.0}
        assert [job.id for job in world.acquire(session.id, 2, max_gpus_per_node=2, **limits)] == fit[:2]
        assert [job.id for job in world.acquire(session.id, 2, max_gpus_per_node=2, **limits)] == fit[2:]
        assert world.acquire(session.id, 2, max_gpus_per_node=2, **limits) == []
        assert len(world.acquire(session.id, 2, max_gpus_per_node=4, **limits)) == 2

    @pytest.mark.parametrize(("ranks", "gpus", "needed"), GPU_SHAPES)
    def test_gpus_are_counted_as_a_launcher_gives_them_out(
        self, world: StoreWorld, ranks: int, gpus: float, needed: int
    ) -> None:
        """L1: what is granted fits, or the launcher would hand it back and be granted it again."""
        ids = world.submit(ranks_per_node=ranks, gpus_per_rank=gpus)
        wanted = Resources(ranks_per_node=ranks, gpus_per_rank=gpus)
        session = world.open_session()
        for held in range(needed + 2):
            pool = NodePool.of([Node("n", (0,), tuple(map(str, range(held))))])
            jobs = world.acquire(session.id, max_gpus_per_node=held)
            for job in jobs:
                world.tell(session.id, job, LaunchEvent.RELEASED)
            assert [job.id for job in jobs] == (ids if held >= needed else [])
            assert pool.could_ever_fit(wanted) == (held >= needed)

    def test_s6_no_job_is_granted_twice(self, world: StoreWorld) -> None:
        ids = world.submit(300, tags={"a": "b"})
        sessions = [world.open_session() for _ in range(6)]
        granted: list[int] = []

        def take(session_id: int, tagged: bool) -> None:
            while jobs := world.acquire(session_id, 7, filter_tags={"a": "b"} if tagged else {}):
                granted.extend(job.id for job in jobs)

        threads = [threading.Thread(target=take, args=(s.id, n % 2 == 0)) for n, s in enumerate(sessions)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert Counter(granted) == Counter(ids)
        assert {job.token for job in world.read(lambda tx: tx.jobs(ids))} == {1}

    def test_s6_an_unlock_of_what_is_not_held_is_refused(self, world: StoreWorld) -> None:
        (job_id,) = world.submit()
        session, other = world.open_session(), world.open_session()
        world.acquire(session.id)
        held = world.read(lambda tx: tx.held_jobs(session.id))
        assert [job.id for job in held] == [job_id]
        with pytest.raises(GuardFailed):
            world.write(lambda tx: tx.unlock(other.id, held))
        world.write(lambda tx: tx.unlock(session.id, held))
        assert world.read(lambda tx: tx.held_jobs(session.id)) == []
        with pytest.raises(GuardFailed):
            world.write(lambda tx: tx.unlock(session.id, held))

    def test_grants_are_seen_by_the_raw_protocol(self, world: StoreWorld) -> None:
        world.submit(3)
        session = world.open_session()
        criteria = AcquireCriteria(world.site.id, 2)
        rows = world.write(lambda tx: tx.acquire(criteria, session.id, 5))
        assert [(row.token, row.session_id) for row in rows] == [(1, session.id)] * 2
        assert world.read(lambda tx: tx.granted_jobs(session.id, 5)) == rows
        assert world.read(lambda tx: tx.granted_jobs(session.id, 4)) == []

    def test_a_session_that_ended_acquires_nothing_ever(self, world: StoreWorld) -> None:
        world.submit()
        session = world.open_session()
        world.close(session.id)
        with pytest.raises(SessionEnded):
            world.acquire(session.id)
        with pytest.raises(SessionEnded):
            world.renew(session.id)

    # Hooks

    def test_a_session_for_processing_gets_what_waits_for_a_hook(self, world: StoreWorld) -> None:
        app = world.add_app_with_hooks()
        plain = world.submit(2)
        low = world.submit(app_id=app.id)
        high = world.submit(2, app_id=app.id, priority=3, tags={"a": "b"})
        there = world.add_app_with_hooks(site=world.add_site(name="other"))
        world.submit(app_id=there.id)
        agent, launcher = world.open_processing(), world.open_session()
        assert [job.id for job in world.acquire(agent.id, 2)] == high
        assert [job.id for job in world.acquire(launcher.id)] == plain
        (last,) = world.acquire(agent.id)
        assert (last.id, last.hook, last.attempt, last.token) == (low[0], Hook.PREPROCESS, 0, 1)
        assert world.acquire_reply(agent.id, seq=2).jobs == [last], "S3"
        assert world.acquire(agent.id) == []

    def test_s6_of_many_agents_one_gets_a_hook(self, world: StoreWorld) -> None:
        ids = world.submit(200, app_id=world.add_app_with_hooks().id)
        sessions = [world.open_processing() for _ in range(4)]
        granted: list[int] = []

        def take(session_id: int) -> None:
            while jobs := world.acquire(session_id, 7):
                granted.extend(job.id for job in jobs)

        threads = [threading.Thread(target=take, args=(session.id,)) for session in sessions]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert Counter(granted) == Counter(ids)

    def test_verdicts_move_jobs_and_end_the_lease(self, world: StoreWorld) -> None:
        ids = world.submit(3, app_id=world.add_app_with_hooks().id, tags={"a": "b"})
        agent = world.open_processing()
        jobs = world.acquire(agent.id)
        changes = {"data": {"x": [1]}, "tags": {"a": "c"}, "num_nodes": 2, "max_attempts": 5}
        world.tell(agent.id, jobs[0], LaunchEvent.HOOK_DONE, verdict="PREPROCESSED", changes=changes)
        world.tell(agent.id, jobs[1], LaunchEvent.HOOK_DONE, verdict="FAILED", message="no input")
        world.tell(agent.id, jobs[2], LaunchEvent.HOOK_DONE)
        rows = [world.get(job_id) for job_id in ids]
        assert [row.state for row in rows] == [JobState.PREPROCESSED, JobState.FAILED, JobState.PREPROCESSED]
        assert [row.session_id for row in rows] == [None] * 3
        assert (rows[0].data, rows[0].tags, rows[0].num_nodes, rows[0].max_attempts) == ({"x": [1]}, {"a": "c"}, 2, 5)
        assert rows[1].failure is Failure.HOOK
        assert world.read(lambda tx: tx.held_jobs(agent.id)) == []
        launcher = world.open_session()
        assert [job.id for job in world.acquire(launcher.id, filter_tags={"a": "c"})] == ids[:1]
        assert [job.id for job in world.acquire(launcher.id, filter_tags={"a": "b"})] == ids[2:]
        for job_id in ids:
            assert replayed(world, job_id) is world.state(job_id)

    # Parents, results, ends

    def test_children_wait_for_the_last_parent(self, world: StoreWorld) -> None:
        parents = world.submit(4)
        (child,) = world.submit(parent_ids=parents)
        (other,) = world.submit(parent_ids=parents[:1])
        family = [child, other, parents[0]]
        session = world.open_session()
        for number, job in enumerate(world.acquire(session.id, 4)):
            assert world.read(lambda tx: tx.waiting_children(family)) == ({child, other} if number == 0 else {child})
            unfinished = {child: 4 - number, other: 1} if number == 0 else {child: 4 - number}
            assert world.read(lambda tx: tx.unfinished_parents(family)) == unfinished
            assert world.state(child) is JobState.AWAITING_PARENTS
            world.tell(session.id, job, LaunchEvent.STARTED, LaunchEvent.RUN_DONE, return_code=0)
            assert world.state(other) is JobState.PREPROCESSED
        assert world.state(child) is JobState.PREPROCESSED
        assert world.read(lambda tx: tx.waiting_children(family)) == set()
        (late,) = world.submit(parent_ids=parents)
        assert world.state(late) is JobState.PREPROCESSED
        assert world.read(lambda tx: tx.unfinished_parents([late])) == {}

    def test_deleted_parents_keep_nobody_waiting(self, world: StoreWorld) -> None:
        first, second = world.submit(2)
        (child,) = world.submit(parent_ids=[first, second])
        world.cancel([second])
        assert world.state(child) is JobState.FAILED
        assert world.delete([second]).deleted == 1
        assert world.read(lambda tx: tx.unfinished_parents([child])) == {child: 1}
        world.cancel([first])
        world.delete([first])
        assert world.read(lambda tx: tx.waiting_children([child])) == set()
        assert world.retry([child]).changed == 1
        assert world.state(child) is JobState.PREPROCESSED

    def test_a_report_is_answered_with_what_the_session_still_holds_and_is_to_stop(self, world: StoreWorld) -> None:
        world.submit(5)
        session = world.open_session()
        going_on, ending, handed_back, waiting, _ = jobs = world.acquire(session.id)
        world.tell(session.id, ending, LaunchEvent.STARTED)
        assert world.cancel([job.id for job in jobs[:4]]).changed == 4
        started = world.record(session.id, going_on, LaunchEvent.STARTED)
        ended = world.record(session.id, ending, LaunchEvent.RUN_DONE)
        released = world.record(session.id, handed_back, LaunchEvent.RELEASED)
        assert world.send(session.id, started, ended, released).cancel == [going_on.id, waiting.id]
        assert world.renew(session.id).cancel == [going_on.id, waiting.id]

    def test_what_a_report_is_judged_by_is_as_each_of_it_alone(self, world: StoreWorld) -> None:
        parents = world.submit(3)
        child, other = (world.submit(parent_ids=parents[:2])[0], world.submit(parent_ids=parents[2:])[0])
        session = world.open_session()
        world.acquire(session.id)
        world.cancel(parents[1:2])
        basis = world.write(lambda tx: tx.report_basis(session.id, parents, parents[:2]))
        assert basis.session == world.read(lambda tx: tx.get(SessionRow, session.id))
        assert basis.jobs == world.read(lambda tx: tx.hot_jobs(parents))
        assert basis.children == [(parents[0], child), (parents[1], child)]
        assert basis.to_stop == parents[1:2]
        nothing = world.write(lambda tx: tx.report_basis(session.id + 1, [other + 1], []))
        assert nothing == (None, {}, [], [])

    def test_deleting_leaves_no_trace(self, world: StoreWorld) -> None:
        parent = world.submit(tags={"a": "b"})
        world.submit(2, tags={"a": "b"}, parent_ids=parent)
        assert world.delete().deleted == 3
        assert world.count() == 0
        assert world.counts() == {}
        assert world.count(tags=["a:b"]) == 0
        assert world.read(lambda tx: tx.children(parent)) == []
        assert world.read(lambda tx: tx.event_count(EventSelection(world.ada.user_id))) == 0
        assert world.read(lambda tx: tx.events(EventSelection(world.ada.user_id), PageWindow("timestamp"))) == []
        assert world.submit()[0] > 3, "the id of a deleted Job was given out again"

    def test_a_grant_is_bounded_in_length_and_goes_on(self, world: StoreWorld, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(selections, "MAX_GRANT_LENGTH", 1000)
        light = world.submit(2, parameters={"name": "x" * 300})
        heavy = world.submit(1, parameters={"name": "é" * 1000})
        also = world.submit(1, data={"text": "x" * 800})
        last = world.submit(2, parameters={"name": "x" * 300})
        session = world.open_session()
        granted = [[job.id for job in world.acquire(session.id)] for _ in range(5)]
        assert granted == [light, heavy, also, last, []]

    def test_results_are_kept_replaced_and_deleted_with_their_job(self, world: StoreWorld) -> None:
        first, second = world.submit(2)
        session = world.open_session()
        values = {first: {"a": [1, 2.5, None, "é\u0000"]}, second: 2**60}
        for job in world.acquire(session.id):
            world.tell(session.id, job, E.STARTED, E.RUN_ERROR, return_code=1, result=JobResult(value=values[job.id]))
        assert [view.result for view in world.results([second, first]).results] == [
            JobResult(value=values[job_id]) for job_id in (second, first)
        ]
        world.retry([first])
        (again,) = world.acquire(session.id)
        world.tell(session.id, again, E.STARTED)
        assert world.result(first).result is None
        world.tell(session.id, again, E.RUN_DONE, return_code=0, result=JobResult(value="again"))
        assert world.result(first).result == JobResult(value="again")
        assert len(world.read(lambda tx: tx.find(ResultRow))) == 2
        world.delete([first])
        assert [row.id for row in world.read(lambda tx: tx.find(ResultRow))] == [second]
        assert [view.job_id for view in world.results([first, second]).results] == [second]

    def test_refusals_are_typed(self, world: StoreWorld) -> None:
        with pytest.raises(ServiceError):
            world.submit(workdir="../up")


def _cancelled(job: HotJob) -> JobUpdate:
    step = Step(decide(job.facts, Request(JobEvent.CANCEL, Actor.USER)))
    return JobUpdate(job, [step], None, None, None, None)
