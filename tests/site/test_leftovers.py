"""S9: what the scheduler still has of a Site can be ended without service and agent."""

from __future__ import annotations

import json
import time
from pathlib import Path

import psutil
import pytest

from balsam.platform.scheduler.base import SchedulerConfig, SubmitRequest
from balsam.platform.scheduler.local import LocalScheduler
from balsam.site.directory import SiteDirectory, SiteError
from balsam.site.ledger import Ledger
from balsam.site.leftovers import end_leftovers


@pytest.fixture
def site(tmp_path: Path) -> SiteDirectory:
    made = SiteDirectory(tmp_path)
    made.marker.write_text(json.dumps({"id": 1, "name": "x", "url": "http://127.0.0.1:1"}))
    made.settings.write_text("{}\n")
    made.qsubmit.mkdir()
    return made


def begin(site: SiteDirectory, name: str) -> int:
    """An allocation whose script takes no SIGTERM; the pid of that script."""
    script, here = site.root / f"{name}.sh", site.root / f"{name}.pid"
    script.write_text(f"trap '' TERM\necho $$ > {here}.tmp && mv {here}.tmp {here}\nwhile :; do sleep 0.1; done\n")
    request = SubmitRequest(queue="local", project="local", num_nodes=1, wall_time_min=5)
    scheduler = LocalScheduler(SchedulerConfig(site.qsubmit))
    scheduler.submit(script, name, request)
    scheduler.close()
    deadline = time.monotonic() + 20
    while not here.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return int(here.read_text())


def test_s9_every_allocation_ends_also_a_deaf_one(site: SiteDirectory) -> None:
    prefix = Ledger(site.qsubmit, 1).allocation_prefix
    pids = [begin(site, f"{prefix}1"), begin(site, f"{prefix}2")]
    found: list[int] = []
    with pytest.raises(SiteError, match=r"do not end: \d+, \d+"):
        end_leftovers(site.root, found.append, timeout_sec=0.2)
    end_leftovers(site.root, found.append, timeout_sec=20)
    assert found == [2, 2]
    assert not any(psutil.pid_exists(pid) for pid in pids)
    end_leftovers(site.root, found.append, timeout_sec=0)
    assert found == [2, 2]


def test_settings_that_name_no_scheduler_are_explained(site: SiteDirectory) -> None:
    site.settings.write_text("scheduler:\n  scheduler_class: nowhere\n")
    with pytest.raises(SiteError, match="nowhere"):
        end_leftovers(site.root, lambda count: None)
