"""rsync over a real ssh: what is said when it can't work, what one order costs the others, and what is left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from balsam.domain.transfers import TransferDirection
from balsam.testing.transfer_conformance import contents, poll, run
from balsam.transfer.base import Order, TransferBackend, Trouble
from balsam.transfer.locations import location_problem, open_location
from balsam.transfer.rsync import SshAddress
from tests.testbed.sshd import Sshd, running_sshd

IN, OUT = TransferDirection.stage_in, TransferDirection.stage_out


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with running_sshd(tmp_path_factory.mktemp("sshd")) as running:
        yield running


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "site" / "data" / "run").mkdir(parents=True)
    (tmp_path / "site" / "data" / "run" / "out.dat").write_bytes(b"energies")
    return tmp_path / "site" / "data"


@pytest.fixture
def far(tmp_path: Path) -> Path:
    (tmp_path / "far").mkdir()
    return tmp_path / "far"


def backend(data: Path, url: str) -> TransferBackend:
    return open_location(url, data, data.parent / "spool")


def out(number: int, remote_path: str, local_path: str = "out.dat") -> Order:
    return Order(number, OUT, "run", local_path, remote_path, recursive=False)


def into(number: int, remote_path: str) -> Order:
    return Order(number, IN, f"new{number}", ".", remote_path, recursive=False)


@pytest.mark.slow
def test_a_server_whose_key_is_not_known_gets_nothing(sshd: Sshd, data: Path, far: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    url = sshd.url("rsync", far).replace(str(sshd.known_hosts), str(tmp_path / "empty"))
    outcome = run(backend(data, url), [out(1, "/out.dat")])[1]
    assert "Host key verification failed" in outcome.error and outcome.trouble is Trouble.TRANSIENT
    assert contents(far) == {} and (tmp_path / "empty").read_text() == ""


@pytest.mark.slow
def test_credentials_that_are_not_taken_are_said_on_the_item(sshd: Sshd, data: Path, far: Path, tmp_path: Path) -> None:
    url = sshd.url("rsync", far).replace(str(sshd.identity_file), f"{sshd.identity_file.parent}/host")
    outcome = run(backend(data, url), [into(1, "/in.dat")])[1]
    assert "Permission denied (publickey" in outcome.error and outcome.trouble is Trouble.TRANSIENT


@pytest.mark.slow
def test_a_server_that_is_away_is_tried_again(sshd: Sshd, data: Path, far: Path) -> None:
    url = sshd.url("rsync", far).replace(f":{sshd.port}", ":1")
    for order in (out(1, "/out.dat"), into(2, "/in.dat")):
        outcome = run(backend(data, url), [order])[order.item_id]
        assert "Connection refused" in outcome.error and outcome.trouble is Trouble.TRANSIENT, outcome
        assert contents(data.parent / "spool") == {}, "something is left of it"


@pytest.mark.slow
def test_what_the_far_end_refuses_fails_its_own_order_only(sshd: Sshd, data: Path, far: Path) -> None:
    (far / "taken").mkdir()
    (far / "taken" / "full").touch()
    (far / "in.dat").write_bytes(b"input")
    there = backend(data, sshd.url("rsync", far))
    outcomes = run(there, [out(1, "/a/out.dat"), out(2, "/taken"), out(3, "/b/"), out(4, "/a/out.dat")])
    assert not outcomes[1].error and not outcomes[3].error and not outcomes[4].error
    assert "taken" in outcomes[2].error and outcomes[2].trouble is Trouble.FINAL
    assert contents(far) == {"a/out.dat": b"energies", "b/out.dat": b"energies", "taken/full": b"", "in.dat": b"input"}
    outcomes = run(there, [into(1, "/in.dat"), into(2, "/missing.dat"), into(3, "/taken"), into(4, "/in.dat")])
    assert not outcomes[1].error and not outcomes[4].error
    assert "missing.dat" in outcomes[2].error and outcomes[2].trouble is Trouble.FINAL
    assert "is a directory" in outcomes[3].error and outcomes[3].trouble is Trouble.FINAL
    (data / "new1" / "in.dat").write_bytes(b"written by the Job in place")
    assert (data / "new4" / "in.dat").read_bytes() == b"input", "two Jobs share one file"


@pytest.mark.slow
def test_a_file_that_is_written_meanwhile_is_sent_again(sshd: Sshd, data: Path, far: Path) -> None:
    def write(path: Path) -> None:
        while not stop.wait(0.005):
            with path.open("ab") as file:
                file.write(b"more")

    stop = threading.Event()
    writer = threading.Thread(target=write, args=(data / "run" / "out.dat",))
    writer.start()
    try:
        outcome = run(backend(data, sshd.url("rsync", far)), [out(1, "/out.dat")])[1]
    finally:
        stop.set()
        writer.join()
    assert "was changed" in outcome.error and outcome.trouble is Trouble.TRANSIENT


@pytest.mark.slow
def test_progress_is_told_and_a_closed_back_end_ends_soon(sshd: Sshd, data: Path, far: Path) -> None:
    with (data / "run" / "out.dat").open("wb") as file:
        file.truncate(8 << 30)  # takes no space; as it is sent, much longer than until the first word of progress
    there, changed = backend(data, sshd.url("rsync", far)), threading.Event()
    there.submit("task", [out(1, "/out.dat")], changed.set)
    deadline = time.monotonic() + 60
    while not there.poll("task").moved.get(1):
        assert time.monotonic() < deadline, "no progress is told"
        time.sleep(0.01)
    there.close()
    assert poll(there, "task", changed) == []
    assert not (far / "out.dat").exists(), "half of a file has its name"
    assert list((data.parent / "spool").iterdir()) == []


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("rsync://dtn.example.org/project?known_hosts=/etc/ssh/known", ""),
        ("rsync://ada@[::1]:22/project", ""),
        ("rsync://ada:secret@dtn.example.org/project", "has a password"),
        ("rsync://dtn.example.org", "must have the form"),
        ("rsync:///project", "must have the form"),
        ("rsync://-oProxyCommand=evil/project", "must have the form"),
        ("rsync://-lroot@host/project", "must have the form"),
        ("rsync://host/project?identity_file=a b", "absolute path"),
        ("rsync://host/project?identity_file=/a'b", "absolute path"),
        ("rsync://host/project?proxy=x", "takes the options"),
        ("rsync://host:99999/project", "ort"),
        ("gopher://host/project", "scheme is one of"),
    ],
)
def test_what_a_location_may_be(url: str, said: str) -> None:
    why = location_problem(url)
    assert said in why and bool(said) == bool(why)


def test_ssh_asks_nothing_and_trusts_no_unknown_key() -> None:
    words = SshAddress.parse("rsync://ada@host:2222/x?identity_file=/key").command()
    assert {"-oBatchMode=yes", "-oStrictHostKeyChecking=yes", "-p2222", "-i", "/key"} <= set(words)
