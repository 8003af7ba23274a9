"""Why a Job waits, told from what an agent and a launcher really send."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from balsam.domain.batch_job import status_reason
from balsam.domain.states import BatchJobState
from balsam.server.store.memory import MemoryStore
from balsam.server.usecases import batch_jobs, explain, sites
from balsam.site.ledger import Entry, Phase
from balsam.testing.store_world import StoreWorld
from balsam.wire.batch_jobs import BatchJobView
from balsam.wire.jobs import JobExplanation
from balsam.wire.sites import QueueLimits, SitePatch
from tests.server.test_usecases_sites import lease

B = BatchJobState


@pytest.fixture
def world() -> Iterator[StoreWorld]:
    store = MemoryStore()
    yield StoreWorld(store)
    store.close()


def why(world: StoreWorld, job_id: int) -> JobExplanation:
    return world.read(lambda tx: explain.explain_job(tx, world.ada, job_id, world.now))


def change(world: StoreWorld, patch: SitePatch) -> None:
    world.write(lambda tx: sites.change_site(tx, world.agent(), world.site.id, patch, world.now))


def entry_of(batch_job: BatchJobView, state: BatchJobState = B.QUEUED, **facts: Any) -> Entry:
    """The agent's own record of a BatchJob."""
    return Entry(batch_job.id, "balsam-1-1", "", batch_job.queue, Phase.SUBMITTED, state, **facts)


def told(world: StoreWorld, entry: Entry) -> BatchJobView:
    """The service hears of it as it does from an agent."""
    patch = entry.patch()
    return world.write(lambda tx: batch_jobs.patch_batch_job(tx, world.agent(), entry.batch_job_id, patch, world.now))


def test_the_schedulers_reason_is_shown(world: StoreWorld) -> None:
    lease(world, "agent")
    (job_id,) = world.submit()
    batch_job = world.submit_batch_job()
    view = told(world, entry_of(batch_job, status_info={"scheduler": "ReqNodeNotAvail"}))
    assert why(world, job_id).reasons == [f"BatchJob {batch_job.id} is queued in queue 'local': ReqNodeNotAvail."]
    assert status_reason(view.status_info) == "ReqNodeNotAvail"


def test_why_it_was_not_submitted_is_shown_when_nothing_lives(world: StoreWorld) -> None:
    lease(world, "agent")
    (job_id,) = world.submit()
    assert len(why(world, job_id).reasons) == 1
    batch_job = world.submit_batch_job()
    entry = entry_of(batch_job)
    entry.complain("Invalid account", world.now)
    entry.over(B.SUBMIT_FAILED, Phase.DELIVERED, world.now)
    view = told(world, entry)
    assert "has no allocation" in why(world, job_id).summary
    assert why(world, job_id).reasons[0] == f"BatchJob {batch_job.id} could not be submitted: Invalid account."
    assert status_reason(view.status_info) == "Invalid account"


def test_an_allocation_that_broke_is_named_and_one_that_ended_well_is_not(world: StoreWorld) -> None:
    lease(world, "agent")
    (job_id,) = world.submit()
    for error, named in (("NODE_FAIL", 1), ("", 0)):
        batch_job = world.submit_batch_job()
        entry = entry_of(batch_job, B.RUNNING, status_info={"scheduler": error})
        if error:
            entry.complain(error, world.now)
        told(world, entry)
        entry.over(B.FINISHED, Phase.DELIVERED, world.now)
        told(world, entry)
        assert why(world, job_id).reasons[:-1] == [f"BatchJob {batch_job.id} has ended: NODE_FAIL."] * named


@pytest.mark.parametrize(("gone_min", "left"), [(0, None), (9.5, None), (10.5, 20), (70, 0)])
def test_the_time_that_is_left_counts(world: StoreWorld, gone_min: float, left: int | None) -> None:
    """Begun minutes are left, as for the launcher."""
    lease(world, "agent")
    (job_id,) = world.submit(wall_time_min=21)
    batch_job = world.submit_batch_job(wall_time_min=30)
    start = world.now - timedelta(minutes=gone_min)
    told(world, entry_of(batch_job, B.RUNNING, start_time=start.isoformat()))
    world.open_session(batch_job_id=batch_job.id)
    misfit = f"BatchJob {batch_job.id} has {left} minutes left, the Job's wall_time_min is 21."
    assert why(world, job_id).reasons == ([] if left is None else [misfit])


