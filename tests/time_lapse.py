"""A service for which as many seconds more have passed as a file says, and which sweeps all the time.

`running_service(home, program=[time_lapse.__file__], env={time_lapse.AHEAD: str(file)})`
"""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

from balsam.domain.clock import SystemClock
from balsam.server import app, run
from balsam.server.command import up

AHEAD = "TESTS_AHEAD_SEC"
SWEEP_SEC = 0.2


class Ahead(SystemClock):
    """Reads the file each time. Time passes by both clocks: when the wall clock alone is ahead, it has jumped."""

    def now(self) -> datetime:
        return super().now() + timedelta(seconds=self._ahead_sec())

    def monotonic(self) -> float:
        return super().monotonic() + self._ahead_sec()

    def _ahead_sec(self) -> float:
        return float(Path(os.environ[AHEAD]).read_text())


if __name__ == "__main__":
    app.PRUNE_SEC = app.BLOBS_SEC = SWEEP_SEC
    run.serve = partial(run.serve, clock=Ahead())
    up(prog_name="time_lapse")
