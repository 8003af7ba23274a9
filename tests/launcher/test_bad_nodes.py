"""Which node is suspect: tables of what happens in turn, then at random nodes that are bad and Apps that are."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balsam.domain.job import Resources
from balsam.domain.packing import NodeShare, Placement
from balsam.launcher.bad_nodes import LONGEST_ROW, START_SEC, BadNodes
from balsam.launcher.machine_messages import LaunchJob


class Nodes:
    """Starts made one after the other; what is suspect is set aside."""

    def __init__(self, most_failed: int = 3) -> None:
        self.bad_nodes = BadNodes(most_failed)
        self.now = 100.0
        self.last_job = 1000
        self.aside: list[int] = []

    def start(self, nodes: tuple[int, ...], app: int = 1, job_id: int | None = None) -> int:
        self.last_job += 1
        job = LaunchJob(job_id or self.last_job, app, 1, 1, "w", Resources())
        shares = tuple(NodeShare(node, (0,), ()) for node in nodes)
        self.now += 0.1
        self.bad_nodes.began(self.now, job, Placement(shares, job.resources))
        return job.id

    def end(self, job_id: int, is_well: bool, is_own_end: bool = True) -> None:
        self.bad_nodes.exited(self.now, job_id, is_well)
        suspect = self.bad_nodes.over(job_id, is_own_end)
        if suspect is not None and suspect.node not in self.aside:
            self.aside.append(suspect.node)
            self.bad_nodes.set_aside(suspect.node)

    def play(self, story: str) -> None:
        """Words such as F01a: on nodes 0 and 1 a Job of App a fails; W is well, L lives on and then fails, K is killed
        by us; F0a=7 is Job 7."""
        for word in story.split():
            what, _, job_id = word.partition("=")
            nodes = tuple(int(digit) for digit in what[1:-1])
            started = self.start(nodes, ord(what[-1]), int(job_id) if job_id else None)
            if what[0] == "L":
                self.now += START_SEC
            self.end(started, what[0] == "W", what[0] != "K")


@pytest.mark.parametrize(
    ("story", "aside"),
    [
        ("F0a W1a F0a F0a", [0]),
        ("F0a L1a F0a F0a", [0]),
        ("F0a F0a F0a F0a", []),
        ("W1a F0a F0a F0a", []),
        ("F0a W1b F0a F0a", []),
        ("F0a W1a F0b F0a", []),
        ("F0a W1a F0b F0a F0a", [0]),
        ("F0a W1a W1b F0b F0a", [0]),
        ("F0a=7 W1a F0a=7 F0a=7 F0a=7", []),
        ("F0a W1a F0a W0a F0a F0a", []),
        ("F0a W1a K0a K0a K0a", []),
        ("F0a F1a W2a F0a F1a F0a F1a", [0, 1]),
        ("F0a F1a F2a W3a F0a F1a F2a F0a F1a F2a", []),
        ("F1a W1a F0a W1a F0a F0a", []),
        ("F1a " + "W1a " * 200 + "F0a W1a F0a F0a", [0]),
        ("F01a F02a W23a F03a", [0]),
        ("F01a W23a F01a F01a F01a F01a", [0]),
        ("F01a W23a F01a F01a F12a W3a F13a", [0, 1]),
    ],
    ids=[
        "three in a row, another one was well in between",
        "another lived on before it failed",
        "nothing was well anywhere",
        "nothing was well anywhere since the row began: all nodes may have gone wrong",
        "another App was well: this one may be bad",
        "two of an App that is well elsewhere are not three",
        "what is not known to be well elsewhere neither counts nor ends the row",
        "of several Apps",
        "the same Job again and again",
        "not in a row",
        "we ended them ourselves",
        "two bad nodes",
        "more nodes that fail than are well: the App is bad, and was lucky once",
        "the App fails now and then on good nodes too",
        "the App fails on good nodes so rarely that this is none of it",
        "the node that Jobs of several nodes have in common",
        "of nodes that are never seen apart one at a time",
        "the other one, when it does no better with others",
    ],
)
def test_what_makes_a_node_suspect(story: str, aside: list[int]) -> None:
    nodes = Nodes()
    nodes.play(story)
    assert nodes.aside == aside


def test_long_jobs_that_started_with_the_first_failure_say_that_others_are_well() -> None:
    nodes = Nodes()
    fails, _lives = nodes.start((0,), ord("a")), nodes.start((1,), ord("a"))
    nodes.end(fails, False)
    nodes.play("F0a F0a")
    assert nodes.aside == [], "it is not known yet"
    nodes.now += START_SEC
    nodes.play("F0a")
    assert nodes.aside == [0]


def test_a_job_from_before_the_row_does_not_end_it() -> None:
    """A full disk fails what starts, not what runs."""
    nodes = Nodes()
    older = nodes.start((0,), ord("a"))
    nodes.play("F0a W1a F0a")
    nodes.end(older, True)
    nodes.play("F0a")
    assert nodes.aside == [0]


def test_off_nothing_is_kept() -> None:
    nodes = Nodes(0)
    nodes.play("F0a W1a F0a F0a F0a")
    assert nodes.aside == []
    assert not (nodes.bad_nodes._young or nodes.bad_nodes._brief or nodes.bad_nodes._rows)


def test_an_app_that_fails_always_takes_no_memory_for_each_of_its_jobs() -> None:
    nodes = Nodes()
    nodes.play("F0a " * (2 * LONGEST_ROW))
    assert len(nodes.bad_nodes._rows[0]) == LONGEST_ROW
    assert not (nodes.bad_nodes._young or nodes.bad_nodes._brief)


STARTS = st.lists(st.tuples(st.integers(0, 4), st.sampled_from("ab"), st.booleans()), max_size=60)


@settings(max_examples=100, deadline=None)
@given(STARTS, st.sets(st.integers(0, 4)), st.integers(1, 4))
def test_only_nodes_that_are_bad_are_set_aside(
    starts: list[tuple[int, str, bool]], bad: set[int], most_failed: int
) -> None:
    """App b fails wherever it runs. Of five nodes two that are bad are found, after N failures of App a."""
    nodes = Nodes(most_failed)
    for node, app, _ in starts:
        nodes.play(f"{'F' if node in bad or app == 'b' else 'W'}{node}{app}")
    assert set(nodes.aside) <= bad
    if len(bad) <= 2:
        well = " ".join(f"W{node}a" for node in range(5) if node not in bad)
        nodes.play(" ".join(f"F{node}a" for node in bad for _ in range(most_failed)))
        nodes.play(well)
        nodes.play(" ".join(f"F{node}a" for node in bad))
        assert set(nodes.aside) == bad


@settings(max_examples=100, deadline=None)
@given(STARTS)
def test_an_app_that_never_starts_well_sets_no_node_aside(starts: list[tuple[int, str, bool]]) -> None:
    nodes = Nodes(1)
    for node, app, lives in starts:
        nodes.play(f"F{node}b" if app == "b" else f"{'L' if lives else 'W'}{node}a")
    assert nodes.aside == []


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "most_wrong"), [(0.02, 1), (0.1, 2), (0.3, 2), (0.6, 2), (0.95, 1)])
def test_an_app_that_fails_by_chance_sets_hardly_a_node_aside(rate: float, most_wrong: int) -> None:
    """20 ensembles of 1000 Jobs on 8 nodes. One of them is really bad and is found, unless the App hides it."""
    wrong = found = 0
    for seed in range(20):
        chance, nodes = random.Random(seed), Nodes()
        for _ in range(1000):
            node = chance.randrange(8)
            if node not in nodes.aside:
                nodes.play(f"{'F' if node == 7 or chance.random() < rate else 'W'}{node}a")
        wrong += len(set(nodes.aside) - {7})
        found += 7 in nodes.aside
    assert wrong <= most_wrong, "of 140 good nodes"
    assert found == 20 or rate > 0.9
