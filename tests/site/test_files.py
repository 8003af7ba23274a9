"""Looking into workdirs: what may be seen is seen, and nothing else, whatever the service asks and the Job plants."""

from __future__ import annotations

import os
import queue
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balsam.domain.clock import SystemClock
from balsam.site.services import files, following
from balsam.site.services.files import MAX_ENTRIES, Files, Rate
from balsam.testing.clock import FakeClock
from balsam.wire.sites import FileReply, FileRequest

SECRET = "blsm_site_secret"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """<tmp>/site/data/run/a with a few files, and a secret above."""
    root = tmp_path / "site" / "data"
    workdir = root / "run" / "a"
    (workdir / "sub" / "deep").mkdir(parents=True)
    (root.parent / "credentials.json").write_text(SECRET)
    (root / "run" / "neighbour").mkdir()
    (root / "run" / "neighbour" / "job.out").write_text(SECRET)
    (workdir / "job.out").write_text("0123456789")
    (workdir / "sub" / "deep" / "x").write_text("deep")
    return root


@pytest.fixture
def desk(data: Path) -> Files:
    return Files(data, lambda request_id, reply: None, SystemClock())


def ask(desk: Files, op: str = "read", path: str = "job.out", workdir: str = "run/a", **more: object) -> FileReply:
    return desk.answer(FileRequest(id="1", job_id=1, workdir=workdir, op=op, path=path, **more))


def test_read_all_part_and_tail(desk: Files) -> None:
    whole = ask(desk)
    assert (whole.data, whole.size_bytes, whole.offset, whole.error) == (b"0123456789", 10, 0, "")
    assert ask(desk, offset=3, max_bytes=4).data == b"3456"
    tail = ask(desk, offset=-4)
    assert (tail.data, tail.offset) == (b"6789", 6)
    assert ask(desk, offset=-400).data == b"0123456789"
    past = ask(desk, offset=10)
    assert (past.data, past.error) == (b"", "")


def test_list_and_stat(desk: Files) -> None:
    listed = ask(desk, "list", "")
    assert [(entry.path, entry.is_dir) for entry in listed.entries] == [("job.out", False), ("sub", True)]
    assert [entry.path for entry in ask(desk, "list", "sub").entries] == ["sub/deep"]
    found = ask(desk, "stat")
    assert (found.entries[0].path, found.entries[0].size_bytes, found.size_bytes) == ("job.out", 10, 10)
    assert ask(desk, "stat", "").entries[0].is_dir


@pytest.mark.parametrize(
    ("op", "path", "words"),
    [
        ("read", "nothing", "not_found"),
        ("read", "sub", "is a directory"),
        ("read", "job.out/x", "not a directory"),
        ("list", "job.out", "is not a directory"),
        ("stat", "sub/nothing", "not_found"),
    ],
)
def test_what_can_not_be_had_is_answered_with_the_reason(desk: Files, op: str, path: str, words: str) -> None:
    assert words in ask(desk, op, path).error


@pytest.mark.parametrize(
    "path",
    ["../neighbour/job.out", "/etc/passwd", "sub/../../neighbour/job.out", "a\0b", "~/x\n", "..", "sub/..", "\x1b[2J"],
)
def test_paths_that_lead_out_are_refused_s15(desk: Files, path: str) -> None:
    for op in ("read", "list", "stat"):
        reply = ask(desk, op, path)
        assert reply.error.startswith("refused:")
        assert not reply.data and not reply.entries


@pytest.mark.parametrize("workdir", ["..", "../..", "/", "run/../..", "", ".", "run/\0"])
def test_workdirs_that_lead_out_are_refused_s15(desk: Files, workdir: str) -> None:
    reply = ask(desk, "list", "", workdir)
    assert reply.error.startswith("refused:") and not reply.entries


@pytest.mark.parametrize(
    "target", ["../../../credentials.json", "/etc/passwd", "../neighbour/job.out", "../../run/neighbour/job.out"]
)
def test_links_out_of_the_workdir_are_refused_t9(desk: Files, data: Path, target: str) -> None:
    workdir = data / "run" / "a"
    (workdir / "evil").symlink_to(target)
    (workdir / "up").symlink_to("..")
    (workdir / "sub" / "hop").symlink_to("../evil")
    for path in ("evil", "sub/hop", "up/neighbour/job.out"):
        reply = ask(desk, "read", path)
        assert reply.error.startswith("refused:"), (path, reply)
        assert SECRET.encode() not in reply.data
    absolute = workdir / "abs"
    absolute.symlink_to(data.parent)
    assert ask(desk, "read", "abs/credentials.json").error.startswith("refused:")


def test_a_link_in_place_of_the_workdir_is_refused(desk: Files, data: Path) -> None:
    (data / "link").symlink_to("run/a")
    (data / "out").symlink_to(data.parent)
    assert ask(desk, workdir="link").error.startswith("refused:")
    assert ask(desk, path="credentials.json", workdir="out").error.startswith("refused:")


