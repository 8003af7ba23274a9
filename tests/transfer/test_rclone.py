"""What rclone is told, what it says, and that no secret stands where others can read it."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from pathlib import Path

import pytest

from balsam.domain.transfers import TransferDirection
from balsam.testing.transfer_conformance import contents, poll, run
from balsam.transfer.base import Order, TransferBackend, Trouble
from balsam.transfer.locations import location_problem, open_location
from balsam.transfer.rclone import IN_PLACE, is_before
from balsam.transfer.rclone_remote import REMOTES
from tests.testbed.rclone_serve import rclone_serving, require_rclone
from tests.testbed.sshd import running_sshd

IN, OUT = TransferDirection.stage_in, TransferDirection.stage_out


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "site" / "data" / "run").mkdir(parents=True)
    (tmp_path / "site" / "data" / "run" / "out.dat").write_bytes(b"energies")
    (tmp_path / "far").mkdir()
    return tmp_path / "site" / "data"


def backend(data: Path, url: str) -> TransferBackend:
    return open_location(url, data, data.parent / "spool")


def out(number: int, remote_path: str) -> Order:
    return Order(number, OUT, "run", "out.dat", remote_path, recursive=False)


@pytest.mark.slow
def test_a_wrong_password_is_said_on_the_item_and_a_new_one_is_taken_up(data: Path, tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("old")
    with rclone_serving("webdav", tmp_path / "far", "--user=ada", "--pass=new") as address:
        there = backend(data, f"webdav://ada@{address}?password_file={password}")
        outcome = run(there, [out(1, "/a/out.dat")])[1]
        assert "401" in outcome.error and outcome.trouble is Trouble.TRANSIENT
        password.write_text("new\n")
        assert not run(there, [out(1, "/a/out.dat")])[1].error
    assert contents(tmp_path / "far") == {"a/out.dat": b"energies"}
    password.unlink()
    outcome = run(there, [out(1, "/a/out.dat")])[1]
    assert str(password) in outcome.error and outcome.trouble is Trouble.TRANSIENT


@pytest.mark.slow
def test_a_server_whose_key_is_not_known_gets_nothing(data: Path, tmp_path: Path) -> None:
    require_rclone()
    (tmp_path / "empty").touch()
    (tmp_path / "sshd").mkdir()
    with running_sshd(tmp_path / "sshd") as sshd:
        url = sshd.url("sftp", tmp_path / "far").replace(str(sshd.known_hosts), str(tmp_path / "empty"))
        outcome = run(backend(data, url), [out(1, "/out.dat")])[1]
    assert "key is unknown" in outcome.error and outcome.trouble is Trouble.TRANSIENT
    assert contents(tmp_path / "far") == {}


@pytest.mark.slow
def test_progress_is_told_and_a_closed_back_end_ends_soon(data: Path, tmp_path: Path) -> None:
    (data / "run" / "out.dat").write_bytes(os.urandom(1_000_000) * 300)
    with rclone_serving("webdav", tmp_path / "far", "--bwlimit=20M") as address:
        there, changed = backend(data, f"webdav://{address}"), threading.Event()
        there.submit("task", [out(1, "/out.dat")], changed.set)
        deadline = time.monotonic() + 60
        while not there.poll("task").moved.get(1):
            assert time.monotonic() < deadline, "no progress is told"
            time.sleep(0.01)
        there.close()
        assert poll(there, "task", changed) == []
    assert list((data.parent / "spool").iterdir()) == []


@pytest.mark.slow
def test_what_can_not_be_renamed_there_hinders_no_other(data: Path, tmp_path: Path) -> None:
    """A directory in the place of a file; another file system, where it is sent in its place at the next try."""
    require_rclone()
    far, odd = tmp_path / "far", "/ a[1]*{x} "  # odd for rclone's filters
    for place in (far / "taken" / "full", far / "other", tmp_path / "sshd"):
        place.mkdir(parents=True)
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", far / "other"], capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small file system")
    try:
        with running_sshd(tmp_path / "sshd") as sshd:
            there = backend(data, sshd.url("sftp", far))
            first = run(there, [out(1, odd), out(2, "/taken"), out(3, "/d/deep/out.dat"), out(4, "/other/x/out.dat")])
            again = run(there, [out(2, "/taken"), out(4, "/other/x/out.dat"), out(5, "/fifth.dat")])
        assert [number for number, outcome in first.items() if outcome.error] == [2, 4]
        assert first[4].trouble is Trouble.TRANSIENT
        assert [number for number, outcome in again.items() if outcome.error] == [2] and "taken" in again[2].error
        whole = (odd[1:], "d/deep/out.dat", "other/x/out.dat", "fifth.dat")
        assert contents(far) == dict.fromkeys(whole, b"energies") | {"taken/full/": b""}
    finally:
        subprocess.run(["umount", far / "other"], check=True)


@pytest.mark.slow
def test_by_webdav_a_file_has_its_name_when_it_is_whole_and_takes_no_directorys_place(
    data: Path, tmp_path: Path
) -> None:
    """What a server shows while a file comes in, and its MOVE, which puts a file where a directory was."""
    far, odd = tmp_path / "far", "/ a[1]*{x} "
    for place in ("taken/full", "tree/b/full", "tree/c"):
        (far / place).mkdir(parents=True)
    (far / "old.dat").write_bytes(b"of an earlier run")
    for name in ("a", "b", "c/d"):
        (data / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (data / "tree" / name).write_bytes(name.encode())
    tree = Order(3, OUT, "tree", ".", "/tree", recursive=True)
    (data / "large").mkdir()
    (data / "large" / "out.dat").write_bytes(os.urandom(1_000_000) * 20)
    with rclone_serving("webdav", far, "--bwlimit=10M") as address:
        there, changed = backend(data, f"webdav://{address}"), threading.Event()
        outcomes = run(there, [out(1, odd), out(2, "/taken"), tree, out(4, "/d/deep/out.dat"), out(5, "/old.dat")])
        assert [number for number, outcome in outcomes.items() if outcome.error] == [2, 3]
        assert "taken: is a directory" in outcomes[2].error and outcomes[2].trouble is Trouble.FINAL
        assert "tree/b: is a directory" in outcomes[3].error
        new = dict.fromkeys((odd[1:], "d/deep/out.dat", "old.dat"), b"energies")
        assert contents(far) == new | {"taken/full/": b"", "tree/b/full/": b"", "tree/c/": b""}
        there.submit("task", [Order(6, OUT, "large", "out.dat", "/large.dat", recursive=False)], changed.set)
        deadline = time.monotonic() + 60
        while not list(far.glob(".balsam-partial-*/*/large.dat")):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert not (far / "large.dat").exists()
        (outcome,) = poll(there, "task", changed)
    assert not outcome.error and (far / "large.dat").stat().st_size == 20_000_000
    assert not list(far.glob(".balsam-*"))


@pytest.mark.slow
def test_what_may_be_seen_before_it_is_whole_is_noted(data: Path, tmp_path: Path) -> None:
    require_rclone()
    (tmp_path / "rclone.conf").write_text("[far]\ntype = local\n")
    version = subprocess.run(["rclone", "version"], capture_output=True, text=True, check=True).stdout
    there = backend(data, f"rclone://far{tmp_path}/far?config={tmp_path}/rclone.conf")
    outcome = run(there, [out(1, "/out.dat")])[1]
    assert outcome.note == (IN_PLACE if is_before(version, (1, 63)) else "")
    assert contents(tmp_path / "far") == {"out.dat": b"energies"}


@pytest.mark.slow
def test_without_rclone_that_is_said(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    outcome = run(backend(data, "webdav://127.0.0.1:1"), [out(1, "/out.dat")])[1]
    assert "rclone is not installed" in outcome.error and outcome.trouble is Trouble.TRANSIENT


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sftp://ada@host:2222/project?identity_file=/key", ""),
        ("sftp://ada@host/project", "needs the file of a key"),
        ("sftp://ada:secret@host/project?identity_file=/key", "has a password"),
        ("s3://bucket/prefix?region=eu-west-1&profile=ada", ""),
        ("s3:///prefix", "must have the form"),
        ("s3://key:secret@bucket/prefix", "has a password"),
        ("s3://bucket?acl=public", "takes the options"),
        ("webdavs://ada@cloud.example.org/files?password_file=/secret", ""),
        ("webdavs://ada@cloud.example.org/files?password_file=secret", "absolute path"),
        ("https://data.example.org/sets?token_file=/secret", ""),
        ("https:///sets", "must have the form"),
        ("rclone://archive/ada", ""),
        ("rclone://:local:/etc/ada", "must have the form"),
        ("rclone:///etc/ada", "must have the form"),
    ],
)
def test_what_a_location_may_be(url: str, said: str) -> None:
    why = location_problem(url)
    assert said in why and bool(said) == bool(why)


def test_secrets_are_in_the_environment_and_read_anew(tmp_path: Path) -> None:
    secret = tmp_path / "token"
    remote = REMOTES["https"](f"https://data.example.org/sets?token_file={secret}")
    for word in ("first", "second"):
        secret.write_text(f"{word}\n")
        assert remote.environment()["RCLONE_CONFIG_BALSAM_HEADERS"] == f"Authorization,Bearer {word}"
    assert "second" not in remote.target and remote.below("a/b") == "BALSAM:a/b"
