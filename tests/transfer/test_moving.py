"""Sending, receiving, reading: how many calls it takes, what happens when files change or the service goes away."""

from __future__ import annotations

import os
import resource
import threading
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from balsam.domain.transfers import TransferDirection
from balsam.testing.transfer_conformance import poll, run
from balsam.transfer import destination, manifest, receiving, sending
from balsam.transfer.base import Order, Outcome, PeerAway, PeerRefused, Trouble, trouble_of
from balsam.transfer.destination import Destination, open_directory
from balsam.transfer.receiving import Wanted, entries_of, receive
from balsam.transfer.sending import PACK_BYTES, Reader, Sender
from balsam.transfer.service import ServiceBackend
from balsam.transfer.sources import Contained, FileChanged, Free, SourceFile, select
from balsam.transfer.threaded import Batch, Cancelled, ThreadedBackend
from tests.transfer.memory_blobs import MemoryBlobs, fetched

IN, OUT = TransferDirection.stage_in, TransferDirection.stage_out


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def give(data: Path, number: int, content: bytes) -> Order:
    place = data / f"run{number}"
    place.mkdir()
    (place / "out.dat").write_bytes(content)
    return Order(number, OUT, f"run{number}", "out.dat", f"/out{number}", False)


def test_a_hundred_small_results_are_one_upload_and_one_download(data: Path) -> None:
    blobs = MemoryBlobs()
    outcomes = run(ServiceBackend(data, blobs), [give(data, number, b"%d" % number * 99) for number in range(100)])
    assert blobs.calls == ["send"]
    wanted = []
    with open_directory(data / "home", make=True) as root, Destination(root) as destination:
        for number, outcome in outcomes.items():
            assert outcome.content is not None
            wanted += [
                Wanted(number, entry, destination, [str(number)]) for entry in entries_of(outcome.content, blobs)
            ]
        assert not any(error for _, error in receive(blobs, wanted))
    assert blobs.calls == ["send", "read"]
    assert (data / "home" / "42").read_bytes() == b"42" * 99


def test_the_same_small_input_of_many_jobs_is_read_once(data: Path) -> None:
    blobs = MemoryBlobs()
    content = run(ServiceBackend(data, blobs), [give(data, 1, b"input")])[1].content
    orders = [Order(number, IN, f"in{number}", "in.dat", "/x", False, content) for number in range(2, 50)]
    blobs.calls.clear()
    assert not any(outcome.error for outcome in run(ServiceBackend(data, blobs), orders).values())
    assert blobs.calls == ["read"]
    assert (data / "in49" / "in.dat").read_bytes() == b"input"


def test_a_pack_has_a_bound(data: Path) -> None:
    blobs = MemoryBlobs()
    run(ServiceBackend(data, blobs), [give(data, number, os.urandom(250_000)) for number in range(40)])
    assert max(map(len, blobs.kept.values())) <= PACK_BYTES
    assert len(blobs.kept) == 3


def test_small_ones_do_not_wait_for_a_large_one(data: Path) -> None:
    """The small one is told of while the large one is still being sent."""
    told: list[int] = []

    class Watching(MemoryBlobs):
        def send_stream(self, name: str, size_bytes: int, read: Reader) -> str:
            told.extend(outcome.item_id for outcome in backend.poll("task").ended)
            return super().send_stream(name, size_bytes, read)

    backend = ServiceBackend(data, Watching())
    orders = [give(data, 1, b"small"), give(data, 2, os.urandom(4_500_000)), give(data, 3, os.urandom(4_500_000))]
    changed = threading.Event()
    backend.submit("task", orders, changed.set)
    rest = poll(backend, "task", changed)
    assert told[:1] == [1]
    assert sorted(told + [outcome.item_id for outcome in rest]) == [1, 2, 3]


