"""What watches over the guardians of several partitions: it passes on what it is told, and waits for all of them."""

import signal
import subprocess
import sys

import pytest

from balsam.launcher import guardian

pytestmark = pytest.mark.slow

WATCH = "import sys; from balsam.launcher.main import watch_guardians; sys.exit(watch_guardians({commands!r}))"
SAYS = """trap 'echo told; exit {status}' {name}; echo up; while :; do sleep 0.05; done"""


@pytest.mark.parametrize("number", guardian.STOP_SIGNALS, ids=lambda number: number.name)
def test_each_guardian_hears_what_the_batch_system_says(number: signal.Signals) -> None:
    """USR2 is Grid Engine's word for the end: it killed the watcher, and no guardian heard of it."""
    name = number.name.removeprefix("SIG")
    commands = [["/bin/sh", "-c", SAYS.format(name=name, status=status)] for status in (0, 3)]
    watcher = subprocess.Popen(
        [sys.executable, "-c", WATCH.format(commands=commands)], stdout=subprocess.PIPE, text=True
    )
    assert watcher.stdout is not None
    try:
        assert [watcher.stdout.readline() for _ in commands] == ["up\n"] * 2
        watcher.send_signal(number)
        assert watcher.wait(60) == 3, "the worst status is the allocation's"
        assert watcher.stdout.read() == "told\n" * 2
    finally:
        watcher.kill()
        watcher.wait()
        watcher.stdout.close()


def test_a_signal_that_is_ignored_is_not_passed_on() -> None:
    """nohup's SIGHUP: the guardians live on, as they would alone."""
    commands = [["/bin/sh", "-c", SAYS.format(name=name, status=status)] for name, status in (("TERM", 0), ("TERM", 4))]
    code = f"import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN); {WATCH.format(commands=commands)}"
    watcher = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert watcher.stdout is not None
    try:
        assert [watcher.stdout.readline() for _ in commands] == ["up\n"] * 2
        watcher.send_signal(signal.SIGHUP)
        watcher.send_signal(signal.SIGTERM)
        assert watcher.wait(60) == 4
        assert watcher.stdout.read() == "told\n" * 2
    finally:
        watcher.kill()
        watcher.wait()
        watcher.stdout.close()
