"""Monitors in a launcher as it is - guardian, loop, output reader, real processes - against a fake service."""

import contextlib
import os
import signal
from typing import Any

import psutil
import pytest

from tests.launcher.conftest import wait_until
from tests.launcher.fake_service import FakeService
from tests.launcher.pilot import Pilot

pytestmark = pytest.mark.slow

READER = "balsam.launcher.output_reader"
# Writes a line, waits to be told by a file that it may end.
WAITS = "echo begin; echo {{ line }} >> data; until [ -e go ]; do sleep 0.05; done; echo end"


def running(pilot: Pilot, word: str) -> list[int]:
    """Ids of this test's processes with a word in their command lines."""
    found = []
    for process in pilot.tag.alive():
        with contextlib.suppress(psutil.Error):
            if word in " ".join(process.cmdline()):
                found.append(process.pid)
    return found


def records(service: FakeService, job_id: int, event: str) -> list[dict[str, Any]]:
    with service.lock:
        return [record for record in service.records if (record["job_id"], record["event"]) == (job_id, event)]


def test_rules_note_tag_and_kill_while_their_job_runs(pilot: Pilot, service: FakeService) -> None:
    monitors = {
        "seen": {"action": "notify", "pattern": "^begin"},
        "odd": {"action": "tag", "file": "data", "pattern": "odd", "tags": {"quality": "odd"}},
        "bad": {"action": "kill", "file": "data", "not_finite": True, "restarts": 2},
    }
    service.add_app(WAITS, monitors=monitors)
    (odd,) = service.add_jobs(1, parameters={"line": "odd"}, node_packing_count=2)
    (bad,) = service.add_jobs(1, parameters={"line": "1.0 nan"}, node_packing_count=2)
    pilot.start(idle_ttl_sec=0.5)
    wait_until(lambda: service.events(bad)[-1:] == ["run_error"], 60)
    wait_until(lambda: len(records(service, odd, "noted")) == 2, 60)
    (pilot.data / f"job{odd}" / "go").touch()
    assert pilot.wait(60) == 0, pilot.said()
    assert service.events(odd) == ["started", "noted", "noted", "run_done"]
    noted = {record["data"]["monitor"]: record for record in records(service, odd, "noted")}
    assert noted["odd"]["changes"] == {"merge_tags": {"quality": "odd"}} and "changes" not in noted["seen"]
    assert noted["odd"]["data"] == {"monitor": "odd", "file": "data", "text": "odd", "line": 1}
    (record,) = records(service, bad, "run_error")
    assert (record["failure"], record["restarts"], record["return_code"]) == ("monitor", 2, 143)
    assert record["message"] == "monitor bad: data, line 1 has a number that is none: 1.0 nan"
    assert "end" not in pilot.output(bad)
    assert pilot.tag.alive() == []


def test_what_a_short_job_writes_last_counts(pilot: Pilot, service: FakeService) -> None:
    service.add_app("echo {{ line }}", monitors={"bad": {"action": "kill", "pattern": "boom"}})
    good = service.add_jobs(5, parameters={"line": "all is well"})
    bad = service.add_jobs(5, parameters={"line": "boom"})
    pilot.start(idle_ttl_sec=0.5)
    assert pilot.wait(60) == 0, pilot.said()
    assert [service.events(job_id) for job_id in good] == [["started", "run_done"]] * 5
    assert [service.events(job_id) for job_id in bad] == [["started", "run_error"]] * 5
    assert {records(service, job_id, "run_error")[0]["failure"] for job_id in bad} == {"monitor"}


def test_rules_work_while_the_service_is_away_and_after_the_reader_died(pilot: Pilot, service: FakeService) -> None:
    service.add_app(WAITS, monitors={"bad": {"action": "kill", "file": "more", "pattern": "boom"}})
    (job_id,) = service.add_jobs(1, parameters={"line": "x"})
    pilot.start()
    wait_until(lambda: service.events(job_id) == ["started"] and running(pilot, READER), 60)
    service.stop()
    (reader,) = running(pilot, READER)
    os.kill(reader, signal.SIGKILL)
    (pilot.data / f"job{job_id}" / "more").write_text("boom\n")
    wait_until(lambda: not running(pilot, "until [ -e go ]"), 60)
    service.start()
    wait_until(lambda: service.events(job_id) == ["started", "run_error"], 60)
    assert records(service, job_id, "run_error")[0]["failure"] == "monitor"


def test_rules_are_followed_again_under_the_next_launcher_of_the_allocation(pilot: Pilot, service: FakeService) -> None:
    """The launcher dies, its guardian starts another one, the Job runs again: what was written before is not looked at,
    what this attempt writes is, and a rule that was met acts once more."""
    monitors = {
        "seen": {"action": "notify", "pattern": "^begin"},
        "bad": {"action": "kill", "file": "data", "pattern": "boom", "restarts": 1},
    }
    service.add_app(WAITS, monitors=monitors)
    (job_id,) = service.add_jobs(1, parameters={"line": "x"})
    pilot.start()
    wait_until(lambda: len(records(service, job_id, "noted")) == 1 and running(pilot, READER), 60)
    (first,) = running(pilot, READER)
    pilot.loops()[0].kill()
    wait_until(lambda: not running(pilot, "until [ -e go ]"), 60)
    data = pilot.data / f"job{job_id}" / "data"
    with data.open("a") as file:
        file.write("boom\n")  # between the two attempts
    wait_until(lambda: len(records(service, job_id, "noted")) == 2, 60)
    assert first not in running(pilot, READER)
    assert service.events(job_id) == ["started", "noted", "lease_ended", "started", "noted"]
    with data.open("a") as file:
        file.write("boom\n")
    wait_until(lambda: service.events(job_id)[-1:] == ["run_error"], 60)
    (record,) = records(service, job_id, "run_error")
    assert (record["failure"], record["restarts"]) == ("monitor", 1)
    assert record["message"] == "monitor bad: data has 'boom': boom"
