"""The guardian against real faults: every fault of the table that is its business, with ranks that resist.

`Tag.alive` looks at processes on its own, without the code under test; `starts` is written by the toy launcher.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from balsam.launcher import guardian
from balsam.launcher.guardian_config import ConfigError, parse_config
from balsam.launcher.guardian_link import LINK_ENV, GuardianLink
from tests.launcher.conftest import ZOO, Tag, wait_until

pytestmark = pytest.mark.slow
GUARDIAN = (sys.executable, "-S", "-E", guardian.__file__)


class Allocation:
    """One guardian with a toy launcher, in a directory of its own."""

    def __init__(self, tag: Tag, directory: Path) -> None:
        self.tag, self.directory = tag, directory
        self.log = directory / "log"
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, plan: dict[str, Any] | None = None, argv: tuple[str, ...] = GUARDIAN, **config: Any) -> int:
        """Start the guardian; returns its pid once the launcher has started its ranks."""
        plan = {"cwd": str(self.directory), "commands": self.resisting_ranks(), **(plan or {})}
        launcher = [sys.executable, str(ZOO / "toy_launcher.py"), json.dumps(plan)]
        path = self.directory / "config.json"
        path.touch(0o600)
        path.write_text(json.dumps({"argv": launcher, "allocation": self.tag.seconds, **config}))
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                (*argv, str(path)),
                env={**os.environ, "ZOO": self.tag.seconds},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.processes.append(process)
        wait_until(lambda: self.starts(), 10)
        if "crash_until_restart" not in plan:
            self.wait_for_ranks(len(plan["commands"]))
        return process.pid

    def resisting_ranks(self) -> list[list[str]]:
        return [
            ["bash", str(ZOO / "ignores_term.sh"), self.tag.seconds],
            [sys.executable, "-S", "-E", str(ZOO / "daemon.py"), self.tag.seconds],
            # Without any mark, and adopted: only a subreaper knows it for its own.
            ["env", "-i", sys.executable, "-S", "-E", str(ZOO / "daemon.py"), self.tag.seconds],
        ]

    def wait_for_ranks(self, number: int) -> None:
        outputs = [self.directory / f"rank{index}.out" for index in range(number)]
        wait_until(lambda: all(path.exists() and "ready" in path.read_text() for path in outputs), 10)

    def starts(self) -> list[list[str]]:
        path = self.directory / "starts"
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    def launcher(self) -> int:
        return int(self.starts()[-1][0])

    def wait(self, timeout_sec: float = 20) -> int:
        return self.processes[-1].wait(timeout_sec)

    def ranks(self) -> list[psutil.Process]:
        launchers = {int(start[0]) for start in self.starts()}
        return self.tag.alive(exclude=(*(process.pid for process in self.processes), *launchers))

    def said(self) -> str:
        return self.log.read_text()


@pytest.fixture
def allocation(tag: Tag, tmp_path: Path) -> Iterator[Allocation]:
    allocation = Allocation(tag, tmp_path)
    yield allocation
    for process in allocation.processes:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            time.sleep(0.6)
            process.send_signal(signal.SIGTERM)
            process.wait(20)


def test_clean_end_leaves_nothing_and_takes_the_status(allocation: Allocation) -> None:
    allocation.start({"exit": 0, "commands": []})
    assert allocation.wait() == 0
    assert allocation.tag.alive() == []


def test_ranks_forgotten_by_a_launcher_that_ended_well_are_killed(allocation: Allocation) -> None:
    allocation.start({"exit": 0})
    assert allocation.wait() == 0
    assert allocation.tag.alive() == []
    assert len(allocation.starts()) == 1


@pytest.mark.parametrize("argv", [GUARDIAN, (sys.executable, "-m", "balsam.launcher.guardian")], ids=["file", "module"])
def test_launcher_killed_its_ranks_die_and_it_starts_again(allocation: Allocation, argv: tuple[str, ...]) -> None:
    """F5, S6: all ranks of the old launcher are gone before the new one starts."""
    allocation.start(argv=argv)
    old = {process.pid for process in allocation.ranks()}
    assert len(old) >= 4
    killed_at = time.monotonic()
    os.kill(allocation.launcher(), signal.SIGKILL)
    wait_until(lambda: not old & {process.pid for process in allocation.ranks()}, 2.0)
    wait_until(lambda: len(allocation.starts()) == 2)
    assert allocation.starts()[1][1] == "1"
    assert float(allocation.starts()[1][2]) - killed_at < 4
    assert "launcher was killed by signal 9" in allocation.said()


def test_no_overlap_of_old_and_new_ranks_when_old_ones_fork(allocation: Allocation) -> None:
    """S6: ranks that multiply or run away by forking are gone before the launcher is started again."""
    animals = [["bomb.py"], ["comet.py"], ["comet.py", "setsid"]]
    commands = [[sys.executable, "-S", "-E", str(ZOO / name), allocation.tag.seconds, *rest] for name, *rest in animals]
    allocation.start({"commands": commands})
    os.kill(allocation.launcher(), signal.SIGKILL)
    wait_until(lambda: len(allocation.starts()) == 2, 30)
    assert [process for process in allocation.ranks() if _restart_of(process) == "0"] == []


def _restart_of(process: psutil.Process) -> str:
    """Which launcher started it; a comet is born anew all the time, so its age tells nothing."""
    try:
        return process.environ()["BALSAM_LAUNCHER_RESTART"]
    except psutil.NoSuchProcess:
        return "gone"


def test_gives_up_after_max_restarts_with_the_launchers_status(allocation: Allocation) -> None:
    allocation.start({"crash_until_restart": 99}, max_restarts=2)
    assert allocation.wait() == 7
    assert [start[1] for start in allocation.starts()] == ["0", "1", "2"]
    assert allocation.tag.alive() == []


def test_a_launcher_that_lived_for_long_begins_the_row_anew(allocation: Allocation) -> None:
    """Or a day's allocation would be given away by the fourth mishap in it, hours after the first."""
    allocation.start({"commands": []}, max_restarts=1, steady_sec=0.5)
    for number in range(1, 4):
        time.sleep(0.7)
        os.kill(allocation.launcher(), signal.SIGKILL)
        wait_until(lambda number=number: len(allocation.starts()) == number + 1, 10)
    os.kill(allocation.launcher(), signal.SIGKILL)  # too young: the last of its row
    assert allocation.wait() == 128 + signal.SIGKILL
    assert [start[1] for start in allocation.starts()] == ["0", "1", "2", "3"]


