"""The elastic queue's arithmetic: never above its limits, never more than is needed, at rest once all is covered."""

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balsam.domain.elastic import (
    MARGIN_MIN,
    Ask,
    Decision,
    Demand,
    ElasticLimits,
    OwnAllocation,
    Supply,
    Window,
    decide,
    uncovered,
)

LIMITS = ElasticLimits(
    min_num_nodes=1,
    max_num_nodes=8,
    min_wall_time_min=10,
    max_wall_time_min=60,
    wall_time_pad_min=5,
    max_queue_wait_time_min=30,
    max_queued_jobs=3,
    use_backfill=True,
)


def jobs(number: int, num_nodes: int = 1, wall_time_min: int = 0, packing: int = 1) -> Demand:
    return Demand(num_nodes, wall_time_min, packing, number)


def ask(
    demands: Sequence[Demand],
    supplies: Sequence[Supply] = (),
    windows: Sequence[Window] = (),
    limits: ElasticLimits = LIMITS,
) -> Ask | None:
    return decide(demands, {}, supplies, [], windows, limits).ask


@pytest.mark.parametrize(
    ("demands", "supplies", "asked"),
    [
        ([], [], None),
        ([jobs(3)], [], Ask(3, 55)),
        ([jobs(3)], [Supply(2, 2, 50)], Ask(1, 55)),
        ([jobs(3)], [Supply(4, 4, 50)], None),
        ([jobs(9, packing=4)], [], Ask(3, 55)),
        ([jobs(9, packing=4)], [Supply(1, 0.5, 50)], Ask(2, 55)),
        ([jobs(20)], [], Ask(8, 55)),
        ([jobs(3, num_nodes=3)], [], Ask(6, 55)),  # a third of three nodes does not fit into the eight
        ([jobs(1, num_nodes=3)], [Supply(2, 2, 50), Supply(2, 2, 50)], Ask(3, 55)),
        ([jobs(1, wall_time_min=50)], [Supply(4, 4, 49)], Ask(1, 55)),
        ([jobs(1, wall_time_min=54)], [], Ask(1, 55)),
        ([jobs(1, wall_time_min=55)], [], None),
        ([jobs(1, num_nodes=9)], [], None),
        ([jobs(1, num_nodes=9), jobs(1)], [], Ask(1, 55)),
    ],
)
def test_it_asks_for_what_no_supply_takes(demands: list[Demand], supplies: list[Supply], asked: Ask | None) -> None:
    assert ask(demands, supplies) == asked


def test_never_less_than_its_smallest_allocation() -> None:
    assert ask([jobs(1)], limits=replace(LIMITS, min_num_nodes=4)) == Ask(4, 55)
    assert ask([jobs(1)], limits=replace(LIMITS, min_wall_time_min=60)) == Ask(1, 60)


@pytest.mark.parametrize(
    ("windows", "asked"),
    [
        ([Window(2, 40)], Ask(2, 35)),
        ([Window(2, 40), Window(3, 20)], Ask(3, 15)),
        ([Window(20, 1000)], Ask(5, 55)),
        ([Window(2, 14)], Ask(5, 55)),  # shorter than its shortest with the pad: it queues
        ([Window(0, 40)], Ask(5, 55)),
    ],
)
def test_it_fits_into_backfill_windows(windows: list[Window], asked: Ask) -> None:
    assert ask([jobs(5)], windows=windows) == asked
    assert ask([jobs(5)], windows=windows, limits=replace(LIMITS, use_backfill=False)) == Ask(5, 55)


def test_a_window_that_helps_nothing_is_passed_over() -> None:
    assert ask([jobs(1, wall_time_min=50)], windows=[Window(8, 40)]) == Ask(1, 55)
    assert ask([jobs(1, num_nodes=4)], windows=[Window(3, 60)]) == Ask(4, 55)


def test_an_allocation_with_tags_takes_its_part_only() -> None:
    demands = [jobs(4), jobs(2, wall_time_min=20)]
    parts = {0: [jobs(1)]}
    both = [Supply(4, 4, 50, takes=0), Supply(4, 4, 50, takes=0)]
    left = uncovered(demands, parts, both)
    assert sorted((demand.wall_time_min, demand.number) for demand in left) == [(0, 3), (20, 2)]


def test_it_ends_what_has_queued_for_too_long_and_asks_for_nothing_meanwhile() -> None:
    own = [OwnAllocation(3, 31), OwnAllocation(4, 30), OwnAllocation(5, None)]
    said = decide([jobs(9)], {}, [], own, [], LIMITS)
    assert (said.cancel, said.ask) == ((3,), None)
    assert "BatchJob 3" in said.reason
    assert "max_queue_wait_time_min" in said.reason


