"""What is removed when Jobs are kept for so many days, and above all what is not."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from balsam.domain.states import JobState
from balsam.server.app import create_app, sweeps_of
from balsam.server.errors import Forbidden, NotFound
from balsam.server.settings import ServerSettings
from balsam.server.store.memory import MemoryStore
from balsam.server.store.protocol import Store
from balsam.server.store.records import IdempotencyRow, ResultRow, micros
from balsam.server.store.sqlite import SqliteStore
from balsam.server.sweeps import remove_old
from balsam.server.usecases import retention
from balsam.testing.store_world import StoreWorld, run
from balsam.wire.admin import Pruned, PruneRequest
from balsam.wire.apps import TransferSlot
from balsam.wire.results import JobResult
from balsam.wire.sessions import LaunchEvent

E = LaunchEvent
KEEP_DAYS = 30


@pytest.fixture(params=["memory", "sqlite"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> StoreWorld:
    store: Store = MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "balsam.sqlite3")
    request.addfinalizer(store.close)
    return StoreWorld(store)


def finish(world: StoreWorld, *job_ids: int) -> None:
    """Run these Jobs, with a result each."""
    session = world.open_session()
    for job in world.acquire(session.id):
        if job.id in job_ids:
            result = JobResult(value="42")
            world.tell(session.id, job, E.STARTED, E.RUN_DONE, return_code=0, result=result)
    world.close(session.id)


def pass_days(world: StoreWorld, days: float) -> None:
    world.clock.advance(days * 86_400)


def sweep(world: StoreWorld) -> int:
    return remove_old.run_once(world.store, world.now, KEEP_DAYS)


def left(world: StoreWorld) -> list[int]:
    return [job.id for job in world.page()]


def test_jobs_that_ended_go_with_events_and_results_and_others_stay(world: StoreWorld) -> None:
    done, failed, cancelled, waiting = world.submit(4)
    finish(world, done)
    session = world.open_session()
    (job,) = [one for one in world.acquire(session.id) if one.id == failed]
    world.tell(session.id, job, E.STARTED, E.RUN_ERROR, return_code=1)
    world.close(session.id)
    world.cancel([cancelled])
    pass_days(world, KEEP_DAYS - 1)
    (late,) = world.submit()
    world.cancel([late])
    assert sweep(world) == 0
    pass_days(world, 2)
    assert [world.state(one) for one in (done, failed)] == [JobState.JOB_FINISHED, JobState.FAILED]
    assert sweep(world) == 3
    assert left(world) == [waiting, late]
    assert world.counts() == {JobState.PREPROCESSED: 1, JobState.CANCELLED: 1}
    assert {event.job_id for event in world.event_page()} == {waiting, late}
    assert world.read(lambda tx: tx.find(ResultRow)) == []


def test_a_child_that_has_not_ended_keeps_its_parent_also_one_that_failed(world: StoreWorld) -> None:
    parent, other = world.submit(2)
    (child,) = world.submit(parent_ids=[parent])
    finish(world, parent, other)
    pass_days(world, KEEP_DAYS + 1)
    assert world.state(child) is JobState.PREPROCESSED
    assert sweep(world) == 1
    assert left(world) == [parent, child]
    world.cancel([child])
    assert sweep(world) == 1, "the child ended just now"
    assert left(world) == [child]


def test_a_result_that_nobody_collected_keeps_its_job_until_it_is(world: StoreWorld) -> None:
    slot = TransferSlot(required=True, direction="out", local_path="out.dat")
    app = world.add_app(name="stage", transfers={"result": slot})
    (job_id,) = world.submit(app_id=app.id, transfers={"result": "client:/home/ada/out.dat"})
    finish(world, job_id)
    (item,) = world.transfers(job_id=[job_id])
    pass_days(world, KEEP_DAYS + 1)
    assert sweep(world) == 0, "the Site has still to send it"
    reply = world.tell_transfer(item.id, state="done", content=world.content(b"energies", world.agent()))
    assert not reply.refused
    assert world.state(job_id) is JobState.JOB_FINISHED
    pass_days(world, KEEP_DAYS + 1)
    assert sweep(world) == 0, "the client has still to collect it"
    world.collect(item.id)
    pass_days(world, KEEP_DAYS + 1)
    assert sweep(world) == 1


def test_a_site_that_has_not_cleaned_up_keeps_its_job(world: StoreWorld) -> None:
    app = world.add_app(name="tidy", cleanup_files=["*.tmp"])
    (job_id,) = world.submit(app_id=app.id)
    finish(world, job_id)
    pass_days(world, KEEP_DAYS + 1)
    assert sweep(world) == 0
    world.write(lambda tx: tx.change_jobs({job_id: {"pending_file_cleanup": False}}, at=1))
    assert sweep(world) == 1


def test_a_job_that_was_retried_after_it_was_found_stays(world: StoreWorld) -> None:
    done, again = world.submit(2)
    world.cancel([done, again])
    pass_days(world, 2)
    limit = micros(world.now - timedelta(days=1))
    found = world.read(lambda tx: retention.ended_before(tx, world.ada.user_id, limit, None))
    assert [job.id for job in found] == [done, again]
    world.retry([again])
    assert world.write(lambda tx: retention.remove_unneeded(tx, [done, again], limit)) == 1
    assert left(world) == [again]


@pytest.mark.parametrize("dry_run", [True, False])
def test_an_administrators_order_goes_on_from_call_to_call(
    world: StoreWorld, monkeypatch: pytest.MonkeyPatch, dry_run: bool
) -> None:
    monkeypatch.setattr(retention, "SLICE", 2)
    monkeypatch.setattr(retention, "SLICES_PER_CALL", 2)
    eve = world.add_user("eve")
    eves = world.add_app(eve, world.add_site(eve))
    world.cancel(world.submit(5))
    (kept,) = world.submit()
    world.cancel(world.submit_all([world.job(app_id=eves.id)] * 3, eve).ids, user=eve)
    pass_days(world, 3)
    users = world.read(retention.owners)
    message, answers = PruneRequest(older_than_days=2, dry_run=dry_run), list[Pruned]()
    while not answers or answers[-1].more:
        answers.append(run(retention.prune(world.store, users, message, world.now)))
        place = answers[-1].model_dump(include={"after_user_id", "after_job_id", "after_value"})
        message = message.model_copy(update=place)
    assert [answer.removed for answer in answers] == [4, 3, 1]
    assert (world.count(), world.count(eve)) == ((6, 3) if dry_run else (1, 0))
    assert dry_run or left(world) == [kept]


def test_only_administrators_give_it_and_for_accounts_that_exist(world: StoreWorld) -> None:
    nobody_special = replace(world.ada, is_admin=False)
    with pytest.raises(Forbidden):
        world.read(lambda tx: retention.chosen_owners(tx, nobody_special, None))
    admin = replace(world.ada, is_admin=True)
    with pytest.raises(NotFound):
        world.read(lambda tx: retention.chosen_owners(tx, admin, "nobody"))
    eve = world.add_user("eve")
    assert world.read(lambda tx: retention.chosen_owners(tx, admin, "eve")) == [eve.user_id]


def test_s13_a_clock_that_jumps_makes_nothing_old(world: StoreWorld, tmp_path: Path) -> None:
    settings = ServerSettings(home=tmp_path, data_dir=tmp_path / "data", keep_jobs_days=KEEP_DAYS)
    service = create_app(settings, world.store, world.clock).service
    (job_id,) = world.submit()
    finish(world, job_id)
    key = IdempotencyRow(1, world.ada.user_id, "key", "hash", "{}", micros(world.now))
    world.write(lambda tx: tx.put(key))
    upload = service.uploads.begin((world.ada.user_id, 0), "x", 10).path
    os.utime(upload, times=(world.now.timestamp(), world.now.timestamp()))

    def what_is_left() -> tuple[list[int], int, bool]:
        return left(world), len(world.read(lambda tx: tx.find(IdempotencyRow))), upload.exists()

    sweeps = sweeps_of(service)
    there = what_is_left()
    world.clock.jump(400 * 86_400)
    for each in sweeps:
        each.run()
    assert what_is_left() == there == ([job_id], 1, True)
    world.clock.advance(3600)
    for each in sweeps:
        each.run()
    assert what_is_left() == ([], 0, False)
    service.uploads.stop()
