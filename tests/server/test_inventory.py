"""T22: what the service answers to is what is written down, and each route says who, with which scope, and how much."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from balsam.domain.clock import SystemClock
from balsam.domain.scopes import Scope
from balsam.server import routes
from balsam.server.app import create_app
from balsam.server.settings import ServerSettings
from balsam.server.store.memory import MemoryStore
from tests.server.world import ok
from tests.services import RunningService

pytestmark = pytest.mark.slow

COPY = Path(__file__).parents[2] / "docs" / "reference" / "openapi.json"


@pytest.fixture(scope="module")
def copy() -> Any:
    return json.loads(COPY.read_text())


def test_t22_the_service_serves_the_document_that_is_written_down(service: RunningService, copy: Any) -> None:
    with service.client("") as nobody:
        assert ok(nobody.get("/openapi.json")) == copy, "run `make docs`"


def test_t22_every_route_says_who_may_call_with_which_scope_and_what_limits_it(copy: Any) -> None:
    for endpoint in routes.ALL:
        operation = copy["paths"][endpoint.path][endpoint.method.lower()]
        assert set(operation["x-balsam-kinds"]) == endpoint.needs.kinds, endpoint.path
        assert operation["x-balsam-admin"] is endpoint.needs.admin, endpoint.path
        assert operation["x-balsam-scope"] in set(Scope), endpoint.path
        assert ("token" in operation["x-balsam-rates"]) is bool(endpoint.needs.kinds), endpoint.path
        assert ("requestBody" in operation) is (operation["x-balsam-max-body-bytes"] > 0), endpoint.path


def bodies() -> dict[str, Any]:
    """What each open call that takes a body is asked with."""
    account = {"username": "nobody", "password": "correct horse battery"}
    return {"login": account, "create_first_user": {**account, "code": "0"}, "begin_device_login": {}} | {
        "collect_device_login": {"device_code": "0"}
    }


@pytest.mark.parametrize("endpoint", [one for one in routes.ALL if not one.needs.kinds], ids=lambda one: one.path)
def test_t22_open_calls_are_counted_as_logins_where_they_say_so(endpoint: Any, tmp_path: Path) -> None:
    """Each address 20 times a minute: the 21st is refused, or none is."""
    settings, name = ServerSettings(data_dir=tmp_path, login_file=login_file(tmp_path)), endpoint.function.__name__
    with TestClient(create_app(settings, MemoryStore(), SystemClock())) as client:
        for number in range(21):
            body = bodies().get(name)
            if body is not None and "username" in body:
                body["username"] += str(number)  # or the limit of an account comes first
            status = client.request(endpoint.method, endpoint.path, json=body).status_code
            assert (status == 429) is (endpoint.is_login and number == 20), f"{name} {number}: {status}"


def login_file(directory: Path) -> Path:
    """A provider that nobody asks, so that there are device logins."""
    path = directory / "login.yml"
    path.write_text(
        "public_url: http://127.0.0.1:8000\n"
        "providers: [{name: lab, issuer: 'http://127.0.0.1:1', client_id: b, client_secret: s, allow_anybody: true}]\n"
    )
    path.chmod(0o600)
    return path
