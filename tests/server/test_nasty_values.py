"""Values that programs trip over, in every field of what is written and asked, on both databases (T6).

Each is answered with what is wrong, or is taken; and what was taken stands in nobody's way: every question about Jobs,
events and allocations is still answered, by what holds the value and by what stands beside it. That a request gets as
far as its value is seen by a good one, which has to be taken.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any
from urllib.parse import quote_from_bytes

import httpx2
import pytest

from balsam.wire.kinds import JOB_FIELDS, OPS, Kind
from tests.server.world import Person, furnish, make_jobs, make_user, ok
from tests.services import RunningService, running_service
from tests.testbed.postgres import PostgresServer

pytestmark = pytest.mark.timeout(300)

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
TAGGED = "k:here a text goes"  # KEY:VALUE, where the value is a text
LONGEST_LINE = 4096  # of a query string; what is longer is refused before it is read


@dataclass(frozen=True)
class Ask:
    """A request with HERE or TAGGED in the place of one value, and one that is taken there as JSON (none: NOTHING)."""

    method: str
    path: str
    body: dict[str, Any]
    good: Any
    as_site: bool = False


NOTHING = object()


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


@pytest.fixture(scope="module")
def own_jobs(service: RunningService, ann: Person) -> list[int]:
    """One Job for each request that changes one: what one has written is still there when the questions are asked."""
    with service.client(ann.token) as client:
        return make_jobs(client, ann.app_id, 50)


_number = count(1)


def anew(text: str) -> str:
    """What has to be another one each time, as a name."""
    return f"{text}{next(_number)}"


def of_jobs(ann: Person, jobs: Iterator[int], fresh: Callable[[], int]) -> Iterator[Ask]:
    job = {"app_id": ann.app_id, "workdir": "nasty"}
    documents: dict[str, dict[str, Any]] = {
        "tags": {"k": "v"},
        "parameters": {"word": "v"},
        "data": {"k": 1},
        "launch_params": {"k": "v"},
    }
    fields: dict[str, Any] = {
        **documents,
        "workdir": "v",
        "num_nodes": 2,
        "gpus_per_rank": 0.5,
        "wall_time_min": 3,
        "priority": 4,
    }
    fields["max_attempts"] = 5
    for name, good in {**fields, "parent_ids": [], "transfers": {}}.items():
        yield Ask("POST", "/api/jobs", {"jobs": [{**job, name: HERE}]}, good)
    for name, good in {**fields, "merge_tags": {"k": "w"}, "merge_data": {"k": 2}}.items():
        yield Ask("PATCH", "/api/jobs", {"patches": {str(next(jobs)): {name: HERE}}}, good)
    for name, inside in documents.items():
        [key] = inside
        below: dict[str, Any] = {key: HERE, "x": 1} if name == "data" else {key: HERE}
        yield Ask("POST", "/api/jobs", {"jobs": [{**job, name: below}]}, "v")
        yield Ask("PATCH", "/api/jobs", {"patches": {str(next(jobs)): {name: below}}}, "v")
        some = {"filter": {"id": [next(jobs)]}, "patch": {name: below}}
        yield Ask("POST", "/api/jobs/update", some, "v")
    for name in ("merge_tags", "merge_data"):
        yield Ask("PATCH", "/api/jobs", {"patches": {str(next(jobs)): {name: {"k": HERE}}}}, "v")
    yield Ask("PATCH", "/api/jobs", {"patches": {str(fresh()): {"state": HERE}}}, "CANCELLED")
    for name, good in {"state_data": {"k": 1}, "state_timestamp": "2026-01-01T00:00:00Z"}.items():
        wish: dict[str, Any] = {"state": "CANCELLED", name: HERE}
        yield Ask("PATCH", "/api/jobs", {"patches": {str(fresh()): wish}}, good)
    for inner in ({"k": HERE, "x": 1}, {"k": [HERE]}, {"k": {"k": HERE}}):
        wish = {"state": "CANCELLED", "state_data": inner}
        yield Ask("PATCH", "/api/jobs", {"patches": {str(fresh()): wish}}, "v")
    yield Ask("POST", "/api/jobs/cancel", {"filter": {"id": [fresh()]}, "reason": HERE}, "v")


def of_others(ann: Person) -> Iterator[Ask]:
    app = {"site_id": ann.site_id, "name": "nasty", "command_template": "true"}
    whole: dict[str, Any] = {
        "name": "nasty_too",
        "command_template": "false",
        "code": None,
        "monitors": {},
        "hooks": [],
    }
    whole |= {"parameters": {}, "transfers": {}, "environment_variables": {"A": "v"}, "cleanup_files": ["v"]}
    whole |= {"description": "v", "source_code": "v"}
    for name, good in whole.items():
        yield Ask("PUT", "/api/apps", {**app, name: HERE}, good)
    yield Ask("PUT", "/api/apps", {**app, "environment_variables": {"A": HERE}}, "v")
    for name in ("default", "help"):
        asked = {
            "command_template": "echo {{ a }}",
            "parameters": {"a": {"required": False, "default": "v", name: HERE}},
        }
        yield Ask("PUT", "/api/apps", {**app, **asked}, "v")
    yield Ask("PUT", "/api/apps", {**app, "rename_from": HERE}, NOTHING)
    site: dict[str, Any] = {
        "name": anew("there"),
        "path": "/v",
        "hostname": "v",
        "allowed_projects": ["local"],
        "python": "3.12",
    }
    site |= {"optional_batch_job_params": {"k": "v"}, "transfer_locations": {"client": "client:"}}
    for name, good in site.items():
        yield Ask("PATCH", f"/api/sites/{ann.site_id}", {name: HERE}, good)
        yield Ask(
            "POST", "/api/sites", {"name": anew("s"), "path": "/v", name: HERE}, anew("n") if name == "name" else good
        )
    for name in ("backfill_windows", "queued_jobs", "scaling"):
        yield Ask("PATCH", f"/api/sites/{ann.site_id}", {name: HERE}, {"k": 1}, as_site=True)
        yield Ask("PATCH", f"/api/sites/{ann.site_id}", {name: {"k": HERE}}, 1, as_site=True)
    agent = {"instance": "v", "hostname": "h", "pid": 1}
    for name in ("hostname", "pid", "replaces"):
        yield Ask("POST", f"/api/sites/{ann.site_id}/agent", {**agent, name: HERE}, agent.get(name, ""), as_site=True)
    batch: dict[str, Any] = {
        "num_nodes": 1,
        "wall_time_min": 10,
        "queue": "local",
        "project": "local",
        "job_mode": "mpi",
    }
    batch |= {"filter_tags": {"k": "v"}, "optional_params": {}, "partitions": None}
    for name, good in batch.items():
        yield Ask("POST", "/api/batch-jobs", {**batch, "site_id": ann.site_id, name: HERE}, good)
    yield Ask("POST", "/api/batch-jobs", {**batch, "site_id": ann.site_id, "filter_tags": {"k": HERE}}, "v")
    place = f"/api/batch-jobs/{ann.batch_job_id}"
    for name, good in {"status_info": {"k": 1}, "scheduler_id": "v", "start_time": "2026-01-01T00:00:00Z"}.items():
        yield Ask("PATCH", place, {name: HERE}, good, as_site=True)
    for inner in ({"k": HERE, "x": 1}, {"k": [HERE]}):
        yield Ask("PATCH", place, {"status_info": inner}, 1, as_site=True)
    yield Ask("POST", "/api/teams", {"name": HERE}, anew("team"))
    yield Ask("PUT", f"/api/teams/{ann.team_id}/members", {"username": HERE}, NOTHING)
    yield Ask("PUT", "/api/shares", {"team_id": ann.team_id, "role": "viewer", "campaign": HERE}, "v")
    token: dict[str, Any] = {"label": "v", "scopes": ["jobs:read"], "days": 1, "site_id": ann.site_id}
    for name, good in token.items():
        yield Ask("POST", "/api/tokens", {**token, name: HERE}, good)
    yield Ask("POST", "/api/auth/login", {"username": HERE, "password": "x"}, NOTHING)
    yield Ask("POST", "/api/auth/login", {"username": "nobody", "password": HERE}, NOTHING)


def of_filters(ann: Person) -> Iterator[Ask]:
    """Look-ups and filters, as bodies."""
    for path in ("jobs", "jobs/counts", "events", "batch-jobs", "sites", "apps"):
        yield Ask("POST", f"/api/{path}/search", {"where": [{"field": "id", "op": "gt", "value": HERE}]}, 1)
    for op in OPS:
        asked: Any = [HERE] if op == "in" else HERE
        fields: dict[str, Any] = {"data": "v", "tags": "v", "workdir": "v", "num_nodes": 1}
        fields["created_at"] = "2026-01-01T00:00:00Z"
        for name, good in fields.items():
            below = ["k"] if name in ("data", "tags") else []
            wanted = {"where": [{"field": name, "path": below, "op": op, "value": asked}]}
            fits = name in ("data", "tags") or op in ("eq", "ne", "in", "isnull")
            yield Ask("POST", "/api/jobs/search", wanted, True if op == "isnull" else good if fits else NOTHING)
        wanted = {"where": [{"field": "data", "path": ["k"], "op": op, "value": asked}]}
        yield Ask("POST", "/api/events/search", wanted, op == "isnull" or "v")
    yield Ask("POST", "/api/jobs/search", {"where": [{"field": "data", "path": [HERE], "value": 1}]}, "v")
    yield Ask("POST", "/api/jobs/search", {"where": [{"field": "workdir", "op": "in", "value": ["v", HERE]}]}, "v")
    yield Ask("POST", "/api/jobs/groups/search", {"by": HERE}, "state")
    yield Ask("POST", "/api/jobs/groups/search", {"by": "data", "path": [HERE]}, "v")
    yield Ask("POST", "/api/jobs/groups/search", {"by": "data", "path": ["k", HERE]}, "v")
    times = {"timestamp_before": "2026-01-01T00:00:00Z"}
    of_jobs: dict[str, Any] = {
        "id": [1],
        "parent_id": [1],
        "tags": ["k:v"],
        "state": ["READY"],
        "workdir__contains": "v",
    }
    of_jobs |= {"app_name": "v", "submitted_by": "v", "ordering": "id", "limit": 1, "offset": 1, "after": 1}
    named: dict[str, dict[str, Any]] = {
        "jobs": {**of_jobs, "last_update_before": times["timestamp_before"]},
        "events": {"app_name": "v", "workdir__contains": "v", "scheduler_id": "v", "data": ["k:v"], "id": [1], **times},
        "batch-jobs": {"scheduler_id": "v", "queue": "v", "filter_tags": ["k:v"], "site_id": [1], "offset": 1},
        "sites": {"name": "v", "path": "v", "id": [1], "offset": 1},
        "apps": {"name": "v", "site_name": "v", "site_path": "v", "id": [1]},
    }
    for path, filters in named.items():
        for name, good in filters.items():
            if isinstance(good, list):
                yield Ask("POST", f"/api/{path}/search", {name: [HERE]}, good[0])
            yield Ask("POST", f"/api/{path}/search", {name: HERE}, good)
            yield Ask("GET", f"/api/{path}?{name}=", {}, good[0] if isinstance(good, list) else good)
    for path, name in (("jobs", "tags"), ("events", "tags"), ("events", "data"), ("batch-jobs", "filter_tags")):
        yield Ask("POST", f"/api/{path}/search", {name: [TAGGED]}, "v")
        yield Ask("GET", f"/api/{path}?{name}=k:", {}, "v")
    order = {"ordering": "workdir", "after": ann.job_id, "after_value": HERE}
    yield Ask("POST", "/api/jobs/search", order, "v")
    yield Ask("POST", "/api/events/search", {"after": 1, "after_value": HERE}, "2026-01-01T00:00:00Z")


def questions() -> Iterator[tuple[str, dict[str, Any]]]:
    """What people ask of everything that they may see."""
    for kind in ("jobs", "jobs/counts", "batch-jobs", "apps", "sites", "events", "transfers"):
        yield f"/api/{kind}/search", {}
    values: dict[str, Any] = {"in": ["a", 1, None], "isnull": True, "ne": 1, "gt": 1.5, "lte": 1.5, "endswith": 1}
    for name in (name for name, kind in JOB_FIELDS.items() if kind is Kind.JSON):
        for key in ("word",) if name == "parameters" else ("k", "x") if name == "data" else ("k",):
            yield "/api/jobs/groups/search", {"by": name, "path": [key]}
            for op in OPS:
                wanted = {"path": [key], "op": op, "value": values.get(op, "a")}
                yield "/api/jobs/search", {"where": [{"field": name, **wanted}], "limit": 1}  # all are counted
    for op in OPS:
        wanted = {"path": ["k"], "op": op, "value": values.get(op, "a")}
        yield "/api/jobs/counts/search", {"where": [{"field": "data", **wanted}]}
        yield "/api/events/search", {"where": [{"field": "data", **wanted}]}
        for name in ("filter_tags", "status_info"):
            yield "/api/batch-jobs/search", {"where": [{"field": name, **wanted}]}
    yield "/api/jobs/search", {"tags": ["k:a"]}
    yield "/api/events/search", {"data": ["k:a"]}
    yield "/api/events/search", {"data": ["x:1"]}
    yield "/api/batch-jobs/search", {"filter_tags": ["k:a"]}
    yield "/api/jobs/search", {"workdir__contains": "a", "ordering": "workdir"}


def sent(client: httpx2.Client, ask: Ask, value: str) -> httpx2.Response | None:
    """The answer to the request with this JSON text in its place; None where it has none for such a value."""
    is_text = value.startswith('"')
    if ask.method == "GET":
        text: str = json.loads(value) if is_text else value
        words = quote_from_bytes(text.encode(errors="surrogatepass"))
        return client.get(ask.path + words) if len(words) <= LONGEST_LINE else None
    body = json.dumps(ask.body)
    if not is_text and json.dumps(TAGGED) in body:
        return None
    body = body.replace(json.dumps(HERE), value).replace(json.dumps(TAGGED), f'"k:{value[1:]}')
    return client.request(ask.method, ask.path, content=body.encode(), headers={"Content-Type": "application/json"})


def every(service: RunningService, ann: Person, own_jobs: list[int]) -> Iterator[tuple[httpx2.Client, Ask]]:
    """Each request, with who makes it."""
    with service.client(ann.token) as client, service.client(ann.site_token) as agent:
        asks = of_jobs(ann, iter(own_jobs), lambda: make_jobs(client, ann.app_id)[0])
        for some in (asks, of_others(ann), of_filters(ann)):
            for ask in some:
                yield agent if ask.as_site else client, ask


def is_answered(service: RunningService, person: Person) -> None:
    """Every question is, whatever has been written."""
    with service.client(person.token) as client:
        for path, body in questions():
            reply = client.post(path, json=body)
            assert reply.status_code == 200, (path, body, reply.text)
        for path in ("jobs", "jobs/counts", "batch-jobs", "apps", "sites", "events", "tokens", "teams", "shares"):
            assert client.get(f"/api/{path}").status_code == 200, path


def test_t6_a_good_value_is_taken_everywhere(service: RunningService) -> None:
    """Or nothing would be shown by how the others are answered. Of somebody's own, whose things are as they were."""
    eve = furnish(service, make_user(service, "eve"))
    with service.client(eve.token) as client:
        jobs = make_jobs(client, eve.app_id, 50)
    refused = []
    for one, ask in every(service, eve, jobs):
        reply = None if ask.good is NOTHING else sent(one, ask, json.dumps(ask.good))
        if reply is not None and (reply.status_code >= 300 or reply.json().get("changed") == 0):
            refused.append((ask, reply.text))
    assert not refused
    is_answered(service, eve)


