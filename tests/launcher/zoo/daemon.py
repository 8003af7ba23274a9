"""Forks twice with a new session, holds stdout, and lives on; the first process exits 0 once the daemon stands."""

import os
import signal
import sys
import time

read_fd, write_fd = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.write(write_fd, b"x")
        time.sleep(float(sys.argv[1]))
    os._exit(0)
os.read(read_fd, 1)
print("ready", flush=True)
if "stay" in sys.argv:
    time.sleep(float(sys.argv[1]))
