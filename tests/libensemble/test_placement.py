"""num_procs, num_nodes and procs_per_node: derived where left out, refused where they contradict."""

from __future__ import annotations

import pytest
from libensemble.executors.executor import ExecutorException

from balsam.libensemble.placement import Placement, resolve_placement


@pytest.mark.parametrize(
    ("asked", "nodes", "per_node"),
    [
        ((None, None, None), 1, 1),
        ((4, 1, 4), 1, 4),
        ((8, 2, 4), 2, 4),
        ((6, None, None), 1, 6),
        ((None, 3, None), 3, 1),
        ((None, None, 5), 1, 5),
        ((None, 3, 5), 3, 5),
        ((8, 2, None), 2, 4),
        ((8, None, 4), 2, 4),
        (("8", "2", "4"), 2, 4),
    ],
)
def test_what_is_left_out_follows(asked: tuple[object, object, object], nodes: int, per_node: int) -> None:
    assert resolve_placement(*asked) == Placement(nodes, per_node)
    assert resolve_placement(*asked).num_procs == nodes * per_node


@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        ((8, 2, 3), ["num_procs=8", "num_nodes=2", "procs_per_node=3"]),
        ((7, 2, None), ["num_procs=7", "num_nodes=2"]),
        ((7, None, 2), ["num_procs=7", "procs_per_node=2"]),
        ((2, None, 4), ["num_procs=2", "procs_per_node=4"]),
        ((2, 4, None), ["num_procs=2", "num_nodes=4"]),
        ((0, None, None), ["num_procs=0"]),
        ((-4, None, None), ["num_procs=-4"]),
        ((None, 0, None), ["num_nodes=0"]),
        ((None, None, -1), ["procs_per_node=-1"]),
        ((2.5, None, None), ["num_procs=2.5"]),
        ((True, None, None), ["num_procs=True"]),
        (("many", None, None), ["num_procs='many'"]),
    ],
)
def test_contradictions_are_refused_with_the_numbers(asked: tuple[object, object, object], shown: list[str]) -> None:
    with pytest.raises(ExecutorException) as caught:
        resolve_placement(*asked)
    assert [text for text in shown if text not in str(caught.value)] == []
