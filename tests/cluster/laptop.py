"""The user's laptop: another Unix user than the cluster's, who sees nothing of it but the service that both use."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.live_cluster import LiveCluster, Workplace, end, eventually
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


class Laptop(Workplace):
    """Her programs and files there, and a Site of its own once `start_site` was called."""

    def __init__(self, user: ClusterUser) -> None:
        super().__init__(user, user.directory())
        self._processes: list[subprocess.Popen[str]] = []

    def begin(self, script: str | Path, *words: str, **environment: str) -> subprocess.Popen[str]:
        process = super().begin(script, *words, **environment)
        self._processes.append(process)
        return process

    def start_site(self) -> None:
        """A Site called `laptop` on this machine, without a batch system."""
        self.balsam("site", "init", str(self.root / "site"), "--name", "laptop", "--machine", "local")
        (self.root / "site" / "settings.yml").write_text(yaml.safe_dump(SETTINGS))
        with (self.root / "agent.log").open("w") as log:
            words = [self.python, "-m", "balsam.site", "--site", str(self.root / "site")]
            self._processes.append(self.user.start(words, env=self.environment, stdout=log, stderr=log))
        eventually(
            lambda: '"allowed_projects": ["local"]' in self.balsam("site", "ls", "--json"), "the agent does not come"
        )

    def stop(self) -> None:
        end(self._processes)


@contextmanager
def laptop_of(cluster: LiveCluster, name: str = "sci2") -> Iterator[Laptop]:
    """The laptop of the cluster's owner, on which she has logged in to its service."""
    laptop = Laptop(ClusterUser(name))
    try:
        laptop.balsam("login", cluster.url, "-u", "ann", BALSAM_PASSWORD=cluster.password)
        yield laptop
    finally:
        laptop.stop()
        shutil.rmtree(laptop.root)
