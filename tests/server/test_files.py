"""Files of a Job's workdir: asked over the agent's stream, answered by its PUT, once, by that Site only."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from balsam.wire.base import MAX_FILE_READ_BYTES
from tests.server.sse import Listener
from tests.server.world import Person, furnish, make_user, ok
from tests.services import RunningService


@pytest.fixture(scope="module")
def ann(service: RunningService) -> Person:
    return furnish(service, make_user(service, "ann"))


@pytest.fixture(scope="module")
def bob(service: RunningService) -> Person:
    return furnish(service, make_user(service, "bob"))


@pytest.fixture
def agent(service: RunningService, ann: Person) -> Iterator[Listener]:
    with Listener(service, f"/api/sites/{ann.site_id}/stream", ann.site_token) as listener:
        yield listener


class Asking:
    """A request made in a thread, because its answer is made here."""

    def __init__(self, service: RunningService, token: str, path: str) -> None:
        self.reply: httpx2.Response | None = None
        self._thread = threading.Thread(target=self._ask, args=(service, token, path))
        self._thread.start()

    def _ask(self, service: RunningService, token: str, path: str) -> None:
        with service.client(token) as client:
            self.reply = client.get(path)

    def answer(self) -> httpx2.Response:
        self._thread.join(25)
        assert self.reply is not None
        return self.reply


def put(service: RunningService, token: str, request_id: str, body: dict[str, Any]) -> httpx2.Response:
    with service.client(token) as client:
        return client.put(f"/api/file-requests/{request_id}", json=body)


def test_content_comes_from_the_agent(service: RunningService, ann: Person, agent: Listener) -> None:
    path = f"/api/jobs/{ann.job_id}/files/content?path=out%2Fjob.out&offset=-5&max_bytes=5"
    asking = Asking(service, ann.token, path)
    request = agent.wait("file_request")
    assert request == {
        "id": request["id"],
        "job_id": ann.job_id,
        "workdir": "run/0",
        "op": "read",
        "path": "out/job.out",
        "offset": -5,
        "max_bytes": 5,
    }
    data = base64.b64encode(b"\x00done").decode()
    assert (
        put(service, ann.site_token, request["id"], {"data": data, "offset": 95, "size_bytes": 100}).status_code == 204
    )
    reply = asking.answer()
    assert (reply.status_code, reply.content) == (200, b"\x00done")
    assert (reply.headers["x-file-size"], reply.headers["x-file-offset"]) == ("100", "95")
    assert reply.headers["content-type"] == "application/octet-stream"
    assert put(service, ann.site_token, request["id"], {}).status_code == 404  # answered once


def test_list_comes_from_the_agent_and_errors_are_named(service: RunningService, ann: Person, agent: Listener) -> None:
    entry = {"path": "a", "size_bytes": 1, "is_dir": False, "modified_at": "2026-01-01T00:00:00Z"}
    for answer, status in (
        ({"entries": [entry]}, 200),
        ({"error": "not_found"}, 404),
        ({"error": "refused"}, 403),
        ({"error": "disk on fire"}, 409),
    ):
        seen = len(agent.events)
        asking = Asking(service, ann.token, f"/api/jobs/{ann.job_id}/files?path=sub")
        request = agent.wait("file_request", after=seen)
        assert request["op"] == "list"
        put(service, ann.site_token, request["id"], answer)
        reply = asking.answer()
        assert reply.status_code == status, reply.text
        if status == 200:
            assert reply.json()["entries"][0]["path"] == "a"
        if status == 409:
            assert "disk on fire" in reply.json()["error"]["message"]


def test_another_site_cannot_answer(service: RunningService, ann: Person, bob: Person, agent: Listener) -> None:
    asking = Asking(service, ann.token, f"/api/jobs/{ann.job_id}/files")
    request = agent.wait("file_request")
    assert put(service, bob.site_token, request["id"], {"error": "forged"}).status_code == 404
    assert put(service, ann.site_token, request["id"], {}).status_code == 204
    assert asking.answer().status_code == 200


def test_a_question_waits_for_an_agent_that_reconnects(service: RunningService, ann: Person) -> None:
    path = f"/api/sites/{ann.site_id}/stream"
    with Listener(service, path, ann.site_token) as first:
        asking = Asking(service, ann.token, f"/api/jobs/{ann.job_id}/files")
        first.wait("file_request")  # heard, and lost with the connection
    with Listener(service, path, ann.site_token) as second:
        put(service, ann.site_token, second.wait("file_request")["id"], {})
    assert asking.answer().status_code == 200


def test_no_agent_is_504_and_says_since_when(service: RunningService, bob: Person) -> None:
    with service.client(bob.token) as client:
        reply = client.get(f"/api/jobs/{bob.job_id}/files")
    assert reply.status_code == 504
    error = reply.json()["error"]
    assert (
        error["code"] == "site_offline" and "heard of" in error["message"] and "balsam site start" in error["message"]
    )


@pytest.mark.parametrize("path", ["..%2Fsecret", "%2Fetc%2Fpasswd", "a%00b", "a%2F..%2F..%2Fb", "x" * 4097])
def test_paths_that_leave_the_workdir_are_422(service: RunningService, ann: Person, path: str) -> None:
    with service.client(ann.token) as client:
        for what in ("files", "files/content"):
            reply = client.get(f"/api/jobs/{ann.job_id}/{what}?path={path}")
            assert reply.status_code == 422, reply.text
            assert reply.json()["error"]["details"][0]["where"] == "path"


def test_max_bytes_at_n_and_n_plus_1(service: RunningService, bob: Person) -> None:
    with service.client(bob.token) as client:
        for count, status in ((MAX_FILE_READ_BYTES, 504), (MAX_FILE_READ_BYTES + 1, 422), (0, 422)):
            reply = client.get(f"/api/jobs/{bob.job_id}/files/content?path=a&max_bytes={count}")
            assert reply.status_code == status


def test_a_whole_mebibyte_fits_into_one_answer(service: RunningService, ann: Person, agent: Listener) -> None:
    asking = Asking(service, ann.token, f"/api/jobs/{ann.job_id}/files/content?path=big")
    request = agent.wait("file_request")
    content = bytes(range(256)) * (MAX_FILE_READ_BYTES // 256)
    ok(put(service, ann.site_token, request["id"], {"data": base64.b64encode(content).decode(), "size_bytes": 10**9}))
    assert asking.answer().content == content
