"""Ranks as plain processes: numbers, exit codes, and that no rank stays behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from balsam.platform import processes
from balsam.platform.mpirun.base import NodeRanks, RankPlacement
from balsam.platform.mpirun.plain import Plain


def start(ranks: int, script: str, tmp_path: Path) -> subprocess.Popen[str]:
    command = Plain().command(RankPlacement((NodeRanks("here", ranks),)), ["/bin/sh", "-c", script], {})
    return subprocess.Popen(
        command.argv,
        env={**os.environ, **command.env, "TEST_RANKS": str(tmp_path)},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = process.communicate(timeout=30)
    return process.returncode, output


def wait_files(tmp_path: Path, pattern: str, count: int) -> None:
    deadline = time.monotonic() + 20
    while len(list(tmp_path.glob(pattern))) < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def living(tmp_path: Path) -> list[processes.ProcessInfo]:
    return list(processes.marked("TEST_RANKS", str(tmp_path)))


def test_ranks_know_their_numbers(tmp_path: Path) -> None:
    script = "echo $BALSAM_RANK $BALSAM_SIZE $BALSAM_LOCAL_RANK $BALSAM_LOCAL_SIZE $PMI_RANK $PMI_SIZE"
    code, output = ended(start(3, script, tmp_path))
    assert code == 0
    assert sorted(output.splitlines()) == [f"{rank} 3 {rank} 3 {rank} 3" for rank in range(3)]


def test_one_rank_has_no_starter_and_knows_its_number() -> None:
    command = Plain().command(RankPlacement((NodeRanks("here", 1),)), ["app", "x"], {})
    assert command.argv == ["app", "x"]
    assert (command.env["BALSAM_RANK"], command.env["BALSAM_SIZE"]) == ("0", "1")


def test_all_ranks_are_in_one_process_group(tmp_path: Path) -> None:
    process = start(3, "ps -o pgid= -p $$", tmp_path)
    code, output = ended(process)
    assert code == 0
    assert {int(line) for line in output.split()} == {process.pid}


def test_first_failing_rank_ends_the_others_and_gives_the_code(tmp_path: Path) -> None:
    begin = time.monotonic()
    code, _ = ended(start(3, "if [ $BALSAM_RANK = 1 ]; then exit 7; fi; exec sleep 600", tmp_path))
    assert code == 7
    assert time.monotonic() - begin < 4
    assert living(tmp_path) == []


def test_rank_that_ignores_sigterm_is_killed_after_a_while(tmp_path: Path) -> None:
    script = "if [ $BALSAM_RANK = 1 ]; then sleep 0.5; exit 7; fi; trap '' TERM; while :; do sleep 0.1; done"
    begin = time.monotonic()
    code, _ = ended(start(2, script, tmp_path))
    assert code == 7
    assert 5 <= time.monotonic() - begin < 12


def test_death_by_signal_is_128_plus_its_number(tmp_path: Path) -> None:
    assert ended(start(2, "kill -SEGV $$", tmp_path))[0] == 128 + signal.SIGSEGV


def test_ranks_that_fail_together_are_no_trouble(tmp_path: Path) -> None:
    """Many reaped in one look: the code is the lowest rank's among them, and no signal goes to a pid that is free."""
    script = "while [ ! -e go ]; do sleep 0.01; done; exit $((BALSAM_RANK + 3))"
    process = start(12, script, tmp_path)
    process.send_signal(signal.SIGSTOP)
    (tmp_path / "go").touch()
    deadline = time.monotonic() + 20
    while any(info.id.pid != process.pid for info in living(tmp_path)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGCONT)
    assert ended(process) == (3, "")


def test_sigterm_to_the_group_reaches_each_rank_once_and_the_starter_waits_for_them(tmp_path: Path) -> None:
    """One that fails of it takes no other along, which is told nothing more while it saves what it has."""
    saving = "echo told >> told-$BALSAM_RANK; if [ $BALSAM_RANK = 1 ]; then exit 7; fi"
    script = f"trap '{saving}' TERM; touch up-$BALSAM_RANK; while [ ! -e go ]; do sleep 0.05; done; touch saved"
    process = start(2, script, tmp_path)
    wait_files(tmp_path, "up-*", 2)
    os.killpg(process.pid, signal.SIGTERM)
    wait_files(tmp_path, "told-*", 2)
    deadline = time.monotonic() + 20
    while any(info.id.pid != process.pid and "BALSAM_RANK=1" in environment(info.id.pid) for info in living(tmp_path)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.3)
    (tmp_path / "go").touch()
    assert ended(process)[0] == 7
    assert [(tmp_path / f"told-{rank}").read_text() for rank in (0, 1)] == ["told\n"] * 2
    assert (tmp_path / "saved").exists()


def environment(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/environ").read_text().split("\0")
    except OSError:
        return []


def test_missing_program_is_127_with_a_line(tmp_path: Path) -> None:
    command = Plain().command(RankPlacement((NodeRanks("here", 2),)), ["no-such-program"], {})
    done = subprocess.run(command.argv, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (127, "no-such-program: No such file or directory\n")
    directory = Plain().command(RankPlacement((NodeRanks("here", 2),)), [str(tmp_path)], {})
    assert subprocess.run(directory.argv, capture_output=True, timeout=30, check=False).returncode == 126


@pytest.mark.parametrize("words", [[], ["2"], ["0", "--", "x"], ["-1", "--", "x"], ["2", "x", "y"]])
def test_wrong_use_is_refused(words: list[str]) -> None:
    starter = Plain().command(RankPlacement((NodeRanks("here", 2),)), ["x"], {}).argv[:4]
    done = subprocess.run([*starter, *words], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr[:6]) == (64, "usage:")


def test_start_is_cheap(tmp_path: Path) -> None:
    """Isolated and without site: no user package can slow down or break the start of ranks."""
    command = Plain().command(RankPlacement((NodeRanks("here", 2),)), ["true"], {})
    assert command.argv[:3] == [sys.executable, "-I", "-S"]
