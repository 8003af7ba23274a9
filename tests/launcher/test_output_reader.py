"""The output reader with real files, in the test's own process: what it reads, what it never reads, what it bears."""

import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from balsam.domain.monitors import Monitor, MonitorAction
from balsam.launcher import output_reader
from balsam.launcher.output_reader import Reader, take_too_long_as_error

KILL = MonitorAction.KILL
BOOM = Monitor(KILL, "e.dat", pattern="boom")


class Bench:
    """A reader that is driven by hand, and the Job's workdir."""

    def __init__(self, data: Path) -> None:
        self.workdir = data / "job"
        self.workdir.mkdir(parents=True)
        self.loop, theirs = socket.socketpair()
        self.loop.setblocking(False)
        self.reader = Reader(theirs, data)
        self._theirs = theirs

    def watch(self, before: dict[str, Any] | None = None, **monitors: Monitor) -> None:
        rules = {name: asdict(monitor) for name, monitor in monitors.items()}
        order = {"do": "watch", "job_id": 7, "token": 3, "workdir": "job", "rules": rules, "before": before or {}}
        self.reader._obey(json.loads(json.dumps(order)))

    def look(self, passed_sec: float = 0.0) -> list[dict[str, Any]]:
        """One round; what it said."""
        job = self.reader._jobs.get(7)
        if job is not None:
            job.looked_at -= passed_sec
            self.reader._look(job)
        return self.said()

    def finish(self) -> list[dict[str, Any]]:
        self.reader._obey({"do": "finish", "job_id": 7})
        return self.said()

    def said(self) -> list[dict[str, Any]]:
        try:
            return [json.loads(line) for line in self.loop.recv(1 << 20).splitlines()]
        except BlockingIOError:
            return []

    def write(self, text: str, name: str = "e.dat") -> None:
        with (self.workdir / name).open("a") as file:
            file.write(text)

    def close(self) -> None:
        self.loop.close()
        self._theirs.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "data")
    before = signal.getsignal(signal.SIGVTALRM)
    take_too_long_as_error()
    yield bench
    signal.signal(signal.SIGVTALRM, before)
    bench.close()


def test_a_line_is_told_once_and_with_its_place(bench: Bench) -> None:
    bench.watch(bad=BOOM)
    assert bench.look() == [], "the file is not there yet"
    bench.write("one\ntwo bo")
    assert bench.look() == []
    bench.write("om\nboom\n")
    (said,) = bench.look()
    assert (said["is"], said["job_id"], said["token"], said["monitor"]) == ("met", 7, 3, "bad")
    assert said["data"] == {"file": "e.dat", "text": "two boom", "line": 2}
    bench.write("boom\n")
    assert bench.look() == []


def test_what_an_earlier_attempt_wrote_is_not_looked_at(bench: Bench) -> None:
    bench.write("boom\n")
    status = (bench.workdir / "e.dat").stat()
    bench.watch({"e.dat": [status.st_dev, status.st_ino, status.st_size]}, bad=BOOM)
    assert bench.look() == []
    bench.write("boom again\n")
    (said,) = bench.look()
    assert said["data"] == {"file": "e.dat", "text": "boom again"}, "no line number: what came before was not counted"


@pytest.mark.parametrize("how", ["truncated", "replaced"])
def test_a_file_that_begins_anew_is_read_anew(bench: Bench, how: str) -> None:
    bench.watch(bad=BOOM)
    bench.write("all is well here\n")
    assert bench.look() == []
    path = bench.workdir / "e.dat"
    if how == "truncated":
        path.write_text("boom\n")
    else:
        (bench.workdir / "new").write_text("boom, in a longer file than the first\n")
        (bench.workdir / "new").rename(path)
    (said,) = bench.look()
    assert said["data"]["line"] == 1


def test_the_end_of_a_job_is_read_to_its_last_byte(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_reader, "READ_BYTES", 10)
    bench.watch(bad=BOOM)
    bench.write("x" * 100 + "\nboom")
    assert [said["is"] for said in bench.finish()] == ["met", "read"]
    assert bench.look() == []


def test_what_could_not_be_read_in_time_is_said(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_reader, "LAST_READING_SEC", 0.0)
    bench.watch(bad=BOOM)
    bench.write("x" * (output_reader.READ_BYTES + 5))
    assert bench.finish() == [{"is": "read", "job_id": 7, "token": 3, "left": 5}]


def test_a_pattern_that_takes_too_long_is_switched_off_and_the_others_go_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_reader, "PATTERN_SEC", 0.05)
    bench.watch(slow=Monitor(KILL, "e.dat", pattern="(a+)+b"), bad=BOOM)
    bench.write("a" * 60 + "\nboom\n")
    off, said = bench.look()
    assert (off["is"], off["monitor"], said["is"], said["monitor"]) == ("off", "slow", "met", "bad")
    assert "took longer than 0.05 s" in off["message"]


def test_nothing_outside_of_the_workdir_is_read(bench: Bench, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("boom\n")
    (bench.workdir / "e.dat").symlink_to(secret)
    os.mkfifo(bench.workdir / "pipe")
    bench.watch(bad=BOOM, pipe=Monitor(KILL, "pipe", pattern="boom"))
    assert bench.look() == []
    assert [said["is"] for said in bench.finish()] == ["read"]


def test_stalled_is_told_after_its_time_and_not_for_time_in_which_nothing_could_be_seen(bench: Bench) -> None:
    bench.watch(stuck=Monitor(KILL, "e.dat", stalled_sec=15))
    bench.write("begin\n")
    assert bench.look(passed_sec=9) == []
    assert bench.look(passed_sec=3600) == [], "the file system hung for an hour: that counts as 10 s"
    (said,) = bench.look(passed_sec=6)
    assert (said["is"], said["monitor"]) == ("met", "stuck")


def test_a_file_that_never_comes_is_stalled_too(bench: Bench) -> None:
    bench.watch(stuck=Monitor(KILL, "e.dat", stalled_sec=9))
    assert [said["monitor"] for said in bench.look(passed_sec=9.5)] == ["stuck"]


def test_no_line_is_missed_for_being_behind(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_reader, "READ_BYTES", 10)
    bench.watch(stuck=Monitor(KILL, "e.dat", pattern="^step", stalled_sec=5))
    bench.write("x" * 15 + "\nstep 1\n")
    assert bench.look(passed_sec=9) == []


def test_it_ends_with_the_loop(bench: Bench) -> None:
    thread = threading.Thread(target=bench.reader.run, daemon=True)
    thread.start()
    bench.loop.shutdown(socket.SHUT_WR)
    thread.join(30)
    assert not thread.is_alive()


def test_a_workdir_that_is_not_there_is_borne(bench: Bench) -> None:
    bench.workdir.rmdir()
    bench.watch(bad=BOOM)
    assert bench.look() == []
    assert bench.finish()[-1]["is"] == "read"