def test_launcher_that_cannot_be_started_is_told(allocation: Allocation) -> None:
    path = allocation.directory / "config.json"
    path.touch(0o600)
    path.write_text(json.dumps({"argv": ["/nowhere/launcher"], "allocation": "x", "max_restarts": 1}))
    done = subprocess.run((*GUARDIAN, str(path)), capture_output=True, timeout=20, check=False)
    assert done.returncode == 127
    assert done.stderr.count(b"cannot start the launcher '/nowhere/launcher': No such file or directory") == 2


def test_sigterm_lets_the_launcher_drain(allocation: Allocation) -> None:
    """L3: SIGTERM reaches the launcher, and only it decides; what it leaves is killed."""
    pid = allocation.start(kill_grace_sec=20)
    started = time.monotonic()
    os.kill(pid, signal.SIGTERM)
    assert allocation.wait() == 0
    assert (allocation.directory / "drained").exists()
    assert allocation.tag.alive() == []
    assert time.monotonic() - started < 10
    assert len(allocation.starts()) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGUSR2])
def test_other_stop_signals_drain_too(allocation: Allocation, number: signal.Signals) -> None:
    before = signal.signal(number, signal.SIG_DFL)  # under nohup what we start would ignore SIGHUP
    try:
        pid = allocation.start()
    finally:
        signal.signal(number, before)
    os.kill(pid, number)
    assert allocation.wait() == 0
    assert (allocation.directory / "drained").exists()


def test_a_launcher_that_does_not_drain_is_killed_after_the_grace(allocation: Allocation) -> None:
    pid = allocation.start({"ignore_term": True}, kill_grace_sec=0.5)
    started = time.monotonic()
    os.kill(pid, signal.SIGTERM)
    assert allocation.wait() == 137
    assert 0.5 <= time.monotonic() - started < 10
    assert allocation.tag.alive() == []


