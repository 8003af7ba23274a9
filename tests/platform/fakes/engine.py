"""A batch system of nothing but files, behind the fake commands of the other modules here; run without site packages.

Each job is a record in a directory. It waits when it asks for more than NODES nodes; else a runner process of its own
starts the script at once, in a process group, and writes down its end.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

NODES = 4
GRACE_SEC = 1.0
Job = dict[str, Any]


class Engine:
    """The batch system in one directory. Every use of records is under its lock."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.directory / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def submit(self, script: str, **facts: Any) -> int:
        """Facts: name, queue, project, nodes, minutes, output. The script is copied, as real systems do."""
        with self._locked():
            number = len(list(self.directory.glob("*.json"))) + 1
            path = self.directory / f"{number}.sh"
            path.write_text(script)
            path.chmod(0o700)
            self._write({"number": number, "state": "queued", "submit": time.time(), **facts})
        if facts["nodes"] <= NODES:
            self._write_state(number, state="starting")
            subprocess.Popen(
                [sys.executable, "-S", "-E", __file__, str(self.directory), str(number)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        return number

    def jobs(self) -> list[Job]:
        with self._locked():
            found = [json.loads(path.read_text()) for path in self.directory.glob("*.json")]
        return sorted(found, key=lambda job: int(job["number"]))

    def job(self, number: int) -> Job | None:
        return next((job for job in self.jobs() if job["number"] == number), None)

    def cancel(self, number: int) -> str:
        """What was done: deleted, signalled, over or unknown."""
        job = self.job(number)
        if job is None:
            return "unknown"
        if job["state"] == "over":
            return "over"
        if job["state"] == "queued":
            self._write_state(number, state="over", end=time.time(), cancelled=True)
            return "deleted"
        self._write_state(number, cancelled=True)
        while (runner := (self.job(number) or {}).get("runner")) is None:
            time.sleep(0.01)
        with suppress(ProcessLookupError):
            os.kill(runner, signal.SIGTERM)
        return "signalled"

    def run(self, number: int) -> None:
        """What the runner process does."""
        ends: list[float] = []
        signal.signal(signal.SIGTERM, lambda *_: ends.append(time.monotonic()))
        job = self.job(number)
        assert job is not None
        with Path(job["output"]).open("wb") as output:
            script = subprocess.Popen(
                [str(self.directory / f"{number}.sh")],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._write_state(number, state="running", start=time.time(), runner=os.getpid(), leader=script.pid)
        told = False
        while script.poll() is None:
            if ends:
                late = time.monotonic() - ends[0] > GRACE_SEC
                if late or not told:
                    _signal(script.pid, signal.SIGKILL if late else signal.SIGTERM)
                told = True
            time.sleep(0.02)
        _signal(script.pid, signal.SIGKILL)
        self._write_state(number, state="over", end=time.time(), code=script.returncode)

    def _write_state(self, number: int, **facts: Any) -> None:
        with self._locked():
            self._write(json.loads((self.directory / f"{number}.json").read_text()) | facts)

    def _write(self, job: Job) -> None:
        path = self.directory / f"{job['number']}.new"
        path.write_text(json.dumps(job))
        path.rename(self.directory / f"{job['number']}.json")


def _signal(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, number)


def die(text: str, code: int = 1) -> int:
    """What a command does that fails."""
    print(text, file=sys.stderr)
    return code


if __name__ == "__main__":
    Engine(Path(sys.argv[1])).run(int(sys.argv[2]))
