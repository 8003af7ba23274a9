"""Makes children that end and never collects them."""

import os
import sys
import time

for _ in range(20):
    if os.fork() == 0:
        os._exit(0)
print("ready", flush=True)
time.sleep(float(sys.argv[1]))
