"""Forks in a loop, each parent exits at once: never the same number twice. With "setsid" never the same group."""

import os
import sys
import time

# Whatever goes wrong with the test, a comet burns out soon: it takes a core.
end = time.monotonic() + min(20.0, float(sys.argv[1]))
print("ready", flush=True)
while time.monotonic() < end:
    if os.fork():
        os._exit(0)
    if "setsid" in sys.argv and os.fork():
        os._exit(0)
    if "setsid" in sys.argv:
        os.setsid()
