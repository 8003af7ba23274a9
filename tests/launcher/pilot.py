"""A launcher as it is - guardian, loop, courier, real processes - for tests with a fake service over real HTTP."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

from balsam.launcher.config import LauncherConfig
from tests.launcher.conftest import Tag, wait_until
from tests.launcher.fake_service import FakeService


class Pilot:
    """One `python -m balsam.launcher` in a directory of its own."""

    def __init__(self, service: FakeService, tag: Tag, root: Path) -> None:
        self.service, self.tag, self.root = service, tag, root
        self.directory = root / "qsubmit" / "balsam-1-1"
        self.directory.mkdir(parents=True, mode=0o700)
        self.data = root / "data"
        self.log = root / "log"
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, mode: str = "mpi", minutes: float = 60, *words: str, **given: Any) -> int:
        credentials = self.directory / "credentials.json"
        credentials.touch(0o600)
        credentials.write_text(json.dumps({"url": self.service.url, "token": "blsm_launcher_secret"}))
        settings: dict[str, Any] = {"node_cpus": 4, "mpirun": "plain", "kill_grace_sec": 0.5, **given}
        config = LauncherConfig(
            site_id=1, site_path=str(self.root), data_path=str(self.data), directory=str(self.directory),
            credentials_path=str(credentials), batch_job_id=1, **settings,
        )  # fmt: skip
        path = self.directory / "launcher.json"
        path.write_text(config.to_json())
        argv = [sys.executable, "-m", "balsam.launcher", "--config", str(path), "-j", mode, "-t", f"{minutes:g}"]
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [*argv, *words],
                env={**os.environ, "ZOO": self.tag.seconds, "BALSAM_TOKEN": "secret-of-the-user"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.processes.append(process)
        return process.pid

    def wait(self, timeout_sec: float = 30) -> int:
        return self.processes[-1].wait(timeout_sec)

    def said(self) -> str:
        return self.log.read_text()

    def output(self, job_id: int, name: str = "job.out") -> str:
        path = self.data / f"job{job_id}" / name
        return path.read_text() if path.exists() else ""

    def loops(self) -> list[psutil.Process]:
        return [p for p in self.tag.alive() if "balsam.launcher.entry" in " ".join(p.cmdline())]

    def couriers(self) -> list[psutil.Process]:
        return [p for p in self.tag.alive() if "balsam.launcher.courier" in " ".join(p.cmdline())]

    def until_all(self, state: str, timeout_sec: float = 30) -> None:
        wait_until(lambda: set(self.service.states()) == {state}, timeout_sec)

    def stop(self) -> None:
        """What still runs is told to stop; and again, which leaves its Jobs no grace."""
        for process in self.processes:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.7)
            process.terminate()
            process.wait(60)