def test_a_large_file_that_changes_while_it_is_read_is_tried_again(data: Path) -> None:
    order = give(data, 1, os.urandom(4_500_000))
    path = data / "run1" / "out.dat"

    class Meddling(MemoryBlobs):
        def send_stream(self, name: str, size_bytes: int, read: Reader) -> str:
            os.utime(path, ns=(1, 1))
            return super().send_stream(name, size_bytes, read)

    outcome = run(ServiceBackend(data, Meddling()), [order])[1]
    assert "changed while it was read" in outcome.error and outcome.trouble is Trouble.TRANSIENT


def test_a_small_file_that_changes_while_it_is_read_is_noticed(data: Path) -> None:
    give(data, 1, b"small")
    with open_directory(data / "run1", make=False) as root:
        selection = select(Contained(root), "out.dat", recursive=False)
        files = selection.files

        def meddled() -> Iterator[SourceFile]:
            for file in files:
                os.utime(data / "run1" / "out.dat", ns=(1, 1))
                yield file

        selection.files = meddled()
        with pytest.raises(FileChanged):
            Sender(MemoryBlobs()).send(selection, "x")


def test_nothing_of_what_was_given_up_travels_with_the_next(data: Path) -> None:
    give(data, 1, b"changed while it is read")
    give(data, 2, b"well")
    sink = MemoryBlobs()
    sender = Sender(sink)
    with open_directory(data / "run1", make=False) as root:
        selection = select(Contained(root), "out.dat", recursive=False)
        files = selection.files

        def then_broken() -> Iterator[SourceFile]:
            yield from files
            raise FileChanged("the next one was changed")

        selection.files = then_broken()
        with pytest.raises(FileChanged):
            sender.send(selection, "x")
    with open_directory(data / "run2", make=False) as root:
        selection = select(Contained(root), "out.dat", recursive=False)
        sender.finish(sender.send(selection, "y"), selection.is_tree)
    assert list(sink.kept.values()) == [b"well"]


def test_a_file_that_shrinks_is_noticed(data: Path) -> None:
    give(data, 1, os.urandom(3_000_000))
    with open_directory(data / "run1", make=False) as root:
        for file in select(Contained(root), "out.dat", recursive=False).files:
            pieces = file.pieces()
            next(pieces)
            os.truncate(data / "run1" / "out.dat", 10)
            with pytest.raises(FileChanged, match="shorter"):
                list(pieces)


def test_while_the_service_is_away_nothing_is_a_fault_of_the_item(data: Path) -> None:
    class Away(MemoryBlobs):
        def send_bytes(self, sha256: str, content: bytes) -> None:
            raise PeerAway("nobody answers")

        def read(self, sha256: str, offset: int, length: int) -> Iterator[bytes]:
            raise PeerAway("nobody answers")
            yield b""

    content = run(ServiceBackend(data, MemoryBlobs()), [give(data, 9, b"x")])[9].content
    for orders in ([give(data, 1, b"x"), give(data, 2, b"y")], [Order(3, IN, "in", "x", "/x", False, content)]):
        for outcome in run(ServiceBackend(data, Away()), orders).values():
            assert outcome.trouble is Trouble.AWAY and outcome.error == "nobody answers"


def test_an_input_that_is_gone_fails_its_own_order_only(data: Path) -> None:
    blobs = MemoryBlobs()
    contents = [
        run(ServiceBackend(data, blobs), [give(data, number, b"%d" % number)])[number].content for number in (1, 2)
    ]
    assert contents[0] is not None and contents[0].entries is not None
    del blobs.kept[contents[0].blobs[0]]
    orders = [Order(number, IN, f"in{number}", "x", "/x", False, contents[number - 1]) for number in (1, 2)]
    outcomes = run(ServiceBackend(data, blobs), orders)
    assert outcomes[1].trouble is Trouble.FINAL and "no blob" in outcomes[1].error
    assert outcomes[2].error == ""


