"""/metrics and the log: numbers over everybody for administrators only, and lines that name their request."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from balsam.server import logs
from tests.server.world import Person, furnish, make_user, ok
from tests.services import RunningService, running_service
from tests.testbed.postgres import PostgresServer

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    home = tmp_path_factory.mktemp("home") / "balsam"
    with running_service(home, options=("--access-log", "--log-format", "json")) as started:
        yield started


@pytest.fixture(scope="module")
def ann(service: RunningService) -> Person:
    return furnish(service, make_user(service, "ann"))


def scraped(service: RunningService, token: str | None = None) -> Samples:
    with service.client(token) as client:
        reply = client.get("/metrics")
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(reply.text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, frozenset(labels.items())]


def test_the_numbers_are_those_of_everybody(service: RunningService, ann: Person) -> None:
    before = scraped(service)
    with service.client(ann.token) as client:
        body = {"jobs": [{"app_id": ann.app_id, "workdir": "more"}] * 7}
        ok(client.post("/api/jobs", json=body))
        counts = ok(client.get("/api/jobs/counts"))["counts"]
    with service.client(ann.launcher_token) as client:
        ok(client.post(f"/api/sessions/{ann.session_id}/renew"))
    after = scraped(service)
    for state, number in counts.items():
        assert value(after, "balsam_jobs", state=state) == number
    assert value(after, "balsam_jobs", state="PREPROCESSED") - value(before, "balsam_jobs", state="PREPROCESSED") == 7
    assert 0 < value(after, "balsam_oldest_job_age_seconds", state="PREPROCESSED") < 600
    assert value(after, "balsam_oldest_job_age_seconds", state="CREATED") == 0
    assert value(after, "balsam_transfer_backlog", direction="in", state="pending") == 1
    assert 0 < value(after, "balsam_oldest_transfer_age_seconds", direction="in", state="pending") < 600
    assert value(after, "balsam_sessions", purpose="run") == 1
    assert 0 <= value(after, "balsam_session_silence_seconds", purpose="run") < 600
    assert value(after, "balsam_sites", agent="offline") == 1
    renewals = "balsam_lease_renewals_total"
    assert value(after, renewals, holder="session") - value(before, renewals, holder="session") == 1


def test_latencies_are_by_pattern_and_never_by_what_users_wrote(service: RunningService, ann: Person) -> None:
    with service.client(ann.token) as client:
        ok(client.get(f"/api/jobs/{ann.job_id}"))
        client.get("/api/jobs/987654321")
        client.get("/somewhere/secret-name")
        client.get("/api/secret-name")
    found = scraped(service)
    labels = {"method": "GET", "route": "/api/jobs/{job_id}"}
    assert value(found, "balsam_request_seconds_count", status="200", **labels) >= 1
    assert value(found, "balsam_request_seconds_count", status="404", **labels) >= 1
    assert value(found, "balsam_transaction_seconds_count", kind="write") >= 1
    assert value(found, "balsam_transaction_seconds_count", kind="read") >= 1
    assert not [key for key in found if "secret-name" in str(key) or "987654321" in str(key)]
    assert not [name for name, _ in found if name.endswith("_created")], "a series more for each, of no use"


def test_only_administrators_and_their_scoped_tokens_read_them(service: RunningService, ann: Person) -> None:
    with service.client() as admin:
        made = {scope: _token(admin, scope) for scope in ("metrics:read", "jobs:read")}
    assert scraped(service, made["metrics:read"])
    for token, status in (("", 401), (ann.token, 403), (ann.site_token, 403), (made["jobs:read"], 403)):
        with service.client(token) as client:
            assert client.get("/metrics").status_code == status
    with service.client(made["metrics:read"]) as program:
        for path in ("/api/jobs", "/api/sites", "/api/users"):
            assert program.get(path).status_code == 403


def _token(admin: object, scope: str) -> str:
    return str(ok(admin.post("/api/tokens", json={"label": scope, "scopes": [scope]}))["token"])  # type: ignore[attr-defined]


def test_each_request_leaves_a_line_with_its_id(service: RunningService, ann: Person) -> None:
    with service.client(ann.token) as client:
        reply = client.get(f"/api/jobs/{ann.job_id}")
        forged = client.get("/api/x%0A%7B%22level%22:%22forged%22%7D")
        refused = client.get("/api/users")
    lines = [json.loads(line) for line in service.log.splitlines()]
    by_id = {line["request_id"]: line for line in lines if "request_id" in line}
    line = by_id[reply.headers["x-request-id"]]
    assert (line["method"], line["path"], line["status"]) == ("GET", f"/api/jobs/{ann.job_id}", 200)
    assert (line["user"], line["address"]) == ("ann", "127.0.0.1")
    assert line["duration_ms"] > 0
    line = by_id[refused.headers["x-request-id"]]
    assert (line["status"], line["user"]) == (403, "ann"), "who is refused is known"
    assert by_id[forged.headers["x-request-id"]]["path"] == '/api/x\n{"level":"forged"}'
    assert ann.token not in service.log


def test_a_plain_line_is_one_line_whatever_is_in_it() -> None:
    record = logging.LogRecord("balsam", logging.INFO, "", 0, "path %s", ("/a\nb\x1b[31m",), None)
    assert logs.TextFormatter().format(record).endswith("INFO balsam: path /a\\x0ab\\x1b[31m")
    try:
        raise ValueError("why")
    except ValueError:
        failed = logging.LogRecord("balsam", logging.ERROR, "", 0, "it failed", (), sys.exc_info())
    assert "ValueError: why" in logs.TextFormatter().format(failed)
    assert "ValueError: why" in json.loads(logs.JsonFormatter().format(failed))["error"]


@pytest.mark.slow
def test_whichever_of_several_processes_is_asked_tells_of_all(
    postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with postgres.migrated() as address:
        home, env = tmp_path_factory.mktemp("home") / "balsam", {"BALSAM_DATABASE": address.text}
        with running_service(home, options=("--workers", "2"), env=env) as several:
            for _ in range(20):
                with several.client() as client:  # a connection of its own, so with either process
                    ok(client.get("/api/sites"))
            labels = {"method": "GET", "route": "/api/sites", "status": "200"}
            counts = {value(scraped(several), "balsam_request_seconds_count", **labels) for _ in range(6)}
    assert counts == {20.0}