def test_an_allocation_that_drains_is_said_to(world: StoreWorld) -> None:
    lease(world, "agent")
    (job_id,) = world.submit()
    batch_job = world.submit_batch_job()
    world.report_batch_job(batch_job.id, B.RUNNING)
    world.open_session(batch_job_id=batch_job.id)
    world.drain(batch_job.id)
    assert why(world, job_id).reasons == [f"BatchJob {batch_job.id} is draining: it takes no more Jobs."]


def test_gpus_that_no_launcher_has_are_named(world: StoreWorld) -> None:
    """L1: it is passed over by acquire, so nothing else would say why it waits."""
    lease(world, "agent")
    (job_id,) = world.submit(gpus_per_rank=2, ranks_per_node=2)
    batch_job, queued = world.submit_batch_job(), world.submit_batch_job()
    world.report_batch_job(batch_job.id, B.RUNNING)
    session = world.open_session(batch_job_id=batch_job.id)
    assert "see that the nodes" in why(world, job_id).reasons[0]
    assert world.acquire(session.id, max_gpus_per_node=3) == []
    explained = why(world, job_id)
    assert explained.summary == "No active launcher has as many GPUs on a node as it asks for."
    assert explained.reasons == [
        f"It asks for 4 GPUs on each node; the launcher of BatchJob {batch_job.id} has at most 3.",
        f"BatchJob {queued.id} is pending_submission in queue 'local'.",
    ]
    (plain,) = world.submit()
    assert why(world, plain).reasons == []
    second = world.open_session(batch_job_id=batch_job.id)
    world.acquire(second.id, max_gpus_per_node=4, max_wall_time_min=0, filter_tags={"no": "such"})
    assert "as soon as a launcher" in why(world, job_id).summary


@pytest.mark.parametrize(
    ("asks", "says"),
    [
        ({"num_nodes": 900}, "It asks for 900 nodes; the Site's queues allow at most 4."),
        ({"wall_time_min": 5000}, "It asks for 5000 minutes; the Site's queues allow at most 600."),
        (
            {"num_nodes": 4, "wall_time_min": 500},
            "It asks for 4 nodes and 500 minutes; no queue of the Site allows both.",
        ),
    ],
)
def test_a_job_that_no_queue_allows_is_not_told_to_ask_for_an_allocation(
    world: StoreWorld, asks: dict[str, int], says: str
) -> None:
    lease(world, "agent")
    queues = {"debug": QueueLimits(max_nodes=4), "long": QueueLimits(max_nodes=2, max_walltime=600)}
    change(world, SitePatch(allowed_queues=queues))
    large, small = world.submit(**asks) + world.submit()
    assert "No queue of Site" in why(world, large).summary
    assert why(world, large).reasons == [says]
    ask = "Ask for one: `balsam queue submit --site laptop -n 1 -t 30 -q debug -A local -j mpi`."
    assert why(world, small).reasons == [ask]


def test_the_command_that_asks_for_an_allocation_fits_the_job_and_the_site(world: StoreWorld) -> None:
    lease(world, "agent")
    queues = {"debug": QueueLimits(max_nodes=4, max_walltime=20), "my long": QueueLimits(max_nodes=2, max_walltime=600)}

    def asked(**needs: int) -> str:
        return why(world, *world.submit(**needs)).reasons[0]

    assert asked().endswith("-n 1 -t 30 -q local -A local -j mpi`.")
    change(world, SitePatch(allowed_queues=queues, allowed_projects=["it's"]))
    assert asked(num_nodes=3).endswith("""-n 3 -t 20 -q debug -A 'it'"'"'s' -j mpi`.""")
    assert asked(wall_time_min=45).endswith("""-n 1 -t 45 -q 'my long' -A 'it'"'"'s' -j mpi`.""")
    change(world, SitePatch(allowed_queues={}, allowed_projects=[]))
    assert asked(wall_time_min=45).endswith("-n 1 -t 45 -q QUEUE -A PROJECT -j mpi`.")


def test_a_child_is_told_what_its_parent_waits_for(world: StoreWorld) -> None:
    lease(world, "agent")
    (parent,) = world.submit()
    (child,) = world.submit(parent_ids=[parent])
    told_parent, told_child = why(world, parent), why(world, child)
    assert told_child.reasons[1:] == [f"Of Job {parent}: {told_parent.summary}", *told_parent.reasons]
