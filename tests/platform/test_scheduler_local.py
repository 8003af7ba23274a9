"""The local scheduler: the shipped conformance suite, and what is special about processes of this machine."""

import itertools
import json
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from balsam.domain.clock import SystemClock
from balsam.platform import process_table, processes
from balsam.platform.scheduler import local_run
from balsam.platform.scheduler.base import (
    SchedulerConfig,
    SchedulerJob,
    SchedulerState,
    SchedulerUnavailable,
    SubmitRefused,
    SubmitRequest,
    no_crash,
)
from balsam.platform.scheduler.local import LocalScheduler
from balsam.platform.scheduler.local_files import RecordDir
from balsam.testing.scheduler_conformance import SchedulerConformance


class ShiftedClock:
    """The system's clock, moved ahead by the test."""

    def __init__(self) -> None:
        self.ahead_sec = 0.0
        self.wall_ahead = timedelta()

    def now(self) -> datetime:
        return datetime.now(UTC) + self.wall_ahead

    def monotonic(self) -> float:
        return SystemClock().monotonic() + self.ahead_sec


class LocalHarness:
    prefix = "b"
    timeout_sec = 20.0
    look_again_sec = 0.02

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.clock = ShiftedClock()
        self.made: list[LocalScheduler] = []

    def make(self, crash_point: Callable[[str], None] = no_crash, **options: object) -> LocalScheduler:
        config = SchedulerConfig(
            self.directory, {"max_nodes": 1, **options}, self.clock, crash_point, name_prefix=self.prefix
        )
        self.made.append(LocalScheduler(config))
        return self.made[-1]

    def request(self) -> SubmitRequest:
        return SubmitRequest(num_nodes=1, wall_time_min=1)

    def refused_request(self) -> SubmitRequest:
        return SubmitRequest(num_nodes=2, wall_time_min=1)

    def waiting_request(self) -> None:
        return None

    def vanish(self, scheduler_id: str, name: str) -> None:
        """Of this directory only: tests that run at the same time use the same names."""
        record = (self.directory / f"{name}.json").read_text()
        for mark in re.findall('"mark": ?"([0-9a-f]+)"', record):
            for info in sorted(processes.marked(local_run.MARKER, mark), key=lambda info: info.id.pid):
                processes.send(info.id, signal.SIGKILL)

    def script(self, body: str) -> Path:
        path = self.directory / "script.sh"
        path.write_text(f"cd '{self.directory}'\n{body}\n")
        return path

    def close(self) -> None:
        for scheduler in self.made:
            scheduler.close()
        for record in self.directory.glob("*.json"):
            self.vanish("", record.stem)


@pytest.fixture
def bed(tmp_path: Path) -> Iterator[LocalHarness]:
    harness = LocalHarness(tmp_path)
    yield harness
    harness.close()


class TestConformance(SchedulerConformance):
    @pytest.fixture
    def harness(self, bed: LocalHarness) -> LocalHarness:
        return bed