def test_a_manifest_that_was_changed_on_the_way_is_noticed(data: Path) -> None:
    blobs = MemoryBlobs()
    place = data / "run1"
    place.mkdir()
    for number in range(40):
        (place / str(number)).write_bytes(b"x")
    content = run(ServiceBackend(data, blobs), [Order(1, OUT, "run1", ".", "/out", True)])[1].content
    assert content is not None and content.manifest is not None
    assert len(fetched(blobs, content)) == 40
    blobs.kept[content.manifest] = blobs.kept[content.manifest].replace(b'"7"', b'"8"')
    outcome = run(ServiceBackend(data, blobs), [Order(2, IN, "in", ".", "/out", True, content)])[2]
    assert "not the one that was sent" in outcome.error and outcome.trouble is Trouble.FINAL


def test_content_that_was_changed_on_the_way_is_noticed_and_leaves_nothing(data: Path) -> None:
    blobs = MemoryBlobs()
    content = run(ServiceBackend(data, blobs), [give(data, 1, b"good")])[1].content
    assert content is not None
    blobs.kept[content.blobs[0]] = b"evil"
    outcome = run(ServiceBackend(data, blobs), [Order(2, IN, "in", "in.dat", "/x", False, content)])[2]
    assert "not what was sent" in outcome.error and outcome.trouble is Trouble.TRANSIENT
    assert list((data / "in").iterdir()) == []


def test_more_blobs_than_a_message_may_name_are_refused_before_they_are_sent(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "MAX_BLOBS", 10)
    monkeypatch.setattr(sending, "SMALL_BYTES", 0)
    orders = [give(data, number, b"%d" % number) for number in (1, 2)]
    for number in range(20):
        (data / "run1" / str(number)).write_bytes(b"%d" % number)
    blobs = MemoryBlobs()
    outcomes = run(ServiceBackend(data, blobs), [replace(orders[0], local_path=".", recursive=True), orders[1]])
    assert "can't travel as one directory" in outcomes[1].error and outcomes[1].trouble is Trouble.FINAL
    assert outcomes[2].error == "" and len(blobs.kept) < 10


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_files(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each in a directory of its own; with short groups, so that few files make many of them."""
    for module, name in ((sending, "PACK_FILES"), (receiving, "GROUP_FILES"), (destination, "_MOST_FOLDERS")):
        monkeypatch.setattr(module, name, 50)
    for module, name in ((sending, "PIECE_BYTES"), (manifest, "_SPOOL_BYTES")):
        monkeypatch.setattr(module, name, 10_000)
    monkeypatch.setattr(destination.os, "fsync", lambda handle: None)
    peaks = [_peak_bytes(data / str(count), count) for count in (400, 3_000)]
    assert peaks[1] < peaks[0] + 200_000, peaks


def _peak_bytes(place: Path, count: int) -> int:
    """Memory that it takes at most to send so many files and to fetch them again."""
    for number in range(count):
        (place / "tree" / str(number)).mkdir(parents=True)
        (place / "tree" / str(number) / "out.dat").write_bytes(b"%d" % number)
    blobs = DiskBlobs(place / "blobs")
    tracemalloc.start()
    try:
        sender = Sender(blobs)
        content = sender.finish(sender.send(select(Free(place), "tree", recursive=True), "x"), is_tree=True)
        with open_directory(place / "home", make=True) as root, Destination(root) as there:
            wanted = (Wanted(1, entry, there, entry.parts) for entry in entries_of(content, blobs))
            assert not any(error for _, error in receive(blobs, wanted))
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sum(path.read_text() == path.parent.name for path in (place / "home").glob("*/out.dat")) == count
    return peak_bytes


class DiskBlobs:
    """The service's part of transfers, in files."""

    def __init__(self, place: Path) -> None:
        place.mkdir()
        self._place = place

    def send_bytes(self, sha256: str, content: bytes) -> None:
        (self._place / sha256).write_bytes(content)

    def send_stream(self, name: str, size_bytes: int, read: Reader) -> str:
        with (self._place / name).open("wb") as file:
            for piece in read(0):
                file.write(piece)
        return name

    def read(self, sha256: str, offset: int, length: int) -> Iterator[bytes]:
        with (self._place / sha256).open("rb") as file:
            file.seek(offset)
            while length and (piece := file.read(min(length, 70_000))):
                length -= len(piece)
                yield piece


def test_files_of_the_user_are_read_over_the_users_own_links(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "x").write_bytes(b"1")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "dir").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "mine" / "file").symlink_to(tmp_path / "elsewhere" / "x")
    blobs = MemoryBlobs()
    sender = Sender(blobs)
    content = sender.finish(sender.send(select(Free(tmp_path), "mine", recursive=True), "x"), is_tree=True)
    assert fetched(blobs, content) == {"dir/x": b"1", "file": b"1"}


