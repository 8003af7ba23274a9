"""Who may call the routes that name nobody's objects: kinds of tokens, and scopes of programs.

Those that name objects are in test_routes_tenancy.py and test_tokens.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from balsam.domain.scopes import GIVEN, Scope, covers
from tests.server.test_routes_tenancy import WITHOUT_OBJECTS
from tests.server.world import Person, furnish, make_user, ok
from tests.services import RunningService

DOCUMENT = Path(__file__).parents[2] / "docs" / "reference" / "openapi.json"
NOT_ASKED = {"logout": "it would end the token that asks"}


def routes() -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Name, method and path of those that want a token."""
    for path, methods in json.loads(DOCUMENT.read_text())["paths"].items():
        for method, operation in methods.items():
            name = operation["operationId"]
            if name in WITHOUT_OBJECTS and name not in NOT_ASKED and operation["x-balsam-kinds"]:
                yield name, method.upper(), re.sub(r"\{\w+\}", "999999", path), operation


ROUTES = {name: (method, path, operation) for name, method, path, operation in routes()}


@pytest.fixture(scope="module")
def ann(service: RunningService) -> Person:
    return furnish(service, make_user(service, "ann-of-kinds"))


@pytest.fixture(scope="module")
def programs(service: RunningService, ann: Person) -> dict[Scope, str]:
    """A token for each scope that she can give."""
    with service.client(ann.token) as client:
        return {
            scope: ok(client.post("/api/tokens", json={"label": str(scope), "scopes": [scope]}))["token"]
            for scope in GIVEN
            if scope is not Scope.METRICS_READ  # an administrator's
        }


def test_there_are_routes() -> None:
    assert len(ROUTES) >= 15
    assert {"list_tokens", "create_site", "list_users", "upload_piece"} <= set(ROUTES)


@pytest.mark.parametrize("name", sorted(ROUTES))
def test_t3_a_route_without_objects_takes_its_kinds_and_scopes_only(
    name: str, service: RunningService, ann: Person, programs: dict[Scope, str]
) -> None:
    """Whoever may call it hears what is wrong with an empty request, if anything is; everybody else is refused."""
    _, _, operation = ROUTES[name]
    kinds, is_admins = operation["x-balsam-kinds"], operation["x-balsam-admin"]
    for kind, token in ann.tokens().items():
        assert (status_of(service, token, name) == 403) == (kind not in kinds or is_admins), kind
    for scope, token in programs.items():
        may = "user" in kinds and not is_admins and covers({scope}, Scope(operation["x-balsam-scope"]))
        assert (status_of(service, token, name) == 403) == (not may), scope


def status_of(service: RunningService, token: str, name: str) -> int:
    method, path, operation = ROUTES[name]
    body: dict[str, Any] = {"json": {}} if "requestBody" in operation else {}
    with service.client(token) as client, client.stream(method, path, **body) as reply:
        assert reply.status_code < 500, name
        return reply.status_code
