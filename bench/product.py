"""The product under measurement: `balsam up` with default, durable settings in a temporary BALSAM_HOME."""

import json
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any


class Product:
    """Service and local Site, started as a user would; `marker` finds all their processes."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.marker = f"BALSAM_BENCH_RUN={uuid.uuid4().hex}"
        self.site: dict[str, Any] = {}
        self.url = ""
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> "Product":
        name, _, value = self.marker.partition("=")
        os.environ["BALSAM_HOME"] = str(self.home)
        command = [str(Path(sys.executable).parent / "balsam"), "up", "--json", "--port", "0"]
        self._process = subprocess.Popen(
            command, env={**os.environ, name: value}, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        assert self._process.stdout is not None
        ready = json.loads(self._process.stdout.readline())
        self.url, self.site = ready["url"], ready["site"]
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(90)

    def allocation(self, wall_time_min: int = 60) -> Any:
        """A running allocation of one node on the local Site."""
        from balsam.api import BatchJob

        return BatchJob.objects.create(
            site_id=self.site["id"],
            num_nodes=1,
            wall_time_min=wall_time_min,
            job_mode="mpi",
            queue="local",
            project="local",
        )
