"""Writer and readers of a process are shared by turns: whoever has much to do does not hold up the others (S16)."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from balsam.server.store import sqlite
from balsam.server.store.postgres import groups
from balsam.server.store.postgres.store import PostgresStore
from balsam.server.store.protocol import ReadTx, Store, Tx, Wake
from balsam.server.store.sqlite import SqliteStore
from balsam.server.store.writer import MAX_GROUP, GroupedWriter, Item

MANY, OTHER = 1, 2


def written(store: Any, by_many: int) -> None:
    """Account MANY sends this many writes while the first of them is still at work, then OTHER sends one."""

    async def send() -> None:
        working, go_on = threading.Event(), threading.Event()

        def first(tx: Tx) -> None:
            working.set()
            assert go_on.wait(30)

        def note(name: str) -> Any:
            return lambda tx: tx.wake(Wake("site", 1, name, {}))

        tasks = [asyncio.create_task(store.write(first, MANY))]
        assert await asyncio.to_thread(working.wait, 30)
        tasks += [asyncio.create_task(store.write(note("many"), MANY)) for _ in range(by_many)]
        tasks += [asyncio.create_task(store.write(note("other"), OTHER))]
        await asyncio.sleep(0)  # all have come to the line
        go_on.set()
        await asyncio.gather(*tasks)

    asyncio.run(send())


def test_a_write_that_comes_with_the_end_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Queued behind the end it would wait for ever, and its thread with it."""
    coming = threading.Event()
    answers: list[object] = []

    class Slow(queue.SimpleQueue[Any]):
        def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
            if item is not None:
                coming.set()
                time.sleep(0.05)  # so long another thread would have for the end
            super().put(item, block, timeout)

    def write_group(group: list[Item]) -> int:
        for item in group:
            item.result = "written"
        return len(group)

    monkeypatch.setattr(queue, "SimpleQueue", Slow)
    writer = GroupedWriter(write_group)
    late = threading.Thread(target=lambda: answers.append(writer.write_sync(lambda _: None, MANY)), daemon=True)
    late.start()
    assert coming.wait(30)
    writer.close()
    late.join(30)
    assert answers == ["written"]


def test_a_group_is_filled_by_turns() -> None:
    seen: list[list[int]] = []

    class Notes:
        def wake(self, wake: Wake) -> None:
            """What the writes do."""

    def write_group(group: list[Item]) -> int:
        for item in group:
            item.result = item.fn(Notes())  # type: ignore[arg-type]
        seen.append([item.account for item in group])
        return len(group)

    with closing(GroupedWriter(write_group)) as writer:
        written(writer, 2 * MAX_GROUP)
    assert [len(group) for group in seen] == [1, MAX_GROUP, MAX_GROUP, 1]
    assert OTHER in seen[1][:2]


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """One whose groups are full after the first item."""
    monkeypatch.setattr(sqlite, "GROUP_SEC", -1)
    monkeypatch.setattr(groups, "GROUP_SEC", -1)
    if request.param == "sqlite":
        with closing(SqliteStore(tmp_path / "balsam.sqlite")) as opened:
            yield opened
        return
    with request.getfixturevalue("postgres").migrated() as address, closing(PostgresStore(address)) as served:
        yield served


def test_nobody_waits_for_a_commit_of_what_another_one_sent_before(store: Store) -> None:
    commits: list[Sequence[str]] = []
    store.subscribe(lambda wakes: commits.append([wake.event for wake in wakes]))
    written(store, 5)
    assert [len(commit) for commit in commits] == [1] * 6
    assert ["other"] in commits[:2]


def test_nobody_waits_for_all_that_another_one_reads(store: Store) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def long(tx: ReadTx) -> None:
        begun.set()
        assert go_on.wait(30)

    async def read() -> None:
        tasks = [asyncio.create_task(store.read(long, MANY)) for _ in range(50)]
        assert await asyncio.to_thread(begun.wait, 30)
        try:
            for _ in range(10):
                assert await asyncio.wait_for(store.read(lambda tx: "answered", OTHER), 15) == "answered"
        finally:
            go_on.set()
        await asyncio.gather(*tasks)

    asyncio.run(read())
