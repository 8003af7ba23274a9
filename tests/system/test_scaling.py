"""The elastic queue from Jobs to idle release, with a real `balsam up`: it asks, they run, the allocations end."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from tests.system.live_site import BALSAM, LiveSite, eventually, live_site

SUBMIT = """
from balsam.api import ApplicationDefinition, Job

class Napper(ApplicationDefinition):
    site = "{name}"
    command_template = "sleep {{{{ seconds }}}}"

jobs = [Napper.submit(workdir=f"nap/{{i}}", seconds="1") for i in range(5)]
child = Napper.submit(workdir="nap/child", seconds="0", parent_ids=[job.id for job in jobs])
wide = Napper.submit(workdir="nap/wide", seconds="0", num_nodes=7)
print(child.id, wide.id)
"""


def elastic(settings: dict[str, Any]) -> None:
    settings["launcher"]["idle_ttl_sec"] = 2
    settings["scheduler"]["sync_period"] = 0.5
    settings["budget"] = {"max_node_hours": 5}
    settings["elastic_queue"] = {
        "submit_project": "local",
        "submit_queue": "local",
        "service_period": 0.5,
        "max_num_nodes": 2,
        "min_wall_time_min": 6,
        "max_wall_time_min": 10,
        "max_queued_jobs": 2,
    }


def test_it_asks_for_what_waits_and_gives_back_what_is_idle(tmp_path: Path) -> None:
    with live_site(tmp_path / "home", elastic) as live:
        child, wide = live.run(SUBMIT.format(name=live.name)).split()
        eventually(lambda: balsam(live, "job", "ls", "--id", child)[0]["state"] == "JOB_FINISHED", "it did not run", 60)
        asked = balsam(live, "queue", "ls", "--history")
        assert all(one["num_nodes"] <= 2 and one["wall_time_min"] == 6 for one in asked), asked
        assert 1 <= len(asked) <= 4, asked
        eventually(lambda: balsam(live, "queue", "ls") == [], "an idle allocation goes on")
        (site,) = balsam(live, "site", "ls")
        assert "asks for nothing: all that wait need more than 2 nodes" in site["scaling"]["elastic_queue"]
        assert site["scaling"]["node_hours"]["site"]["promised"] == 0
        for words in (["site", "ls", "-v"], ["queue", "ls", "--history"]):
            shown = said(live, *words)
            assert f"node-hours of Site {live.name}: 0" in " ".join((shown.stdout + shown.stderr).split())
        explained = balsam(live, "job", "explain", wide)
        assert "The elastic_queue of its Site asks for nothing" in json.dumps(explained)
        assert len(balsam(live, "queue", "ls", "--history")) == len(asked), "it asked although nothing could run"


def balsam(live: LiveSite, *words: str) -> Any:
    return json.loads(said(live, *words, "--json").stdout)


def said(live: LiveSite, *words: str) -> subprocess.CompletedProcess[str]:
    command = [str(BALSAM), *words]
    done = subprocess.run(command, env=live.environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done
