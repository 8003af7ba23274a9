"""Tokens for programs: scopes, one Site only, expiry, revocation; what each scope may do, taken from the routes."""

from __future__ import annotations

from typing import Any

import pytest

from balsam.domain.scopes import GIVEN, Scope, covers
from tests.server.test_routes_tenancy import MISSING, NAMED, SELECTING, answers, missing, only_of, without_numbers
from tests.server.world import PASSWORD, Person, furnish, make_user, ok
from tests.services import RunningService


def narrow_token(service: RunningService, person: Person, *scopes: str, **more: Any) -> str:
    with service.client(person.token) as client:
        made = ok(client.post("/api/tokens", json={"label": "program", "scopes": scopes, **more}))
    return str(made["token"])


@pytest.fixture(scope="module")
def ann(service: RunningService) -> Person:
    return furnish(service, make_user(service, "ann"))


@pytest.fixture(scope="module")
def operations(service: RunningService) -> dict[str, dict[str, Any]]:
    with service.client() as client:
        document = ok(client.get("/openapi.json"))
    return {operation["operationId"]: operation for path in document["paths"].values() for operation in path.values()}


@pytest.mark.slow
@pytest.mark.parametrize("has", GIVEN)
def test_a_scope_allows_what_its_routes_declare_and_nothing_else(
    has: Scope, service: RunningService, ann: Person, operations: dict[str, Any]
) -> None:
    """With ids that do not exist: what the scope allows is then 404, or finds nothing."""
    token = narrow_token(service, ann, has)
    for name, asks in {**NAMED, **SELECTING}.items():
        operation = operations[name]
        if "user" not in operation["x-balsam-kinds"]:
            continue
        status, found = answers(service, token, asks[0], missing(ann))
        if covers({has}, Scope(operation["x-balsam-scope"])):
            assert status in (200, 404), (name, found)
        else:
            assert status == 403, (name, found)
            assert operation["x-balsam-scope"] in found["error"]["message"] or "a login" in found["error"]["message"]


def test_every_route_declares_a_scope(operations: dict[str, Any]) -> None:
    for name, operation in operations.items():
        assert operation["x-balsam-scope"] in set(Scope), name


@pytest.mark.slow
def test_a_token_for_one_site_reaches_nothing_of_another(
    service: RunningService, ann: Person, operations: dict[str, Any]
) -> None:
    there = furnish(service, Person("ann there", ann.token))
    with service.client(ann.token) as client:
        ok(client.post("/api/jobs/delete", json={"filter": {"site_id": [there.site_id]}}))
    token = narrow_token(service, ann, *GIVEN, site_id=there.site_id)
    for name, asks in NAMED.items():
        operation = operations[name]
        if "user" in operation["x-balsam-kinds"] and operation["x-balsam-scope"] != Scope.ALL:
            for ask in asks:
                real, absent = answers(service, token, ask, ann), answers(service, token, ask, missing(ann))
                assert real[0] == ask.refused, (name, real)
                assert without_numbers(real) == without_numbers(absent), name
    for name, asks in SELECTING.items():
        operation = operations[name]
        if name in ("look_up_blobs", "collect_transfers"):  # of what the same person sent, wherever to
            continue
        if "user" in operation["x-balsam-kinds"] and operation["x-balsam-scope"] != Scope.ALL:
            for ask in asks:
                assert only_of(there, answers(service, token, ask, ann)[1]), name
    with service.client(token) as client:
        assert client.post("/api/sites", json={"name": "more", "path": "/p"}).status_code == 403
        assert ok(client.get(f"/api/sites/{there.site_id}"))["id"] == there.site_id


def test_a_programs_token_makes_no_tokens_and_outlives_the_login(service: RunningService) -> None:
    with service.client() as admin:
        ok(admin.post("/api/users", json={"username": "eve", "password": PASSWORD}))
        login = ok(admin.post("/api/auth/login", json={"username": "eve", "password": PASSWORD}))
    eve = Person("eve", login["token"])
    token = narrow_token(service, eve, *GIVEN)
    with service.client(eve.token) as client, service.client(token) as program:
        for method, path in (("GET", "/api/tokens"), ("GET", "/api/teams"), ("GET", "/api/users")):
            assert program.request(method, path).status_code == 403
        assert program.post("/api/tokens", json={"label": "x", "scopes": ["jobs:read"]}).status_code == 403
        ok(client.post("/api/auth/logout"))
        assert client.get("/api/jobs").status_code == 401
        assert ok(program.get("/api/auth/me"))["scopes"] == sorted(GIVEN)
        assert ok(program.get("/api/jobs"))["count"] == 0


def test_a_revoked_token_fails_on_the_next_request_and_others_go_on(service: RunningService, ann: Person) -> None:
    first, second = (narrow_token(service, ann, "jobs:read") for _ in range(2))
    with service.client(ann.token) as client, service.client(first) as one, service.client(second) as other:
        ok(one.get("/api/jobs"))
        own = ok(client.get("/api/tokens"))["results"]
        programs = [token for token in own if token["label"] == "program" and token["scopes"] == ["jobs:read"]]
        ids = sorted(token["id"] for token in programs)[-2:]
        assert client.delete(f"/api/tokens/{ids[0]}").status_code == 204
        assert one.get("/api/jobs").status_code == 401
        ok(other.get("/api/jobs"))
        assert client.delete(f"/api/tokens/{ids[0]}").status_code == 204
        listed = ok(client.get("/api/tokens"))["results"]
        assert ids[0] not in [token["id"] for token in listed] and ids[1] in [token["id"] for token in listed]
        assert {token["kind"] for token in listed} >= {"user", "site", "launcher"}
        assert [token["is_this_one"] for token in listed].count(True) == 1


def test_somebody_elses_tokens_are_as_if_missing(service: RunningService, ann: Person) -> None:
    bob = make_user(service, "bob")
    with service.client(ann.token) as client, service.client(bob.token) as other:
        mine = ok(client.get("/api/tokens"))["results"]
        assert ok(other.get("/api/tokens"))["count"] == 1
        real, absent = other.delete(f"/api/tokens/{mine[0]['id']}"), other.delete(f"/api/tokens/{MISSING}")
        assert real.status_code == absent.status_code == 404
        assert real.json()["error"]["message"] == absent.json()["error"]["message"]
        refused = other.post("/api/tokens", json={"label": "x", "scopes": ["jobs:read"], "site_id": ann.site_id})
        assert refused.status_code == 404
        ok(client.get("/api/auth/me"))


@pytest.mark.parametrize("bad", [{"scopes": []}, {"scopes": ["all"]}, {"scopes": ["jobs"]}, {"days": 0}, {"label": ""}])
def test_bad_wishes_are_named(bad: dict[str, Any], service: RunningService, ann: Person) -> None:
    with service.client(ann.token) as client:
        refused = client.post("/api/tokens", json={"label": "x", "scopes": ["jobs:read"], **bad})
    assert refused.status_code == 422 and next(iter(bad)) in refused.json()["error"]["message"]


def test_a_token_of_a_site_ends_with_it(service: RunningService, ann: Person) -> None:
    gone = furnish(service, Person("ann gone", ann.token))
    token = narrow_token(service, ann, "jobs:read", site_id=gone.site_id)
    with service.client(token) as program, service.client(ann.token) as client:
        ok(program.get("/api/jobs"))
        ok(client.delete(f"/api/sites/{gone.site_id}"))
        assert program.get("/api/jobs").status_code == 401
