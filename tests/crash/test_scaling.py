"""kill -9 of the agent between its decision to ask for an allocation and its record of it: asked for once (S11)."""

from __future__ import annotations

import json
import signal
import time

import httpx2
import pytest

from balsam.site.crash_points import OF_SCALING
from balsam.site.directory import SiteDirectory
from tests.services import RunningService
from tests.site.conftest import WAIT_SEC, place, real, running_agent, settings_text, wait_for  # noqa: F401

pytestmark = pytest.mark.slow

KEEPING = """
queue_maintainer:
  submit_project: local
  submit_queue: local
  submit_period: 0.3
  num_queued_jobs: 1
  wall_time_min: 5
"""


@pytest.mark.parametrize("point", OF_SCALING)
def test_killed_at(point: str, place: SiteDirectory, real: RunningService) -> None:  # noqa: F811
    place.settings.write_text(settings_text(sync_period_sec=0.3) + KEEPING)
    with running_agent(place, BALSAM_CRASH_POINT=point) as agent:
        assert agent.wait(20) == -signal.SIGKILL, f"the agent never came through {point}"
    record = place.scaling / "queue_maintainer.json"
    assert json.loads(record.read_text())["intent"]["key"]
    with running_agent(place), real.client() as client:
        _wait_until_told(client)
        wait_for(client, 1, "running")
        assert [one["id"] for one in client.get("/api/batch-jobs").json()["results"]] == [1]
        assert list(json.loads(record.read_text())["own"]) == ["1"]


def _wait_until_told(client: httpx2.Client) -> None:
    """A period in which it asked for nothing, because there is one."""
    deadline = time.monotonic() + WAIT_SEC
    while "asks for nothing: 1 of its" not in str(client.get("/api/sites/1").json()["scaling"]):
        assert time.monotonic() < deadline
        time.sleep(0.05)
