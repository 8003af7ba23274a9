"""Orders of granting: a table of what goes before what, and what holds for any Jobs in any order."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balsam.domain.job_order import FIELDS, JobOrder, precedence


class Job(NamedTuple):
    """What orders look at."""

    id: int = 1
    priority: int = 0
    wall_time_min: int = 10
    num_nodes: int = 1
    node_packing_count: int = 1


SMALL = st.integers(0, 3)
JOBS = st.lists(
    st.builds(Job, st.integers(1, 99), st.integers(-2, 2), SMALL, SMALL, SMALL), unique_by=lambda job: job.id
)


@pytest.mark.parametrize(
    ("order", "first", "second"),
    [
        ("fifo", Job(1), Job(2)),
        ("fifo", Job(2, priority=1), Job(1)),
        ("fifo", Job(1, wall_time_min=1), Job(2, wall_time_min=9, num_nodes=9)),
        ("long_large_first", Job(2, priority=1, wall_time_min=1), Job(1)),
        ("long_large_first", Job(2, wall_time_min=11), Job(1, num_nodes=9)),
        ("long_large_first", Job(2, num_nodes=2), Job(1)),
        ("long_large_first", Job(1, node_packing_count=9), Job(2)),
        ("smallest_first", Job(2, priority=1, num_nodes=9), Job(1)),
        ("smallest_first", Job(2), Job(1, num_nodes=2, wall_time_min=99)),
        ("smallest_first", Job(2, node_packing_count=2), Job(1, wall_time_min=99)),
        ("smallest_first", Job(2, wall_time_min=11), Job(1)),
        ("smallest_first", Job(1), Job(2)),
    ],
)
def test_what_goes_first(order: JobOrder, first: Job, second: Job) -> None:
    assert precedence(order, first) < precedence(order, second)


@given(jobs=JOBS, order=st.sampled_from([*FIELDS]))
def test_no_job_goes_before_one_of_a_higher_priority(jobs: list[Job], order: JobOrder) -> None:
    ordered = sorted(jobs, key=partial(precedence, order))
    assert all(one.priority >= other.priority for one, other in pairwise(ordered))


@given(jobs=JOBS, order=st.sampled_from([*FIELDS]))
def test_an_order_leaves_nothing_open(jobs: list[Job], order: JobOrder) -> None:
    """However the Jobs are found, in whichever store, they come in one order; those that are alike by age."""
    by_order = partial(precedence, order)
    backwards = jobs[::-1]
    assert sorted(jobs, key=by_order) == sorted(backwards, key=by_order)
    assert all(one.id < other.id for one, other in pairwise(sorted(jobs, key=by_order)) if one[1:] == other[1:])
