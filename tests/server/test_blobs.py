"""Blobs at a running service: pieces, resumption, verification, limits, tenancy, a full disk."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest

from tests.server.world import Person, furnish, make_user, ok
from tests.services import RunningService, running_service

CONTENT = bytes(range(256)) * 4096  # 1 MiB
SHA = hashlib.sha256(CONTENT).hexdigest()


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def put(
    client: httpx2.Client, name: str, content: bytes, offset: int = 0, size: int | None = None, last: str = ""
) -> httpx2.Response:
    query: dict[str, Any] = {"offset": offset, "size_bytes": len(content) if size is None else size}
    if last:
        query["sha256"] = last
    return client.put(f"/api/blobs/uploads/{name}", params=query, content=content)


def send(client: httpx2.Client, content: bytes) -> str:
    assert ok(put(client, "x", content, last=sha(content)))["complete"]
    return sha(content)


def read(client: httpx2.Client, name: str, **part: int) -> bytes:
    reply = client.get(f"/api/blobs/{name}", params=part)
    assert reply.status_code == 200, reply.text
    return reply.content


def present(client: httpx2.Client, *hashes: str) -> list[str]:
    found: list[str] = ok(client.post("/api/blobs/look-up", json={"sha256": list(hashes)}))["present"]
    return found


def code(reply: httpx2.Response) -> tuple[int, str]:
    return reply.status_code, reply.json()["error"]["code"]


@pytest.fixture(scope="module")
def ann(service: RunningService) -> Person:
    return furnish(service, make_user(service, "ann"))


@pytest.fixture(scope="module")
def bob(service: RunningService) -> Person:
    return furnish(service, make_user(service, "bob"))


@pytest.fixture
def user(service: RunningService, ann: Person) -> Iterator[httpx2.Client]:
    with service.client(ann.token) as found:
        yield found


def test_one_piece_and_parts_of_it(user: httpx2.Client) -> None:
    assert present(user, SHA) == []
    assert ok(put(user, "one", CONTENT, last=SHA)) == {"received_bytes": len(CONTENT), "complete": True}
    assert present(user, SHA, sha(b"other")) == [SHA]
    assert read(user, SHA) == CONTENT
    assert read(user, SHA, offset=300, length=5) == CONTENT[300:305]
    assert read(user, SHA, offset=len(CONTENT)) == b""
    assert user.get(f"/api/blobs/{SHA}", params={"offset": len(CONTENT) + 1}).status_code == 422


def test_pieces_in_order_and_an_empty_last_one(user: httpx2.Client) -> None:
    content = os.urandom(100_000)
    assert ok(put(user, "p", content[:60_000], 0, len(content)))["received_bytes"] == 60_000
    assert ok(user.get("/api/blobs/uploads/p")) == {"received_bytes": 60_000, "complete": False}
    assert user.get(f"/api/blobs/{sha(content)}").status_code == 404  # nothing can be read before it is whole
    assert code(put(user, "p", content, 0)) == (409, "upload_offset")
    assert code(put(user, "p", b"x", 70_000, len(content))) == (409, "upload_offset")
    assert ok(put(user, "p", content[60_000:], 60_000, len(content)))["received_bytes"] == 100_000
    assert ok(put(user, "p", b"", 100_000, len(content), sha(content)))["complete"]
    assert read(user, sha(content)) == content
    assert ok(user.get("/api/blobs/uploads/p"))["received_bytes"] == 0


def test_nothing_at_all(user: httpx2.Client) -> None:
    assert read(user, send(user, b"")) == b""


def test_completing_too_soon_is_refused_and_loses_nothing(user: httpx2.Client) -> None:
    assert code(put(user, "soon", b"half", 0, 8, sha(b"halfhalf"))) == (409, "upload_offset")
    assert ok(put(user, "soon", b"half", 4, 8, sha(b"halfhalf")))["complete"]


def test_a_wrong_hash_is_refused_and_drops_the_upload(user: httpx2.Client) -> None:
    assert code(put(user, "bad", b"what arrived", last=sha(b"what was meant"))) == (422, "checksum_mismatch")
    assert present(user, sha(b"what was meant"), sha(b"what arrived")) == []
    assert ok(user.get("/api/blobs/uploads/bad"))["received_bytes"] == 0


def test_more_than_announced_is_refused(user: httpx2.Client) -> None:
    assert put(user, "more", b"12345", 0, 4).status_code == 422

    def unannounced() -> Iterator[bytes]:
        yield b"123"
        yield b"45"

    reply = user.put("/api/blobs/uploads/more", params={"offset": 0, "size_bytes": 4}, content=unannounced())
    assert reply.status_code == 422 and "announced" in reply.text
    assert ok(user.get("/api/blobs/uploads/more"))["received_bytes"] == 0


def test_another_size_begins_anew(user: httpx2.Client) -> None:
    ok(put(user, "size", b"123", 0, 10))
    assert code(put(user, "size", b"4", 3, 11)) == (409, "upload_offset")
    assert ok(put(user, "size", b"1", 0, 11))["received_bytes"] == 1


def test_the_same_content_is_kept_once(service: RunningService, user: httpx2.Client) -> None:
    content = os.urandom(50_000)
    before = ok(user.get("/api/blobs/usage"))["used_bytes"]
    for name in ("first", "second"):
        assert ok(put(user, name, content, last=sha(content)))["complete"]
    assert ok(user.get("/api/blobs/usage"))["used_bytes"] == before + 50_000
    assert len(kept(service, sha(content))) == 1


def kept(service: RunningService, name: str) -> list[Path]:
    return list((service.data_dir / "blobs" / "kept").glob(f"*/*/{name}.*"))


def test_giving_up_frees_the_space(service: RunningService, user: httpx2.Client) -> None:
    ok(put(user, "up", b"half", 0, 100))
    parts = list((service.data_dir / "blobs" / "uploads").iterdir())
    assert user.delete("/api/blobs/uploads/up").status_code == 204
    assert len(list((service.data_dir / "blobs" / "uploads").iterdir())) == len(parts) - 1


@pytest.mark.parametrize("name", ["a%2Fb", "..%2F..%2Fx", "x" * 129, "a%00b", "ü"])
def test_names_of_uploads(user: httpx2.Client, name: str) -> None:
    assert user.get(f"/api/blobs/uploads/{name}").status_code in (404, 422)


def test_s14_nobody_sees_anothers_content(service: RunningService, ann: Person, bob: Person) -> None:
    content = os.urandom(1000)
    with service.client(ann.token) as ann_client, service.client(bob.token) as bob_client:
        before = ok(bob_client.get("/api/blobs/usage"))
        send(ann_client, content)
        assert present(bob_client, sha(content)) == []
        assert bob_client.get(f"/api/blobs/{sha(content)}").status_code == 404
        assert ok(bob_client.get("/api/blobs/usage")) == before
        ok(put(ann_client, "shared-name", b"abc", 0, 6))
        assert ok(bob_client.get("/api/blobs/uploads/shared-name"))["received_bytes"] == 0
        # He may send the same content, and has to send all of it.
        send(bob_client, content)
        assert read(bob_client, sha(content)) == content


def test_t20_a_sites_token_sees_what_the_site_sent_and_no_more(service: RunningService, ann: Person) -> None:
    with service.client(ann.token) as user, service.client(ann.site_token) as site:
        mine, theirs = os.urandom(500), os.urandom(500)
        send(user, mine)
        assert present(site, sha(mine)) == [] and site.get(f"/api/blobs/{sha(mine)}").status_code == 404
        send(site, theirs)
        assert read(site, sha(theirs)) == theirs
        assert read(user, sha(theirs)) == theirs  # the user collects what the Sites sent
        assert present(user, sha(theirs)) == []
    with service.client(ann.launcher_token) as launcher:
        for reply in (put(launcher, "x", b"x"), launcher.get(f"/api/blobs/{sha(mine)}")):
            assert reply.status_code == 403


def cut_upload(service: RunningService, token: str, name: str, content: bytes, stop_at: int) -> None:
    """Send a request that announces all of `content`, and cut the connection after `stop_at` bytes of it."""
    address = urlsplit(service.url)
    head = (
        f"PUT /api/blobs/uploads/{name}?offset=0&size_bytes={len(content)} HTTP/1.1\r\nHost: {address.netloc}\r\n"
        f"Authorization: Bearer {token}\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    with socket.create_connection((address.hostname, address.port)) as sock:
        sock.sendall(head.encode() + content[:stop_at])


def received(client: httpx2.Client, name: str, at_least: int) -> int:
    """What has arrived, once it is as much as was sent: the service hears of a cut a moment later."""
    found = 0
    for _ in range(500):
        found = ok(client.get(f"/api/blobs/uploads/{name}"))["received_bytes"]
        if found >= at_least:
            break
    return found


@pytest.mark.parametrize("quarter", [1, 2, 3])
def test_a_cut_connection_goes_on_where_it_was(
    service: RunningService, ann: Person, user: httpx2.Client, quarter: int
) -> None:
    content = os.urandom(8_000_000)
    stop_at = quarter * len(content) // 4
    cut_upload(service, ann.token, f"cut{quarter}", content, stop_at)
    have = received(user, f"cut{quarter}", stop_at)
    assert have == stop_at
    assert ok(put(user, f"cut{quarter}", content[have:], have, len(content), sha(content)))["complete"]
    assert read(user, sha(content)) == content


@pytest.mark.slow
def test_kill_9_in_the_middle_goes_on_where_it_was(own_service: RunningService) -> None:
    content = os.urandom(3_000_000)
    with own_service.client() as client:
        assert ok(put(client, "k", content[:2_000_000], 0, len(content)))["received_bytes"] == 2_000_000
    own_service.kill()
    again = own_service.restart()
    with again.client() as client:
        have = ok(client.get("/api/blobs/uploads/k"))["received_bytes"]
        assert have == 2_000_000
        assert ok(put(client, "k", content[have:], have, len(content), sha(content)))["complete"]
        assert read(client, sha(content)) == content
    again.kill()
    once_more = again.restart()
    with once_more.client() as client:  # S1
        assert read(client, sha(content)) == content
    once_more.stop()


@pytest.mark.slow
def test_limits_at_n_and_n_plus_1_s16(tmp_path: Path) -> None:
    options = ["--quota-gb", "0.000003", "--max-file-gb", "0.000002"]
    with running_service(tmp_path / "home", options=options) as service, service.client() as client:
        assert code(put(client, "big", b"x", 0, 2001)) == (413, "file_too_large")
        send(client, os.urandom(2000))
        reply = put(client, "over", b"x", 0, 1001)
        assert code(reply) == (507, "quota_reached") and "3000" in reply.text and "2000" in reply.text
        ok(put(client, "just", b"x", 0, 600))
        # What is being sent counts already: two uploads at once can't pass the limit together.
        assert code(put(client, "beside", b"x", 0, 401)) == (507, "quota_reached")
        ok(put(client, "beside", b"x", 0, 400))
        assert ok(client.get("/api/blobs/usage"))["used_bytes"] == 2000


@pytest.mark.slow
def test_a_refusal_is_heard_while_a_large_body_is_being_sent(tmp_path: Path) -> None:
    with running_service(tmp_path / "home", options=["--max-file-gb", "0.001"]) as service, service.client() as client:
        assert code(put(client, "big", bytes(5_000_000))) == (413, "file_too_large")
        assert ok(client.get("/api/blobs/usage"))["used_bytes"] == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m,mode=0700", "tmpfs", str(place)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("only root may mount a small file system")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.slow
def test_a_full_disk_gives_the_space_back_and_is_said_f10(tmp_path: Path, small_disk: Path) -> None:
    options = ["--blob-dir", str(small_disk / "blobs"), "--disk-reserve-mb", "0"]
    with running_service(tmp_path / "home", options=options) as service, service.client() as client:
        send(client, os.urandom(1_000_000))
        assert code(put(client, "announced", b"x", 0, 4_000_000)) == (507, "storage_full")
        # Room when it begins, and none any more when it goes on.
        ok(put(client, "grows", os.urandom(500_000), 0, 3_000_000))
        (small_disk / "others").write_bytes(bytes(2_000_000))
        assert code(put(client, "grows", os.urandom(2_500_000), 500_000, 3_000_000)) == (507, "storage_full")
        assert list((small_disk / "blobs" / "uploads").iterdir()) == []
        assert ok(client.get("/api/blobs/uploads/grows"))["received_bytes"] == 0
        (small_disk / "others").unlink()
        content = os.urandom(2_900_000)
        send(client, content)
        assert read(client, sha(content)) == content


@pytest.mark.slow
def test_uploads_leave_the_reserve_free(tmp_path: Path, small_disk: Path) -> None:
    options = ["--blob-dir", str(small_disk / "blobs"), "--disk-reserve-mb", "2"]
    with running_service(tmp_path / "home", options=options) as service, service.client() as client:
        assert code(put(client, "x", b"", 0, 2_300_000)) == (507, "storage_full")
        send(client, os.urandom(1_500_000))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(own_service: RunningService) -> None:
    def resident() -> int:
        fields = Path(f"/proc/{own_service.pid}/status").read_text().split("VmHWM:")[1].split()
        return int(fields[0]) * 1024

    size = 300_000_000
    piece = os.urandom(1_000_000)
    digest = hashlib.sha256()
    with own_service.client() as client:
        send(client, os.urandom(3_000_000))
        before = resident()

        def pieces() -> Iterator[bytes]:
            for _ in range(100):
                digest.update(piece)
                yield piece

        for offset in range(0, size, 100 * len(piece)):
            query = {"offset": offset, "size_bytes": size}
            headers = {"Content-Length": str(100 * len(piece))}
            ok(client.put("/api/blobs/uploads/m", params=query, content=pieces(), headers=headers))
        ok(put(client, "m", b"", size, size, digest.hexdigest()))
        with client.stream("GET", f"/api/blobs/{digest.hexdigest()}") as reply:
            assert sum(len(part) for part in reply.iter_raw()) == size
    assert resident() - before < 64 * 1024 * 1024
