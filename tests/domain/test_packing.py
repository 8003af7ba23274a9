"""Packing: cores and GPUs are never given out twice (S9), whatever comes and goes."""

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from balsam.domain.job import Resources
from balsam.domain.packing import Node, NodePool, NodeShare, Placement

NODE = Node("n1", (0, 1, 2, 3), ("g0", "g1"))


def pool_of(*nodes: Node) -> NodePool:
    return NodePool.of(list(nodes) or [NODE])


def test_jobs_share_a_node_as_their_packing_count_allows() -> None:
    pool = pool_of()
    half = Resources(node_packing_count=2)
    first, second = pool.place(half), pool.place(half)
    assert first is not None
    assert second is not None
    assert set(first.shares[0].cpu_ids).isdisjoint(second.shares[0].cpu_ids)
    assert pool.place(half) is None
    assert pool.free_nodes == 0
    pool.release(first)
    assert pool.free_nodes == 0.5
    assert pool.place(Resources()) is None, "a Job that wants the node for itself was put beside another"
    pool.release(second)
    assert pool.is_idle


def test_cores_limit_before_the_packing_count_does() -> None:
    pool = pool_of()
    two = Resources(ranks_per_node=2, node_packing_count=4)
    assert pool.place(two)
    assert pool.place(two)
    assert pool.place(two) is None


def test_a_job_with_more_ranks_than_cores_gets_the_idle_node_oversubscribed() -> None:
    pool = pool_of()
    big = Resources(ranks_per_node=9)
    place = pool.place(big)
    assert place is not None
    assert place.oversubscribed
    assert place.shares[0].cpu_ids == (0, 1, 2, 3)
    pool.release(place)
    small = pool.place(Resources(node_packing_count=4))
    assert small is not None
    assert not small.oversubscribed
    assert pool.place(Resources(ranks_per_node=9, node_packing_count=2)) is None


def test_jobs_of_many_nodes_want_idle_nodes() -> None:
    nodes = [Node(f"n{i}", (0, 1)) for i in range(3)]
    pool = pool_of(*nodes)
    assert pool.place(Resources(node_packing_count=2))
    wide = pool.place(Resources(num_nodes=2, ranks_per_node=2))
    assert wide is not None
    assert [share.node for share in wide.shares] == [1, 2]
    assert pool.place(Resources(num_nodes=2)) is None
    assert pool.could_ever_fit(Resources(num_nodes=3))
    assert not pool.could_ever_fit(Resources(num_nodes=4))


def test_gpus_whole_and_in_fractions() -> None:
    pool = pool_of()
    quarter = Resources(gpus_per_rank=0.5, ranks_per_node=1, node_packing_count=4)
    places = [pool.place(quarter) for _ in range(4)]
    assert all(places)
    used = Counter(place.shares[0].gpu_ids[0] for place in places if place)
    assert used == {"g0": 2, "g1": 2}
    assert places[0] is not None
    assert places[1] is not None
    assert places[0].shares[0].gpu_ids == places[1].shares[0].gpu_ids, "a started GPU is filled first"
    assert pool.place(quarter) is None
    for place in places:
        assert place is not None
        pool.release(place)
    both = pool.place(Resources(gpus_per_rank=2))
    assert both is not None
    assert sorted(both.shares[0].gpu_ids) == ["g0", "g1"]
    assert not pool.could_ever_fit(Resources(gpus_per_rank=3))
    assert not pool_of(Node("n", (0,))).could_ever_fit(Resources(gpus_per_rank=1))


def test_a_node_out_of_use_gets_nothing_new() -> None:
    pool = pool_of()
    place = pool.place(Resources(node_packing_count=2))
    assert place is not None
    pool.set_usable(0, False)
    assert pool.place(Resources(node_packing_count=2)) is None
    assert not pool.could_ever_fit(Resources())
    assert pool.free_nodes == 0
    pool.release(place)
    pool.set_usable(0, True)
    assert pool.place(Resources())