def test_second_sigterm_kills_at_once(allocation: Allocation) -> None:
    pid = allocation.start({"ignore_term": True}, kill_grace_sec=60)
    os.kill(pid, signal.SIGTERM)
    time.sleep(guardian.REPEATED_SIGNAL_SEC + 0.1)
    assert len(allocation.ranks()) >= 4
    os.kill(pid, signal.SIGTERM)
    assert allocation.wait(10) == 137
    assert allocation.tag.alive() == []
    assert len(allocation.starts()) == 1


def test_sigterm_between_two_launchers_ends_it(allocation: Allocation) -> None:
    pid = allocation.start({"crash_until_restart": 99})
    wait_until(lambda: "again in 1.0 s" in allocation.said(), 10)
    os.kill(pid, signal.SIGTERM)
    assert allocation.wait() == 7
    assert len(allocation.starts()) == 2


def test_frozen_launcher_is_killed_with_its_ranks_when_the_lease_ends(allocation: Allocation) -> None:
    """F6, S6: a launcher that was stopped past its lease never goes on; a new one starts after all ranks are gone."""
    allocation.start({"lease_sec": 1.0})
    time.sleep(0.3)  # a daemon's first process says "ready" and then ends by itself
    old, launcher = {process.pid for process in allocation.ranks()}, allocation.launcher()
    frozen_at = time.monotonic()
    os.kill(launcher, signal.SIGSTOP)
    time.sleep(0.6)
    assert old <= {process.pid for process in allocation.ranks()}, "the lease still holds"
    wait_until(lambda: not old & {process.pid for process in allocation.ranks()}, 3)
    assert time.monotonic() - frozen_at >= 0.85
    wait_until(lambda: len(allocation.starts()) == 2)
    assert not psutil.pid_exists(launcher)
    assert "its lease ended" in allocation.said()


def test_frozen_launcher_without_a_lease_deadline_lives_on(allocation: Allocation) -> None:
    allocation.start({"lease_sec": None})
    os.kill(allocation.launcher(), signal.SIGSTOP)
    time.sleep(1.5)
    os.kill(allocation.launcher(), signal.SIGCONT)
    assert len(allocation.ranks()) >= 4
    assert len(allocation.starts()) == 1


def test_frozen_guardian_kills_on_thaw_though_a_renewal_waits(allocation: Allocation) -> None:
    """S6: the deadline passed while nobody watched; renewals that wait in the pipe do not undo it."""
    pid = allocation.start({"lease_sec": 0.6})
    old = {process.pid for process in allocation.ranks()}
    os.kill(pid, signal.SIGSTOP)
    time.sleep(1.2)
    os.kill(pid, signal.SIGCONT)
    wait_until(lambda: not old & {process.pid for process in allocation.ranks()}, 2.0)
    assert "its lease ended" in allocation.said()


def test_renewed_lease_holds(allocation: Allocation) -> None:
    allocation.start({"lease_sec": 0.5})
    time.sleep(1.5)
    assert len(allocation.ranks()) >= 4
    assert len(allocation.starts()) == 1


def test_guardian_killed_the_launcher_kills_its_ranks_and_ends(allocation: Allocation) -> None:
    """F6: the launcher sees the end of its pipe; nobody restarts anything.

    Without its guardian, a launcher finds adopted processes by their mark: one that dropped it as well is not found.
    """
    os.kill(allocation.start({"commands": allocation.resisting_ranks()[:2]}), signal.SIGKILL)
    wait_until(lambda: allocation.tag.alive() == [], 5.0)
    assert (allocation.directory / "orphaned").exists()
    allocation.wait()


def test_wall_time_drains_then_ends_before_it(allocation: Allocation) -> None:
    """F17, L3: told at `end - kill_margin`."""
    started = time.monotonic()
    allocation.start(wall_time_sec=5, kill_margin_sec=3, hard_margin_sec=0.5)
    assert allocation.wait() == 0
    assert 1.9 <= time.monotonic() - started < 4.5
    assert (allocation.directory / "drained").exists()
    assert allocation.tag.alive() == []
    assert abs(float(allocation.starts()[0][3]) - started - 5) < 1


