"""Files of a Job's workdir: asked over the agent's stream, answered by its PUT, once, by that Site only."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator

import pytest

from balsam.server.broker import Broker
from balsam.server.errors import NotFound
from balsam.server.routes.file_desk import FileDesk
from balsam.server.store.protocol import Wake
from balsam.wire.limits import MAX_FILE_READ_BYTES
from balsam.wire.sites import FileReply, FileRequest
from tests.server.file_requests import Asking, put
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
        "file_id": "",
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
        ({"error": "busy: this Site answers 50 file requests per second; try again"}, 429),  # clients ask again
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


class Asked(Broker):
    """A broker whose Site has one agent that is told of each question."""

    def __init__(self) -> None:
        super().__init__()
        self.questions: list[FileRequest] = []

    def ask(self, site_id: int, request: bytes) -> bool:
        self.questions.append(FileRequest.model_validate_json(request))
        return True


async def tell_nobody(wake: Wake) -> None:
    """There is one process."""


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def follow(desk: FileDesk, offset: int = 4, wait_sec: float = 60.0) -> asyncio.Task[FileReply | None]:
    known = {"job_id": 1, "workdir": "w", "path": "job.out", "offset": offset, "file_id": "a-1"}
    return asyncio.ensure_future(desk.follow(7, lambda: NotFound(), False, wait_sec, **known))


def test_any_number_of_followers_cost_the_site_one_question() -> None:
    async def run() -> None:
        broker = Asked()
        desk = FileDesk(broker, tell_nobody)
        followers = [follow(desk) for _ in range(30)]
        behind = follow(desk, offset=0)
        await settle()
        assert [(one.op, one.offset) for one in broker.questions] == [("follow", 4), ("follow", 0)]
        for question in broker.questions:
            await desk.answer(7, question.id, FileReply(offset=question.offset, size_bytes=8))
        assert {(await one).offset for one in followers} == {4}
        assert (await behind).offset == 0

    asyncio.run(run())


def test_the_question_of_a_follower_goes_on_between_two_calls_and_ends_by_itself() -> None:
    async def run() -> None:
        broker = Asked()
        desk = FileDesk(broker, tell_nobody, wait_sec=0.2)
        assert await follow(desk, wait_sec=0) is None
        assert await follow(desk, wait_sec=0) is None
        again = follow(desk)
        await settle()
        (question,) = broker.questions
        gone = follow(desk)
        await settle()
        gone.cancel()
        await desk.answer(7, question.id, FileReply(size_bytes=5))
        assert (await again).size_bytes == 5
        assert await follow(desk, wait_sec=0) is None
        assert desk.waiting(7)
        await asyncio.sleep(0.3)
        assert desk.waiting(7) == [] and desk._shared == {}

    asyncio.run(run())


def test_who_follows_is_told_how_far_and_of_which_file(service: RunningService, ann: Person, agent: Listener) -> None:
    asking = Asking(
        service, ann.token, f"/api/jobs/{ann.job_id}/files/follow?path=a.out&offset=7&file_id=b&wait_sec=15"
    )
    question = agent.wait("file_request")
    assert (question["op"], question["offset"], question["file_id"]) == ("follow", 7, "b")
    body = {"data": base64.b64encode(b"x").decode(), "offset": 0, "size_bytes": 1, "file_id": "c"}
    assert put(service, ann.site_token, question["id"], body).status_code == 204
    reply = asking.answer()
    told = [reply.headers[name] for name in ("x-file-offset", "x-file-id", "x-file-size")]
    assert (reply.content, told) == (b"x", ["0", "c", "1"])


def test_nobody_follows_a_job_of_somebody_else_s14(service: RunningService, ann: Person, bob: Person) -> None:
    with service.client(bob.token) as client:
        assert client.get(f"/api/jobs/{ann.job_id}/files/follow?path=job.out").status_code == 404
