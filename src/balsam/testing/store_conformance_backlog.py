"""The part of the store conformance suite that is about what waits to run. See store_conformance."""
# ruff: noqa: S101 -- tests that are shipped

from typing import Any

import pytest

from balsam.domain.states import BatchJobState, JobMode
from balsam.server.errors import Conflict
from balsam.server.store.protocol import Wake
from balsam.testing.store_world import StoreWorld
from balsam.wire.batch_jobs import BatchJobPartition
from balsam.wire.sessions import LaunchEvent


class BacklogRules:
    """What is counted for the elastic queue."""

    def test_the_backlog_is_what_an_acquire_would_find(self, world: StoreWorld) -> None:
        world.submit(3, num_nodes=2, ranks_per_node=2, wall_time_min=20)
        world.submit(4, node_packing_count=4, priority=3, tags={"a": "1", "b": "2"})
        world.submit(1, gpus_per_rank=2, tags={"a": "1"}, wall_time_min=1234)
        world.submit(1, parent_ids=world.submit(1, node_packing_count=4))

        def waits(**query: Any) -> list[tuple[int, int, int, int]]:
            found = world.backlog(**query).waiting
            return [(one.num_nodes, one.wall_time_min, one.node_packing_count, one.number) for one in found]

        assert waits() == [(1, 0, 4, 5), (1, 1300, 1, 1), (2, 20, 1, 3)], "Jobs whose parents have not finished count"
        assert waits(max_jobs=5) == [(1, 0, 4, 4), (2, 20, 1, 1)], "not in the order of an acquire"
        assert waits(tags={"a": "1"}) == [(1, 0, 4, 4), (1, 1300, 1, 1)]
        assert waits(tags={"a": "1"}, max_wall_time_min=1233) == [(1, 0, 4, 4)]
        assert waits(tags={"a": "1", "b": "2"}) == [(1, 0, 4, 4)]
        assert waits(max_gpus_per_node=1, max_nodes_per_job=1) == [(1, 0, 4, 5)]
        assert waits(serial_only=True, max_gpus_per_node=0) == [(1, 0, 4, 5)]
        assert not world.backlog().has_others
        beyond = world.backlog(tags={"a": "1"}, max_wall_time_min=100, max_gpus_per_node=0, max_nodes_per_job=1)
        assert not beyond.has_others
        assert world.backlog(tags={"b": "none"}).has_others

    def test_the_backlog_tells_what_allocations_will_take(self, world: StoreWorld) -> None:
        world.submit(4, tags={"a": "1"}, node_packing_count=2)
        world.submit(3, num_nodes=3)
        plain = world.submit_batch_job(num_nodes=4)
        tagged = world.submit_batch_job(num_nodes=2, filter_tags={"a": "1"})
        again = world.submit_batch_job(num_nodes=1, filter_tags={"a": "1"})
        serial = world.submit_batch_job(num_nodes=2, job_mode="serial")
        gone = world.submit_batch_job(num_nodes=2)
        world.report_batch_job(gone.id, BatchJobState.FINISHED)
        world.report_batch_job(plain.id, BatchJobState.RUNNING, start_time=world.now)
        session = world.open_session(batch_job_id=plain.id)
        world.acquire(session.id, 3)
        backlog = world.backlog()
        (_, tags, mode) = [[(one.num_nodes, one.number) for one in part] for part in [backlog.waiting, *backlog.parts]]
        assert (tags, mode) == ([(1, 1)], [(1, 1)])
        found = {one.batch_job_id: (one.num_nodes, one.part, one.held_nodes) for one in backlog.supplies}
        assert found == {plain.id: (4, None, 1.5), tagged.id: (2, 0, 0), again.id: (1, 0, 0), serial.id: (2, 1, 0)}
        assert world.read(lambda tx: (tx.held_nodes(session.id, 3), tx.held_nodes(session.id, 4))) == (None, 1.5)
        others = world.backlog({"a": "2"})
        assert {one.batch_job_id for one in others.supplies} == {plain.id, serial.id}

    def test_an_allocation_that_drains_takes_nothing_and_ends_after_its_jobs(self, world: StoreWorld) -> None:
        world.submit(2)
        batch_job = world.submit_batch_job()
        world.report_batch_job(batch_job.id, BatchJobState.RUNNING)
        session = world.open_session(batch_job_id=batch_job.id)
        (job,) = world.acquire(session.id, 1)
        world.tell(session.id, job, LaunchEvent.STARTED)
        assert not batch_job.draining and world.drain(batch_job.id).draining
        closing = Wake("session", session.id, "closing", {})
        assert world.acquire(session.id) == [] and not world.renew(session.id).closing
        assert closing not in world.wakes, "its Job would be ended"
        assert (len(world.backlog().supplies), world.backlog().waiting[0].number) == (0, 1)
        world.tell(session.id, job, LaunchEvent.RUN_DONE, return_code=0)
        assert world.renew(session.id).closing
        assert world.acquire(session.id) == [] and closing in world.wakes

    def test_one_that_drains_and_has_nothing_ends_at_once(self, world: StoreWorld) -> None:
        batch_job = world.submit_batch_job()
        with pytest.raises(Conflict, match="pending_submission: only one that runs can be drained"):
            world.drain(batch_job.id)
        world.report_batch_job(batch_job.id, BatchJobState.RUNNING)
        session = world.open_session(batch_job_id=batch_job.id)
        world.wakes.clear()
        world.drain(batch_job.id)
        assert Wake("session", session.id, "closing", {}) in world.wakes
        world.drain(batch_job.id)
        world.report_batch_job(batch_job.id, BatchJobState.FINISHED)
        assert world.drain(batch_job.id).state is BatchJobState.FINISHED, "a repeat changes nothing"

    def test_partitions_take_of_the_backlog_by_themselves(self, world: StoreWorld) -> None:
        world.submit(2, tags={"a": "1"})
        partitions = [
            BatchJobPartition(job_mode=JobMode.MPI, num_nodes=3),
            BatchJobPartition(job_mode=JobMode.MPI, num_nodes=1, filter_tags={"a": "1"}),
        ]
        world.submit_batch_job(num_nodes=4, partitions=partitions)
        found = world.backlog()
        assert [(one.num_nodes, one.part) for one in found.supplies] == [(3, None), (1, 0)]
        assert [[one.number for one in part] for part in found.parts] == [[2]]
