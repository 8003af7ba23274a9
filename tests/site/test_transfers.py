"""The agent's part of transfers, with a service and back ends that do as they are told: batches, retries, reports."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest

from balsam.domain.states import JobState, TransferState
from balsam.domain.transfers import TransferDirection
from balsam.site.service import ServiceAway
from balsam.site.services import transfers as module
from balsam.site.services.transfer_notes import LONGEST_RETRY_SEC, TransferNotes
from balsam.site.services.transfers import CROWDED_SEC, TransferLimits, Transfers
from balsam.testing.clock import FakeClock
from balsam.transfer.base import Order, Outcome, Report, Trouble
from balsam.transfer.manifest import EMPTY_SHA256, Content, Entry
from balsam.wire.transfers import TransferItemView, TransferPatch, TransfersPatched

IN, OUT = TransferDirection.stage_in, TransferDirection.stage_out
PENDING, ACTIVE, INACTIVE = TransferState.PENDING, TransferState.ACTIVE, TransferState.INACTIVE
DONE, ERROR = TransferState.DONE, TransferState.ERROR
NOTHING = Content(False, 1, 0, (Entry("x", 0, 0o644, EMPTY_SHA256),))


def item(
    number: int, direction: TransferDirection = OUT, alias: str = "client", task_id: str = "", who: str = "ada"
) -> TransferItemView:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return TransferItemView(
        id=number,
        job_id=number,
        site_id=1,
        submitted_by=who,
        slot="result",
        direction=direction,
        local_path="out.dat",
        remote_path="/home/ada/out.dat",
        location_alias=alias,
        recursive=False,
        state=PENDING,
        task_id=task_id,
        transfer_info={},
        content=None,
        origin="",
        workdir="run",
        job_state=JobState.POSTPROCESSED,
        created_at=at,
        last_update=at,
        collected_at=None,
    )


class Service:
    """Knows which items are due; forgets those that are settled."""

    def __init__(self, *items: TransferItemView) -> None:
        self.due = {one.id: one for one in items}
        self.heard: list[dict[int, TransferPatch]] = []
        self.refuse: dict[int, str] = {}
        self.away = False
        self.listings = 0

    def due_transfers(self, limit: int) -> list[TransferItemView]:
        self._answer()
        self.listings += 1
        return list(self.due.values())[:limit]

    def report_transfers(self, patches: Mapping[int, TransferPatch]) -> TransfersPatched:
        self._answer()
        self.heard.append(dict(patches))
        refused = {number: why for number, why in self.refuse.items() if number in patches}
        for number, patch in patches.items():
            if number not in refused and patch.state in (DONE, ERROR):
                del self.due[number]
        return TransfersPatched(changed=len(patches) - len(refused), refused=refused)

    def _answer(self) -> None:
        if self.away:
            raise ServiceAway("away")

    def states(self, number: int) -> list[TransferState | None]:
        return [patches[number].state for patches in self.heard if number in patches]

    def last(self, number: int) -> TransferPatch:
        return next(patches[number] for patches in reversed(self.heard) if number in patches)


class Backend:
    """Ends orders when the test says so."""

    def __init__(self, *, keeps_tasks: bool = False) -> None:
        self.keeps_tasks = keeps_tasks
        self.submitted: list[tuple[str, list[int]]] = []
        self.cancelled: set[int] = set()
        self.closed = False
        self.moved: dict[int, int] = {}
        self.sizes: dict[int, int] = {}
        self._reports: dict[str, Report] = {}
        self._open: dict[str, set[int]] = {}

    def submit(self, task_id: str, orders: Sequence[Order], changed: Callable[[], None]) -> None:
        self.submitted.append((task_id, [order.item_id for order in orders]))
        self._reports[task_id] = Report()
        self._open[task_id] = {order.item_id for order in orders}

    def poll(self, task_id: str) -> Report:
        report, self._reports[task_id] = self._reports[task_id], Report()
        report.moved = {number: size for number, size in self.moved.items() if number in self._open[task_id]}
        report.sizes = self.sizes
        if report.is_over:
            del self._reports[task_id]
        return report

    def cancel(self, task_id: str, item_ids: frozenset[int]) -> None:
        self.cancelled |= item_ids
        self._open[task_id] -= item_ids
        self._reports[task_id].is_over = not self._open[task_id]

    def close(self) -> None:
        self.closed = True

    def end(self, number: int, error: str = "", trouble: Trouble | None = None, content: Content | None = None) -> None:
        for task_id, open_ones in self._open.items():
            if number in open_ones:
                open_ones.discard(number)
                self._reports[task_id].ended.append(Outcome(number, error, trouble, content))
                self._reports[task_id].is_over = not open_ones


class World:
    def __init__(self, *items: TransferItemView, **limits: Any) -> None:
        self.service = Service(*items)
        self.client, self.scratch = Backend(), Backend()
        self.clock = FakeClock()
        self.limits = TransferLimits(**limits)
        self.transfers = self.new_agent()

    def new_agent(self) -> Transfers:
        backends = {"client": self.client, "scratch": self.scratch}
        return Transfers(self.service, backends, self.limits, self.clock)

    def run(self, seconds: float = 0.2) -> None:
        """Let time pass, with the passes that the agent asks for."""
        end = self.clock.monotonic() + seconds
        while True:
            pause = self.transfers.run_once()
            if self.clock.monotonic() + pause > end:
                self.clock.advance(end - self.clock.monotonic())
                return
            self.clock.advance(max(pause, 0.01))

    def look(self) -> None:
        self.transfers.look()
        self.run()


def test_one_batch_for_each_direction_and_location() -> None:
    world = World(item(1), item(2, IN), item(3), item(4, OUT, "scratch"), item(5, IN))
    world.run()
    assert sorted(numbers for _, numbers in world.client.submitted) == [[1, 3], [2, 5]]
    assert [numbers for _, numbers in world.scratch.submitted] == [[4]]


def test_an_end_is_told_and_with_it_the_content() -> None:
    world = World(item(1), item(2))
    world.run()
    world.client.end(1, content=NOTHING)
    world.run()
    assert world.service.states(1) == [DONE] and world.service.states(2) == []
    content = world.service.last(1).content
    assert content is not None and content.entries is not None and content.entries[0].path == "x"


def test_batches_are_as_large_and_as_many_as_the_settings_say() -> None:
    world = World(*(item(number) for number in range(1, 26)), batch_size=10, max_concurrent=2)
    world.run()
    assert [len(numbers) for _, numbers in world.client.submitted] == [10, 10]
    for number in range(1, 11):
        world.client.end(number, content=NOTHING)
    world.run()
    assert [len(numbers) for _, numbers in world.client.submitted] == [10, 10, 5]


def test_s16_the_many_items_of_one_person_do_not_hold_up_those_of_another() -> None:
    """All places are taken when the other person's come: one more is theirs, and then every second one."""
    world = World(*(item(number) for number in range(1, 101)), batch_size=10, max_concurrent=2)
    world.run()
    for number in range(201, 231):
        world.service.due[number] = item(number, who="bob", alias="scratch" if number > 220 else "client")
    world.look()
    world.run(CROWDED_SEC)
    assert [numbers[0] for _, numbers in world.client.submitted] == [1, 11, 201]
    world.look()
    world.run(CROWDED_SEC)
    assert world.scratch.submitted == [], "one more, not any number"
    for number in range(1, 11):
        world.client.end(number, content=NOTHING)
    world.run()
    assert world.scratch.submitted == [], "ada and bob have one each, and no place is free"
    for number in range(201, 211):
        world.client.end(number, content=NOTHING)
    world.run()
    assert [numbers[0] for _, numbers in world.scratch.submitted] == [221]
    assert len(world.client.submitted) == 3


