"""Uploads by themselves: what happens when requests for the same ones, or of the same user, come at once."""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from starlette.testclient import TestClient

from balsam.domain.clock import SystemClock
from balsam.server.app import create_app
from balsam.server.auth import tokens as secrets
from balsam.server.blobs import uploads as module
from balsam.server.blobs.storage import DiskStorage
from balsam.server.blobs.uploads import Uploads
from balsam.server.errors import Conflict, TooMany, Unavailable
from balsam.server.settings import ServerSettings
from balsam.server.store.protocol import Tx
from balsam.server.store.sqlite import SqliteStore
from balsam.server.usecases import accounts

T = TypeVar("T")
ANN = (1, 0)
CONTENT = bytes(range(256)) * 8192  # two pieces
WAIT_SEC = 30


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


async def nothing() -> AsyncIterator[bytes]:
    for piece in ():
        yield piece


@pytest.fixture
def uploads(tmp_path: Path) -> Iterator[Uploads]:
    made = Uploads(tmp_path / "uploads", DiskStorage(tmp_path / "kept"), 0)
    yield made
    made.stop()


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(work, WAIT_SEC))


def test_an_upload_that_is_completed_while_old_ones_are_looked_for_stops_nothing(uploads: Uploads) -> None:
    """A name that leads nowhere any more, as it does between the listing and the look."""
    old = left_by_an_earlier_life(uploads, CONTENT)
    os.utime(old, (1, 1))
    old.with_name("1-0-gone.part").symlink_to("nowhere")
    assert uploads.forget_idle(SystemClock().now()) == 1
    assert not old.exists()


def left_by_an_earlier_life(uploads: Uploads, content: bytes) -> Path:
    path = uploads._path(ANN, "x")
    path.write_bytes(content)
    return path


def test_a_client_that_asks_again_while_what_was_here_is_hashed_loses_nothing(
    uploads: Uploads, monkeypatch: pytest.MonkeyPatch
) -> None:
    left_by_an_earlier_life(uploads, CONTENT)
    hashing, go_on, hash_rest = threading.Semaphore(0), threading.Event(), module._hash_rest

    def slowly(upload: module.Upload) -> None:
        hashing.release()
        assert go_on.wait(WAIT_SEC)
        hash_rest(upload)

    monkeypatch.setattr(module, "_hash_rest", slowly)

    async def ask_twice() -> module.Complete:
        upload = uploads.begin(ANN, "x", len(CONTENT))
        first = asyncio.ensure_future(uploads.append(upload, len(CONTENT), nothing()))
        await asyncio.to_thread(hashing.acquire)
        again = uploads.begin(ANN, "x", len(CONTENT))
        second = asyncio.ensure_future(uploads.append(again, len(CONTENT), nothing()))
        await asyncio.to_thread(hashing.acquire, timeout=0.05)
        go_on.set()
        await asyncio.gather(first, second)
        assert again.hashed_bytes == len(CONTENT)
        return await uploads.complete(again, sha(CONTENT))

    assert run(ask_twice()).sha256 == sha(CONTENT)


def test_what_was_here_and_is_gone_is_begun_again(uploads: Uploads) -> None:
    path = left_by_an_earlier_life(uploads, CONTENT)

    async def go_on() -> None:
        upload = uploads.begin(ANN, "x", len(CONTENT))
        path.unlink()
        await uploads.append(upload, len(CONTENT), nothing())

    with pytest.raises(Conflict, match="begin again at 0"):
        run(go_on())
    assert uploads.received_bytes(ANN, "x") == 0


def within(quota_bytes: int, others: Callable[[], None] = lambda: None) -> tuple[list[int], Any]:
    """An `admit` that refuses what is over the quota; `others` happen while it looks."""
    seen: list[int] = []

    async def admit(reserved: int) -> None:
        seen.append(reserved)
        await asyncio.sleep(0)
        if reserved + 60 > quota_bytes:
            raise TooMany("over the quota")
        others()

    return seen, admit


def test_what_is_here_of_an_upload_does_not_count_against_itself(uploads: Uploads) -> None:
    left_by_an_earlier_life(uploads, b"x" * 50)
    seen, admit = within(100)
    run(uploads.weigh(ANN, "x", admit))
    assert seen == [0]


def test_s16_uploads_that_are_begun_at_once_are_weighed_together(uploads: Uploads) -> None:
    _, admit = within(100)

    async def begin(name: str) -> bool:
        try:
            await uploads.weigh(ANN, name, admit)
        except TooMany:
            return False
        uploads.begin(ANN, name, 60)
        return True

    async def all_at_once() -> list[bool]:
        return await asyncio.gather(*(begin(name) for name in "abcd"))

    assert sum(run(all_at_once())) == 1


@pytest.mark.slow
def test_s1_a_blob_whose_commit_is_in_doubt_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, token = SystemClock(), secrets.mint("user")
    store = SqliteStore(tmp_path / "balsam.db", durable=False)
    store.write_sync(lambda tx: accounts.ensure_local_user(tx, "ann", token, clock.now()))
    app = create_app(ServerSettings(home=tmp_path, data_dir=tmp_path), store, clock)
    write = store.write

    async def in_doubt(fn: Callable[[Tx], T], account: int = 0) -> T:
        """As when the connection to a database broke in the middle of a COMMIT."""
        await write(fn, account)
        raise Unavailable("it is not known whether it was written")

    with TestClient(app, headers={"authorization": f"Bearer {token}"}) as client:
        query = {"offset": 0, "size_bytes": len(CONTENT), "sha256": sha(CONTENT)}
        with monkeypatch.context() as patch:
            patch.setattr(store, "write", in_doubt)
            assert client.put("/api/blobs/uploads/x", params=query, content=CONTENT).status_code == 503
        assert client.get(f"/api/blobs/{sha(CONTENT)}").content == CONTENT
        assert client.put("/api/blobs/uploads/x", params=query, content=CONTENT).status_code == 200
        assert client.get(f"/api/blobs/{sha(CONTENT)}").content == CONTENT
    store.close()


def test_the_disk_gets_on_with_an_upload_while_it_arrives(
    uploads: Uploads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In whole blocks that follow each other; what is kept is what came."""
    begun: list[tuple[int, int]] = []
    monkeypatch.setattr(module, "WRITE_BYTES", 3_000)
    monkeypatch.setattr(module, "FLUSH_BYTES", 20_000)
    monkeypatch.setattr(module.os, "posix_fadvise", lambda handle, start, length, _: begun.append((start, length)))
    content = CONTENT[:95_000]

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(content), 700):
            yield content[start : start + 700]

    async def upload() -> str:
        whole = uploads.begin(ANN, "x", len(content))
        await uploads.append(whole, 0, pieces())
        return (await uploads.complete(whole, sha(content))).place

    place = run(upload())
    assert begun == [(start, 20_000) for start in range(0, 80_000, 20_000)]
    assert (tmp_path / "kept" / place).read_bytes() == content
