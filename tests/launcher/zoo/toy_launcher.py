"""A launcher as the guardian knows it: starts the commands of a plan, renews a lease, drains, heeds the guardian's end.

argv: a JSON plan {commands: [[...]], cwd, lease_sec, exit, ignore_term, crash_until_restart}. Each start is one line of
`starts` in cwd; "drained" and "orphaned" are written there when it does that.
"""

import json
import os
import select
import signal
import sys
import time
from pathlib import Path

from balsam.launcher.guardian_link import GuardianLink
from balsam.launcher.process import Command, spawn, terminate
from balsam.launcher.proctable import find_descendants, kill_until_gone

plan = json.loads(sys.argv[1])
cwd = Path(plan["cwd"])
link = GuardianLink.from_environ()
assert link is not None
draining = []
signal.signal(signal.SIGTERM, lambda *_: None if plan.get("ignore_term") else draining.append(True))
signal.signal(signal.SIGINT, signal.SIG_DFL)
allocation = os.environ["BALSAM_ALLOCATION"]
children = []
for number, argv in enumerate(plan.get("commands", [])):
    env = {**os.environ, "BALSAM_JOB_ID": str(number), "BALSAM_ATTEMPT": "1"}
    children.append(spawn(Command(tuple(argv), env, str(cwd), f"rank{number}.out")))
end = os.environ.get("BALSAM_ALLOCATION_END", "")
with (cwd / "starts").open("a") as file:
    file.write(f"{os.getpid()} {os.environ['BALSAM_LAUNCHER_RESTART']} {time.monotonic()} {end}\n")
if int(os.environ["BALSAM_LAUNCHER_RESTART"]) < plan.get("crash_until_restart", 0):
    os._exit(7)
if "exit" in plan:
    # A rank that is killed before it has set itself up to resist proves nothing.
    while not all("ready" in (cwd / f"rank{number}.out").read_text() for number in range(len(children))):
        time.sleep(0.01)
    sys.exit(plan["exit"])
while not draining:
    lease_sec = plan.get("lease_sec")
    link.renew(None if lease_sec is None else time.monotonic() + lease_sec)
    readable, _, _ = select.select([link.fileno()], [], [], 0.05)
    if readable and link.guardian_is_gone():
        kill_until_gone(lambda: find_descendants(os.getpid(), allocation))
        (cwd / "orphaned").touch()
        sys.exit(1)
for child in children:
    terminate(child.group)
(cwd / "drained").touch()