def test_links_that_stay_inside_are_followed(desk: Files, data: Path) -> None:
    workdir = data / "run" / "a"
    (workdir / "latest").symlink_to("job.out")
    (workdir / "sub" / "up").symlink_to("../job.out")
    (workdir / "dir").symlink_to("sub/deep")
    assert ask(desk, path="latest").data == b"0123456789"
    assert ask(desk, path="sub/up").data == b"0123456789"
    assert ask(desk, path="dir/x").data == b"deep"


def test_a_ring_of_links_ends(desk: Files, data: Path) -> None:
    (data / "run" / "a" / "ring").symlink_to("ring")
    assert "links" in ask(desk, path="ring").error


def test_fifos_sockets_and_devices_are_refused_at_once(desk: Files, data: Path) -> None:
    os.mkfifo(data / "run" / "a" / "pipe")
    begun = time.monotonic()
    assert "neither a file nor a directory" in ask(desk, path="pipe").error
    assert time.monotonic() - begun < 1


@pytest.mark.parametrize("path", ["swap/job.out", "swap"])
def test_a_link_put_there_right_after_the_look_is_not_followed_t9(
    desk: Files, data: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    workdir = data / "run" / "a"
    if path == "swap":
        (workdir / "swap").write_text("mine")
    else:
        (workdir / "swap").mkdir()
        (workdir / "swap" / "job.out").write_text("mine")
    look = os.stat

    def look_and_swap(name: object, **how: object) -> os.stat_result:
        found = look(name, **how)
        if name == "swap" and not (workdir / "old").exists():
            (workdir / "swap").rename(workdir / "old")
            target = "../neighbour/job.out" if path == "swap" else "../neighbour"
            (workdir / "swap").symlink_to(target)
        return found

    monkeypatch.setattr("balsam.transfer.descent.os.stat", look_and_swap)
    reply = ask(desk, path=path)
    assert reply.error
    assert SECRET.encode() not in reply.data


def test_a_name_swapped_between_look_and_use_never_leaks_t9(desk: Files, data: Path) -> None:
    """A Job that swaps a directory and a link to the outside as fast as it can."""
    workdir, stop = data / "run" / "a", threading.Event()
    (workdir / "real").mkdir()
    (workdir / "real" / "job.out").write_text("mine")

    def swap() -> None:
        while not stop.is_set():
            for target in ("real", "../neighbour"):
                os.symlink(target, workdir / "new")
                os.replace(workdir / "new", workdir / "swap")

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        desk._rate = Rate(1e9, 1e9, SystemClock())
        seen = [ask(desk, path="swap/job.out") for _ in range(2000)]
    finally:
        stop.set()
        thread.join()
    assert any(reply.data == b"mine" for reply in seen)
    assert not any(SECRET.encode() in reply.data for reply in seen)


@settings(max_examples=300, deadline=None)
@given(
    path=st.text(alphabet=st.sampled_from("./\\~ab\0\n\x7fé%2e-"), max_size=12),
    op=st.sampled_from(["read", "list", "stat"]),
)
def test_no_name_shows_anything_above_the_workdir(tmp_path_factory: pytest.TempPathFactory, path: str, op: str) -> None:
    root = tmp_path_factory.getbasetemp() / "corpus" / "data"
    (root / "w").mkdir(parents=True, exist_ok=True)
    (root / "a").write_text(SECRET)
    (root / "w" / "b").write_text("mine")
    reply = ask(Files(root, lambda request_id, reply: None, SystemClock()), op, path, "w")
    assert SECRET.encode() not in reply.data
    assert all("w" not in entry.path and entry.path.strip("./") in ("", "b") for entry in reply.entries)


@pytest.mark.slow
def test_a_directory_with_too_many_entries_says_so_s16(desk: Files, data: Path) -> None:
    for number in range(MAX_ENTRIES + 1):
        (data / "run" / "a" / "sub" / str(number)).touch()
    assert f"more than {MAX_ENTRIES} entries" in ask(desk, "list", "sub").error


def test_a_listing_that_would_not_go_through_says_so_s16(
    desk: Files, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MAX_LISTING_BYTES", 2_000)
    for letter in "abcdefghij":
        (data / "run" / "a" / "sub" / (letter * 250)).touch()
    assert "too many long names" in ask(desk, "list", "sub").error
    assert len(ask(desk, "list", "").entries) == 2


@pytest.mark.parametrize("at", [-1e18, 1e18])
def test_a_time_that_no_calendar_has_hides_no_file(at: float) -> None:
    entry = files._entry("x", os.stat_result((0o100600, 0, 0, 1, 0, 0, 10, 0, at, 0)))
    assert entry.size_bytes == 10 and FileReply(entries=[entry]).model_dump_json()


def test_a_name_that_is_not_utf8_is_shown_and_breaks_nothing(desk: Files, data: Path) -> None:
    (Path(os.fsdecode(os.fsencode(data / "run" / "a" / "sub") + b"/\xff"))).touch()
    reply = ask(desk, "list", "sub")
    assert [entry.path for entry in reply.entries] == ["sub/deep", "sub/\ufffd"]
    assert reply.model_dump_json()


def test_the_rate_is_bounded_s16(data: Path) -> None:
    clock = FakeClock()
    desk = Files(data, lambda request_id, reply: None, clock)
    answers = [ask(desk) for _ in range(int(files.BURST) + 1)]
    assert [reply.error for reply in answers[:-1]] == [""] * int(files.BURST)
    assert answers[-1].error.startswith("busy")
    clock.advance(1 / files.REQUESTS_PER_SEC)
    assert ask(desk).error == ""


def test_requests_are_answered_by_other_threads_and_never_queue_without_end(data: Path) -> None:
    hold, answered, taken = threading.Event(), [], []

    def reply(request_id: str, answer: FileReply) -> None:
        taken.append(request_id)
        hold.wait(10)
        answered.append(request_id)

    desk = Files(data, reply, SystemClock())
    desk.start()
    begun = time.monotonic()
    for number in range(files.MAX_WAITING + 50):
        desk.ask(FileRequest(id=str(number), job_id=1, workdir="run/a", op="read", path="job.out"))
    assert time.monotonic() - begun < 1
    hold.set()
    deadline = time.monotonic() + 10
    while len(answered) < files.MAX_WAITING and time.monotonic() < deadline:
        time.sleep(0.01)
    desk.close()
    assert files.MAX_WAITING <= len(answered) <= files.MAX_WAITING + files.THREADS


def follow(desk: Files, offset: int = 0, path: str = "out", file_id: str = "") -> FileReply | None:
    request = FileRequest(id="1", job_id=1, workdir="run/a", op="follow", path=path, offset=offset, file_id=file_id)
    return desk._look_for_more(request)


def test_a_followed_file_is_told_when_there_is_more(desk: Files, data: Path) -> None:
    file = data / "run" / "a" / "out"
    assert follow(desk) is None, "it is not there yet"
    file.write_text("one\n")
    first = follow(desk)
    assert first is not None and first.data == b"one\n" and first.file_id
    assert follow(desk, 4, file_id=first.file_id) is None
    with file.open("a") as more:
        more.write("two\n")
    second = follow(desk, 4, file_id=first.file_id)
    assert second is not None and (second.data, second.offset, second.file_id) == (b"two\n", 4, first.file_id)


def test_a_followed_file_that_is_cut_or_replaced_is_told_from_its_start(desk: Files, data: Path) -> None:
    file = data / "run" / "a" / "out"
    file.write_text("a long line\n")
    first = follow(desk)
    assert first is not None
    file.write_text("new\n")
    cut = follow(desk, 12, file_id=first.file_id)
    assert cut is not None and (cut.data, cut.offset) == (b"new\n", 0)
    other = data / "run" / "a" / "other"
    other.write_text("as long as that\n")
    other.rename(file)
    replaced = follow(desk, 4, file_id=cut.file_id)
    assert replaced is not None and (replaced.data, replaced.offset) == (b"as long as that\n", 0)
    file.write_text("")
    emptied = follow(desk, 16, file_id=replaced.file_id)
    assert emptied is not None and (emptied.data, emptied.offset) == (b"", 0)


def test_a_followed_file_may_turn_into_a_link_out_s15(desk: Files, data: Path) -> None:
    file = data / "run" / "a" / "out"
    file.write_text("harmless\n")
    assert follow(desk)
    file.unlink()
    file.symlink_to(data.parent / "credentials.json")
    refused = follow(desk, 9)
    assert refused is not None and refused.error.startswith("refused") and not refused.data
    file.unlink()
    os.mkfifo(file)
    fifo = follow(desk, 9)
    assert fifo is not None and fifo.error.startswith("refused")


def test_followers_are_answered_from_a_thread_and_given_up(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "TICK_SEC", 0.01)
    monkeypatch.setattr(following, "HOLD_SEC", 0.05)
    answers: queue.SimpleQueue[tuple[str, FileReply]] = queue.SimpleQueue()
    desk = Files(data, lambda request_id, reply: answers.put((request_id, reply)), SystemClock())
    desk.start()
    try:
        for request_id, path in (("new", "job.out"), ("none", "absent"), ("none", "absent")):
            desk.ask(FileRequest(id=request_id, job_id=1, workdir="run/a", op="follow", path=path))
        found = dict(answers.get(timeout=10) for _ in range(2))
        assert found["new"].data == b"0123456789"
        assert (found["none"].data, found["none"].error) == (b"", "")
        assert answers.empty()
    finally:
        desk.close()