def test_reasons_name_what_stands_in_the_way() -> None:
    def reason(demands: list[Demand], own: int = 0, paused: str = "", supplies: Sequence[Supply] = ()) -> str:
        owned = [OwnAllocation(number, None) for number in range(own)]
        return decide(demands, {}, supplies, owned, [], LIMITS, paused).reason

    assert "no Job waits" in reason([])
    assert "take all that waits" in reason([jobs(1)], supplies=[Supply(1, 1, 50)])
    assert reason([jobs(1)], paused="no node-hours are left") == "paused: no node-hours are left"
    assert "no Job waits" in reason([], paused="no node-hours are left")
    assert "3 of its allocations wait or run (max_queued_jobs)" in reason([jobs(1)], own=3)
    assert "each needs more than 8 nodes for 54 min" in reason([jobs(1, num_nodes=9)])


demand_lists = st.lists(
    st.builds(
        Demand,
        num_nodes=st.integers(1, 12),
        wall_time_min=st.integers(0, 80),
        packing=st.just(1),
        number=st.integers(1, 30),
    )
    | st.builds(
        Demand,
        num_nodes=st.just(1),
        wall_time_min=st.integers(0, 80),
        packing=st.integers(1, 64),
        number=st.integers(1, 500),
    ),
    max_size=6,
    unique_by=lambda one: (one.num_nodes, one.wall_time_min, one.packing),
)
limit_sets = st.builds(
    ElasticLimits,
    min_num_nodes=st.integers(1, 4),
    max_num_nodes=st.integers(4, 16),
    min_wall_time_min=st.integers(6, 30),
    max_wall_time_min=st.integers(30, 90),
    wall_time_pad_min=st.integers(0, 5),
    max_queue_wait_time_min=st.integers(1, 60),
    max_queued_jobs=st.integers(1, 5),
    use_backfill=st.booleans(),
)
window_lists = st.lists(st.builds(Window, st.integers(0, 20), st.integers(0, 100)), max_size=3)


def nodes(demands: Sequence[Demand]) -> float:
    return sum(demand.nodes for demand in demands)


def carried_out(
    demands: list[Demand], windows: list[Window], limits: ElasticLimits
) -> tuple[list[Ask], Decision, list[Supply]]:
    """Period after period while nothing starts and nothing new comes."""
    supplies: list[Supply] = []
    asks: list[Ask] = []
    while True:
        own = [OwnAllocation(number, 0.0) for number in range(len(asks))]
        said = decide(demands, {}, supplies, own, windows, limits)
        if said.ask is None:
            return asks, said, supplies
        asks.append(said.ask)
        supplies.append(Supply(said.ask.num_nodes, said.ask.num_nodes, said.ask.wall_time_min - MARGIN_MIN))


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(demand_lists, window_lists, limit_sets)
def test_it_converges_within_its_limits_and_asks_for_no_more_than_is_needed(
    demands: list[Demand], windows: list[Window], limits: ElasticLimits
) -> None:
    asks, said, supplies = carried_out(demands, windows, limits)
    assert len(asks) <= limits.max_queued_jobs
    for one in asks:
        assert limits.min_num_nodes <= one.num_nodes <= limits.max_num_nodes
        assert limits.min_wall_time_min <= one.wall_time_min <= limits.max_wall_time_min
    possible = [
        demand
        for demand in demands
        if demand.num_nodes <= limits.max_num_nodes and demand.wall_time_min <= limits.longest_job_min
    ]
    rest = uncovered(possible, {}, supplies)
    assert not rest or len(asks) == limits.max_queued_jobs, said.reason
    for one, before in zip(asks, range(len(asks)), strict=True):
        needed = nodes(uncovered(possible, {}, supplies[:before])) - nodes(
            uncovered(possible, {}, supplies[: before + 1])
        )
        assert needed > 0, "an allocation that no Job needed"
        assert one.num_nodes <= max(limits.min_num_nodes, math.ceil(nodes(possible) - 1e-9))
    assert decide(demands, {}, supplies, [OwnAllocation(0, 0.0)] * len(asks), windows, limits) == said


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(demand_lists, window_lists, limit_sets)
def test_a_window_is_never_overstepped(demands: list[Demand], windows: list[Window], limits: ElasticLimits) -> None:
    said = decide(demands, {}, [], [], windows, limits)
    if said.ask is None or "are idle for" not in said.reason:
        return
    assert any(
        said.ask.num_nodes <= window.num_nodes
        and said.ask.wall_time_min + limits.wall_time_pad_min <= window.wall_time_min
        for window in windows
    )


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(demand_lists, st.lists(st.builds(Supply, st.integers(1, 9), st.floats(0, 9), st.floats(0, 90)), max_size=4))
def test_what_is_covered_fits_the_supplies(demands: list[Demand], supplies: list[Supply]) -> None:
    left = uncovered(demands, {}, supplies)
    assert nodes(demands) - nodes(left) <= sum(supply.free_nodes for supply in supplies) + 1e-6
    total = sum(demand.number for demand in demands)
    assert sum(demand.number for demand in left) <= total
    assert all(demand.number > 0 for demand in left)
