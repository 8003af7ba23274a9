"""Signals by way of the batch system: the program that knows Slurm, with commands of the test's own, and its caller."""

import os
import select
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from balsam.domain.clock import SystemClock
from balsam.launcher.step_signals import StepSignals
from balsam.platform.mpirun import slurm_steps
from tests.launcher.conftest import wait_until
from tests.platform.fake_commands import write_program

pytestmark = pytest.mark.slow
PROGRAM = (sys.executable, "-I", "-S", slurm_steps.__file__, "7")
LISTING = "7.batch|batch\\n7.0|balsam-1.1\\n7.3|balsam-2.1\\n7.12|balsam-12.1\\n"


class Sender:
    """A StepSignals, and what a loop does for it."""

    def __init__(self, root: Path, squeue: str, scancel: str = 'echo "$@" >> "$SENT"') -> None:
        write_program(root / "bin", "squeue", squeue)
        write_program(root / "bin", "scancel", scancel)
        self.sent, self.epoll = root / "sent", select.epoll()
        self.unknown: list[str] = []
        environ = {"PATH": f"{root}/bin:/usr/bin:/bin", "SENT": str(self.sent)}
        self.steps = StepSignals(self.epoll, PROGRAM, environ, root / "out", SystemClock())

    def send(self, *names: str, number: signal.Signals = signal.SIGTERM) -> None:
        for name in names:
            self.steps.send(name, number, self._unknown(name))

    def _unknown(self, name: str) -> Callable[[], None]:
        return lambda: self.unknown.append(name)

    def until_quiet(self) -> None:
        def turn() -> bool:
            self.steps.tick(SystemClock().monotonic())
            for fd, _ in self.epoll.poll(0.01):
                assert self.steps.heard(fd)
            return self.steps.due() is None

        wait_until(turn, 30)


def test_one_question_and_one_scancel_for_all(tmp_path: Path) -> None:
    sender = Sender(tmp_path, f'echo "$@" >> "$SENT"; printf "{LISTING}"')
    sender.send("balsam-1.1", "balsam-12.1", "balsam-1.2")
    sender.send("balsam-2.1", number=signal.SIGUSR1)
    sender.until_quiet()
    assert sender.sent.read_text().splitlines() == [
        "--noheader --steps --jobs=7 --format=%i|%j",
        "--signal=TERM 7.0 7.12",
        "--noheader --steps --jobs=7 --format=%i|%j",
        "--signal=USR1 7.3",
    ]
    assert sender.unknown == ["balsam-1.2"]


@pytest.mark.parametrize("fails", ["squeue", "scancel"])
def test_a_controller_that_is_away_is_said_and_the_next_signal_goes_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, fails: str
) -> None:
    away = "echo Unable to contact slurm controller >&2; exit 1"
    well = f'printf "{LISTING}"'
    sender = Sender(tmp_path, away if fails == "squeue" else well, away if fails == "scancel" else "exit 0")
    sender.send("balsam-1.1", "balsam-9.9")
    sender.until_quiet()
    assert "did not reach 2 steps (exit code 1): Unable to contact slurm controller" in caplog.text
    assert sender.unknown == [], "nobody said that they are not there"
    write_program(tmp_path / "bin", "squeue", well)
    write_program(tmp_path / "bin", "scancel", 'echo "$@" >> "$SENT"')
    sender.send("balsam-1.1")
    sender.until_quiet()
    assert sender.sent.read_text() == "--signal=TERM 7.0\n"


def test_what_does_not_end_is_given_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sender = Sender(tmp_path, 'echo here > "$SENT"; exec sleep 600')
    sender.send("balsam-1.1")
    sender.steps.tick(0.0)  # so that its time is over in a moment
    wait_until(sender.sent.exists, 30)
    sender.until_quiet()
    assert "killed by SIGKILL" in caplog.text
    assert os.listdir(tmp_path / "bin") and sender.steps.due() is None
