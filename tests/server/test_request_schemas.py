"""T4: no request sets a field that is not its own to set. Unknown and read-only fields are refused, on every route."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from balsam.domain.clock import SystemClock
from balsam.server.app import create_app
from balsam.server.settings import ServerSettings
from balsam.server.store.memory import MemoryStore
from tests.server.world import Person, batch_job_body, furnish, make_user, ok
from tests.services import RunningService

pytestmark = pytest.mark.slow

# Kept by the service alone; JobView and the other replies show them.
READ_ONLY = ("id", "owner_id", "state_history", "attempt", "created_at", "last_update", "submitted_by", "session_id")


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return create_app(ServerSettings(), MemoryStore(), SystemClock()).openapi()


def bodies(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each route that takes JSON, with its schema."""
    for path in document["paths"].values():
        for operation in path.values():
            content = operation.get("requestBody", {}).get("content", {})
            if "application/json" in content:
                yield operation["operationId"], content["application/json"]["schema"]


def objects(document: dict[str, Any], schema: Any, seen: set[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object with named fields below a schema, by the name of the schema."""
    if isinstance(schema, list):
        for each in schema:
            yield from objects(document, each, seen)
    if not isinstance(schema, dict):
        return
    if (name := schema.get("$ref", "").rpartition("/")[2]) and name not in seen:
        seen.add(name)
        yield from objects(document, document["components"]["schemas"][name], seen)
    if "properties" in schema:
        yield schema.get("title", "?"), schema
    for key, below in schema.items():
        yield from objects(document, list(below.values()) if key == "properties" else below, seen)


def test_t4_every_object_in_every_body_takes_its_own_fields_only(document: dict[str, Any]) -> None:
    routes = list(bodies(document))
    assert len(routes) > 25
    found = {(route, name): schema for route, body in routes for name, schema in objects(document, body, set())}
    assert len(found) > len(routes)
    open_ones = [place for place, schema in found.items() if schema.get("additionalProperties") is not False]
    assert not open_ones, "extra fields would be passed over in silence"


def numbers(schema: Any) -> Iterator[dict[str, Any]]:
    """The schema of every whole number below a schema."""
    if isinstance(schema, list):
        for each in schema:
            yield from numbers(each)
    if isinstance(schema, dict):
        if schema.get("type") == "integer":
            yield schema
        for below in schema.values():
            yield from numbers(below)


def test_every_whole_number_of_a_request_has_a_range_that_a_database_holds(document: dict[str, Any]) -> None:
    """What is beyond it would be the database's to refuse, as a fault of ours (500)."""
    asked = {(route, name): found for route, body in bodies(document) for name, found in objects(document, body, set())}
    for operation in (one for path in document["paths"].values() for one in path.values()):
        queries = [one for one in operation.get("parameters", []) if one["in"] == "query"]
        asked |= {(operation["operationId"], one["name"]): one["schema"] for one in queries}
    found = [(place, number) for place, schema in asked.items() for number in numbers(schema)]
    assert len(found) > 100
    for place, number in found:
        low = number.get("minimum", number.get("exclusiveMinimum"))
        high = number.get("maximum", number.get("exclusiveMaximum"))
        assert low is not None and high is not None and low >= -(2**63) and high <= 2**63, f"{place}: {number}"


def test_a_number_that_no_database_holds_is_refused_and_so_is_one_in_quotes(
    service: RunningService, ann: Person
) -> None:
    with service.client(ann.token) as client:
        for wrong in (2**63, "3", 3.5, True):
            job = {"app_id": ann.app_id, "workdir": "x", "max_attempts": wrong}
            reply = client.post("/api/jobs", json={"jobs": [job]})
            assert reply.status_code == 422 and "jobs[0].max_attempts" in reply.text, f"{wrong!r}: {reply.text}"
        assert client.get(f"/api/jobs?after={2**63}").status_code == 422


@pytest.fixture(scope="module")
def ann(service: RunningService) -> Person:
    return furnish(service, make_user(service, "ann"))


@pytest.mark.parametrize("field", READ_ONLY)
def test_t4_fields_that_the_service_keeps_are_refused_by_name(service: RunningService, ann: Person, field: str) -> None:
    job = {"app_id": ann.app_id, "workdir": "x", field: 1}
    asks: list[tuple[str, str, Any]] = [
        ("POST", "/api/jobs", {"jobs": [job]}),
        ("PATCH", "/api/jobs", {"patches": {str(ann.job_id): {field: 1}}}),
        ("POST", "/api/jobs/update", {"filter": {}, "patch": {}, field: 1}),
        ("POST", "/api/jobs/retry", {"filter": {}, field: 1}),
        ("POST", "/api/sites", {"name": "n", "path": "/n", field: 1}),
        ("PATCH", f"/api/sites/{ann.site_id}", {field: 1}),
        ("PUT", "/api/apps", {"site_id": ann.site_id, "name": "n", "command_template": "echo", field: 1}),
        ("POST", "/api/batch-jobs", {**batch_job_body(ann.site_id), field: 1}),
        ("POST", "/api/teams", {"name": "n", field: 1}),
        ("POST", "/api/tokens", {"label": "n", "scopes": ["jobs:read"], field: 1}),
    ]
    with service.client(ann.token) as client:
        before = ok(client.get(f"/api/jobs/{ann.job_id}"))
        for method, path, body in asks:
            reply = client.request(method, path, json=body)
            assert reply.status_code == 422, f"{method} {path}: {reply.text}"
            places = [each["where"] for each in reply.json()["error"]["details"]]
            assert any(place.rpartition(".")[2] == field for place in places), f"{method} {path}: {places}"
        assert ok(client.get(f"/api/jobs/{ann.job_id}")) == before