def test_s9_a_share_that_is_given_back_twice_is_noticed() -> None:
    pool = pool_of()
    place = pool.place(Resources())
    assert place is not None
    pool.release(place)
    with pytest.raises(AssertionError, match="S9"):
        pool.release(place)


resources = st.builds(
    Resources,
    num_nodes=st.just(1),
    ranks_per_node=st.integers(1, 6),
    threads_per_rank=st.integers(1, 3),
    threads_per_core=st.integers(1, 2),
    gpus_per_rank=st.sampled_from([0.0, 0.0, 0.25, 0.5, 1.0, 2.0]),
    node_packing_count=st.integers(1, 5),
) | st.builds(Resources, num_nodes=st.integers(2, 3), ranks_per_node=st.integers(1, 6))


class FirstFit:
    """The plainest form of the rule: look at every node, take the first ones that have room."""

    def __init__(self, nodes: list[Node]) -> None:
        self.nodes = nodes
        self.unusable: set[int] = set()
        self.running: list[Placement] = []

    def chosen(self, wanted: Resources) -> list[int]:
        fitting = [index for index in range(len(self.nodes)) if self._fits(index, wanted)]
        return fitting[: wanted.num_nodes] if len(fitting) >= wanted.num_nodes else []

    def _fits(self, index: int, wanted: Resources) -> bool:
        node = self.nodes[index]
        here = [(p.resources, share) for p in self.running for share in p.shares if share.node == index]
        if index in self.unusable or (here and wanted.num_nodes > 1):
            return False
        if sum(1 / r.node_packing_count for r, _ in here) + 1 / wanted.node_packing_count > 1 + 1e-6:
            return False
        left = {gpu: 1 - self._used_of(gpu, here) for gpu in node.gpu_ids}
        if wanted.gpus_per_rank >= 1:
            if sum(one > 1 - 1e-6 for one in left.values()) < wanted.ranks_per_node * int(wanted.gpus_per_rank):
                return False
        elif wanted.gpus_per_rank:
            room = sum(int((one + 1e-6) / wanted.gpus_per_rank) for one in left.values())
            if room < wanted.ranks_per_node:
                return False
        free = len(node.cpu_ids) - sum(len(share.cpu_ids) for _, share in here)
        return not here if wanted.cores_per_node > len(node.cpu_ids) else free >= wanted.cores_per_node

    @staticmethod
    def _used_of(gpu: str, here: list[tuple[Resources, NodeShare]]) -> float:
        return sum(min(1.0, r.gpus_per_rank) * share.gpu_ids.count(gpu) for r, share in here)


