"""The user's laptop: another Unix user than the cluster's, who sees nothing of it but the service that both use."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.live_cluster import LiveCluster, eventually, finished
from tests.testbed.slurm_bed import ClusterUser

SETTINGS: dict[str, Any] = {
    "scheduler": {
        "scheduler_class": "local",
        "sync_period": 1.0,
        "allowed_queues": {"local": {"max_nodes": 1, "max_walltime": 60}},
        "allowed_projects": ["local"],
    },
    "node": {"cpus": 2},
    "mpirun": "plain",
}


@dataclass
class Laptop:
    """Her programs and files there, and a Site of its own once `start_site` was called. Everything is in `root`."""

    user: ClusterUser
    root: Path
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def python(self) -> str:
        return str(self.user.venv / "bin/python")

    @property
    def environment(self) -> dict[str, str]:
        return {"BALSAM_HOME": str(self.root / "home")}

    def balsam(self, *words: str, **environment: str) -> str:
        """What the command says."""
        command = [str(self.user.venv / "bin/balsam"), *words]
        return self.user.run(*command, env={**self.environment, **environment}, cwd=self.root)

    def copy(self, directory: Path) -> Path:
        """A directory of the project, as hers."""
        there = self.root / directory.name
        shutil.copytree(directory, there, ignore=shutil.ignore_patterns("__pycache__"))
        for path in (there, *there.rglob("*")):
            os.chown(path, self.user.entry.pw_uid, self.user.entry.pw_gid)
        return there

    def begin(self, script: str | Path, *words: str) -> subprocess.Popen[str]:
        """Start a script of hers: one that she has, or its text."""
        if isinstance(script, str):
            path = self.root / f"script{len(self.processes)}.py"
            path.write_text(script)
            path.chmod(0o644)
            script = path
        command = [self.python, "-X", "faulthandler", str(script), *words]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.processes.append(self.user.start(command, env=self.environment, cwd=self.root, **pipes))
        return self.processes[-1]

    def run(self, script: str | Path, *words: str, timeout: float = 120) -> str:
        """Run such a script to its end; what it printed."""
        return finished(self.begin(script, *words), timeout)

    def start_site(self) -> None:
        """A Site called `laptop` on this machine, without a batch system."""
        self.balsam("site", "init", str(self.root / "site"), "--name", "laptop", "--machine", "local")
        (self.root / "site" / "settings.yml").write_text(yaml.safe_dump(SETTINGS))
        with (self.root / "agent.log").open("w") as log:
            words = [self.python, "-m", "balsam.site", "--site", str(self.root / "site")]
            self.processes.append(self.user.start(words, env=self.environment, stdout=log, stderr=log))
        eventually(
            lambda: '"allowed_projects": ["local"]' in self.balsam("site", "ls", "--json"), "the agent does not come"
        )

    def stop(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(15)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


@contextmanager
def laptop_of(cluster: LiveCluster, name: str = "sci2") -> Iterator[Laptop]:
    """The laptop of the cluster's owner, on which she has logged in to its service."""
    user = ClusterUser(name)
    laptop = Laptop(user, user.directory())
    try:
        laptop.balsam("login", cluster.url, "-u", "ann", BALSAM_PASSWORD=cluster.password)
        yield laptop
    finally:
        laptop.stop()
        shutil.rmtree(laptop.root)
