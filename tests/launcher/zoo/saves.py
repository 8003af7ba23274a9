"""Says what it is told: the signal for a checkpoint, then SIGTERM, upon which it ends."""

import os
import signal
import sys
import time


def say(text: str) -> None:
    os.write(1, f"{text}\n".encode())


def main() -> None:
    name = os.environ["BALSAM_CHECKPOINT_SIGNAL"]
    signal.signal(signal.Signals[name], lambda *_: say("saved"))
    signal.signal(signal.SIGTERM, lambda *_: (say("term"), sys.exit(3)))
    say(f"up {name}")
    time.sleep(float(sys.argv[1]))


main()