class PackingMachine(RuleBasedStateMachine):
    """S9: whatever is placed and released, no core is used twice and no GPU or node more than whole."""

    def __init__(self) -> None:
        super().__init__()
        nodes = [Node("n0", (0, 1, 2, 3), ("a", "b")), Node("n1", (4, 5)), Node("n2", (0, 1, 2, 3, 4, 5), ("c",))]
        self.pool = NodePool.of(nodes)
        self.plain = FirstFit(nodes)
        self.running = self.plain.running
        self.unusable = self.plain.unusable

    @rule(wanted=resources)
    def place(self, wanted: Resources) -> None:
        was_idle = {index: not any(index == s.node for p in self.running for s in p.shares) for index in range(3)}
        chosen = self.plain.chosen(wanted)
        place = self.pool.place(wanted)
        assert chosen == ([] if place is None else [share.node for share in place.shares])
        if place is None:
            assert not (self.pool.is_idle and self.pool.could_ever_fit(wanted)), "an idle machine refused what fits it"
            return
        assert len({share.node for share in place.shares}) == wanted.num_nodes
        for share in place.shares:
            if place.oversubscribed:
                assert was_idle[share.node]
            elif len(share.cpu_ids) != wanted.cores_per_node:
                raise AssertionError("fewer cores than asked for, and not said")
        self.running.append(place)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        place = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        self.pool.release(place)

    @rule(node=st.integers(0, 2), usable=st.booleans())
    def set_usable(self, node: int, usable: bool) -> None:
        self.pool.set_usable(node, usable)
        if usable:
            self.unusable.discard(node)
        else:
            self.unusable.add(node)

    @invariant()
    def s9_nothing_is_used_twice(self) -> None:
        cores = Counter((s.node, cpu) for p in self.running for s in p.shares for cpu in s.cpu_ids)
        assert max(cores.values(), default=0) <= 1
        occupancy: Counter[int] = Counter()
        gpus: Counter[tuple[int, str]] = Counter()
        for place in self.running:
            for share in place.shares:
                occupancy[share.node] += 1.0 / place.resources.node_packing_count  # type: ignore[assignment]
                for gpu in share.gpu_ids:
                    gpus[share.node, gpu] += min(1.0, place.resources.gpus_per_rank)  # type: ignore[assignment]
        assert max(occupancy.values(), default=0) <= 1 + 1e-6
        assert max(gpus.values(), default=0) <= 1 + 1e-6

    @invariant()
    def free_nodes_are_what_is_not_taken(self) -> None:
        used = sum(
            1.0 / place.resources.node_packing_count
            for place in self.running
            for share in place.shares
            if share.node not in self.unusable
        )
        assert self.pool.free_nodes == pytest.approx(3 - len(self.unusable) - used, abs=1e-6)

    @invariant()
    def free_cores_are_those_of_usable_nodes_that_nobody_has(self) -> None:
        usable = {index: node for index, node in enumerate(self.pool.nodes) if index not in self.unusable}
        taken = sum(len(s.cpu_ids) for place in self.running for s in place.shares if s.node in usable)
        assert self.pool.free_cores == sum(len(node.cpu_ids) for node in usable.values()) - taken

    @invariant()
    def everything_comes_back(self) -> None:
        assert self.pool.is_idle == (not self.running)


TestPacking = PackingMachine.TestCase
TestPacking.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_nodes": 0}, "num_nodes is 0"),
        ({"ranks_per_node": -1}, "ranks_per_node is -1"),
        ({"threads_per_rank": 0}, "threads_per_rank is 0"),
        ({"threads_per_core": 0}, "threads_per_core is 0"),
        ({"node_packing_count": 0}, "node_packing_count is 0"),
        ({"gpus_per_rank": -0.5}, "gpus_per_rank is -0.5"),
        ({"gpus_per_rank": float("nan")}, "gpus_per_rank is nan"),
        ({"gpus_per_rank": float("inf")}, "gpus_per_rank is inf"),
        ({"gpus_per_rank": 1.5}, "whole number"),
        ({"wall_time_min": -1}, "wall_time_min is -1"),
        ({"wall_time_min": 525_601}, "wall_time_min is 525601"),
        ({"num_nodes": 10_000, "ranks_per_node": 1001}, "more than 10000000 ranks"),
        ({"num_nodes": 2, "node_packing_count": 2}, "only single-node Jobs can share a node"),
    ],
)
def test_unsound_requests_are_named(changes: dict[str, float], said: str) -> None:
    problems = list(Resources(**changes).problems())  # type: ignore[arg-type]
    assert any(said in problem for problem in problems), problems


def test_sound_requests_pass_and_add_up() -> None:
    wanted = Resources(num_nodes=2, ranks_per_node=8, threads_per_rank=2, threads_per_core=2, gpus_per_rank=0.25)
    assert list(wanted.problems()) == []
    assert (wanted.ranks, wanted.cores_per_node, wanted.node_footprint) == (16, 8, 2.0)
    assert Resources(node_packing_count=4).node_footprint == 0.25
    assert Resources(threads_per_core=4).cores_per_node == 1