def until(condition: Callable[[], object], timeout_sec: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_sec
    while not condition():
        assert time.monotonic() < deadline, "not reached in time"
        time.sleep(0.01)


def over(scheduler: LocalScheduler, scheduler_id: str) -> SchedulerJob:
    until(lambda: scheduler.history([scheduler_id])[scheduler_id].state.is_over)
    return scheduler.history([scheduler_id])[scheduler_id]


def test_the_same_name_in_another_directory_is_another_allocation_s9(bed: LocalHarness, tmp_path: Path) -> None:
    """Two Sites of one user, of two services, number their BatchJobs alike: neither may touch the other's."""
    (tmp_path / "other").mkdir()
    other = LocalHarness(tmp_path / "other")
    try:
        theirs, ours = other.make(), bed.make(kill_grace_sec=0.2)
        their_id = theirs.submit(other.script("sleep 60 & sleep 60"), "same-name", other.request())
        until(lambda: len(list(processes.marked("BALSAM_BATCH_NAME", "same-name"))) >= 3)
        our_id = ours.submit(bed.script("true"), "same-name", bed.request())
        assert over(ours, our_id).exit_code == 0
        ours.cancel(our_id)
        again = bed.make()
        assert again.find("same-name") == our_id
        assert not theirs.history([their_id])[their_id].state.is_over
        assert len(list(processes.marked("BALSAM_BATCH_NAME", "same-name"))) >= 3
    finally:
        other.close()


def test_script_gets_its_names_and_its_output_goes_to_the_log(bed: LocalHarness) -> None:
    scheduler = bed.make()
    body = "echo $BALSAM_BATCH_NAME $BALSAM_NUM_NODES $BALSAM_SCHEDULER_ID; echo oops >&2; read x || echo no-input"
    scheduler_id = scheduler.submit(bed.script(body), "b-1", bed.request())
    over(scheduler, scheduler_id)
    assert (bed.directory / "b-1.output").read_text().split() == ["b-1", "1", scheduler_id, "oops", "no-input"]


def test_submit_with_two_racing_agents_runs_once_s11(bed: LocalHarness) -> None:
    """Two agents that both believe the name is free: the claim lets one shell run the script."""
    first, second = bed.make(), bed.make()
    script = bed.script("echo run >> runs; sleep 0.5")
    first_id = first.submit(script, "b-race", bed.request())
    second.submit(script, "b-race", bed.request())
    over(first, first_id)
    time.sleep(0.3)
    assert (bed.directory / "runs").read_text().count("run") == 1


@pytest.mark.parametrize("looker", ["the agent that started it", "a later agent"])
def test_look_while_the_shell_writes_its_claim_ends_nothing_s9(
    bed: LocalHarness, monkeypatch: pytest.MonkeyPatch, looker: str
) -> None:
    """The claim is made empty, then written: who read it in between must not hold its shell for one that died."""
    scheduler = bed.make()
    scheduler_id = scheduler.submit(bed.script("sleep 0.5"), "b-1", bed.request())
    until(lambda: (bed.directory / "b-1.started").exists() and (bed.directory / "b-1.started").read_text())
    read, empty_reads = RecordDir.claim, [processes.ProcessId(0, 0)]
    if looker == "a later agent":
        scheduler = bed.make()
        empty_reads *= 2  # it reads once more, to see whether the script was started
    monkeypatch.setattr(RecordDir, "claim", lambda self, name: empty_reads.pop() if empty_reads else read(self, name))
    scheduler._runs["b-1"]._claim = None
    assert scheduler.jobs()[scheduler_id].state is SchedulerState.RUNNING
    left_sec = scheduler.time_left_sec(scheduler_id)
    assert left_sec is not None and left_sec > local_run.WALL_TIME_GRACE_SEC + 5  # nobody decided that it is to end
    job = over(scheduler, scheduler_id)
    assert (job.state, job.exit_code) == (SchedulerState.FINISHED, 0)


def test_a_shell_in_the_middle_of_its_exec_counts_as_started_s11(
    bed: LocalHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An agent that was killed just after the start left it; it has no environment yet, and has written nothing."""
    scheduler = bed.make()
    scheduler_id = scheduler.submit(bed.script("sleep 600"), "bexec", bed.request())
    monkeypatch.setattr(RecordDir, "claim", lambda *_: None)
    read_environ, looks = process_table.read_environ, Counter[int]()

    def nothing_yet(pid: int) -> bytes:
        looks[pid] += 1
        return read_environ(pid) if looks[pid] > 3 else b"\0"

    monkeypatch.setattr(process_table, "read_environ", nothing_yet)
    assert bed.make().find("bexec") == scheduler_id


def test_whether_it_was_started_is_not_known_while_no_process_can_be_looked_for_s11(
    bed: LocalHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = bed.make()
    scheduler_id = scheduler.submit(bed.script("sleep 600"), "bshort", bed.request())
    with monkeypatch.context() as patch:
        patch.setattr(RecordDir, "claim", lambda *_: None)
        numbers = itertools.count(2**22)
        patch.setattr(process_table, "_listing", lambda: [next(numbers)])  # always new ones, gone when looked at
        again = bed.make()
        for ask in (lambda: again.find("bshort"), again.jobs):
            with pytest.raises(SchedulerUnavailable, match="can't be looked for now: they come and go too fast"):
                ask()
    assert again.find("bshort") == scheduler_id


def test_cancel_sends_sigterm_first_and_lets_the_script_drain(bed: LocalHarness) -> None:
    scheduler = bed.make()
    script = bed.script("trap 'echo drained > drained; exit 0' TERM; touch up; while :; do sleep 0.05; done")
    scheduler_id = scheduler.submit(script, "b-drain", bed.request())
    until((bed.directory / "up").exists)
    scheduler.cancel(scheduler_id)
    job = over(scheduler, scheduler_id)
    assert (job.state, job.exit_code, job.reason) == (SchedulerState.FINISHED, 0, "cancelled")
    assert (bed.directory / "drained").exists()


def test_cancel_kills_after_the_grace_what_ignores_sigterm(bed: LocalHarness) -> None:
    """Also a grandchild in a session of its own that ignores SIGTERM (S9)."""
    scheduler = bed.make(kill_grace_sec=0.5)
    assert scheduler.watch(lambda _: None)
    body = "trap '' TERM; setsid sh -c 'trap \"\" TERM; echo $$ > deep; while :; do sleep 0.05; done' & sleep 600"
    scheduler_id = scheduler.submit(bed.script(body), "b-hard", bed.request())
    until(lambda: (bed.directory / "deep").exists() and (bed.directory / "deep").read_text().strip())
    deep = int((bed.directory / "deep").read_text())
    begin = time.monotonic()
    scheduler.cancel(scheduler_id)
    assert scheduler.jobs()[scheduler_id].state is SchedulerState.RUNNING
    job = over(scheduler, scheduler_id)
    assert job.state is SchedulerState.FAILED
    assert job.reason.startswith("cancelled")
    assert 0.4 < time.monotonic() - begin < 5
    assert processes.look(deep) is None


def test_kill_grace_goes_on_after_a_restart_of_the_agent(bed: LocalHarness) -> None:
    first = bed.make(kill_grace_sec=60)
    script = bed.script("trap '' TERM; touch up; while :; do sleep 0.05; done")
    scheduler_id = first.submit(script, "b-grace", bed.request())
    until((bed.directory / "up").exists)
    first.cancel(scheduler_id)
    second = bed.make(kill_grace_sec=60)
    assert second.jobs()[scheduler_id].reason == "cancelled"
    bed.clock.ahead_sec = 61
    assert over(second, scheduler_id).reason.startswith("cancelled")


def test_what_a_script_leaves_behind_ends_with_it(bed: LocalHarness) -> None:
    """S9: not over while a daemon of it lives, and the daemon is made to end."""
    scheduler = bed.make()
    body = "setsid sh -c 'trap \"sleep 0.3; touch tidy; exit\" TERM; touch up; while :; do sleep 0.1; done' & sleep 0.3"
    scheduler_id = scheduler.submit(bed.script(body), "b-left", bed.request())
    until(lambda: "are left" in scheduler.jobs()[scheduler_id].reason)
    assert (bed.directory / "b-left.exit").exists()
    assert scheduler.jobs()[scheduler_id].state is SchedulerState.RUNNING
    assert over(scheduler, scheduler_id).exit_code == 0
    assert (bed.directory / "tidy").exists()
    assert not list(processes.marked("BALSAM_BATCH_NAME", "b-left"))


def test_of_what_is_left_only_the_topmost_gets_sigterm(bed: LocalHarness) -> None:
    """A guardian that outlived its script ends its launcher and ranks in its own order."""
    scheduler = bed.make()
    rank = "trap 'touch wrong' TERM; touch up; while :; do sleep 0.05; done"
    (bed.directory / "rank.sh").write_text(rank)
    guardian = "sh rank.sh & trap 'sleep 0.3; kill -9 $!; exit' TERM; wait; sleep 9"
    (bed.directory / "guardian.sh").write_text(guardian)
    body = "sh guardian.sh & while [ ! -e up ]; do sleep 0.02; done"
    scheduler_id = scheduler.submit(bed.script(body), "b-top", bed.request())
    over(scheduler, scheduler_id)
    assert not (bed.directory / "wrong").exists()


def test_what_is_left_and_ignores_sigterm_is_killed(bed: LocalHarness) -> None:
    scheduler = bed.make()
    (bed.directory / "stubborn.sh").write_text("trap '' TERM; touch up; while :; do sleep 0.05; done")
    body = "setsid sh stubborn.sh & while [ ! -e up ]; do sleep 0.02; done"
    scheduler_id = scheduler.submit(bed.script(body), "b-stub", bed.request())
    until(lambda: "are left" in scheduler.jobs()[scheduler_id].reason)
    bed.clock.ahead_sec = local_run.WALL_TIME_GRACE_SEC + 1
    over(scheduler, scheduler_id)


def test_process_without_the_marker_is_found_by_its_session(bed: LocalHarness) -> None:
    scheduler = bed.make()
    scheduler_id = scheduler.submit(bed.script("env -i sleep 600 & echo $! > pid; sleep 0.3"), "b-bare", bed.request())
    until(lambda: (bed.directory / "pid").exists() and (bed.directory / "pid").read_text().strip())
    assert scheduler.jobs()[scheduler_id].state is SchedulerState.RUNNING
    over(scheduler, scheduler_id)
    assert processes.look(int((bed.directory / "pid").read_text())) is None


def test_wall_time_ends_by_sigterm_then_sigkill(bed: LocalHarness) -> None:
    scheduler = bed.make()
    script = bed.script("trap 'touch warned' TERM; touch up; while :; do sleep 0.05; done")
    scheduler_id = scheduler.submit(script, "b-wall", bed.request())
    until((bed.directory / "up").exists)
    assert scheduler.jobs()[scheduler_id].reason == ""
    bed.clock.ahead_sec = 60
    assert scheduler.jobs()[scheduler_id].reason == "wall time of 1 min reached"
    until((bed.directory / "warned").exists)
    bed.clock.ahead_sec = 60 + local_run.WALL_TIME_GRACE_SEC - 2
    assert scheduler.jobs()[scheduler_id].state is SchedulerState.RUNNING
    bed.clock.ahead_sec = 60 + local_run.WALL_TIME_GRACE_SEC + 1
    assert over(scheduler, scheduler_id).state is SchedulerState.FAILED


def test_wall_time_is_kept_by_the_watch_without_any_poll(bed: LocalHarness) -> None:
    scheduler = bed.make()
    ended: list[str] = []
    scheduler_id = scheduler.submit(bed.script("touch up; exec sleep 600"), "b-own", bed.request())
    until((bed.directory / "up").exists)
    bed.clock.ahead_sec = 59.5
    scheduler.watch(ended.append)
    until(lambda: ended == [scheduler_id])


def test_wall_clock_jump_changes_nothing_s13(bed: LocalHarness) -> None:
    scheduler = bed.make()
    scheduler_id = scheduler.submit(bed.script("touch up; exec sleep 600"), "b-jump", bed.request())
    until((bed.directory / "up").exists)
    for days in (1, -1):
        bed.clock.wall_ahead = timedelta(days=days)
        assert (scheduler.jobs()[scheduler_id].state, scheduler.jobs()[scheduler_id].reason) == (
            SchedulerState.RUNNING,
            "",
        )


def test_reused_pid_is_not_taken_for_the_script(bed: LocalHarness) -> None:
    """A record whose pid now belongs to a process that started at another time: ended, and that process lives on."""
    first = bed.make()
    scheduler_id = first.submit(bed.script("touch up; exec sleep 600"), "b-pid", bed.request())
    until((bed.directory / "up").exists)
    bed.vanish(scheduler_id, "b-pid")
    other = bed.make()
    (bed.directory / "b-pid.started").write_text(f"{os.getpid()} 12345\n")
    other.cancel(scheduler_id)
    assert over(other, scheduler_id).state is SchedulerState.FAILED
    assert processes.look(os.getpid()) is not None


def test_signal_goes_to_the_very_process_only(bed: LocalHarness) -> None:
    assert not processes.send(processes.ProcessId(os.getpid(), 1), signal.SIGKILL)


def test_record_of_another_host_is_unknown_not_ended_s12(bed: LocalHarness) -> None:
    first = bed.make()
    scheduler_id = first.submit(bed.script("true"), "b-host", bed.request())
    over(first, scheduler_id)
    path = bed.directory / "b-host.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "host": "login2", "end_state": ""}))
    job = bed.make().jobs()[scheduler_id]
    assert job.state is SchedulerState.UNKNOWN
    assert "login2" in job.reason


def test_after_a_reboot_it_is_failed(bed: LocalHarness) -> None:
    first = bed.make()
    scheduler_id = first.submit(bed.script("true"), "b-boot", bed.request())
    over(first, scheduler_id)
    path = bed.directory / "b-boot.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "boot_id": "earlier", "end_state": ""}))
    job = bed.make().jobs()[scheduler_id]
    assert (job.state, job.reason) == (SchedulerState.FAILED, "the machine was restarted meanwhile")


def test_unreadable_record_is_neither_free_nor_ended_s11(bed: LocalHarness) -> None:
    (bed.directory / "b-torn.json").write_text('{"name": "b-to')
    scheduler = bed.make()
    with pytest.raises(SchedulerUnavailable, match=r"b-torn\.json can't be read"):
        scheduler.submit(bed.script("true"), "b-torn", bed.request())


def test_disk_full_at_the_intent_starts_nothing(bed: LocalHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    scheduler = bed.make()
    script = bed.script("touch ran")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SchedulerUnavailable, match="No space left"):
        scheduler.submit(script, "b-full", bed.request())
    monkeypatch.undo()
    assert scheduler.find("b-full") is None
    assert [path.name for path in bed.directory.iterdir()] == ["script.sh"]
    over(scheduler, scheduler.submit(script, "b-full", bed.request()))


def test_watch_tells_soon_and_idle_watch_sleeps(bed: LocalHarness) -> None:
    scheduler = bed.make()
    told: list[float] = []
    scheduler.watch(lambda _: told.append(time.time()))
    scheduler.submit(bed.script("sleep 0.2; date +%s.%N > ended"), "b-soon", bed.request())
    until(lambda: told)
    # Without the watch it would be the wall time of a minute; a busy test machine needs its share.
    assert told[0] - float((bed.directory / "ended").read_text()) < 3
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.1


def test_ended_allocations_leave_the_listing_but_not_the_history(bed: LocalHarness) -> None:
    scheduler = bed.make()
    scheduler_id = scheduler.submit(bed.script("true"), "b-old", bed.request())
    over(scheduler, scheduler_id)
    assert scheduler_id in scheduler.jobs()
    bed.clock.wall_ahead = timedelta(minutes=11)
    assert scheduler_id not in scheduler.jobs()
    assert scheduler_id in scheduler.history([scheduler_id])


@pytest.mark.parametrize("name", ["", "../up", "a b", "x" * 200, "-x", "a\n"])
def test_names_that_are_no_file_names_are_refused(bed: LocalHarness, name: str) -> None:
    with pytest.raises(SubmitRefused, match="no name for an allocation"):
        bed.make().submit(bed.script("true"), name, bed.request())


def test_missing_script_and_bad_wall_time_are_refused(bed: LocalHarness) -> None:
    scheduler = bed.make()
    with pytest.raises(SubmitRefused, match="does not exist"):
        scheduler.submit(bed.directory / "no.sh", "b-x", bed.request())
    with pytest.raises(SubmitRefused, match="at least 1"):
        scheduler.submit(bed.script("true"), "b-x", SubmitRequest(1, 0))


def test_bad_option_is_named() -> None:
    with pytest.raises(ValueError, match="kill_grace_sec"):
        LocalScheduler(SchedulerConfig(Path("/nonexistent"), {"kill_grace_sec": "soon"}))