def test_wall_time_kills_at_the_hard_margin(allocation: Allocation) -> None:
    started = time.monotonic()
    allocation.start({"ignore_term": True}, wall_time_sec=4, kill_margin_sec=2, hard_margin_sec=1)
    assert allocation.wait() == 137
    assert 2.9 <= time.monotonic() - started < 3.9
    assert allocation.tag.alive() == []
    assert len(allocation.starts()) == 1


def test_short_wall_time_leaves_half_of_it_for_work(allocation: Allocation) -> None:
    started = time.monotonic()
    allocation.start({"commands": []}, wall_time_sec=4)
    assert allocation.wait() == 0
    assert 1.9 <= time.monotonic() - started < 4
    assert "told to stop 2 s before its end" in allocation.said()


def test_no_restart_when_the_wall_time_is_near(allocation: Allocation) -> None:
    allocation.start(wall_time_sec=3, kill_margin_sec=1.5, hard_margin_sec=0.2)
    wait_until(lambda: "SIGTERM to the launcher" in allocation.said(), 4)
    os.kill(allocation.launcher(), signal.SIGKILL)
    allocation.wait()
    assert len(allocation.starts()) == 1


def test_helpers_of_the_batch_script_are_left_alone(allocation: Allocation) -> None:
    """`helper & exec guardian`: the helper is a child of the guardian, but not of the launcher."""
    helper = f"sleep {allocation.tag.seconds} & exec"
    argv = ("bash", "-c", f'{helper} "$@"', "bash", *GUARDIAN)
    allocation.start({"exit": 0}, argv=argv)
    assert allocation.wait() == 0
    assert [process.name() for process in allocation.tag.alive()] == ["sleep"]


def test_one_of_several_ends_what_an_earlier_one_of_its_node_left(allocation: Allocation) -> None:
    """S6: the mark is the node's own, and what carries it is gone before a launcher is started."""
    mark = guardian.node_mark(allocation.tag.seconds, os.environ)
    earlier = subprocess.Popen(["sleep", "600"], env={"BALSAM_ALLOCATION": f"{mark}.1.2"})
    other = subprocess.Popen(["sleep", "600"], env={"BALSAM_ALLOCATION": f"{mark}2.1.2"})
    try:
        allocation.start(per_node=True, stdin="a secret\n")
        assert earlier.wait(0.1) == -signal.SIGKILL
        assert other.poll() is None
        launcher = psutil.Process(allocation.launcher())
        assert launcher.environ()["BALSAM_ALLOCATION"].startswith(f"{mark}.")
        with open(f"/proc/{launcher.pid}/fd/0", encoding="utf-8") as file:
            assert file.read() == "a secret\n"
        assert os.readlink(f"/proc/{launcher.pid}/fd/0").startswith("/memfd:"), "it is on no disk"
    finally:
        for process in (earlier, other):
            process.kill()
            process.wait()


def test_orphans_are_collected_and_idle_costs_nothing(allocation: Allocation) -> None:
    """Subreaper: a rank's orphans become children of the guardian, which collects them; idle it uses no CPU."""
    commands = [["bash", "-c", "(sleep 0.2 & sleep 0.2 &) ; echo ready"], [sys.executable, "-S", "-E"]]
    commands = [commands[0], [*commands[1], str(ZOO / "zombies.py"), allocation.tag.seconds]]
    pid = allocation.start({"commands": commands, "lease_sec": None})
    time.sleep(0.5)
    process = psutil.Process(pid)
    assert [child.pid for child in process.children()] == [allocation.launcher()]
    os.kill(allocation.ranks()[0].pid, signal.SIGKILL)
    wait_until(lambda: [child.pid for child in process.children()] == [allocation.launcher()])
    memory_mb = process.memory_info().rss / 1e6
    assert memory_mb <= 15, f"{memory_mb:.1f} MB"


def test_idle_guardian_sleeps(tag: Tag, tmp_path: Path) -> None:
    """Without a lease nothing wakes it: no voluntary context switch within a second, no CPU time."""
    path = tmp_path / "config.json"
    path.touch(0o600)
    path.write_text(json.dumps({"argv": ["sleep", tag.seconds], "allocation": tag.seconds, "wall_time_sec": 500}))
    process = subprocess.Popen((*GUARDIAN, str(path)), stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: tag.alive(), 10)
        time.sleep(0.3)
        before = psutil.Process(process.pid).num_ctx_switches()
        time.sleep(1)
        assert psutil.Process(process.pid).num_ctx_switches().voluntary == before.voluntary
    finally:
        process.terminate()
        assert process.wait(20) == 143
    assert tag.alive() == []


