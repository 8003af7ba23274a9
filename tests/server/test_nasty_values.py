"""Values that programs trip over, in every field of what is written and asked, on both databases (T6).

Each is answered with what is wrong, or is taken; and what was taken stands in nobody's way: every question about Jobs,
events and allocations is still answered, by what holds the value and by what stands beside it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.server.world import Person, furnish, make_user, ok
from tests.services import RunningService, running_service
from tests.testbed.postgres import PostgresServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

# JSON texts, some of which are no JSON.
VALUES = [
    *(
        '""',
        '"\\u0000"',
        '"a\\u0000b"',
        '"\\\\u0000"',
        '"\\ud800"',
        '"\\udfff\\ud800"',
        '"\\ufdd0"',
        '"\\u202e"',
        '"%s%n"',
    ),
    *('"' + "x" * 1_000_000 + '"', '"\N{GRINNING FACE}\\n\\r\\t"', '"1e999"', '"NaN"', '"\' OR 1=1 --"'),
    *("0", "-0.0", "9223372036854775807", "9223372036854775808", "-9223372036854775809", "9" * 400, "-" + "9" * 400),
    *("9" * 5000, "1e308", "1e309", "-1e999", "5e-324", "1e-999", "0.1e1000000000", "NaN", "Infinity", "-Infinity"),
    *(
        "null",
        "true",
        "[]",
        "{}",
        "[" * 10_000,
        "[" * 31 + "]" * 31,
        "[" * 5_000 + "]" * 5_000,
        '{"a":' * 40 + "1" + "}" * 40,
    ),
    *('{"\\u0000": 1}', '{"a": "\\u0000"}', '{"a": {"b\\u0000": ["\\u0000"]}}', '{"": ""}', '{"a": 1, "a": 2}'),
    *('["\\u0000"]', "[null]", "[[]]", '[{"a": []}]', '{"a": ' + "9" * 400 + "}", '{"__proto__": {"a": 1}}'),
]
HERE = "here the value goes"
Body = tuple[str, str, dict[str, Any]]


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    home = tmp_path_factory.mktemp("nasty") / "balsam"
    if request.param == "sqlite":
        with running_service(home) as started:
            yield started
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    with server.migrated() as address, running_service(home, env={"BALSAM_DATABASE": address.text}) as started:
        yield started


@pytest.fixture(scope="module")
def ann(service: RunningService) -> Person:
    return furnish(service, make_user(service, "ann"))


def bodies(ann: Person) -> Iterator[Body]:
    """Of every route that writes text or JSON: method, path, and a body with HERE in the place of one value."""
    job: dict[str, Any] = {"app_id": ann.app_id, "workdir": "nasty"}
    of_jobs: dict[str, Any] = {
        **dict.fromkeys(("workdir", "tags", "parameters", "data", "launch_params", "parent_ids", "transfers"), HERE),
        **dict.fromkeys(("num_nodes", "gpus_per_rank", "wall_time_min", "priority", "max_attempts"), HERE),
    }
    for name in of_jobs:
        yield "POST", "/api/jobs", {"jobs": [{**job, name: HERE}]}
    for name, inner in (("tags", "k"), ("parameters", "word"), ("data", "k"), ("launch_params", "k")):
        yield "POST", "/api/jobs", {"jobs": [{**job, name: {inner: HERE, "x": 1} if name == "data" else {inner: HERE}}]}
        yield "PATCH", f"/api/jobs/{ann.job_id}", {name: {inner: HERE}}
    for name in (*of_jobs, "state", "state_data", "state_timestamp", "return_code"):
        yield "PATCH", f"/api/jobs/{ann.job_id}", {name: HERE}
    app = {"site_id": ann.site_id, "name": "nasty", "command_template": "true"}
    for name in ("name", "command_template", "description", "parameters", "transfers", "environment_variables", "code"):
        yield "PUT", "/api/apps", {**app, name: HERE}
    yield "PUT", "/api/apps", {**app, "environment_variables": {"A": HERE}}
    yield "PUT", "/api/apps", {**app, "parameters": {"a": {"required": False, "default": HERE}}}
    for name in ("name", "path", "hostname", "allowed_projects", "optional_batch_job_params", "transfer_locations"):
        yield "PATCH", f"/api/sites/{ann.site_id}", {name: HERE}
    batch = {"site_id": ann.site_id, "num_nodes": 1, "wall_time_min": 10, "queue": "local", "project": "local"}
    for name in ("num_nodes", "queue", "project", "job_mode", "filter_tags", "optional_params", "partitions"):
        yield "POST", "/api/batch-jobs", {**batch, "job_mode": "mpi", name: HERE}
    yield "POST", "/api/batch-jobs", {**batch, "job_mode": "mpi", "filter_tags": {"k": HERE}}
    yield "POST", "/api/teams", {"name": HERE}
    yield "POST", "/api/tokens", {"label": HERE, "scopes": ["jobs:read"]}
    yield "POST", "/api/auth/login", {"username": HERE, "password": "x"}
    yield "POST", "/api/jobs/cancel", {"filter": {"id": [ann.staging_job_id]}, "reason": HERE}
    yield "POST", "/api/jobs/update", {"filter": {"workdir": "nobody's"}, "patch": {"data": {"k": HERE}}}
    for path in ("jobs", "jobs/counts", "events", "batch-jobs", "sites", "apps"):
        yield "POST", f"/api/{path}/search", {"where": [{"field": "id", "op": "gt", "value": HERE}]}
    for op in ("eq", "ne", "gt", "lte", "contains", "startswith", "endswith", "isnull", "in"):
        asked = [HERE] if op == "in" else HERE
        for name, below in (("workdir", []), ("data", ["k"]), ("tags", ["k"]), ("num_nodes", []), ("created_at", [])):
            yield "POST", "/api/jobs/search", {"where": [{"field": name, "path": below, "op": op, "value": asked}]}
    yield "POST", "/api/jobs/search", {"where": [{"field": "data", "path": [HERE], "op": "eq", "value": 1}]}
    for name in ("id", "tags", "workdir_contains", "state", "app_name", "order_by", "limit", "after"):
        yield "POST", "/api/jobs/search", {name: HERE}
    yield "POST", "/api/jobs/groups/search", {"by": HERE}
    yield "POST", "/api/jobs/groups/search", {"by": "data", "path": [HERE]}


def questions() -> Iterator[tuple[str, dict[str, Any]]]:
    """What people ask of everything that they may see."""
    yield "/api/jobs/search", {}
    yield "/api/jobs/counts/search", {}
    yield "/api/batch-jobs/search", {}
    yield "/api/apps/search", {}
    yield "/api/sites/search", {}
    for name, key in (("data", "k"), ("data", "x"), ("tags", "k"), ("parameters", "word"), ("launch_params", "k")):
        yield "/api/jobs/groups/search", {"by": name, "path": [key]}
        for op, value in (
            ("eq", "a"),
            ("lt", 1.5),
            ("gt", "a"),
            ("contains", "a"),
            ("in", ["a", 1, None]),
            ("isnull", True),
        ):
            yield "/api/jobs/search", {"where": [{"field": name, "path": [key], "op": op, "value": value}]}
    yield "/api/events/search", {"where": [{"field": "data", "path": ["k"], "op": "contains", "value": "a"}]}
    yield "/api/batch-jobs/search", {"where": [{"field": "filter_tags", "path": ["k"], "op": "eq", "value": "a"}]}


def sent(client: httpx2.Client, method: str, path: str, body: dict[str, Any], value: str) -> httpx2.Response:
    text = json.dumps(body).replace(json.dumps(HERE), value)
    return client.request(method, path, content=text.encode(), headers={"Content-Type": "application/json"})


@pytest.mark.parametrize("value", VALUES, ids=lambda value: value if len(value) < 30 else f"{value[:20]}-{len(value)}")
def test_t6_a_value_is_taken_or_refused_and_stands_in_nobody_s_way(
    value: str, service: RunningService, ann: Person
) -> None:
    with service.client(ann.token) as client:
        for method, path, body in bodies(ann):
            reply = sent(client, method, path, body, value)
            assert reply.status_code < 500, (method, path, body, reply.text)
            if reply.status_code >= 400:
                assert reply.json()["error"]["message"], (method, path, body, reply.text)
        for path, body in questions():
            reply = client.post(path, json=body)
            assert reply.status_code == 200, (path, body, reply.text)
    assert "Traceback" not in service.log


def test_t6_what_a_launcher_reports_is_taken_or_refused(service: RunningService) -> None:
    ben = furnish(service, make_user(service, "ben"))
    with service.client(ben.launcher_token) as launcher, service.client(ben.token) as client:
        place = f"/api/sessions/{ben.session_id}"
        [job] = ok(launcher.post(f"{place}/acquire", json={"acquire_seq": 1, "max_jobs": 5}))["jobs"]
        record = {"job_id": job["id"], "token": job["token"], "at": "2026-01-01T00:00:00Z"}
        for number, value in enumerate(VALUES, start=1):
            for fields in ({"data": {"k": HERE}}, {"data": HERE}, {"event": HERE}, {"at": HERE}, {"return_code": HERE}):
                told = {**record, "seq": 10 * number, "event": "started", **fields}
                reply = sent(launcher, "POST", f"{place}/report", {"records": [told]}, value)
                assert reply.status_code < 500, (fields, value[:40], reply.text)
            for path, body in questions():
                assert client.post(path, json=body).status_code == 200, (path, body, value[:40])
    assert "Traceback" not in service.log
