"""The loop's side of monitors without processes: which Jobs are watched, whose end is held back, and for how long."""

import json
import re
import select
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from balsam.domain.clock import SystemClock
from balsam.domain.job import Resources
from balsam.domain.monitors import MonitorAction
from balsam.launcher.apps import AppRefused, AppShelf
from balsam.launcher.machine_messages import Exited, Gone, Input, LaunchJob, Lost, RanksApart, RuleMet, Started
from balsam.launcher.monitors import AGAIN_SEC, APART_AFTER_SEC, LONGEST_LAST_SEC, RANKS_APART, Monitors
from balsam.launcher.process import SpawnError
from balsam.platform.mpirun.srun import RANKS_APART as PATTERN
from tests.launcher.fake_service import FakeService

MONITORS = {"bad": {"action": "kill", "file": "e.dat", "not_finite": True, "restarts": 1}, "odd": {"action": "tag",
            "pattern": "odd"}}  # fmt: skip


class FakeReader:
    """A reader that keeps its orders; `says` are its messages, None that it is gone."""

    wants_to_send = False

    def __init__(self) -> None:
        self._socket, self._other = socket.socketpair()
        self.orders: list[dict[str, Any]] = []
        self.says: list[bytes] | None = []

    def fileno(self) -> int:
        return self._socket.fileno()

    def send_line(self, line: bytes) -> None:
        self.orders.append(json.loads(line))

    def flush(self) -> None:
        pass

    def receive_lines(self) -> list[bytes] | None:
        return self.says

    def close(self) -> None:
        self._socket.close()
        self._other.close()


class Bench:
    """Monitors of a partition whose time is moved by hand."""

    def __init__(self, data: Path) -> None:
        service = FakeService.__new__(FakeService)
        service.apps = {}
        service.add_app("echo", 1)
        service.add_app("echo", 2, monitors=MONITORS)
        self.shelf = AppShelf()
        for view in service.apps.values():
            self.shelf.add(view)
        self.inputs: list[Input] = []
        self.readers: list[FakeReader] = []
        self.ending: set[int] = set()
        self.no_more = False
        self.now = SystemClock().monotonic()
        self.epoll = select.epoll()
        make: Any = self.make
        self.monitors = Monitors(self.epoll, self.shelf, data, SystemClock(), self.inputs, make, PATTERN)

    def make(self, argv: list[str]) -> FakeReader:
        if self.no_more:
            raise SpawnError("no more processes")
        self.readers.append(FakeReader())
        return self.readers[-1]

    def start(self, job_id: int, app_id: int = 2, num_nodes: int = 1) -> None:
        self.monitors.begin(LaunchJob(job_id, app_id, 5, 1, f"job{job_id}", Resources()), num_nodes)
        assert self.hear(Started(job_id)) == [Started(job_id)]

    def hear(self, *said: Input) -> list[Input]:
        """What is left for the machine of this and of what was said before."""
        self.inputs.extend(said)
        self.monitors.follow(self.now, self.ending.__contains__)
        self.monitors.tick(self.now)
        left = self.inputs.copy()
        self.inputs.clear()
        return left

    def say(self, **message: Any) -> None:
        reader = self.readers[-1]
        reader.says = [json.dumps(message).encode()]
        assert self.monitors.heard(reader.fileno())

    def orders(self) -> list[str]:
        return [order["do"] for order in self.readers[-1].orders[1:]]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.monitors.close()
    bench.epoll.close()


def test_apps_without_monitors_have_no_reader_and_their_ends_pass(bench: Bench) -> None:
    bench.start(1, app_id=1)
    assert bench.hear(Exited(1, 0), Gone(1)) == [Exited(1, 0), Gone(1)]
    assert bench.readers == [] and bench.monitors.due() is None


def test_a_job_is_watched_with_all_of_its_rules_and_what_was_there_before(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "job1").mkdir()
    (tmp_path / "job1" / "e.dat").write_text("nan\n")
    bench.start(1)
    first, watch = bench.readers[-1].orders
    assert first == {"data": str(tmp_path)}
    assert (watch["do"], watch["job_id"], watch["token"], sorted(watch["rules"])) == ("watch", 1, 5, ["bad", "odd"])
    assert watch["before"]["e.dat"][2] == 4


def test_the_end_is_told_after_the_last_reading_and_what_it_met_before(bench: Bench) -> None:
    bench.start(1)
    assert bench.hear(Exited(1, 0), Gone(1)) == [Exited(1, 0)]
    assert bench.orders() == ["watch", "finish"]
    bench.say(**{"is": "met", "job_id": 1, "token": 5, "monitor": "bad", "message": "m", "data": {"line": 1}})
    bench.say(**{"is": "read", "job_id": 1, "token": 5, "left": 0})
    assert bench.hear() == [RuleMet(1, 5, "bad", MonitorAction.KILL, "m", {"line": 1}, {}, 1), Gone(1)]


def test_the_end_is_not_held_back_for_ever_nor_that_of_a_job_that_was_told_to_end(bench: Bench) -> None:
    bench.start(1)
    bench.start(2)
    bench.start(3)
    assert bench.hear(Gone(1), Gone(2)) == []
    bench.ending |= {2, 3}
    assert bench.hear(Gone(3)) == [Gone(3), Gone(2)]
    bench.now += LONGEST_LAST_SEC
    assert bench.monitors.due() is not None
    note, end = bench.hear()
    assert isinstance(note, RuleMet) and "could not be read within" in note.message and end == Gone(1)
    assert bench.monitors.due() is None


