"""Limits of the HTTP layer (S16), without a server: bodies by pieces, windows, buckets, query strings."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from balsam.server import limits
from balsam.server.errors import ServiceError, TooMany
from balsam.server.limits import Buckets, Disconnected, LoginLimit, Window, read_body
from balsam.server.problems import Problem, where
from balsam.server.routes import dispatch, query
from balsam.wire.jobs import JobQuery


def read(pieces: list[bytes], limit: int, headers: dict[bytes, bytes] | None = None) -> bytes:
    messages: list[dict[str, Any]] = [
        {"type": "http.request", "body": piece, "more_body": n < len(pieces) - 1} for n, piece in enumerate(pieces)
    ]

    async def receive() -> dict[str, Any]:
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    return asyncio.run(read_body(receive, headers or {}, limit))


def test_a_body_of_n_bytes_passes_and_n_plus_1_is_413() -> None:
    assert read([b"12345", b"67890"], 10) == b"1234567890"
    with pytest.raises(Problem) as refused:
        read([b"12345", b"678901"], 10)
    assert refused.value.status == 413 and "10 bytes" in refused.value.message


def test_an_announced_length_is_refused_before_a_byte_is_read() -> None:
    async def receive() -> dict[str, Any]:
        raise AssertionError("the body was read")

    with pytest.raises(Problem) as refused:
        asyncio.run(read_body(receive, {b"content-length": b"11"}, 10))
    assert refused.value.status == 413


def test_a_compressed_body_is_refused() -> None:
    with pytest.raises(Problem) as refused:
        read([b"x"], 10, {b"content-encoding": b"gzip"})
    assert refused.value.status == 415


def test_a_client_that_goes_away_is_not_answered() -> None:
    with pytest.raises(Disconnected):
        read([], 10)


def test_a_body_that_stops_coming_is_408(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CHUNK_SEC", 0.02)

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(60)
        raise AssertionError

    with pytest.raises(Problem) as refused:
        asyncio.run(read_body(receive, {}, 10))
    assert refused.value.status == 408


def test_window_allows_n_and_says_when_n_plus_1_may_come() -> None:
    window = Window(3, 60.0)
    assert [window.wait_sec("a", now) for now in (0.0, 1.0, 2.0)] == [0.0, 0.0, 0.0]
    assert window.wait_sec("a", 10.0) == 50.0
    assert window.wait_sec("b", 10.0) == 0.0
    assert window.wait_sec("a", 60.0) == 0.0


def test_buckets_allow_a_burst_and_then_the_rate() -> None:
    buckets = Buckets()
    assert [buckets.wait_sec(1, 10.0, 0.0) for _ in range(41)].count(0.0) == 40
    assert buckets.wait_sec(2, 10.0, 0.0) == 0.0
    assert buckets.wait_sec(1, 10.0, 0.1) == 0.0
    assert buckets.wait_sec(1, 10.0, 0.1) > 0.0


def test_login_limit_counts_accounts_and_addresses() -> None:
    limit = LoginLimit()
    for _ in range(5):
        limit.check("Ann", "10.0.0.1", 0.0)
    with pytest.raises(TooMany) as refused:
        limit.check("ann", "10.0.0.2", 0.0)
    assert refused.value.retry_after_sec and "5 logins a minute" in refused.value.message
    limit = LoginLimit()
    for number in range(20):
        limit.check(f"user{number}", "10.0.0.1", 0.0)
    with pytest.raises(TooMany, match="20 logins a minute"):
        limit.check("user20", "10.0.0.1", 0.0)
    limit.check("user20", "10.0.0.2", 61.0)


def parse(text: bytes) -> JobQuery:
    found = query.parse(JobQuery, query.list_fields(JobQuery), text)
    assert isinstance(found, JobQuery)
    return found


def test_query_lists_repeat_and_an_empty_one_is_not_an_absent_one() -> None:
    assert parse(b"id=1&id=2&tags=a%3Ab&limit=5").id == [1, 2]
    assert parse(b"state=").state == []
    assert parse(b"").state is None


@pytest.mark.parametrize("text", [b"limit=1&limit=2", b"id=\xff", b"id=%ff", b"&".join([b"id=1"] * 10_101)])
def test_a_query_that_cannot_be_read_is_400(text: bytes) -> None:
    with pytest.raises(Problem) as refused:
        parse(text)
    assert refused.value.status == 400


def test_places_are_written_as_people_write_them() -> None:
    assert where(("jobs", 17, "workdir")) == "jobs[17].workdir"
    assert where((3,)) == "[3]" and where(()) == "body"


def test_a_problem_is_a_service_error() -> None:
    assert isinstance(Problem(418, "x", "y"), ServiceError)


@pytest.mark.parametrize(
    ("spoken", "refused"),
    [("3", ""), ("2", ""), ("1", "upgrade openbalsam where this call came from"), ("4", "upgrade the service")],
)
def test_callers_one_wire_version_older_are_answered_and_others_told_what_to_upgrade(
    spoken: str, refused: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "WIRE_VERSIONS", range(2, 4))
    if not refused:
        dispatch._check_wire(spoken.encode())
        return
    with pytest.raises(Problem, match=refused) as caught:
        dispatch._check_wire(spoken.encode())
    assert caught.value.status == 426 and "wire versions 2 to 3" in str(caught.value)
