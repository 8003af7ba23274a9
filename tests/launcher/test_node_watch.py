"""Asking which nodes are left, with real commands: what is doubted is said after the loss, or when it is known."""

from __future__ import annotations

import select
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from balsam.domain.job import Resources
from balsam.domain.packing import NodePool
from balsam.launcher import node_watch
from balsam.launcher.machine_messages import Gone, Input, LaunchJob, NodesLost, NodesSilent, NodeUp, Start
from balsam.launcher.node_watch import LONGEST_DOUBT_SEC, PERIOD_SEC, TIMEOUT_SEC, NodeWatch
from balsam.launcher.partition import PartitionNode
from balsam.launcher.workdir import DataRoot
from balsam.testing.clock import FakeClock

NODES = [PartitionNode("n1", (0,)), PartitionNode("n2", (0,), is_here=False), PartitionNode("n3", (0,), is_here=False)]


@dataclass
class Watched:
    """A watch whose command is a shell line; `ask` lets it ask and hears the answer."""

    root: Path
    clock: FakeClock = field(default_factory=FakeClock)
    inputs: list[Input] = field(default_factory=list)
    epoll: select.epoll = field(default_factory=select.epoll)

    def __post_init__(self) -> None:
        (self.root / "data").mkdir()
        self.script = self.root / "left.sh"
        self.answer("echo n1 n2 n3")
        self.watch = NodeWatch(
            self.epoll,
            ["/bin/sh", str(self.script)],
            {"PATH": "/usr/bin:/bin"},
            self.root,
            NODES,
            DataRoot(self.root / "data"),
            self.clock,
            self.inputs,
        )

    def answer(self, line: str) -> None:
        self.script.write_text(line + "\n")

    def hear(self) -> None:
        for fd, _ in self.epoll.poll(20):
            assert self.watch.heard(fd)

    def ask(self, after: float = PERIOD_SEC) -> list[Input]:
        self.clock.advance(after)
        self.watch.tick(self.clock.monotonic())
        self.hear()
        said = self.inputs.copy()
        self.inputs.clear()
        return said


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    made = Watched(tmp_path)
    yield made
    made.watch.close()
    made.epoll.close()


def start(*nodes: int, workdir: str = "w") -> Start:
    wanted = Resources(num_nodes=len(nodes))
    pool = NodePool.of([node.as_node() for node in NODES])
    for index in range(len(NODES)):
        pool.set_usable(index, index in nodes)
    placement = pool.place(wanted)
    assert placement is not None
    return Start(LaunchJob(1, 1, 1, 1, workdir, wanted), placement)


def test_what_was_killed_and_has_not_ended_is_waited_for(watched: Watched) -> None:
    """A file system that hangs holds a process in spite of SIGKILL: the loop must pause until then."""
    watched.answer("exec sleep 600")
    watched.clock.advance(PERIOD_SEC)
    watched.watch.tick(watched.clock.monotonic())
    watched.clock.advance(TIMEOUT_SEC)
    watched.watch.tick(watched.clock.monotonic())
    assert watched.watch.due() > watched.clock.monotonic()
    watched.hear()


def test_a_loss_is_told_once(watched: Watched) -> None:
    assert watched.ask() == []
    watched.answer("echo n3; echo n1")
    assert watched.ask() == [NodesLost((1,))]
    assert watched.ask() == []
    watched.answer("echo n1")
    assert watched.ask() == [NodesLost((2,))]


def test_a_doubtful_end_waits_for_a_question_asked_after_it(watched: Watched) -> None:
    watched.clock.advance(PERIOD_SEC)
    watched.watch.tick(watched.clock.monotonic())
    watched.clock.advance(0.5)
    watched.watch.doubt(Gone(7), start(0, 1))
    watched.hear()
    assert watched.inputs == [], "that answer may be older than the end"
    watched.answer("echo n1 n2")
    assert watched.ask(node_watch.SHORTEST_PERIOD_SEC) == [NodesLost((2,)), Gone(7)]


def test_a_node_that_does_not_answer_is_told_before_the_end_that_it_brought_about(watched: Watched) -> None:
    """The batch system has not noticed yet. Nothing is started there until it answers, or is lost."""
    watched.answer('echo n1 n2 n3 "$@" > asked; echo n1 n2 n3 -n2')
    assert watched.ask() == [], "nobody was in doubt about it"
    watched.watch.doubt(Gone(7), start(0, 1))
    assert watched.ask(node_watch.SHORTEST_PERIOD_SEC) == [NodesSilent((1,)), Gone(7)]
    assert (watched.root / "asked").read_text().split()[3:] == ["n2"], "the launcher's own is there as long as it is"
    watched.watch.doubt(Gone(8), start(1, 2))
    assert watched.ask(node_watch.SHORTEST_PERIOD_SEC) == [NodesSilent((1,)), Gone(8)]
    watched.answer('echo "$@" > asked; exit 1')
    assert watched.ask() == [], "no answer says nothing"
    assert (watched.root / "asked").read_text() == "n2\n", "it is tried until it is known what it is about"
    watched.answer("echo n1 n2 n3")
    assert watched.ask() == [NodeUp(1)]
    assert watched.ask() == []


def test_a_silent_node_is_lost_when_the_batch_system_says_so(watched: Watched) -> None:
    watched.answer("echo n1 n2 n3 -n2")
    watched.watch.doubt(Gone(7), start(1))
    assert watched.ask() == [NodesSilent((1,)), Gone(7)]
    watched.answer("echo n1 n3")
    assert watched.ask() == [NodesLost((1,))]
    assert watched.ask() == []


@pytest.mark.parametrize("line", ["exit 1", "echo", "echo n9", "true"])
def test_no_answer_settles_nothing_for_a_while(watched: Watched, line: str) -> None:
    watched.answer(line)
    watched.watch.doubt(Gone(7), start(0, 1))
    assert watched.ask() == []
    assert watched.ask(LONGEST_DOUBT_SEC) == [Gone(7)]


def test_a_question_that_hangs_is_given_up(watched: Watched) -> None:
    watched.answer("exec sleep 600")
    watched.watch.doubt(Gone(7), start(0, 1))
    watched.clock.advance(PERIOD_SEC)
    watched.watch.tick(watched.clock.monotonic())
    assert watched.ask(TIMEOUT_SEC) == [Gone(7)]


def test_which_ends_are_doubtful(watched: Watched) -> None:
    out = watched.root / "data" / "w" / "job.out"
    out.parent.mkdir()
    out.write_text("fine\n")
    doubtful = watched.watch.is_doubtful
    assert not doubtful(start(0), 1), "the launcher's own node is there as long as it is"
    assert doubtful(start(0, 1), 1)
    assert not doubtful(start(0, 1), 0)
    out.write_text("fine\nsrun: error: Node failure on n2\n")
    assert doubtful(start(1), 0)
    out.write_text("x" * 100_000)
    assert doubtful(start(1), 0), "too much to be looked through"
    assert doubtful(start(1, workdir="none"), 0)
