"""TransferItems and the Jobs that wait for them: when they are due, who moves them, what is kept how long."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from balsam.domain.states import JobState, TransferState
from balsam.server.errors import Forbidden, Invalid, NotFound, ServiceError
from balsam.server.store.memory import MemoryStore
from balsam.server.store.protocol import Tx
from balsam.server.store.records import BlobRow, TransferItemRow, micros
from balsam.server.sweeps import collect_blobs
from balsam.server.usecases import blobs, explain
from balsam.testing.store_world import StoreWorld
from balsam.wire.apps import AppView, TransferSlot
from balsam.wire.sessions import LaunchEvent
from balsam.wire.transfers import JobTransfer, SentContent, TransferItemView, TransfersPatched

PENDING, ACTIVE, DONE, ERROR = TransferState.PENDING, TransferState.ACTIVE, TransferState.DONE, TransferState.ERROR
AWAITING, INACTIVE = TransferState.AWAITING_JOB, TransferState.INACTIVE
TRANSFERS_WAKE = ("site", "transfers")
MISSING = "there is no such TransferItem"


@pytest.fixture
def world() -> StoreWorld:
    return StoreWorld(MemoryStore())


@pytest.fixture
def app(world: StoreWorld) -> AppView:
    slots = {
        "input": TransferSlot(required=True, direction="in", local_path="in.dat"),
        "more": TransferSlot(required=False, direction="in", local_path="more", recursive=True),
        "result": TransferSlot(required=False, direction="out", local_path="out.dat", description="energies"),
    }
    return world.add_app(name="stage", transfers=slots)


def given(world: StoreWorld, content: bytes = b"input", path: str = "/home/ada/in.dat") -> JobTransfer:
    return JobTransfer(location_alias="client", path=path, content=world.content(content), origin="laptop")


def submit(world: StoreWorld, app: AppView, **more: Any) -> int:
    transfers = {"input": given(world), "result": "client:/home/ada/out.dat", **more.pop("transfers", {})}
    transfers = {name: value for name, value in transfers.items() if value is not None}
    (job_id,) = world.submit(app_id=app.id, transfers=transfers, **more)
    return job_id


def items(world: StoreWorld, job_id: int) -> dict[str, TransferItemView]:
    return {item.slot: item for item in world.transfers(job_id=[job_id])}


def states(world: StoreWorld, job_id: int) -> dict[str, TransferState]:
    return {slot: item.state for slot, item in items(world, job_id).items()}


def woken(world: StoreWorld) -> bool:
    heard = [(wake.topic, wake.event) for wake in world.wakes]
    world.wakes.clear()
    return TRANSFERS_WAKE in heard


def tell(world: StoreWorld, job_id: int, slot: str, state: TransferState, **more: Any) -> str:
    """What the Site says of an item; why it was refused, or nothing."""
    item = items(world, job_id)[slot]
    reply = world.tell_transfer(item.id, state=state, **more)
    return reply.refused.get(item.id, "")


def run(world: StoreWorld, job_id: int, *happened: LaunchEvent) -> None:
    """Run the Job as a launcher would."""
    session = world.open_session()
    (job,) = [job for job in world.acquire(session.id) if job.id == job_id]
    world.tell(session.id, job, LaunchEvent.STARTED, *(happened or (LaunchEvent.RUN_DONE,)))
    world.close(session.id)


def held(world: StoreWorld) -> dict[str, int]:
    """Blobs and how many items hold them."""
    return {row.sha256: row.uses for row in world.read(lambda tx: tx.find(BlobRow))}


def test_from_submission_to_the_results_that_were_collected(world: StoreWorld, app: AppView) -> None:
    world.wakes.clear()
    job_id = submit(world, app)
    assert world.state(job_id) is JobState.READY
    assert states(world, job_id) == {"input": PENDING, "result": AWAITING}
    assert woken(world)
    assert world.get(job_id).transfers == {
        "input": "client:/home/ada/in.dat",
        "result": "client:/home/ada/out.dat",
    }
    assert tell(world, job_id, "input", ACTIVE, task_id="t1", transfer_info={"bytes": 3}) == ""
    assert items(world, job_id)["input"].transfer_info == {"bytes": 3}
    assert tell(world, job_id, "input", DONE) == ""
    assert world.state(job_id) is JobState.PREPROCESSED
    assert list(held(world).values()) == [0]  # it has arrived: the service need not keep it
    assert not woken(world)
    run(world, job_id)
    assert world.state(job_id) is JobState.POSTPROCESSED
    assert states(world, job_id) == {"input": DONE, "result": PENDING}
    assert woken(world)
    result = world.content(b"energies", world.agent())
    assert tell(world, job_id, "result", DONE, content=result) == ""
    assert world.state(job_id) is JobState.JOB_FINISHED
    found = items(world, job_id)["result"]
    assert found.content is not None and found.content.entries == result.entries
    assert held(world)[result.blobs[0]] == 1
    assert world.collect(found.id).changed == 1
    assert items(world, job_id)["result"].collected_at == world.now
    assert held(world)[result.blobs[0]] == 0
    assert world.collect(found.id).changed == 0


def test_each_step_is_an_event_of_its_actor_s5(world: StoreWorld, app: AppView) -> None:
    job_id = submit(world, app)
    tell(world, job_id, "input", DONE)
    run(world, job_id)
    tell(world, job_id, "result", DONE, content=world.content(b"r", world.agent()))
    steps = [(event.from_state.value, event.to_state.value, event.actor) for event in world.events(job_id)]
    assert ("READY", "STAGED_IN", "site") in steps
    assert steps[-2:] == [("POSTPROCESSED", "STAGED_OUT", "site"), ("STAGED_OUT", "JOB_FINISHED", "service")]


def test_all_inputs_must_be_there(world: StoreWorld, app: AppView) -> None:
    job_id = submit(world, app, transfers={"more": given(world, b"more")})
    tell(world, job_id, "more", DONE)
    assert world.state(job_id) is JobState.READY
    tell(world, job_id, "input", DONE)
    assert world.state(job_id) is JobState.PREPROCESSED


def test_one_item_in_error_fails_the_job_after_the_others_are_settled(world: StoreWorld, app: AppView) -> None:
    job_id = submit(world, app, transfers={"more": given(world, b"more")})
    tell(world, job_id, "input", ERROR, transfer_info={"error": "no such file"})
    assert world.state(job_id) is JobState.READY
    tell(world, job_id, "more", DONE)
    assert world.state(job_id) is JobState.FAILED
    assert world.events(job_id)[-1].data["message"] == "transfer 'input': no such file"


def test_a_job_that_waits_for_its_parents_stages_in_afterwards(world: StoreWorld, app: AppView) -> None:
    (parent,) = world.submit()
    job_id = submit(world, app, parent_ids=[parent])
    assert states(world, job_id) == {"input": AWAITING, "result": AWAITING}
    assert tell(world, job_id, "input", DONE)
    world.wakes.clear()
    run(world, parent)
    assert world.state(job_id) is JobState.READY
    assert states(world, job_id)["input"] is PENDING and woken(world)


def test_what_is_not_due_any_more_is_refused(world: StoreWorld, app: AppView) -> None:
    job_id = submit(world, app)
    tell(world, job_id, "input", ACTIVE)
    assert "awaiting_job can't become done" in tell(world, job_id, "result", DONE)
    world.cancel([job_id])
    assert states(world, job_id) == {"input": AWAITING, "result": AWAITING}
    assert "awaiting_job can't become done" in tell(world, job_id, "input", DONE)
    assert world.state(job_id) is JobState.CANCELLED
    world.retry([job_id])
    assert world.state(job_id) is JobState.READY and states(world, job_id)["input"] is PENDING
    assert tell(world, job_id, "input", DONE) == ""
    assert tell(world, job_id, "input", DONE) == ""  # S3: said twice
    assert "done can't become error" in tell(world, job_id, "input", ERROR)


def test_a_retry_from_the_start_does_not_fetch_again_what_is_there(world: StoreWorld, app: AppView) -> None:
    job_id = submit(world, app, transfers={"more": given(world, b"more")})
    tell(world, job_id, "input", DONE)
    tell(world, job_id, "more", ERROR, transfer_info={"error": "refused"})
    assert world.state(job_id) is JobState.FAILED
    world.retry([job_id])
    assert states(world, job_id) == {"input": DONE, "more": PENDING, "result": AWAITING}
    tell(world, job_id, "more", DONE)
    assert world.state(job_id) is JobState.PREPROCESSED


def test_inputs_that_are_all_there_are_no_step_of_a_retry(world: StoreWorld, app: AppView) -> None:
    """Cancelled while it was READY, with everything at the Site already: nobody would say `done` once more."""
    job_id = submit(world, app, transfers={"more": given(world, b"more")})
    tell(world, job_id, "input", DONE)
    world.cancel([job_id])
    item = items(world, job_id)["more"]
    world.write(lambda tx: tx.put(_with_state(tx, item.id, DONE)))
    world.retry([job_id])
    assert world.state(job_id) is JobState.PREPROCESSED
    assert world.events(job_id)[-2].actor == "service"


def _with_state(tx: Tx, item_id: int, state: TransferState) -> TransferItemRow:
    row = tx.get(TransferItemRow, item_id)
    assert row is not None
    return replace(row, state=state)


def test_a_further_attempt_sends_its_outputs_anew(world: StoreWorld, app: AppView) -> None:
    job_id = submit(world, app)
    tell(world, job_id, "input", DONE)
    run(world, job_id)
    tell(world, job_id, "result", ERROR, transfer_info={"error": "no such file"})
    assert world.state(job_id) is JobState.FAILED
    world.retry([job_id])
    assert world.state(job_id) is JobState.RESTART_READY
    assert states(world, job_id)["result"] is ERROR  # still to be seen
    run(world, job_id)
    assert (states(world, job_id)["result"], items(world, job_id)["result"].transfer_info) == (PENDING, {})


def test_a_result_of_an_earlier_attempt_is_let_go_of(world: StoreWorld, app: AppView) -> None:
    slots = {name: TransferSlot(required=False, direction="out", local_path=name) for name in ("a", "b")}
    two = world.add_app(name="two", transfers=slots)
    (job_id,) = world.submit(app_id=two.id, transfers={"a": "client:/a", "b": "client:/b"})
    run(world, job_id)
    first = world.content(b"first", world.agent())
    tell(world, job_id, "a", DONE, content=first)
    tell(world, job_id, "b", ERROR)
    assert held(world)[first.blobs[0]] == 1  # a FAILED Job's results that did come can be collected
    world.retry([job_id])
    run(world, job_id)
    assert held(world)[first.blobs[0]] == 0
    assert items(world, job_id)["a"].content is None


def test_done_without_the_content_is_refused(world: StoreWorld, app: AppView) -> None:
    job_id = submit(world, app)
    tell(world, job_id, "input", DONE)
    run(world, job_id)
    assert "say which" in tell(world, job_id, "result", DONE)
    mine = world.content(b"sent by the user, not by the Site")
    assert "are not here" in tell(world, job_id, "result", DONE, content=mine)
    assert world.state(job_id) is JobState.POSTPROCESSED


def test_another_location_needs_no_content(world: StoreWorld, app: AppView) -> None:
    job_id = submit(world, app, transfers={"input": "scratch:/in.dat", "result": "scratch:/out.dat"})
    assert tell(world, job_id, "input", DONE) == ""
    run(world, job_id)
    assert tell(world, job_id, "result", DONE) == ""
    assert world.state(job_id) is JobState.JOB_FINISHED


def test_only_the_jobs_own_site_reports_s14(world: StoreWorld, app: AppView) -> None:
    job_id = submit(world, app)
    item = items(world, job_id)["input"]
    other = world.agent(world.add_site(name="other"))
    missing = world.tell_transfer(10**9, who=other, state=DONE).refused[10**9]
    assert world.tell_transfer(item.id, who=other, state=DONE).refused == {item.id: missing}
    with pytest.raises(Forbidden):
        world.tell_transfer(item.id, who=world.ada, state=DONE)
    assert world.state(job_id) is JobState.READY


@pytest.mark.parametrize(
    ("transfers", "where", "said"),
    [
        ({"input": None}, "transfers", "needs input: give it as input=ALIAS:/absolute/path"),
        ({"outptu": "client:/x"}, "transfers.outptu", "no such transfer slot; it has: input, more, result"),
        ({"result": "/x"}, "transfers.result", "is no location; write ALIAS:/absolute/path"),
        ({"result": "client:x"}, "transfers.result", "not absolute"),
        ({"result": "client:/a/../x"}, "transfers.result", "'..'"),
        ({"result": "client:/a\0"}, "transfers.result", "NUL"),
        ({"result": "client:/" + "x" * 4096}, "transfers.result", "4097 characters; at most 4096"),
        ({"result": "laptop:/x"}, "transfers.result", "no transfer location 'laptop'; it has: client, scratch"),
        ({"input": "client:/x"}, "transfers.input", "sent to the service before the Job is submitted"),
    ],
)
def test_bad_transfers_are_named_at_submit(
    world: StoreWorld, app: AppView, transfers: dict[str, Any], where: str, said: str
) -> None:
    with pytest.raises(Invalid) as caught:
        submit(world, app, transfers=transfers)
    (detail,) = caught.value.details
    assert detail.where == f"jobs[0].{where}" and said in detail.message
    assert world.count() == 0 and world.transfers() == []


def test_content_goes_only_with_what_is_sent(world: StoreWorld, app: AppView) -> None:
    for slot, alias in (("result", "client"), ("input", "scratch")):
        wrong = JobTransfer(location_alias=alias, path="/x", content=world.content(b"x"))
        with pytest.raises(Invalid, match="content goes only"):
            submit(world, app, transfers={slot: wrong})


def test_content_that_is_gone_is_named_by_row_and_nothing_is_created_s2(world: StoreWorld, app: AppView) -> None:
    absent = SentContent(is_tree=False, files=1, size_bytes=1, blobs=["0" * 64])
    rows = [
        world.job(app_id=app.id, transfers={"input": value})
        for value in (given(world), JobTransfer(location_alias="client", path="/x", content=absent))
    ]
    with pytest.raises(ServiceError) as caught:
        world.submit_all(rows)
    assert (caught.value.status, caught.value.code) == (409, "blob_missing")
    assert [detail.where for detail in caught.value.details] == ["jobs[1].transfers.input"]
    assert world.count() == 0 and set(held(world).values()) == {0}


def test_a_content_of_somebody_else_is_as_if_it_were_not_there_s14(world: StoreWorld, app: AppView) -> None:
    bob = world.add_user("bob")
    theirs = world.content(b"secret", bob)
    with pytest.raises(ServiceError, match="missing"):
        submit(world, app, transfers={"input": JobTransfer(location_alias="client", path="/x", content=theirs)})
    with pytest.raises(NotFound):
        world.read(lambda tx: blobs.readable(tx, world.ada, theirs.blobs[0]))


def test_a_site_reads_what_its_jobs_take_in_and_nothing_else_t20(world: StoreWorld, app: AppView) -> None:
    job_id = submit(world, app)
    name = world.add_blob(b"input")
    stray = world.add_blob(b"for no Job")
    agent, other = world.agent(), world.agent(world.add_site(name="other"))
    assert world.read(lambda tx: blobs.readable(tx, agent, name)).sha256 == name
    for principal, wanted in ((agent, stray), (other, name)):
        with pytest.raises(NotFound):
            world.read(lambda tx, p=principal, w=wanted: blobs.readable(tx, p, w))
    tell(world, job_id, "input", DONE)
    with pytest.raises(NotFound):
        world.read(lambda tx: blobs.readable(tx, agent, name))


def test_a_slot_that_leaves_the_workdir_is_refused_with_the_app(world: StoreWorld) -> None:
    for local_path, said in (("../x", "'..'"), ("/etc/passwd", "absolute"), ("", "empty"), ("a\nb", "control")):
        slot = TransferSlot(required=True, direction="out", local_path=local_path)
        with pytest.raises(Invalid, match=said):
            world.add_app(name="leaves", transfers={"x": slot})
    world.add_app(name="stays", transfers={"x": TransferSlot(required=True, direction="out", local_path=".")})


def test_explain_names_the_item_and_its_error(world: StoreWorld, app: AppView) -> None:
    job_id = submit(world, app)
    tell(world, job_id, "input", INACTIVE, transfer_info={"error": "disk full at the Site"})
    why = world.read(lambda tx: explain.explain_job(tx, world.ada, job_id, world.now))
    assert why.summary == "It waits for 1 of its 1 files to be staged in."
    assert why.reasons[0] == (
        "Transfer 'input' (in.dat from client:/home/ada/in.dat) is inactive: disk full at the Site."
    )


def test_only_the_owner_collects_s14(world: StoreWorld, app: AppView) -> None:
    job_id = submit(world, app)
    item = items(world, job_id)["input"]
    assert world.collect(item.id, 10**9) == TransfersPatched(changed=0, refused={10**9: MISSING})
    world.ada = world.add_user("bob")
    assert world.collect(item.id, 10**9).refused == {item.id: MISSING, 10**9: MISSING}


class Storage:
    """What the sweep removes."""

    def __init__(self) -> None:
        self.removed: list[str] = []

    def remove(self, place: str) -> None:
        self.removed.append(place)


def sweep(world: StoreWorld) -> int:
    collect_blobs.expire(world.store, world.now, keep_days=30)
    return collect_blobs.run_once(world.store, Storage(), world.now)  # type: ignore[arg-type]


def test_what_was_sent_and_never_submitted_goes_after_an_hour(world: StoreWorld) -> None:
    name = world.add_blob(b"x")
    world.clock.advance(3500)
    assert world.write(lambda tx: blobs.look_up(tx, world.ada, [name], world.now)) == [name]
    world.clock.advance(3500)
    assert sweep(world) == 0
    world.clock.advance(200)
    assert sweep(world) == 1
    assert world.write(lambda tx: blobs.look_up(tx, world.ada, [name], world.now)) == []


def test_results_that_nobody_collects_go_after_their_time(world: StoreWorld, app: AppView) -> None:
    job_id = submit(world, app)
    tell(world, job_id, "input", DONE)
    run(world, job_id)
    tell(world, job_id, "result", DONE, content=world.content(b"r", world.agent()))
    assert sweep(world) == 1  # the input
    world.clock.advance(timedelta(days=29).total_seconds())
    assert sweep(world) == 0
    world.clock.advance(timedelta(days=2).total_seconds())
    assert sweep(world) == 1
    assert "removed on" in items(world, job_id)["result"].transfer_info["error"]
    assert held(world) == {}


def test_inputs_are_kept_as_long_as_their_job_may_need_them(world: StoreWorld, app: AppView) -> None:
    (parent,) = world.submit()
    waiting, cancelled = submit(world, app, parent_ids=[parent]), submit(world, app)
    world.cancel([cancelled])
    world.clock.advance(timedelta(days=40).total_seconds())
    assert sweep(world) == 0  # both Jobs have the same input
    world.cancel([waiting])
    world.clock.advance(timedelta(days=40).total_seconds())
    assert sweep(world) == 1


def test_a_blob_that_is_asked_for_while_the_sweep_runs_stays(world: StoreWorld) -> None:
    name = world.add_blob(b"x")
    world.clock.advance(7200)
    (row,) = world.read(lambda tx: tx.unused_blobs(micros(world.now), 10))
    world.write(lambda tx: blobs.look_up(tx, world.ada, [name], world.now))
    before = micros(world.now - collect_blobs.UNUSED_KEPT_FOR)
    assert world.write(lambda tx: collect_blobs._remove_rows(tx, [row], before)) == []


def test_deleting_a_job_lets_go_of_its_content(world: StoreWorld, app: AppView) -> None:
    job_id = submit(world, app)
    assert set(held(world).values()) == {1}
    world.delete([job_id])
    assert world.transfers() == [] and set(held(world).values()) == {0}


def test_the_same_input_of_many_jobs_is_held_by_each(world: StoreWorld, app: AppView) -> None:
    ids = world.submit(5, app_id=app.id, transfers={"input": given(world)})
    assert list(held(world).values()) == [5]
    for job_id in ids:
        tell(world, job_id, "input", DONE)
    assert list(held(world).values()) == [0]


def test_jobs_without_transfers_take_the_steps_at_once(world: StoreWorld) -> None:
    (job_id,) = world.submit()
    run(world, job_id)
    assert world.state(job_id) is JobState.JOB_FINISHED
    assert not woken(world)