def test_who_is_alone_has_all_places_and_no_more() -> None:
    world = World(*(item(number) for number in range(1, 101)), batch_size=10, max_concurrent=3)
    world.run()
    world.look()
    world.run(CROWDED_SEC)
    assert [numbers[0] for _, numbers in world.client.submitted] == [1, 11, 21]


def test_directions_and_locations_of_one_person_take_turns() -> None:
    many = [item(number) for number in range(1, 41)]
    world = World(*many, item(90, direction=IN), item(91, alias="scratch"), batch_size=10, max_concurrent=3)
    world.run()
    assert [numbers for _, numbers in world.client.submitted] == [list(range(1, 11)), [90]]
    assert [numbers for _, numbers in world.scratch.submitted] == [[91]]


def test_what_is_under_way_is_not_begun_again() -> None:
    world = World(item(1))
    world.run()
    for _ in range(3):
        world.look()
    assert len(world.client.submitted) == 1


def test_a_location_that_the_settings_do_not_name_is_refused_s15() -> None:
    world = World(item(1, alias="evil"), item(2))
    world.run()
    assert world.service.states(1) == [ERROR]
    assert "no transfer location 'evil'" in str(world.service.last(1).transfer_info)
    assert [numbers for _, numbers in world.client.submitted] == [[2]]


