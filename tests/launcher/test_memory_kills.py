"""Out of memory: known from the counter of the control group, and put to one Job only."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from balsam.launcher.memory_kills import CGROUPS, OWN_GROUPS, MemoryKills

V1 = "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n"
V2 = "low 0\nhigh 0\nmax 7\noom 2\noom_kill {}\noom_group_kill 0\n"


def groups(tmp_path: Path, own: str, counter: str) -> tuple[Path, Path]:
    """/proc/self/cgroup and /sys/fs/cgroup of a machine."""
    (tmp_path / "own").write_text(own)
    (tmp_path / "fs" / counter).parent.mkdir(parents=True)
    return tmp_path / "own", tmp_path / "fs"


@pytest.mark.parametrize(
    ("own", "counter", "text"),
    [
        ("0::/user.slice/session-3.scope\n", "user.slice/session-3.scope/memory.events", V2),
        (
            "0::/system.slice/slurmstepd.scope/job_7/step_batch/user/task_0\n",
            "system.slice/slurmstepd.scope/job_7/memory.events",
            V2,
        ),
        (
            "5:cpu:/\n4:memory:/slurm/uid_1/job_7/step_batch/task_0\n",
            "memory/slurm/uid_1/job_7/step_batch/task_0/memory.oom_control",
            V1,
        ),
    ],
)
def test_each_kill_is_claimed_once(tmp_path: Path, own: str, counter: str, text: str) -> None:
    where = groups(tmp_path, own, counter)
    path = tmp_path / "fs" / counter
    path.write_text(text.format(4))
    kills = MemoryKills(*where)
    assert not kills.claim(), "what was killed before us is none of our Jobs"
    path.write_text(text.format(6))
    assert [kills.claim() for _ in range(3)] == [True, True, False]
    path.unlink()
    assert not kills.claim()


@pytest.mark.parametrize("own", ["", "0::/no/such/group\n", "3:cpu,cpuacct:/x\n"])
def test_without_a_counter_nothing_is_claimed(tmp_path: Path, own: str) -> None:
    kills = MemoryKills(*groups(tmp_path, own, "x/memory.events"))
    assert not kills.claim()
    assert not MemoryKills(tmp_path / "nothing", tmp_path).claim()


@pytest.fixture
def small_group() -> Iterator[Path]:
    """A control group of this process's own with 48 MB of memory."""
    lines = [line.split(":", 2) for line in OWN_GROUPS.read_text().splitlines()]
    parents = [CGROUPS / "memory" / path.lstrip("/") for _, kind, path in lines if kind == "memory"]
    parents += [CGROUPS / path.lstrip("/") for _, kind, path in lines if not kind]
    limits = ("memory.limit_in_bytes", "memory.max")
    for parent in parents:
        group = parent / f"balsam-test-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        found = next((group / name for name in limits if (group / name).exists()), None)
        if found is None:
            group.rmdir()
            continue
        found.write_text("48000000")
        yield group
        group.rmdir()
        return
    pytest.skip("no control group with a memory limit can be made here")


def test_a_real_kill_is_seen(small_group: Path) -> None:
    """A process joins the group, starts two children, of which one takes more memory than there is."""
    program = f"""
import subprocess, sys
from pathlib import Path
Path({str(small_group / "cgroup.procs")!r}).write_text(str(__import__("os").getpid()))
from balsam.launcher.memory_kills import MemoryKills
kills = MemoryKills()
fine = subprocess.run(["true"]).returncode, kills.claim()
greedy = subprocess.run([sys.executable, "-c", "bytearray(200_000_000)"]).returncode, kills.claim(), kills.claim()
print(fine, greedy)
"""
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert said.stdout.split("\n")[0] == "(0, False) (-9, True, False)", said.stderr
