"""The clock of the machine jumps by a day, forward and back, under a real service (S13): nothing ends by that.

The service's process is given a wrong wall clock by libfaketime; time.monotonic goes on as ever, as it does on a
machine whose clock is set.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.conformance.histories import until
from tests.server.sse import Listener
from tests.server.world import Person, batch_job_body, furnish, make_user, ok
from tests.services import RunningService, running_service

DAY = timedelta(days=1)
TURNS = (("+1d", DAY), ("+0", timedelta(0)), ("-1d", -DAY), ("+1d", DAY))  # in the end a jump of two days


class WrongClock:
    """What the clock of one service is wrong by."""

    def __init__(self, directory: Path) -> None:
        found = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
        if not found:
            pytest.skip("another clock for one process needs libfaketime (apt-get install libfaketime)")
        self._file = directory / "offset"
        self.set("+0")
        self.env = {"LD_PRELOAD": str(found[0]), "FAKETIME_TIMESTAMP_FILE": str(self._file)}
        self.env |= {"FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1"}

    def set(self, offset: str) -> None:
        new = self._file.with_suffix(".new")
        new.write_text(offset + "\n")
        new.rename(self._file)


@pytest.fixture
def clock(tmp_path: Path) -> WrongClock:
    return WrongClock(tmp_path)


@pytest.fixture
def service(tmp_path: Path, clock: WrongClock) -> Iterator[RunningService]:
    with running_service(tmp_path / "balsam", env=clock.env) as started:
        yield started


def submit(client: httpx2.Client, person: Person, key: str) -> Any:
    body = {"jobs": [{"app_id": person.app_id, "workdir": f"clock/{key}"}]}
    return ok(client.post("/api/jobs", json=body, headers={"Idempotency-Key": key}))["ids"]


def a_sweep_has_passed(agent: httpx2.Client, person: Person) -> None:
    """The Session of an allocation that has ended is taken away by the sweep, which looked at all others as well."""
    batch_job_id = ok(agent.post("/api/batch-jobs", json=batch_job_body(person.site_id)))["id"]
    asked = {"site_id": person.site_id, "batch_job_id": batch_job_id, "kind": "allocation"}
    session_id = ok(agent.post("/api/sessions", json=asked))["id"]
    ok(agent.patch(f"/api/batch-jobs/{batch_job_id}", json={"state": "finished"}))
    until(lambda: session_id not in [one["id"] for one in ok(agent.get("/api/sessions"))["results"]], 30.0)


def test_s13_nothing_ends_when_the_clock_jumps_by_a_day(clock: WrongClock, service: RunningService) -> None:
    ann = furnish(service, make_user(service, "ann"))
    with service.client(ann.token) as user, service.client(ann.site_token) as agent:
        short = ok(user.post("/api/tokens", json={"label": "short", "scopes": ["jobs:read"], "days": 1}))["token"]
        keys = {"first": submit(user, ann, "first")}
        lease = {"instance": "one", "hostname": "login1", "pid": 7}
        ok(agent.post(f"/api/sites/{ann.site_id}/agent", json=lease))
        with Listener(service, "/api/jobs/stream", ann.token) as stream:
            for offset, wrong in TURNS:
                clock.set(offset)
                told = datetime.fromisoformat(ok(user.get("/api/version"))["now"])
                assert abs(told - wrong - datetime.now(UTC)) < timedelta(minutes=5), "the clock did not jump"
                a_sweep_has_passed(agent, ann)
                # Sessions and what they hold
                assert ok(agent.post(f"/api/sessions/{ann.session_id}/renew"))["cancel"] == []
                # Tokens: who has logged in stays so; one of a day is over only while the clock says so
                assert ok(user.get("/api/auth/me"))["username"] == "ann"
                with service.client(short) as program:
                    assert program.get("/api/jobs").status_code == (401 if wrong > timedelta(0) else 200)
                # Idempotency keys
                before, heard = dict(keys), len(stream.events)
                assert {old: submit(user, ann, old) for old in before} == before
                key = uuid.uuid4().hex
                keys[key] = new = submit(user, ann, key)
                # Streams
                ok(user.post("/api/jobs/cancel", json={"filter": {"id": new}}))
                assert stream.wait("states", after=heard, timeout_sec=30)["jobs"][0][:2] == [new[0], "CANCELLED"]
                # The claim of the one agent
                assert ok(user.get(f"/api/sites/{ann.site_id}"))["is_active"]
                other = agent.post(f"/api/sites/{ann.site_id}/agent", json={**lease, "instance": "two"})
                assert other.json()["error"]["code"] == "agent_running"
                ok(agent.post(f"/api/sites/{ann.site_id}/agent", json=lease))
            assert stream.ended == ""
    assert "Traceback" not in service.log