def test_a_final_error_is_told_at_once() -> None:
    world = World(item(1))
    world.run()
    world.client.end(1, "there is no out.dat", Trouble.FINAL)
    world.run()
    assert world.service.states(1) == [ERROR]
    assert world.service.last(1).transfer_info == {"error": "there is no out.dat"}


def test_a_passing_trouble_is_told_and_tried_again_with_growing_pauses() -> None:
    world = World(item(1))
    begun: list[float] = []
    for _ in range(6):
        count = len(world.client.submitted)
        while len(world.client.submitted) == count:
            world.run(0.5)
        begun.append(world.clock.monotonic())
        world.client.end(1, "No space left on device", Trouble.TRANSIENT)
        world.run(0.1)
    gaps = [after - before for before, after in pairwise(begun)]
    assert gaps == sorted(gaps) and gaps[0] < 3 < 10 < gaps[-1]
    assert set(world.service.states(1)) == {INACTIVE}
    info = world.service.last(1).transfer_info
    assert info is not None and (info["error"], info["attempts"]) == ("No space left on device", 6)


def test_a_trouble_that_does_not_pass_is_an_error_in_the_end() -> None:
    world = World(item(1), retry_for_sec=100.0)
    for _ in range(200):
        world.run(1.0)
        world.client.end(1, "No space left on device", Trouble.TRANSIENT)
    assert world.service.states(1)[-1] is ERROR
    assert "given up after" in str(world.service.last(1).transfer_info)
    assert world.clock.monotonic() >= 100


def test_a_trouble_of_days_is_tried_again_for_as_long_as_the_site_wants() -> None:
    clock = FakeClock()
    notes = TransferNotes(retry_for_sec=7 * 86_400.0, clock=clock)
    order = Order(1, OUT, "run", "out.dat", "/out.dat", False)
    for _ in range(1500):
        notes.ended(order, Outcome(1, "No space left on device", Trouble.TRANSIENT))
        notes.told(next(notes.slices()), {})
        clock.advance(LONGEST_RETRY_SEC)
        assert notes.may_try(1)


def test_what_is_left_out_and_what_there_is_to_know_stand_on_the_item() -> None:
    notes = TransferNotes(retry_for_sec=60.0, clock=FakeClock())
    order = Order(1, OUT, "run", "out.dat", "/out.dat", False)
    notes.ended(order, Outcome(1, skipped=("pipe",), size_bytes=7, note="seen early"))
    info = next(notes.slices())[1].transfer_info
    assert info == {"size_bytes": 7, "skipped": ["pipe"], "note": "seen early"}


def test_while_nothing_can_be_begun_nothing_is_asked_for() -> None:
    world = World(item(1), item(2, alias="scratch"), max_concurrent=1)
    world.run()
    world.client.end(1, "No space left on device", Trouble.TRANSIENT)
    world.run()
    assert len(world.scratch.submitted) == 1  # which takes its time, while it is time to try the other one again
    before = world.service.listings
    world.run(25.0)
    assert world.service.listings - before <= 2
    world.scratch.end(2, content=NOTHING)
    world.run()
    assert len(world.client.submitted) == 2


def test_while_nobody_answers_nothing_is_counted_against_the_item() -> None:
    world = World(item(1), retry_for_sec=10.0)
    for _ in range(30):
        world.run(3.0)
        world.client.end(1, "nobody answers", Trouble.AWAY)
    assert len(world.client.submitted) > 20 and world.service.states(1) == []
    world.run(3.0)
    world.client.end(1, content=NOTHING)
    world.run()
    assert world.service.states(1) == [DONE]


def test_an_end_waits_for_a_service_that_is_away_l2() -> None:
    world = World(item(1))
    world.run()
    world.client.end(1, content=NOTHING)
    world.service.away = True
    for _ in range(5):
        with pytest.raises(ServiceAway):
            world.transfers.run_once()
        world.clock.advance(600)
    world.service.away = False
    world.run()
    assert world.service.states(1) == [DONE] and len(world.client.submitted) == 1


