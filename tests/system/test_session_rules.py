"""The rules at the end of a session (tests/testbed/session_rules.py) go red when a test breaks them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

LEAKS = """
import subprocess

def test_starts_a_process_in_a_session_of_its_own():
    subprocess.Popen(["sleep", "61.5"], start_new_session=True)
"""
FORKS = """
import os

def test_forks_and_drops_the_environment():
    if os.fork() == 0:
        os.execve("/bin/sleep", ["sleep", "62.5"], {})
"""
TIDY = """
import subprocess

def test_ends_what_it_starts():
    child = subprocess.Popen(["sleep", "63.5"])
    child.kill()
    child.wait()
"""
SKIPS = """
import pytest

def test_left_out():
    pytest.skip("no reason anyone agreed to")
"""
HOME = """
import os
from pathlib import Path

def test_home_is_the_sessions_own(tmp_path_factory):
    assert Path(os.environ["BALSAM_HOME"]).is_relative_to(tmp_path_factory.getbasetemp())
    assert "BALSAM_URL" not in os.environ
"""


def _session(tmp_path: Path, test: str, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    file = tmp_path / "test_inner.py"
    file.write_text(test)
    words = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "tests.conftest",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(tmp_path),
        *options,
        str(file),
    ]
    env = {name: value for name, value in os.environ.items() if name != "CI"} | environment
    return subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False)


def test_a_leaked_process_is_named_ended_and_fails_the_session(tmp_path: Path) -> None:
    for test, command in ((LEAKS, "sleep 61.5"), (FORKS, "sleep 62.5")):
        run = _session(tmp_path, test)
        assert run.returncode == 1, run.stdout
        assert command in run.stdout
        assert run.stdout.rstrip().splitlines()[-1].startswith("1 passed, 1 error"), run.stdout


def test_a_session_that_leaves_nothing_is_green(tmp_path: Path) -> None:
    run = _session(tmp_path, TIDY)
    assert run.returncode == 0, run.stdout


def test_a_skip_without_a_reason_fails_in_ci_only(tmp_path: Path) -> None:
    assert _session(tmp_path, SKIPS).returncode == 0
    run = _session(tmp_path, SKIPS, CI="true")
    assert run.returncode == 1
    assert "test_inner.py::test_left_out" in run.stdout


def test_the_developers_settings_do_not_reach_the_tests(tmp_path: Path) -> None:
    run = _session(tmp_path, HOME, BALSAM_URL="http://127.0.0.1:1", BALSAM_HOME=str(tmp_path))
    assert run.returncode == 0, run.stdout


def test_a_whole_run_that_shows_nothing_of_a_row_of_the_table_is_red_in_ci(tmp_path: Path) -> None:
    whole = ("-o", f"testpaths={tmp_path / 'test_inner.py'}")
    able = os.geteuid() == 0 and shutil.which("apt-get") is not None  # else a row may need what can't be installed
    for options, environment, is_red in (
        (whole, {"CI": "true"}, able),
        ((*whole, "-n", "1"), {"CI": "true"}, able),  # the workers' reports come to the session that ends
        ((*whole, "-k", "ends"), {"CI": "true"}, False),
        (whole, {}, False),
        ((), {"CI": "true"}, False),
    ):
        run = _session(tmp_path, TIDY, *options, **environment)
        assert run.returncode == is_red, run.stdout
        assert ("no test of row F1 passed" in run.stdout) == is_red
    listed = _session(tmp_path, TIDY, *whole, "--collect-only", CI="true")
    assert listed.returncode == 0, listed.stdout
