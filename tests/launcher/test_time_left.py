"""How long the launcher takes its allocation to have: the batch script's word, or less by the batch system's (L3)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from balsam.launcher import time_left
from balsam.launcher.config import LauncherConfig
from balsam.launcher.main import make_partitions, parse_arguments
from balsam.launcher.time_left import wall_time_sec
from tests.platform.fake_commands import write_program


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LauncherConfig:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return LauncherConfig(1, "/s", "/s/d", str(tmp_path / "b"), "/s/c", scheduler="slurm", compute_node="slurm")


@pytest.mark.parametrize(
    ("answer", "seconds"),
    [
        ("echo 'RUNNING|9:30'", 570.0),  # the modules took half a minute
        ("echo 'RUNNING|1-00:00:00'", 600.0),  # the script's own word is not exceeded: it may hold some back
        ("echo 'RUNNING|UNLIMITED'", 600.0),
        ("echo 'PENDING|5:00'", 600.0),  # it is ours no more, or not yet: that says nothing
        ("echo 'RUNNING|0:00'", 1.0),
        ("echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1", 600.0),
        ("exec sleep 60", 600.0),
    ],
)
def test_what_the_batch_system_says_counts_when_it_is_less(
    config: LauncherConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, seconds: float
) -> None:
    write_program(tmp_path, "squeue", answer)
    monkeypatch.setattr(time_left, "TIMEOUT_SEC", 0.3 if "sleep" in answer else 30.0)
    assert wall_time_sec(600.0, config, "77") == seconds


def test_nobody_is_asked_without_a_batch_system(config: LauncherConfig, tmp_path: Path) -> None:
    write_program(tmp_path, "squeue", "echo 'RUNNING|1:00'")
    assert wall_time_sec(600.0, config, None) == 600.0
    assert wall_time_sec(600.0, LauncherConfig(1, "/s", "/s/d", "/s/q/b", "/s/c"), "77") == 600.0


def test_all_partitions_end_by_it(config: LauncherConfig, tmp_path: Path) -> None:
    write_program(tmp_path, "scontrol", "echo n1; echo n2")
    write_program(tmp_path, "squeue", 'echo "$@" >> "$0.asked"; echo "RUNNING|4:00"')
    line = parse_arguments(["--config", "/c", "-j", "mpi", "-t", "10", "-p", "mpi:1", "-p", "serial:1"])
    environ = {
        "SLURM_JOB_ID": "77",
        "SLURM_JOB_NODELIST": "n[1-2]",
        "SLURMD_NODENAME": "n1",
        "PATH": os.environ["PATH"],
    }
    assert [part.wall_time_sec for part in make_partitions(line, config, environ)] == [240.0, 240.0]
    assert len((tmp_path / "squeue.asked").read_text().splitlines()) == 1
