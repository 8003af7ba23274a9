"""The outbox: every way a file can end, a full disk, delivery and compaction (S1, F9, F10)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from balsam.client import outbox as module
from balsam.client.outbox import Outbox, OutboxError, bare, outbox_path, read_outbox


def fill(path: Path, count: int = 50) -> Outbox:
    outbox = Outbox(path, 7, {"partition": 2})
    for number in range(count):
        outbox.append([{"job_id": number, "message": "ü" * (number % 5)}])
    return outbox


def test_what_became_of_a_job_is_told_when_the_rest_is_refused() -> None:
    record = {"seq": 3, "job_id": 1, "token": 2, "event": "run_error", "at": "t", "return_code": 1, "data": {"a": 1}}
    assert bare({**record, "message": "\ud800"}, "bad text") == {
        **{name: value for name, value in record.items() if name != "data"},
        "message": "the service refused what was told with this: bad text",
    }
    told = bare({**record, "result": {"value": "\ud800"}}, "bad text")
    assert told["result"]["error"]["type"] == "ResultRefused"


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = outbox_path(tmp_path, 7)
    fill(path).close()
    contents = read_outbox(path)
    assert (contents.session_id, contents.header["partition"], contents.torn) == (7, 2, False)
    assert [record["seq"] for record in contents.records] == list(range(1, 51))
    assert [record["job_id"] for record in contents.records] == list(range(50))
    assert path.stat().st_mode & 0o777 == 0o600


def test_cut_at_every_byte(tmp_path: Path) -> None:
    """F9: whatever length a power loss leaves, the whole records before it are read, and never a wrong one."""
    path = outbox_path(tmp_path, 7)
    fill(path).close()
    data = path.read_bytes()
    ends = [index + 1 for index, byte in enumerate(data) if byte == ord("\n")]
    for length in range(len(data), -1, -1):
        os.truncate(path, length)
        if length < ends[0]:
            with pytest.raises(OutboxError, match="header"):
                read_outbox(path)
            continue
        contents = read_outbox(path)
        whole = sum(1 for end in ends[1:] if end <= length)
        assert [record["seq"] for record in contents.records] == list(range(1, whole + 1))
        assert contents.torn == (length not in ends)


def test_damage_in_the_middle_ends_the_good_part(tmp_path: Path) -> None:
    path = outbox_path(tmp_path, 7)
    fill(path, 10).close()
    data = bytearray(path.read_bytes())
    data[data.index(b'"seq":5') + 6] = ord("6")
    path.write_bytes(data)
    contents = read_outbox(path)
    assert [record["seq"] for record in contents.records] == [1, 2, 3, 4]
    assert contents.torn


def test_a_session_has_one_writer(tmp_path: Path) -> None:
    path = outbox_path(tmp_path, 7)
    fill(path, 1).close()
    with pytest.raises(OutboxError, match="exists"):
        Outbox(path, 7)
    assert len(read_outbox(path).records) == 1


def test_acks_empty_it_and_numbers_go_on(tmp_path: Path) -> None:
    outbox = fill(outbox_path(tmp_path, 7), 5)
    assert len(outbox.unacked) == 5
    outbox.ack(3)
    outbox.ack(2)
    assert [b'"seq":4' in text or b'"seq":5' in text for text in outbox.unacked] == [True, True]
    outbox.ack(5)
    assert outbox.unacked == []
    assert b'"seq":6' in outbox.append([{"job_id": 1}])[0]
    outbox.close(remove=True)
    assert not outbox.path.exists()


def test_delivered_records_leave_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COMPACT_BYTES", 2000)
    path = outbox_path(tmp_path, 7)
    outbox = fill(path)
    size = path.stat().st_size
    outbox.ack(48)
    assert path.stat().st_size < size / 4
    outbox.append([{"job_id": 99}])
    outbox.sync()
    assert [record["seq"] for record in read_outbox(path).records] == [49, 50, 51]
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_s1_the_smaller_file_has_the_name_before_anything_is_added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that is not on the disk yet may lead to the old file after a loss of power."""
    monkeypatch.setattr(module, "COMPACT_BYTES", 2000)
    outbox = fill(outbox_path(tmp_path, 7))
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")))
    outbox.ack(48)
    assert synced == [str(tmp_path)]
    outbox.close()


def test_compaction_that_fails_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COMPACT_BYTES", 2000)
    path = outbox_path(tmp_path, 7)
    outbox = fill(path)

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "rename", refuse)
    outbox.ack(48)
    outbox.append([{"job_id": 99}])
    assert [record["seq"] for record in read_outbox(path).records] == list(range(1, 52))
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_a_file_system_that_takes_nothing_at_all_adds_nothing_and_recovers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = outbox_path(tmp_path, 7)
    outbox = fill(path, 3)
    real = os.pwrite

    def refuse(*_: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", lambda fd, data, at: real(fd, data[:10], at) if len(data) > 80 else refuse())
        patch.setattr(os, "ftruncate", refuse)
        with pytest.raises(OutboxError, match="Input/output error"):
            outbox.append([{"job_id": 10, "message": "x" * 100}])
    assert len(read_outbox(path).records) == 3
    outbox.append([{"job_id": 10}])
    assert [record["job_id"] for record in read_outbox(path).records][3:] == [10]


def test_full_disk_adds_nothing_and_recovers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """F10: half of a line that was written before the disk was full does not stay; the same records go in later."""
    path = outbox_path(tmp_path, 7)
    outbox = fill(path, 3)
    real = os.pwrite

    def half(fd: int, data: bytes, offset: int) -> int:
        if len(data) > 10:
            return real(fd, data[:10], offset)
        raise OSError(28, "No space left on device")

    for _ in range(2):
        monkeypatch.setattr(os, "pwrite", half)
        with pytest.raises(OutboxError, match="No space left"):
            outbox.append([{"job_id": 10}, {"job_id": 11}])
        monkeypatch.setattr(os, "pwrite", real)
        contents = read_outbox(path)
        assert (len(contents.records), contents.torn) == (3, False)
    assert len(outbox.append([{"job_id": 10}, {"job_id": 11}])) == 2
    assert [record["seq"] for record in read_outbox(path).records] == [1, 2, 3, 4, 5]


def test_survives_the_death_of_its_writer(tmp_path: Path) -> None:
    """S1: what `append` returned from is there after kill -9, without `sync`."""
    path = outbox_path(tmp_path, 7)
    code = (
        "import os, signal, sys; from pathlib import Path; from balsam.client.outbox import Outbox\n"
        "box = Outbox(Path(sys.argv[1]), 7)\n"
        "for n in range(100): box.append([{'job_id': n}])\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    contents = read_outbox(path)
    assert (len(contents.records), contents.torn) == (100, False)


def test_unreadable_is_told(tmp_path: Path) -> None:
    with pytest.raises(OutboxError, match="No such file"):
        read_outbox(tmp_path / "session-1.outbox")
    with pytest.raises(OutboxError, match="No such file"):
        Outbox(tmp_path / "absent" / "session-1.outbox", 1)
