"""An independent eye on processes: finds every living process of one test by a tag, without the code under test.

With it the fixtures of tests on a whole launcher: a fake service, and a `Pilot`.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.launcher.fake_service import FakeService

if TYPE_CHECKING:
    from tests.launcher.pilot import Pilot

ZOO = Path(__file__).parent / "zoo"


@dataclass
class Tag:
    """`seconds` is what zoo children sleep; no other test has the same number, so that argv tells whose they are."""

    seconds: str

    def alive(self, exclude: tuple[int, ...] = ()) -> list[psutil.Process]:
        """Every living process (stopped or not, zombies left out) that has the tag in its arguments or environment."""
        found = []
        for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
            if pid in (os.getpid(), *exclude) or not self._marks(pid):
                continue
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(pid)
                if process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def _marks(self, pid: int) -> bool:
        try:
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes()
            environ = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            return False
        return self.seconds.encode() in arguments or f"ZOO={self.seconds}\0".encode() in environ


def wait_until(true: Callable[[], object], timeout_sec: float = 5.0) -> float:
    """Wait for `true()`; returns the seconds it took, fails after `timeout_sec`."""
    start = time.monotonic()
    while not true():
        assert time.monotonic() - start < timeout_sec, "this did not happen in time"
        time.sleep(0.01)
    return time.monotonic() - start


@contextlib.contextmanager
def files_left(number: int) -> Iterator[None]:
    """So many files more may be opened by this process."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 20, before[1]))
    try:
        with contextlib.suppress(OSError):
            while True:
                opened.append(os.open(os.devnull, os.O_RDONLY))
        while number:
            os.close(opened.pop())
            number -= 1
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for fd in opened:
            os.close(fd)


@pytest.fixture
def tag() -> Iterator[Tag]:
    """A tag of this test's own; whatever still carries it at the end is killed."""
    number = f"98{os.getpid() % 100000:05d}{time.monotonic_ns() % 1000000:06d}"
    tag = Tag(number[:6] + "." + number[6:])
    yield tag
    for _ in range(200):
        left = tag.alive()
        for process in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        if not left:
            return


@pytest.fixture
def service() -> Iterator[FakeService]:
    service = FakeService()
    yield service
    service.stop()


@pytest.fixture
def pilot(service: FakeService, tag: Tag, tmp_path: Path) -> Iterator[Pilot]:
    from tests.launcher.pilot import Pilot  # which itself uses what stands here

    pilot = Pilot(service, tag, tmp_path)
    yield pilot
    pilot.stop()
