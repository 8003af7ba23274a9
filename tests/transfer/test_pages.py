"""Small files come into place together, and each is promised what a single one is."""

from __future__ import annotations

import errno
import hashlib
import os
import resource
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from balsam.transfer import destination as module
from balsam.transfer.base import PeerAway
from balsam.transfer.destination import Destination
from balsam.transfer.manifest import EMPTY_SHA256, Entry
from balsam.transfer.pages import PAGE_FILES
from balsam.transfer.receiving import Wanted, receive
from tests.transfer.memory_blobs import MemoryBlobs

MANY = 2 * PAGE_FILES + 10


def packed(blobs: MemoryBlobs, contents: Sequence[bytes]) -> list[Entry]:
    """Files of these contents in one blob, by number."""
    pack = b"".join(contents)
    blob = hashlib.sha256(pack).hexdigest()
    blobs.kept[blob] = pack
    entries, offset = [], 0
    for number, content in enumerate(contents):
        given = (blob, offset) if content else (None, 0)
        entries.append(Entry(str(number), len(content), 0o644, hashlib.sha256(content).hexdigest(), *given))
        offset += len(content)
    return entries


def wanted_at(destination: Destination, entries: Sequence[Entry]) -> list[Wanted]:
    return [Wanted(number, entry, destination, entry.parts) for number, entry in enumerate(entries)]


def names(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir())


def test_what_has_no_bytes_does_not_cut_a_pack_in_two(destination: Destination, place: Path) -> None:
    blobs = MemoryBlobs()
    entries = packed(blobs, [b"%d" % number if number % 3 else b"" for number in range(MANY)])
    entries[5] = Entry("5/", 0, 0o755, EMPTY_SHA256)
    outcomes = list(receive(blobs, wanted_at(destination, entries)))
    assert [(one.key, error) for one, error in outcomes] == [(number, None) for number in range(MANY)]
    assert blobs.calls == ["read"]
    assert (place / "5").is_dir() and (place / "3").read_bytes() == b"" and (place / "100").read_bytes() == b"100"
    assert len(names(place)) == MANY


def test_a_large_file_beside_empty_ones_is_gone_on_with(destination: Destination, place: Path) -> None:
    """It does not join them: what is read in one go begins anew."""
    blobs, content = MemoryBlobs(), os.urandom(3_000_000)
    large, digest = packed(blobs, [content])[0], hashlib.sha256(content).hexdigest()
    with destination.file(large.parts, len(content), 0o644, digest) as begun:
        begun.write(content[:2_000_000])
    moved: list[int] = []
    empty = [Entry(name, 0, 0o644, EMPTY_SHA256) for name in ("before", "after")]
    wanted = wanted_at(destination, [empty[0], large, empty[1]])
    assert not any(error for _, error in receive(blobs, wanted, lambda key, size_bytes: moved.append(size_bytes)))
    assert moved[1] == 2_000_000, "which were here already"
    assert (place / "0").read_bytes() == content


