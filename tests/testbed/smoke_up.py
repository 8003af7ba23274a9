"""`python -m tests.testbed.smoke_up`: `balsam up` comes up, says where, answers, and is gone after SIGTERM.

Called by .ci/run before the tests: a service or agent that does not start is then said in one line, not in a hundred
failing tests. Exits with 1 and the reason when anything is amiss.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from pathlib import Path

from tests.testbed import session_rules

READY_SEC = 30.0
STOP_SEC = 15.0


def main() -> int:
    run_id = uuid.uuid4().hex
    with tempfile.TemporaryDirectory(prefix="balsam-up-") as home:
        env = {**os.environ, "BALSAM_HOME": home, session_rules.MARKER: run_id}
        words = [str(Path(sys.prefix) / "bin" / "balsam"), "up", "--json", "--port", "0"]
        with subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as up:
            try:
                fault = _answers(up) or _stops(up)
            finally:
                if up.poll() is None:
                    up.kill()
        left = session_rules.processes_left(run_id)
    for text in [fault, *left]:
        if text:
            print(f"balsam up: {text}", file=sys.stderr)
    if fault or left:
        return 1
    print("balsam up: started, answered and stopped")
    return 0


def _answers(up: subprocess.Popen[bytes]) -> str | None:
    """Wait for the ready line and ask the service for its API description; the fault, or None."""
    assert up.stdout is not None
    deadline = time.monotonic() + READY_SEC
    if not select.select([up.stdout], [], [], READY_SEC)[0]:
        return f"no ready line within {READY_SEC:.0f} s"
    line = up.stdout.readline()
    if not line:
        return f"ended with {up.wait()} before it was ready"
    ready = json.loads(line)
    if not ready["site"]["name"] or not Path(ready["site"]["path"]).is_dir():
        return f"the ready line names no site: {ready}"
    with urllib.request.urlopen(
        f"{ready['url']}/openapi.json", timeout=max(1.0, deadline - time.monotonic())
    ) as answer:
        if not json.load(answer)["paths"]:
            return "the service describes no paths"
    return None


def _stops(up: subprocess.Popen[bytes]) -> str | None:
    up.send_signal(signal.SIGTERM)
    try:
        status = up.wait(STOP_SEC)
    except subprocess.TimeoutExpired:
        return f"still running {STOP_SEC:.0f} s after SIGTERM"
    return None if status == 0 else f"ended with {status} after SIGTERM"


if __name__ == "__main__":
    sys.exit(main())