def test_the_next_agent_goes_on_where_a_dead_one_was_l4() -> None:
    world = World(item(1))
    world.run()
    world.client.end(1, content=NOTHING)  # and the agent dies before it could tell
    world.transfers = world.new_agent()
    world.run()
    assert [numbers for _, numbers in world.client.submitted] == [[1], [1]]
    world.client.end(1, content=NOTHING)
    world.run()
    assert world.service.states(1) == [DONE]


def test_what_the_service_refuses_is_left_alone() -> None:
    world = World(item(1), item(2))
    world.run()
    world.service.refuse[1] = "a TransferItem that is awaiting_job can't become active"
    for number in (1, 2):
        world.client.moved[number] = 5
    world.run(3.0)
    assert world.client.cancelled == {1}


def test_an_item_that_is_due_no_more_is_cancelled() -> None:
    world = World(item(1), item(2))
    world.run()
    del world.service.due[1]
    world.look()
    assert world.client.cancelled == {1}


def test_a_long_list_that_was_cut_cancels_nothing() -> None:
    world = World(item(1), item(2), query_limit=2)
    world.run()
    world.service.due = {number: item(number) for number in (3, 4, 1, 2)}
    world.look()
    assert world.client.cancelled == set()


def test_content_that_went_missing_meanwhile_is_sent_again_and_not_at_once() -> None:
    world = World(item(1))
    world.run()
    world.service.refuse[1] = "1 blobs are not here (any more)"
    world.client.end(1, content=NOTHING)
    world.run()
    assert len(world.client.submitted) == 1
    world.service.refuse.clear()
    world.run(5.0)
    assert len(world.client.submitted) == 2


def test_progress_is_told_now_and_then() -> None:
    world = World(item(1))
    for second in range(1, 21):
        world.client.moved[1] = second * 1_000_000
        world.client.sizes[1] = 30_000_000
        world.run(1.0)
    told = [patches[1].transfer_info for patches in world.service.heard]
    assert 5 <= len(told) <= 11 and set(world.service.states(1)) == {ACTIVE}
    assert told[-1] is not None and 900_000 < told[-1]["bytes_per_sec"] < 1_200_000
    assert told[-1]["total_bytes"] == 30_000_000


def test_a_task_that_outlives_the_agent_is_claimed_before_it_is_submitted_s11() -> None:
    world = World(item(1, alias="scratch"), item(2, alias="scratch"))
    world.scratch.keeps_tasks = True
    world.service.refuse[2] = "cancelled meanwhile"
    world.run()
    [(task_id, numbers)] = world.scratch.submitted
    assert numbers == [1]
    assert {patch.task_id for patch in world.service.heard[0].values()} == {task_id}
    assert {patch.state for patch in world.service.heard[0].values()} == {ACTIVE}


def test_a_task_of_which_all_was_refused_is_not_submitted() -> None:
    world = World(item(1, alias="scratch"))
    world.scratch.keeps_tasks = True
    world.service.refuse[1] = "cancelled meanwhile"
    world.run()
    assert world.scratch.submitted == []


def test_a_task_that_outlived_the_agent_is_gone_on_with_s11() -> None:
    old = [item(number, alias="scratch", task_id="old") for number in (1, 3)]
    world = World(*old, item(2, alias="scratch"))
    world.scratch.keeps_tasks = True
    world.run()
    assert ("old", [1, 3]) in world.scratch.submitted and len(world.scratch.submitted) == 2
    assert all(1 not in patches for patches in world.service.heard)


def test_looks_are_not_more_than_ten_a_second() -> None:
    world = World()
    for _ in range(100):
        world.transfers.look()
        world.run(0.01)
    assert world.service.listings <= 12


def test_an_idle_agent_looks_now_and_then() -> None:
    world = World(period_sec=30.0)
    world.run(100.0)
    assert world.service.listings <= 5


def test_closing_reaches_the_back_ends() -> None:
    world = World(item(1))
    world.run()
    world.transfers.close()
    assert world.client.closed and world.scratch.closed


def test_reports_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    count = 1200
    world = World(*(item(number) for number in range(1, count + 1)), batch_size=count)
    world.run()
    for number in range(1, count + 1):
        world.client.end(number, content=NOTHING)
    world.run()
    assert [len(patches) for patches in world.service.heard] == [500, 500, 200]
    assert module.LISTING_GAP_SEC == 0.1