def test_what_was_not_looked_at_is_said(bench: Bench) -> None:
    bench.start(1)
    bench.hear(Gone(1))
    bench.say(**{"is": "read", "job_id": 1, "token": 5, "left": 70})
    note, end = bench.hear()
    assert isinstance(note, RuleMet) and note.action is MonitorAction.NOTIFY
    assert "70 bytes" in note.message and end == Gone(1)


def test_a_rule_is_told_once_with_its_tags_and_off_is_a_note(bench: Bench) -> None:
    bench.start(1)
    said = {"job_id": 1, "token": 5, "monitor": "odd", "message": "m", "data": {}}
    bench.say(**{"is": "met", **said})
    bench.say(**{"is": "met", **said})
    (met,) = bench.hear()
    assert isinstance(met, RuleMet) and (met.action, met.tags) == (MonitorAction.TAG, {"odd": "yes"})
    bench.say(**{"is": "off", **said, "monitor": "bad"})
    (off,) = bench.hear()
    assert isinstance(off, RuleMet) and (off.action, off.restarts) == (MonitorAction.NOTIFY, 0)


def test_what_is_said_of_another_grant_counts_for_nothing(bench: Bench) -> None:
    bench.start(1)
    bench.say(**{"is": "met", "job_id": 1, "token": 4, "monitor": "bad", "message": "m", "data": {}})
    bench.say(**{"is": "met", "job_id": 9, "token": 5, "monitor": "bad", "message": "m", "data": {}})
    assert bench.hear() == []


def test_a_new_reader_is_told_of_all_that_run_and_of_what_is_left(bench: Bench) -> None:
    bench.start(1)
    bench.start(2)
    bench.say(**{"is": "met", "job_id": 1, "token": 5, "monitor": "odd", "message": "m", "data": {}})
    bench.hear(Gone(2))
    bench.readers[-1].says = None
    assert bench.monitors.heard(bench.readers[-1].fileno())
    due = bench.monitors.due()
    assert due is not None
    bench.now += AGAIN_SEC + 1
    bench.ending.add(2)  # its time is over as well by now
    bench.hear(Lost(2, "x"))
    assert len(bench.readers) == 2 and bench.orders() == ["watch"]
    assert list(bench.readers[-1].orders[1]["rules"]) == ["bad"]


def test_ranks_that_never_find_each_other_are_told_of_jobs_of_several_nodes_that_run_for_long(bench: Bench) -> None:
    bench.start(1, app_id=1, num_nodes=2)
    bench.start(2, app_id=1, num_nodes=2)
    assert bench.hear(Gone(2)) == [Gone(2)] and bench.readers == [], "short ones cost no reader and no waiting"
    bench.now += APART_AFTER_SEC
    due = bench.monitors.due()
    assert due is not None and due <= bench.now
    bench.hear()
    assert bench.orders() == ["watch"]
    said = {"text": "slurmstepd-n2: error: mpi/pmix_v4: send failed, rc=2, exceeded the retry limit"}
    bench.say(**{"is": "met", "job_id": 1, "token": 5, "monitor": RANKS_APART, "message": "m", "data": said})
    assert bench.hear() == [RanksApart(1, 5, f"its ranks can't find each other: {said['text']}")]
    assert bench.hear(Gone(1)) == [Gone(1)], "its end waits for no last reading"
    assert bench.orders() == ["watch", "forget"]


def test_the_end_of_a_watched_job_of_several_nodes_waits_for_its_own_monitors_only(bench: Bench) -> None:
    bench.start(1, num_nodes=2)
    assert sorted(bench.readers[-1].orders[1]["rules"]) == ["bad", "odd", RANKS_APART]
    for name in ("bad", "odd"):
        bench.say(**{"is": "met", "job_id": 1, "token": 5, "monitor": name, "message": "m", "data": {}})
    assert bench.hear(Gone(1))[-1] == Gone(1)


@pytest.mark.parametrize("says", [
    "slurmstepd-node3: error:  mpi/pmix_v4: pmixp_p2p_send: node3 [0]: pmixp_utils.c:467: send failed, rc=2, exceeded"
    " the retry limit",
    "slurmstepd: error:  mpi/pmix_v3: pmixp_p2p_send: n1 [0]: pmixp_utils.c:459: send failed, rc=1001, exceeded the"
    " retry limit",
])  # fmt: skip
def test_the_words_of_slurm_for_it(says: str) -> None:
    assert re.search(PATTERN, says) and not re.search(PATTERN, f"my {says}")


def test_no_process_can_be_had_for_now(bench: Bench) -> None:
    bench.no_more = True
    bench.start(1)
    assert bench.hear(Gone(1)) == []
    bench.no_more = False
    bench.now += AGAIN_SEC - 1
    bench.start(2)
    assert bench.readers == []
    bench.now += 2
    bench.hear()
    assert len(bench.readers) == 1


@pytest.mark.parametrize("rules", [{}, {"bad": {"action": "kill", "pattern": "other"}}, {"bad": {"action": "spare"}}])
def test_s15_a_service_that_changes_the_rules_has_the_app_refused(rules: dict[str, Any]) -> None:
    """As a launcher from before monitors refuses it, which does not see them: by the hash, and runs nothing."""
    service = FakeService.__new__(FakeService)
    service.apps = {}
    service.add_app("echo", monitors=MONITORS)
    shelf = AppShelf()
    shelf.add({**service.apps[1], "monitors": rules})
    with pytest.raises(AppRefused):
        shelf.get(1)
    assert shelf.monitors(1) == {}
