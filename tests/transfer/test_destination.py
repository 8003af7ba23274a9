"""Files land whole or not at all: resumed, verified, locked, and gone when the disk is full."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import threading
from pathlib import Path

import pytest

from balsam.transfer import destination as module
from balsam.transfer.descent import Refused
from balsam.transfer.destination import ChecksumMismatch, Destination, IncomingFile, open_directory

LARGE = os.urandom(3_000_000)


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def begin(destination: Destination, content: bytes, name: str = "out.dat", mode: int = 0o644) -> IncomingFile:
    return destination.file(name.split("/"), len(content), mode, sha(content))


def put(destination: Destination, content: bytes, name: str = "out.dat") -> None:
    with begin(destination, content, name) as file:
        file.write(content[file.received_bytes :])
        file.finish()


def names(place: Path) -> list[str]:
    return sorted(str(path.relative_to(place)) for path in place.rglob("*") if path.is_file())


def test_nothing_is_visible_before_it_is_whole(destination: Destination, place: Path) -> None:
    with begin(destination, b"12", "a/b/out.dat") as file:
        file.write(b"1")
        assert not (place / "a" / "b" / "out.dat").exists()
        file.write(b"2")
        assert not (place / "a" / "b" / "out.dat").exists()
        file.finish()
    assert names(place) == ["a/b/out.dat"] and (place / "a/b/out.dat").read_bytes() == b"12"


def test_an_interrupted_file_is_gone_on_with(destination: Destination, place: Path) -> None:
    with begin(destination, LARGE) as file:
        file.write(LARGE[:1_500_000])
    assert not (place / "out.dat").exists()
    with begin(destination, LARGE) as file:
        assert file.received_bytes == 1_500_000
        file.write(LARGE[1_500_000:])
        file.finish()
    assert (place / "out.dat").read_bytes() == LARGE and names(place) == ["out.dat"]


def test_what_an_earlier_try_left_is_verified_as_well(destination: Destination, place: Path) -> None:
    with begin(destination, LARGE) as file:
        file.write(b"x" * 1_500_000)
    with begin(destination, LARGE) as file, pytest.raises(ChecksumMismatch):
        file.write(LARGE[file.received_bytes :])
        file.finish()
    assert names(place) == []
    put(destination, LARGE)


def test_other_content_in_the_same_place_begins_anew(destination: Destination, place: Path) -> None:
    with begin(destination, LARGE) as file:
        file.write(LARGE[:1_500_000])
    other = LARGE[::-1]
    with begin(destination, other) as file:
        assert file.received_bytes == 0


def test_a_wrong_byte_a_missing_one_and_one_too_many(destination: Destination, place: Path) -> None:
    for content in (b"1x", b"1"):
        with begin(destination, b"12") as file, pytest.raises(ChecksumMismatch):
            file.write(content)
            file.finish()
    with begin(destination, b"12") as file, pytest.raises(ChecksumMismatch, match="more than"):
        file.write(b"123")
    assert names(place) == []


@pytest.mark.parametrize("call", ["write", "fsync", "rename"])
def test_a_failed_write_leaves_nothing_and_keeps_what_was_there_f10(
    destination: Destination, place: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    put(destination, b"of an earlier run")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module.os, call, full)
        with begin(destination, b"new") as file, pytest.raises(OSError, match="No space"):
            file.write(b"new")
            file.finish()
    assert names(place) == ["out.dat"] and (place / "out.dat").read_bytes() == b"of an earlier run"


def test_a_full_disk_gets_its_space_back_f10(tmp_path: Path) -> None:
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("only root may mount a small file system")
    try:
        with open_directory(place, make=False) as root, Destination(root) as destination:
            with pytest.raises(OSError, match="No space") as caught:
                put(destination, LARGE)
            assert caught.value.errno == errno.ENOSPC
            assert list(place.iterdir()) == [] and os.statvfs(place).f_bavail * 4096 > 1_900_000
            put(destination, LARGE[:1_500_000])
        assert names(place) == ["out.dat"]
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_two_at_once_write_one_good_file(destination: Destination, place: Path) -> None:
    """A script and `balsam job fetch` collect the same result."""
    first = begin(destination, LARGE)
    first.write(LARGE[:2_000_000])
    second = threading.Thread(target=put, args=(destination, LARGE))
    second.start()
    second.join(0.2)
    assert second.is_alive()  # it waits for the first one
    first.write(LARGE[2_000_000:])
    first.finish()
    first.close()
    second.join(20)
    assert not second.is_alive()
    assert (place / "out.dat").read_bytes() == LARGE and names(place) == ["out.dat"]


def test_no_link_is_followed_t9(destination: Destination, place: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (place / "link").symlink_to(tmp_path / "outside")
    with pytest.raises(Refused, match="is a link"):
        put(destination, b"x", "link/out.dat")
    (place / "out.dat").symlink_to(tmp_path / "outside" / "target")
    put(destination, b"x")
    assert not list((tmp_path / "outside").iterdir())
    assert (place / "out.dat").read_bytes() == b"x"


def test_modes_are_the_readers_own(destination: Destination, place: Path) -> None:
    """Of the sender's mode only whether it is a program counts; set-uid and the like never travel."""
    before = os.umask(0o027)
    try:
        with open_directory(place, make=True) as root, Destination(root) as fresh:
            for name, mode in (("plain", 0o777 & ~0o100), ("program", 0o4711)):
                with fresh.file([name], 0, mode, sha(b"")) as file:
                    file.finish()
    finally:
        os.umask(before)
    assert (place / "plain").stat().st_mode & 0o7777 == 0o640
    assert (place / "program").stat().st_mode & 0o7777 == 0o750


def test_names_of_any_length_the_system_takes(destination: Destination, place: Path) -> None:
    put(destination, b"x", "n" * 255)
    with pytest.raises(OSError, match="too long"):
        put(destination, b"x", "n" * 256)
    assert names(place) == ["n" * 255]


def test_a_file_system_without_locks_is_no_obstacle(
    destination: Destination, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(handle: int, how: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(module.fcntl, "flock", refuse)
    put(destination, b"x")
    assert names(place) == ["out.dat"]