def test_no_file_has_its_name_before_it_is_durable(
    destination: Destination, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one that can't be made durable hinders no other, and leaves what was there."""
    (place / "7").write_bytes(b"of an earlier run")
    durable: set[int] = set()
    fsync, rename = os.fsync, os.rename

    def noted(handle: int) -> None:
        if os.pread(handle, 9, 0) == b"7":
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(handle)
        durable.add(os.fstat(handle).st_ino)

    def checked(source: str, target: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        assert os.stat(source, dir_fd=src_dir_fd).st_ino in durable, target
        rename(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    blobs = MemoryBlobs()
    entries = packed(blobs, [b"%d" % number for number in range(MANY)])
    with monkeypatch.context() as patch:
        patch.setattr(module.os, "fsync", noted)
        patch.setattr(module.os, "rename", checked)
        outcomes = {one.key: error for one, error in receive(blobs, wanted_at(destination, entries))}
    assert [key for key, error in outcomes.items() if error] == [7] and "No space" in str(outcomes[7])
    assert len(durable) == MANY - 1
    assert names(place) == sorted(str(number) for number in range(MANY))
    assert (place / "7").read_bytes() == b"of an earlier run" and (place / "8").read_bytes() == b"8"


def test_a_service_that_goes_away_leaves_what_came_before(destination: Destination, place: Path) -> None:
    class Breaking(MemoryBlobs):
        def read(self, sha256: str, offset: int, length: int) -> Iterator[bytes]:
            yield self.kept[sha256][:40]
            raise PeerAway("nobody answers")

    blobs, told = Breaking(), []
    with pytest.raises(PeerAway):
        for one, error in receive(blobs, wanted_at(destination, packed(blobs, [b"0123456789"] * 9))):
            told.append((one.key, error))
    assert told == [(0, None), (1, None), (2, None), (3, None)]
    assert names(place) == ["0", "1", "2", "3"]


def test_what_is_given_up_in_the_middle_leaves_nothing_of_ours(destination: Destination, place: Path) -> None:
    class Enough(Exception):
        pass

    def stop(key: int, size_bytes: int) -> None:
        if key == 5:
            raise Enough

    blobs = MemoryBlobs()
    with pytest.raises(Enough):
        list(receive(blobs, wanted_at(destination, packed(blobs, [b"x%d" % n for n in range(9)])), stop))
    assert names(place) == []


def in_thread(blobs: MemoryBlobs, wanted: Sequence[Wanted]) -> threading.Thread:
    thread = threading.Thread(target=lambda: list(receive(blobs, wanted)), daemon=True)
    thread.start()
    return thread


def test_the_same_content_in_the_same_place_does_not_wait_for_itself(destination: Destination, place: Path) -> None:
    """Two Jobs that send the same to one path."""
    blobs = MemoryBlobs()
    first, second = packed(blobs, [b"energy", b"other"])
    thread = in_thread(blobs, wanted_at(destination, [first, first, second]))
    thread.join(20)
    assert not thread.is_alive()
    assert names(place) == ["0", "1"] and (place / "0").read_bytes() == b"energy"


def test_two_that_collect_the_same_in_another_order_do_not_wait_for_each_other(
    destination: Destination, place: Path
) -> None:
    both, blobs = threading.Barrier(2, timeout=20), MemoryBlobs()
    entries = packed(blobs, [b"a" * 9, b"b" * 9])
    blobs.kept |= {"c" * 64: b"b" * 9 + b"a" * 9}
    turned = [
        Entry(entry.path, 9, 0o644, entry.sha256, "c" * 64, offset)
        for entry, offset in zip(entries[::-1], (0, 9), strict=True)
    ]
    errors: list[Exception | None] = []

    def collect(given: Sequence[Entry]) -> None:
        begun: list[int] = []

        def meet(key: int, size_bytes: int) -> None:
            if not begun:
                begun.append(key)
                both.wait()  # each holds its first file now

        errors.extend(error for _, error in receive(blobs, wanted_at(destination, given), meet))

    threads = [threading.Thread(target=collect, args=(given,), daemon=True) for given in (entries, turned)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    assert errors == [None] * 4
    assert names(place) == ["0", "1"] and (place / "0").read_bytes() == b"a" * 9


def test_a_process_with_few_files_left_to_open_goes_on_with_short_pages(destination: Destination, place: Path) -> None:
    blobs = MemoryBlobs()
    wanted = wanted_at(destination, packed(blobs, [b"%d" % number for number in range(MANY)]))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = {int(name) for name in os.listdir("/proc/self/fd")}
    free = [number for number in range(len(taken) + 20) if number not in taken]
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[19], hard))
    try:
        outcomes = list(receive(blobs, wanted))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert not any(error for _, error in outcomes)
    assert len(names(place)) == MANY
