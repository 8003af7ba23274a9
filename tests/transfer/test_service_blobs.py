"""Sending and receiving over a real service: what breaks is gone on with, what is refused is told in plain words."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from balsam.client import blobs as module
from balsam.client.blobs import ServiceBlobs
from balsam.client.settings import ClientSettings
from balsam.client.transport import Transport
from balsam.transfer.base import PeerAway, PeerRefused
from balsam.wire.blobs import UploadState
from tests.services import RunningService, running_service
from tests.transfer.cutting_proxy import cutting_proxy

SIZE = 40_000_000
LOST = 6_000_000  # at a cut: what was in the buffers of two connections
CONTENT = os.urandom(1_000_000) * 40


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def reader(content: bytes) -> module.Reader:
    def read(offset: int) -> Iterator[bytes]:
        for start in range(offset, len(content), 300_000):
            yield content[start : start + 300_000]

    return read


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with running_service(tmp_path_factory.mktemp("home") / "balsam") as started:
        yield started


@pytest.fixture
def transport(service: RunningService) -> Iterator[Transport]:
    found = Transport(ClientSettings(service.url, service.token))
    yield found
    found.close()


@pytest.fixture
def blobs(transport: Transport) -> ServiceBlobs:
    return ServiceBlobs(transport)


def over(url: str, service: RunningService, **options: float) -> ServiceBlobs:
    return ServiceBlobs(Transport(ClientSettings(url, service.token)), **options)


def read(blobs: ServiceBlobs, content: bytes, offset: int = 0) -> bytes:
    return b"".join(blobs.read(sha(content), offset, len(content) - offset))


def test_there_and_back(blobs: ServiceBlobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIECE_BYTES", 2_000_000)  # several pieces, the last one not whole
    content = os.urandom(5_000_001)
    assert blobs.send_stream("there", len(content), reader(content)) == sha(content)
    assert read(blobs, content) == content
    assert read(blobs, content, 4_999_999) == content[-2:]
    blobs.send_bytes(sha(b"small"), b"small")
    assert read(blobs, b"small") == b"small"
    assert blobs.present([sha(b"small"), sha(content), sha(b"nothing")]) == {sha(b"small"), sha(content)}


def test_a_blob_that_is_shorter_than_its_list_says_is_an_error_and_asked_for_no_more(blobs: ServiceBlobs) -> None:
    content = os.urandom(1000)
    blobs.send_bytes(sha(content), content)
    arrived: list[bytes] = []
    with pytest.raises(PeerRefused, match="ends at 1000, where 1 bytes more should be") as refused:
        arrived.extend(blobs.read(sha(content), 10, 991))
    assert refused.value.is_final and b"".join(arrived) == content[10:]


@pytest.mark.parametrize("quarters", [[1], [2], [3], [1, 1, 1, 1]])
def test_an_upload_that_is_cut_goes_on_where_it_was(service: RunningService, quarters: list[int]) -> None:
    content = os.urandom(1_000_000) * 40
    cuts = [("up", quarter * SIZE // 4) for quarter in quarters]
    with cutting_proxy(service.port, *cuts) as proxy:
        blobs = over(proxy.url, service)
        assert blobs.send_stream(sha(content), SIZE, reader(content)) == sha(content)
        assert proxy.cut_count == len(cuts)
        assert proxy.carried["up"] < SIZE + len(cuts) * LOST, (proxy.carried, "what had arrived was sent again")
    assert read(over(service.url, service), content) == content


@pytest.mark.parametrize("quarters", [[1], [2], [3], [1, 1, 1, 1]])
def test_a_download_that_is_cut_goes_on_where_it_was(
    service: RunningService, blobs: ServiceBlobs, quarters: list[int]
) -> None:
    blobs.send_stream("down", SIZE, reader(CONTENT))
    with cutting_proxy(service.port, *[("down", quarter * SIZE // 4) for quarter in quarters]) as proxy:
        assert read(over(proxy.url, service), CONTENT) == CONTENT
        assert proxy.cut_count == len(quarters)
        assert proxy.carried["down"] < SIZE + len(quarters) * LOST


def test_the_answer_to_the_last_word_is_lost(service: RunningService) -> None:
    """The blob is there, and the sender did not hear of it (F2)."""
    content = os.urandom(3_000_000)
    with cutting_proxy(service.port) as proxy:
        blobs = over(proxy.url, service)
        calls = 0
        send = module.send_pieces

        def lossy(transport: Transport, path: str, query: module.UploadPiece, *rest: object) -> object:
            nonlocal calls
            answer = send(transport, path, query, *rest)  # type: ignore[arg-type]
            calls += 1
            if query.sha256 is not None and calls < 5:
                raise module.ServiceUnavailable("the answer was lost")
            return answer

        module.send_pieces = lossy  # type: ignore[assignment]
        try:
            assert blobs.send_stream("lost", len(content), reader(content)) == sha(content)
        finally:
            module.send_pieces = send
        assert proxy.carried["up"] < 1.1 * len(content), "the whole was sent twice"


def test_a_service_that_is_killed_in_the_middle(tmp_path: Path) -> None:
    content = os.urandom(SIZE)
    with running_service(tmp_path / "home") as service:
        blobs = over(service.url, service, patience_sec=60)
        sent = threading.Event()
        again: list[RunningService] = []

        def slow(offset: int) -> Iterator[bytes]:
            for start in range(offset, SIZE, 300_000):
                yield content[start : start + 300_000]
                if start > SIZE // 2 and not again:
                    sent.set()
                    assert killed.wait(60)

        killed = threading.Event()

        def kill() -> None:
            assert sent.wait(60)
            service.kill()
            again.append(service.restart())
            killed.set()

        killer = threading.Thread(target=kill)
        killer.start()
        try:
            assert blobs.send_stream("killed", SIZE, slow) == sha(content)
            assert read(blobs, content) == content
        finally:
            killer.join(60)
            again[0].stop()


def test_nobody_answers(service: RunningService) -> None:
    with cutting_proxy(service.port) as proxy:
        url = proxy.url
    blobs = over(url, service, patience_sec=0.3)
    with pytest.raises(PeerAway):
        blobs.send_bytes(sha(b"x"), b"x")
    with pytest.raises(PeerAway):
        blobs.send_stream("x", 1, reader(b"x"))
    with pytest.raises(PeerAway):
        read(blobs, b"x")


def test_content_that_is_gone(blobs: ServiceBlobs) -> None:
    with pytest.raises(PeerRefused, match="submit the Job anew") as caught:
        read(blobs, b"was never sent")
    assert caught.value.is_final


def test_a_token_that_is_refused_is_no_fault_of_the_file(service: RunningService) -> None:
    blobs = ServiceBlobs(Transport(ClientSettings(service.url, "blsm_user_" + "x" * 43)), patience_sec=0.3)
    with pytest.raises(PeerAway, match="log in"):
        blobs.send_bytes(sha(b"x"), b"x")


def test_what_the_service_has_is_not_sent_again(service: RunningService) -> None:
    content = os.urandom(2_000_000)
    with cutting_proxy(service.port) as proxy:
        blobs = ServiceBlobs(Transport(ClientSettings(proxy.url, service.token)), hash_first=True)
        for _ in range(3):
            blobs.send_stream("input", len(content), reader(content))
            blobs.send_bytes(sha(b"small" * 9), b"small" * 9)
        assert proxy.carried["up"] < 1.1 * len(content)


def test_of_a_large_file_no_more_is_sent_as_soon_as_the_service_turns_out_to_have_it(
    service: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HASH_FIRST_BYTES", 100_000)
    content, hashed = os.urandom(6_000_000), threading.Event()

    def read_slowly(offset: int) -> Iterator[bytes]:
        """For the thread that hashes at once; for the one that sends in small steps, when that is done."""
        if threading.current_thread().name == "balsam-hash-ahead":
            yield content
            hashed.set()
            return
        for start in range(offset, len(content), 100_000):
            yield content[start : start + 100_000]
            assert hashed.wait(20)
            time.sleep(0.05)

    with cutting_proxy(service.port) as proxy:
        transport = Transport(ClientSettings(proxy.url, service.token))
        blobs = ServiceBlobs(transport, hash_first=True)
        assert blobs.send_stream("first", len(content), reader(content)) == sha(content)
        sent = proxy.carried["up"]
        assert sent > len(content)
        assert blobs.send_stream("again", len(content), read_slowly) == sha(content)
        assert proxy.carried["up"] - sent < len(content) / 2
        assert transport.request("GET", "/blobs/uploads/again", reply=UploadState).received_bytes == 0
        assert read(blobs, content) == content


def test_what_goes_wrong_with_a_large_file_while_it_is_hashed_is_told(
    transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HASH_FIRST_BYTES", 100_000)
    content = os.urandom(300_000)

    def read_failing(offset: int) -> Iterator[bytes]:
        yield content[offset:]
        if threading.current_thread().name == "balsam-hash-ahead":
            raise OSError("Input/output error")

    blobs = ServiceBlobs(transport, hash_first=True)
    with pytest.raises(OSError, match="Input/output"):
        blobs.send_stream("failing", len(content), read_failing)
    assert blobs.present([sha(content)]) == set()
    assert "balsam-hash-ahead" not in [thread.name for thread in threading.enumerate()]


def test_a_file_that_changes_between_hash_and_upload_is_noticed(transport: Transport) -> None:
    """The service compares what arrives with the hash, so nothing wrong is ever named by a right one."""
    content = bytearray(os.urandom(2_000_000))
    first = sha(bytes(content))

    def read_changing(offset: int) -> Iterator[bytes]:
        yield bytes(content[offset:])
        content[0] ^= 1

    blobs = ServiceBlobs(transport, hash_first=True)
    with pytest.raises(PeerRefused, match="what arrived has the SHA-256") as caught:
        blobs.send_stream("changing", len(content), read_changing)
    assert not caught.value.is_final
    assert blobs.present([first]) == set()
    now = bytes(content)
    assert blobs.send_stream("changing", len(now), reader(now)) == sha(now)


@pytest.mark.slow
def test_quota_and_size_are_told_s16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["--quota-gb", "0.00001", "--max-file-gb", "0.000005"]
    with running_service(tmp_path / "home", options=options) as service:
        blobs = over(service.url, service)
        with pytest.raises(PeerRefused, match="takes files of up to 5000") as caught:
            blobs.send_stream("big", 6_000_000, reader(bytes(6_000_000)))
        assert caught.value.is_final
        for number in range(2):
            content = os.urandom(4_000 + number)
            blobs.send_bytes(sha(content), content)
        with pytest.raises(PeerRefused, match="quota of 10000 bytes") as caught:
            blobs.send_bytes(sha(bytes(3000)), bytes(3000))
        assert not caught.value.is_final  # room comes with what is collected
        monkeypatch.setattr(module, "HASH_FIRST_BYTES", 100)
        again = ServiceBlobs(Transport(ClientSettings(service.url, service.token)), hash_first=True)
        assert again.send_stream("again", len(content), reader(content)) == sha(content), "it is there, and takes none"
        with pytest.raises(PeerRefused, match="quota of 10000 bytes"):
            again.send_stream("new", 3000, reader(bytes(3000)))