@pytest.mark.parametrize("value", VALUES, ids=lambda value: value if len(value) < 30 else f"{value[:20]}-{len(value)}")
def test_t6_a_value_is_taken_or_refused_and_stands_in_nobody_s_way(
    value: str, service: RunningService, ann: Person, own_jobs: list[int]
) -> None:
    beside, told = 0, len(service.log)
    for client, ask in every(service, ann, own_jobs):
        reply = sent(client, ask, value)
        if reply is None:
            continue
        assert reply.status_code < 500, (ask, reply.text)
        if reply.status_code >= 400:
            assert reply.json()["error"]["message"], (ask, reply.text)
        beside += reply.status_code == 201 and ask.path == "/api/jobs" and '"x": 1' in json.dumps(ask.body)
    is_answered(service, ann)
    with service.client(ann.token) as client:
        found = ok(client.post("/api/jobs/search", json={"where": [{"field": "data", "path": ["x"], "value": 1}]}))
        assert found["count"] >= beside
    assert "Traceback" not in service.log[told:]


def test_t6_what_a_launcher_reports_is_taken_or_refused(service: RunningService) -> None:
    ben, before = furnish(service, make_user(service, "ben")), len(service.log)
    with service.client(ben.launcher_token) as launcher:
        place = f"/api/sessions/{ben.session_id}"
        [job] = ok(launcher.post(f"{place}/acquire", json={"acquire_seq": 1, "max_jobs": 5}))["jobs"]
        record = {"job_id": job["id"], "token": job["token"], "at": "2026-01-01T00:00:00Z"}
        for number, value in enumerate(VALUES, start=1):
            for fields in ({"data": {"k": HERE}}, {"data": HERE}, {"event": HERE}, {"at": HERE}, {"return_code": HERE}):
                told = {**record, "seq": 10 * number, "event": "started", **fields}
                reply = sent(launcher, Ask("POST", f"{place}/report", {"records": [told]}, NOTHING), value)
                assert reply is not None
                assert reply.status_code < 500, (fields, value[:40], reply.text)
            is_answered(service, ben)
    assert "Traceback" not in service.log[before:]
