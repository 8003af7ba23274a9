"""Which workers a Job that wants GPUs has to wait for: processes hold memory there until they are gone."""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from balsam.launcher import workers as module
from balsam.launcher.process import Command
from balsam.launcher.workers import Worker, WorkerKey, Workers
from balsam.testing.clock import FakeClock
from balsam.worker.protocol import encode

MINE, THEIRS = WorkerKey("mine", ()), WorkerKey("theirs", ())
GPU, OTHER_GPU = frozenset({(0, "0")}), frozenset({(0, "1")})


class Bench:
    """Processes that only sleep in the place of workers."""

    def __init__(self, directory: Path) -> None:
        self.epoll = select.epoll()
        self.ended: list[Worker] = []
        self.workers = Workers(self.epoll, FakeClock(), lambda *_: None, lambda worker, _: self.ended.append(worker))
        self._directory = directory
        self._fd = os.open(directory, os.O_RDONLY)

    def idle(self, key: WorkerKey, gpus: Any = GPU) -> Worker:
        command = Command((), {"PATH": os.environ["PATH"]}, str(self._directory), "out", cwd_fd=self._fd)
        worker = self.workers._start(key, gpus, command)
        self.workers.keep(worker)
        return worker

    def see_end(self, worker: Worker) -> None:
        deadline = time.monotonic() + 30
        while worker not in self.ended:
            for fd, _ in self.epoll.poll(1):
                self.workers.heard(fd)
            assert time.monotonic() < deadline

    def close(self) -> None:
        left = set(self.workers._of_fd.values())
        self.workers.close()
        for worker in left:
            self.see_end(worker)
        self.epoll.close()
        os.close(self._fd)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(module, "ARGV", ("sleep", "60"))
    bench = Bench(tmp_path)
    yield bench
    bench.close()


def test_idle_workers_of_others_are_waited_for_and_ones_own_is_called(bench: Bench) -> None:
    mine, theirs = bench.idle(MINE), bench.idle(THEIRS)
    bench.idle(THEIRS, OTHER_GPU)
    assert bench.workers.holders_of(GPU, MINE) == [theirs]
    assert bench.workers.holders_of(GPU, THEIRS) == [mine]
    assert set(bench.workers.holders_of(GPU, None)) == {mine, theirs}
    theirs.job_id = 7
    assert bench.workers.holders_of(GPU, MINE) == [], "it shares the GPU with a Job that runs"


def test_one_that_says_more_than_its_answer_is_ended(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else its Job would wait for ever: the answer would count for nothing."""
    answer = encode({"code": 0, "stays": True})
    said = len(answer).to_bytes(4, "big") + answer + b"more"
    talks = f"import os, time; os.write(0, {said!r}); time.sleep(60)"
    monkeypatch.setattr(module, "ARGV", (sys.executable, "-S", "-c", talks))
    command = Command((), {"PATH": os.environ["PATH"]}, str(bench._directory), "out", cwd_fd=bench._fd)
    worker = bench.workers._start(MINE, GPU, command)
    worker.job_id = 7
    bench.see_end(worker)


@pytest.mark.parametrize("key", [MINE, THEIRS, None])
def test_one_that_is_about_to_end_is_waited_for_until_it_is_gone(bench: Bench, key: WorkerKey | None) -> None:
    mine = bench.idle(MINE)
    bench.workers.leave_idle(0)
    assert bench.workers.holders_of(GPU, key) == [mine]
    bench.see_end(mine)
    assert bench.workers.holders_of(GPU, key) == []
