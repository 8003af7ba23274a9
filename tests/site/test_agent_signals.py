"""A signal is heard whatever the agent's main thread does: also when it comes on the way into a wait."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

# `map` calls both without any bytecode in between: Python runs handlers only there, so none runs before the wait ends.
SIGNALLED_ON_THE_WAY = """
import ctypes, operator, os, signal
from functools import partial
from queue import SimpleQueue
from balsam.site import run

class Waits:
    def __init__(self):
        self.wakes = SimpleQueue()
    def stop(self):
        self.wakes.put("stop")
    def look(self):
        self.wakes.put("look")

signals, agent = run._Signals(), Waits()
signals.obeyed_by(agent)
for number in (run.LOOK_SIGNAL, signal.SIGTERM):
    kill = partial(ctypes.CDLL(None).kill, os.getpid(), int(number))
    _, woken_by = map(operator.call, (kill, partial(agent.wakes.get, True, 30)))
    print(woken_by, flush=True)
"""


def test_a_signal_on_the_way_into_a_wait_ends_it() -> None:
    heard = subprocess.run(
        [sys.executable, "-c", SIGNALLED_ON_THE_WAY], capture_output=True, text=True, timeout=60, check=False
    )
    assert heard.stdout.split() == ["look", "stop"], heard.stderr
