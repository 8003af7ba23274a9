"""Transport against a real HTTP server on loopback: repeats, deadlines, errors, outages, redirects, forks, streams."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from balsam.client import errors
from balsam.client.client import Client
from balsam.client.settings import ClientSettings
from balsam.client.transport import ServerEvent, Transport
from balsam.wire.base import Deleted
from balsam.wire.jobs import JobFilter, JobQuery
from tests.client.loopback import Script, drip, error, events, hang_up, reply, serving
from tests.testbed.ports import free_port

OK = {"deleted": 3, "skipped": [], "reason": ""}


@pytest.fixture
def script() -> Iterator[Script]:
    with serving(Script(reply(200, OK))) as script:
        yield script


@pytest.fixture
def transport(script: Script) -> Iterator[Transport]:
    transport = Transport(ClientSettings(script.url, "secret"), random=Random(1))
    yield transport
    transport.close()


def test_a_call_carries_token_wire_version_and_query(script: Script, transport: Transport) -> None:
    query = JobQuery(id=[1, 2], tags=["a:b c"], limit=5, pending_file_cleanup=True)
    assert transport.request("GET", "/jobs", query=query, reply=Deleted) == Deleted(deleted=3)
    got = script.received[0]
    assert got.headers["authorization"] == "Bearer secret"
    assert got.headers["balsam-wire"] == "1"
    assert got.path == "/api/jobs?id=1&id=2&tags=a%3Ab+c&pending_file_cleanup=true&limit=5"


def test_fields_that_a_newer_service_has_added_are_passed_over(script: Script, transport: Transport) -> None:
    script.default = reply(200, {**OK, "of_a_later_version": {"x": 1}})
    assert transport.request("GET", "/jobs", reply=Deleted) == Deleted(deleted=3)


def test_connections_are_kept(script: Script, transport: Transport) -> None:
    for _ in range(3):
        transport.request("POST", "/x", body=JobFilter(id=[1]), reply=Deleted)
    assert script.received[2].json == {"id": [1]}
    pools = transport._link._pools  # type: ignore[attr-defined]
    assert [len(pool.connections) for pool in pools.values()] == [1]


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "malformed", errors.ValidationFailed),
        (401, "unauthorized", errors.Unauthorized),
        (403, "forbidden", errors.Forbidden),
        (404, "not_found", errors.NotFound),
        (409, "conflict", errors.Conflict),
        (409, "session_ended", errors.SessionEnded),
        (409, "fenced", errors.Fenced),
        (413, "too_large", errors.ValidationFailed),
        (422, "validation", errors.ValidationFailed),
        (426, "wire_version", errors.WireVersionMismatch),
        (500, "internal", errors.ServiceFault),
        (504, "site_offline", errors.SiteOffline),
    ],
)
def test_a_refusal_is_a_typed_exception_at_once(
    script: Script, transport: Transport, status: int, code: str, kind: type[errors.BalsamError]
) -> None:
    script.default = error(status, code, "no good", [{"where": "jobs[17].workdir", "message": "is absolute"}])
    with pytest.raises(errors.BalsamError) as caught:
        transport.request("GET", "/x", reply=Deleted)
    assert type(caught.value) is kind
    assert caught.value.status == status
    assert caught.value.code == code
    assert caught.value.request_id == "r1"
    assert "no good" in str(caught.value)
    assert "jobs[17].workdir: is absolute" in str(caught.value)
    assert len(script.received) == 1


def test_unauthorized_says_what_to_do(script: Script, transport: Transport) -> None:
    script.default = error(401, "unauthorized", "the token is not known")
    with pytest.raises(errors.Unauthorized, match=f"balsam login {script.url}"):
        transport.request("GET", "/x", reply=Deleted)


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_s3_busy_answers_are_repeated_with_the_same_key(script: Script, transport: Transport, status: int) -> None:
    script.answers = [error(status, "busy", "busy")] * 2
    transport.request("POST", "/jobs", reply=Deleted, idempotency_key="k1")
    assert [got.headers["idempotency-key"] for got in script.received] == ["k1"] * 3


@pytest.mark.parametrize(("times", "told"), [(2, False), (6, True)])
def test_who_calls_too_fast_is_slowed_down_and_told_only_when_it_lasts(
    script: Script, transport: Transport, caplog: pytest.LogCaptureFixture, times: int, told: bool
) -> None:
    script.answers = [error(429, "too_many", "50 a second")] * times
    transport.request("GET", "/x", reply=Deleted)
    assert ("can't" in caplog.text) is ("is back" in caplog.text) is told


def test_retry_after_is_honoured(script: Script, transport: Transport) -> None:
    script.answers = [error(503, "busy", "busy", retry_after="0.7")]
    start = time.monotonic()
    transport.request("GET", "/x", reply=Deleted)
    assert 0.69 <= time.monotonic() - start < 5


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
def test_a_lost_reply_of_an_idempotent_method_is_repaired(script: Script, transport: Transport, method: str) -> None:
    script.answers = [hang_up]
    assert transport.request(method, "/x", reply=Deleted).deleted == 3
    assert len(script.received) == 2


def test_s3_a_post_without_key_is_not_repeated_after_a_lost_reply(script: Script, transport: Transport) -> None:
    script.answers = [hang_up]
    with pytest.raises(errors.ServiceUnavailable, match="unknown"):
        transport.request("POST", "/x", reply=Deleted)
    assert len(script.received) == 1
    script.answers = [hang_up]
    assert transport.request("POST", "/x", reply=Deleted, safe_to_repeat=True).deleted == 3
    assert len(script.received) == 3


def test_a_refusal_after_a_lost_reply_says_that_the_call_was_repeated(script: Script, transport: Transport) -> None:
    script.answers = [hang_up, error(404, "not_found", "no such Job")]
    with pytest.raises(errors.NotFound) as caught:
        transport.request("DELETE", "/x", reply=Deleted)
    assert caught.value.repeated


def test_the_deadline_holds_while_nothing_listens(unused_port: int) -> None:
    transport = Transport(ClientSettings(f"http://127.0.0.1:{unused_port}", "t"))
    start = time.monotonic()
    with pytest.raises(errors.DeadlineExceeded, match="Connection refused"):
        transport.request("GET", "/x", reply=Deleted, deadline_sec=0.6)
    assert 0.4 < time.monotonic() - start < 2.5


def test_the_deadline_holds_while_no_answer_comes(script: Script, transport: Transport) -> None:
    script.default = reply(200, OK, delay=3)
    start = time.monotonic()
    with pytest.raises(errors.DeadlineExceeded):
        transport.request("GET", "/x", reply=Deleted, deadline_sec=0.5)
    assert 0.4 < time.monotonic() - start < 2.5


def test_the_deadline_holds_while_the_answer_drips(script: Script, transport: Transport) -> None:
    script.default = drip
    start = time.monotonic()
    with pytest.raises(errors.DeadlineExceeded):
        transport.request("GET", "/x", reply=Deleted, deadline_sec=0.5)
    assert 0.4 < time.monotonic() - start < 2.5


def test_an_outage_is_told_once_and_its_end_too(unused_port: int, caplog: pytest.LogCaptureFixture) -> None:
    transport = Transport(ClientSettings(f"http://127.0.0.1:{unused_port}", "t"))
    done: list[Deleted] = []
    caller = threading.Thread(target=lambda: done.append(transport.request("GET", "/x", reply=Deleted)), daemon=True)
    with caplog.at_level(logging.WARNING, "balsam"):
        caller.start()
        time.sleep(0.8)
        with serving(Script(reply(200, OK)), unused_port):
            caller.join(10)
    assert done == [Deleted(deleted=3)]
    assert [record.getMessage() for record in caplog.records] == [
        f"service at {transport.url} can't be reached: Connection refused; retrying",
        f"service at {transport.url} is back",
    ]


def test_a_call_that_waits_ends_when_the_transport_is_closed(unused_port: int) -> None:
    transport = Transport(ClientSettings(f"http://127.0.0.1:{unused_port}", "t"))
    threading.Timer(0.3, transport.close).start()
    start = time.monotonic()
    with pytest.raises(errors.ServiceUnavailable, match="closed"):
        transport.request("GET", "/x", reply=Deleted)
    assert time.monotonic() - start < 3


def test_a_restarted_local_service_is_found_on_its_new_port(tmp_path: Path) -> None:
    path = tmp_path / "service.json"

    def announce(url: str, token: str) -> None:
        path.write_text(json.dumps({"url": url, "token": token, "pid": 1}))
        path.chmod(0o600)

    with serving(Script(reply(200, OK))) as first:
        announce(first.url, "one")
        transport = Transport(ClientSettings.load({"BALSAM_HOME": str(tmp_path)}))
        transport.request("GET", "/x", reply=Deleted)
    with serving(Script(reply(200, OK))) as second:
        announce(second.url, "two")
        transport.request("GET", "/x", reply=Deleted, deadline_sec=5)
        assert second.received[0].headers["authorization"] == "Bearer two"


def test_a_new_token_in_the_file_is_taken_after_401(tmp_path: Path, script: Script) -> None:
    path = tmp_path / "service.json"
    path.write_text(json.dumps({"url": script.url, "token": "old"}))
    path.chmod(0o600)
    transport = Transport(ClientSettings.load({"BALSAM_HOME": str(tmp_path)}))
    path.write_text(json.dumps({"url": script.url, "token": "new"}))
    script.answers = [error(401, "unauthorized", "unknown token")]
    transport.request("GET", "/x", reply=Deleted)
    assert [got.headers["authorization"] for got in script.received] == ["Bearer old", "Bearer new"]


def test_a_redirect_never_carries_the_token_to_another_host(script: Script, transport: Transport) -> None:
    with serving(Script(reply(200, OK))) as other:
        script.default = reply(307, None, {"Location": f"{other.url}/api/x"})
        with pytest.raises(errors.ServiceFault, match="redirects to"):
            transport.request("GET", "/x", reply=Deleted)
        assert other.received == []
    script.answers = [reply(307, None, {"Location": "/api/y"})]
    script.default = reply(200, OK)
    transport.request("GET", "/x", reply=Deleted)
    assert script.received[-1].path == "/api/y"


def test_a_proxy_is_used_for_other_hosts_and_never_for_loopback(
    script: Script, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with serving(Script(reply(200, OK))) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("BALSAM_ALLOW_PLAIN_HTTP", "1")
        transport.request("GET", "/x", reply=Deleted)
        assert (len(script.received), len(proxy.received)) == (1, 0)
        far = Transport(ClientSettings("http://balsam.invalid", "t"))
        far.request("GET", "/x", reply=Deleted, deadline_sec=5)
        assert proxy.received[0].path == "http://balsam.invalid/api/x"


def test_what_is_no_balsam_service_is_named(script: Script, transport: Transport) -> None:
    script.answers = [reply(200, {"hello": 1}), reply(404, ["nope"])]
    with pytest.raises(errors.WireVersionMismatch, match="can't be understood"):
        transport.request("GET", "/x", reply=Deleted)
    with pytest.raises(errors.NotFound, match="is that a Balsam service"):
        transport.request("GET", "/x", reply=Deleted)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ({"hello": 1}, "results"),
        ({"count": 1, "results": [{"name": "x"}]}, "id"),
        ({"count": 1, "results": [{"id": "7"}]}, "'7'"),
        ({"count": 1, "results": [7]}, "TypeError"),
        ({"count": 1, "results": [{"id": 7, "creation_date": "yesterday"}]}, "yesterday"),
        (["nope"], "TypeError"),
    ],
)
def test_rows_that_are_none_are_named(script: Script, answer: Any, why: str) -> None:
    script.answers = [reply(200, answer)]
    with Client(ClientSettings(script.url, "t")) as client, pytest.raises(errors.WireVersionMismatch) as caught:
        list(client.Site.objects.all())
    assert why in str(caught.value) and "can't be understood" in str(caught.value)


def test_a_forked_child_uses_connections_of_its_own(script: Script, transport: Transport) -> None:
    transport.request("GET", "/x", reply=Deleted)
    child = os.fork()
    if child == 0:
        try:
            good = transport.request("GET", "/child", reply=Deleted, deadline_sec=5).deleted == 3
            os._exit(0 if good else 1)
        finally:
            os._exit(2)
    transport.request("GET", "/parent", reply=Deleted, deadline_sec=5)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert sorted(got.path for got in script.received) == ["/api/child", "/api/parent", "/api/x"]


def test_threads_share_a_transport(script: Script, transport: Transport) -> None:
    def call() -> None:
        for _ in range(20):
            transport.request("GET", "/x", reply=Deleted)

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(script.received) == 160


def test_keys_differ_between_forked_children(transport: Transport) -> None:
    own = Transport(transport.settings)
    read, write = os.pipe()
    for _ in range(2):
        if os.fork() == 0:
            os.write(write, own.new_key().encode())
            os._exit(0)
        os.wait()
    keys = os.read(read, 64).decode()
    os.close(read)
    os.close(write)
    assert keys[:32] != keys[32:]


def test_a_stream_reconnects_and_greets_again(script: Script, transport: Transport) -> None:
    stay = threading.Event()
    script.answers = [
        events("event: hello\ndata: {}\n\n", ": ping\n\n", 'event: states\ndata: {"jobs":\ndata: []}\n\n'),
        error(503, "busy", "starting"),
        events("event: hello\r\ndata: {}\r\n\r\n", "event: wo", "rk\ndata: {}\n\n", stay=stay),
    ]
    stream = transport.stream("/jobs/stream")
    seen = [next(stream) for _ in range(4)]
    assert [event.name for event in seen] == ["hello", "states", "hello", "work"]
    assert seen[1].json() == {"jobs": []}
    assert stream.connected
    stream.close()
    stay.set()
    assert list(stream) == []
    assert not stream.connected


def test_closing_a_stream_wakes_its_reader_at_once(script: Script, transport: Transport) -> None:
    stay = threading.Event()
    script.default = events("event: hello\ndata: {}\n\n", stay=stay)
    stream = transport.stream("/jobs/stream")
    got: list[ServerEvent] = []
    reader = threading.Thread(target=lambda: got.extend(stream), daemon=True)
    reader.start()
    while not stream.connected:
        time.sleep(0.01)
    start = time.monotonic()
    stream.close()
    reader.join(2)
    ended = not reader.is_alive()
    stay.set()
    assert ended
    assert time.monotonic() - start < 2
    assert [event.name for event in got] == ["hello"]


def test_a_stream_that_is_refused_says_so(script: Script, transport: Transport) -> None:
    script.default = error(403, "forbidden", "not yours")
    with pytest.raises(errors.Forbidden, match="not yours"):
        next(transport.stream("/sites/1/stream"))


def test_a_forked_child_leaves_its_parents_stream_alone(script: Script, transport: Transport) -> None:
    stay = threading.Event()
    more = threading.Event()

    def answer(handler: object) -> None:
        events("event: hello\ndata: {}\n\n")(handler)  # type: ignore[arg-type]
        more.wait(10)
        handler.wfile.write(b"event: work\ndata: {}\n\n")  # type: ignore[attr-defined]
        stay.wait(10)

    script.default = answer
    stream = transport.stream("/s")
    next(stream)
    child = os.fork()
    if child == 0:
        os._exit(0 if list(stream) == [] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    more.set()
    assert next(stream).name == "work"
    stream.close()
    stay.set()


@pytest.fixture
def unused_port() -> int:
    return free_port()