def test_garbage_from_the_launcher_is_told_and_ignored(tag: Tag, tmp_path: Path) -> None:
    lines = 'garbage\\n[1]\\n{}\\n{"lease_until": "soon"}\\n'
    text = f"import os; fd = int(os.environ['{LINK_ENV}'].split(',')[1]); os.write(fd, b'''{lines}'''); os.close(fd)"
    config = {"argv": [sys.executable, "-c", text + "; import time; time.sleep(0.3)"], "allocation": tag.seconds}
    done = subprocess.run(GUARDIAN, input=json.dumps(config).encode(), capture_output=True, timeout=20, check=False)
    assert done.returncode == 0
    assert done.stderr.count(b"cannot read what the launcher wrote") == 4


def test_config_comes_from_a_private_file_only(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"argv": ["true"], "allocation": "x"}')
    path.chmod(0o644)
    done = subprocess.run((*GUARDIAN, str(path)), capture_output=True, timeout=20, check=False)
    assert done.returncode == guardian.EXIT_CONFIG
    assert f"chmod 600 {path}".encode() in done.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("[]", "object"),
        ('{"argv": "true", "allocation": "x"}', "argv"),
        ('{"argv": [], "allocation": "x"}', "argv"),
        ('{"argv": ["true"]}', "allocation"),
        ('{"argv": ["true"], "allocation": "x", "walltime": 3}', "unknown key 'walltime'"),
        ('{"argv": ["true"], "allocation": "x", "wall_time_sec": -1}', "wall_time_sec"),
        ('{"argv": ["true"], "allocation": "x", "max_restarts": null}', "max_restarts"),
        ('{"argv": ["true"], "allocation": "x", "kill_grace_sec": true}', "kill_grace_sec"),
        ('{"argv": ["true"], "allocation": "x", "kill_margin_sec": 1}', "hard_margin_sec"),
        ('{"argv": ["true"], "allocation": "x", "env": {"A": 1}}', "env"),
    ],
)
def test_bad_config_is_refused_with_the_reason(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(text)


def test_guardian_loads_only_its_own_files() -> None:
    """Light enough to start on every node, and without any installed package."""
    code = f"import sys; sys.argv = ['x', '/absent']; sys.path.insert(0, '/'); import runpy; \
runpy.run_path({guardian.__file__!r}, run_name='__main__')"
    code = f"import atexit, sys; atexit.register(lambda: print(*sorted(sys.modules))); {code}"
    done = subprocess.run((sys.executable, "-S", "-E", "-c", code), capture_output=True, text=True, check=False)
    assert done.returncode == guardian.EXIT_CONFIG, done.stderr
    modules = set(done.stdout.split())
    assert {name for name in modules if name.startswith("balsam")} == {
        "balsam",
        "balsam.launcher",
        "balsam.launcher.guardian_config",
        "balsam.launcher.guardian_link",
        "balsam.launcher.proctable",
        "balsam.platform",
        "balsam.platform.process_table",
    }
    assert modules & {"subprocess", "threading", "asyncio", "dataclasses", "logging", "pydantic"} == set()


def test_link_knows_a_dead_guardian_and_a_full_pipe() -> None:
    alive_read, alive_write = os.pipe()
    renew_read, renew_write = os.pipe()
    environ = {LINK_ENV: f"{alive_read},{renew_write}"}
    link = GuardianLink.from_environ(environ)
    assert link is not None
    assert environ == {}
    assert GuardianLink.from_environ(environ) is None
    assert not os.get_inheritable(alive_read)
    assert not link.guardian_is_gone()
    assert link.renew(12.5)
    assert json.loads(os.read(renew_read, 100)) == {"lease_until": 12.5}
    while link.renew(None):
        pass
    os.close(alive_write)
    os.close(renew_read)
    assert link.guardian_is_gone()
    assert not link.renew(None)
    link.close()