def test_a_deep_tree_takes_few_open_files(data: Path) -> None:
    depth, before = 60, resource.getrlimit(resource.RLIMIT_NOFILE)
    place = data.joinpath("run", *["d"] * depth)
    place.mkdir(parents=True)
    (place / "x").write_bytes(b"1")
    in_use = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (in_use + 4 * depth, before[1]))
    try:
        with open_directory(data, make=False) as root:
            found = [file.path for file in select(Contained(root), "run", recursive=True).files]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert found == ["d/" * depth + "x"]


class Blocking(ThreadedBackend):
    """Waits in the middle of each order."""

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.go_on = threading.Event(), threading.Event()

    def carry(self, batch: Batch) -> None:
        for order in batch.orders:
            if not batch.is_wanted(order):
                continue
            self.entered.set()
            assert self.go_on.wait(20)
            try:
                batch.moves(order)(1)
            except Cancelled:
                if batch.is_wanted(order):
                    raise
                continue
            batch.done(Outcome(order.item_id))


def orders_of(*numbers: int) -> list[Order]:
    return [Order(number, OUT, "run", "x", "/x", False) for number in numbers]


def test_what_is_cancelled_is_left_in_the_middle_and_not_told_of() -> None:
    backend, changed = Blocking(), threading.Event()
    backend.submit("task", orders_of(1, 2, 3), changed.set)
    assert backend.entered.wait(20)
    backend.cancel("task", frozenset({1, 3}))
    backend.go_on.set()
    assert [outcome.item_id for outcome in poll(backend, "task", changed)] == [2]


def test_closing_leaves_everything_in_the_middle() -> None:
    backend, changed = Blocking(), threading.Event()
    backend.submit("task", orders_of(1, 2), changed.set)
    assert backend.entered.wait(20)
    backend.close()
    backend.go_on.set()
    assert poll(backend, "task", changed) == []


def test_a_fault_of_ours_is_told_of_every_order_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    class Faulty(ThreadedBackend):
        def carry(self, batch: Batch) -> None:
            batch.done(Outcome(1))
            raise KeyError("a fault")

    outcomes = run(Faulty(), orders_of(1, 2))
    assert outcomes[1].error == "" and "KeyError" in outcomes[2].error
    assert "a batch of transfers failed" in caplog.text


@pytest.mark.parametrize(
    ("error", "trouble"),
    [
        (PeerAway("x"), Trouble.AWAY),
        (PeerRefused("x", is_final=True), Trouble.FINAL),
        (PeerRefused("x", is_final=False), Trouble.TRANSIENT),
        (OSError(28, "No space left on device"), Trouble.TRANSIENT),
        (OSError(13, "Permission denied"), Trouble.FINAL),
        (FileChanged("x"), Trouble.TRANSIENT),
    ],
)
def test_what_is_tried_again(error: Exception, trouble: Trouble) -> None:
    assert trouble_of(error)[1] is trouble
    with pytest.raises(KeyError):
        trouble_of(KeyError("a fault of ours"))
