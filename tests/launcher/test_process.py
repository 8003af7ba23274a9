"""Starting commands: what they get, how their end and every failure to start is told, equal to what bash would say."""

import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from balsam.launcher import process
from balsam.launcher.process import Child, Command, CommandError, ExitStatus, SpawnError, close_child, reap, spawn

ENV = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C"}


@pytest.fixture(params=["quick", "beside a thread"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Both ways of starting must behave alike; the second one is chosen by a second thread, as in real use."""
    if request.param == "quick":
        monkeypatch.setattr(process, "_start_with_subprocess", None)
        # A thread of the test runner's own (time-outs) must not choose for us.
        monkeypatch.setattr(threading, "active_count", lambda: 1)
        yield request.param
        return
    monkeypatch.setattr(process, "_start_quickly", None)
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    yield request.param
    stop.set()
    thread.join()


def wait(child: Child) -> ExitStatus:
    assert select.select([child.pidfd], [], [], 20)[0], "did not end"
    status = reap(child)
    assert status is not None
    close_child(child)
    return status


def run(directory: Path, *argv: str, **options: object) -> tuple[int, str]:
    env = options.pop("env", ENV)
    command = Command(argv, env, str(directory), "job.out", **options)  # type: ignore[arg-type]
    try:
        code = wait(spawn(command)).code
    except CommandError as error:
        code = error.exit_code
    return code, (directory / "job.out").read_text()


def test_gets_directory_session_output_and_environment(way: str, tmp_path: Path) -> None:
    here = os.getcwd()
    code, output = run(tmp_path, "bash", "-c", "pwd; echo $PWD; ps -o pid=,pgid=,sid= $$; echo err >&2; cat; exit 3")
    lines = output.split("\n")
    assert code == 3
    assert lines[:2] == [str(tmp_path)] * 2
    assert len(set(lines[2].split())) == 1
    assert lines[3] == "err"
    assert os.getcwd() == here
    assert run(tmp_path, "/usr/bin/env", env={"A": "1\n2 'ü"})[1].endswith(f"A=1\n2 'ü\nPWD={tmp_path}\n")


def test_output_is_appended_to(way: str, tmp_path: Path) -> None:
    run(tmp_path, "echo", "one")
    assert run(tmp_path, "echo", "two")[1] == "one\ntwo\n"


def test_arguments_arrive_unchanged(way: str, tmp_path: Path) -> None:
    words = ("a b", "'", '"', "$(id)", "new\nline", "ü", "", "*", "\\")
    code, output = run(tmp_path, "/usr/bin/printf", "%s\\0", *words)
    assert (code, output.split("\0")[:-1]) == (0, list(words))


def test_umask_is_the_launchers(way: str, tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        run(tmp_path, "touch", "made")
    finally:
        os.umask(before)
    assert (tmp_path / "made").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "job.out").stat().st_mode & 0o777 == 0o600


def test_signals_are_default_and_not_blocked(way: str, tmp_path: Path) -> None:
    """Python ignores SIGPIPE, a `nohup` SIGHUP: neither may reach the command."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        status = run(tmp_path, "grep", "^Sig[BI]", "/proc/self/status")[1]
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
        signal.signal(signal.SIGHUP, before)
    masks = {line.split()[0]: int(line.split()[1], 16) & 0x7FFFFFFF for line in status.splitlines()}  # 32, 33: libc's
    assert masks["SigIgn:"] & 1 << (signal.SIGPIPE - 1) == 0
    if way == "quick":  # the other way cannot undo what the launcher itself was started with
        assert masks == {"SigBlk:": 0, "SigIgn:": 0}


def test_inherits_no_descriptor(way: str, tmp_path: Path) -> None:
    with open(tmp_path / "secret", "w"):
        listing = run(tmp_path, "ls", "-l", "/proc/self/fd")[1]
    assert "job.out" in listing
    assert "secret" not in listing
    assert os.getcwd() not in listing


def test_death_by_signal(way: str, tmp_path: Path) -> None:
    command = Command(("sleep", "60"), ENV, str(tmp_path), "job.out")
    child = spawn(command)
    assert reap(child) is None
    process.terminate(child.group)
    status = wait(child)
    assert (status.code, status.describe()) == (143, "killed by SIGTERM")
    assert not process.group_exists(child.group)
    assert ExitStatus(3).describe() == "exit code 3"
    assert ExitStatus(128 + 11, 11, True).describe() == "killed by SIGSEGV (core dumped)"


def test_terminate_reaches_a_stopped_group_and_kill_ends_it(way: str, tmp_path: Path) -> None:
    """One that handles SIGTERM hears it only when it goes on."""
    text = "trap 'exit 5' TERM; echo ready; while true; do sleep 0.05; done"
    for end, code in ((process.terminate, 5), (process.kill, 137)):
        output = tmp_path / f"{code}.out"
        child = spawn(Command(("bash", "-c", text), ENV, str(tmp_path), str(output)))
        while "ready" not in output.read_text():
            time.sleep(0.01)
        os.kill(child.pid, signal.SIGSTOP)
        end(child.group)
        assert wait(child).code == code


@pytest.fixture
def oddities(tmp_path: Path) -> Path:
    """A directory of things that can't be executed, or only by a shell."""
    (tmp_path / "directory").mkdir()
    (tmp_path / "plain").write_text("echo plain\n")
    for name, text in {
        "no_interpreter": "echo script $0 $1\nexit 4\n",
        "empty": "",
        "bad_interpreter": "#!/nowhere/at/all\n",
        "ends": "#!/bin/sh\nexit 5\n",
        "dies": "#!/bin/sh\nkill -9 $$\n",
    }.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "binary").write_bytes(b"\x7fELF\0\0\0\1" * 40)
    (tmp_path / "binary").chmod(0o755)
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ls").write_text("not executable")
    (tmp_path / "bin" / "only_here").write_text("not executable")
    return tmp_path


ODDITIES = [
    "./absent", "absent", "./directory", "directory", "./plain", "./no_interpreter one", "./empty", "./bad_interpreter",
    "./ends", "./dies", "./binary", "./loop", "./plain/below", "only_here", "ls", "ends", "./" + "x" * 300, "''",
]  # fmt: skip


@pytest.mark.parametrize("line", ODDITIES)
def test_ends_as_bash_would_end_it(way: str, oddities: Path, line: str) -> None:
    env = {**ENV, "PATH": f"{oddities}/bin:bin:{ENV['PATH']}:."}
    argv = [word if word != "''" else "" for word in line.split()]
    expected = subprocess.run(["bash", "-c", line], cwd=oddities, env=env, capture_output=True, check=False)
    wanted = expected.returncode if expected.returncode >= 0 else 128 - expected.returncode
    code, output = run(oddities, *argv, env=env)
    assert code == wanted
    if expected.stderr:
        assert argv[0] in output
        assert output.count("\n") >= 1
    else:
        assert output == expected.stdout.decode() or line == "ls"


def test_the_message_says_what_is_wrong(way: str, tmp_path: Path) -> None:
    assert run(tmp_path, "absent") == (127, "balsam: absent: command not found\n")
    with pytest.raises(CommandError, match="command not found"):
        spawn(Command(("absent",), ENV, str(tmp_path), "other.out"))


def test_too_long_and_unpassable_arguments(way: str, tmp_path: Path) -> None:
    assert run(tmp_path, "true", "x" * 5_000_000) == (126, "balsam: true: Argument list too long\n")
    code, output = run(tmp_path, "true", "a\0b")
    assert code == 126
    assert "null byte" in output


def test_a_bad_place_is_not_the_commands_fault(way: str, tmp_path: Path) -> None:
    with pytest.raises(SpawnError, match="work directory"):
        spawn(Command(("true",), ENV, str(tmp_path / "absent"), "job.out"))
    with pytest.raises(SpawnError, match="output file"):
        spawn(Command(("true",), ENV, str(tmp_path), "absent/job.out"))
    with pytest.raises(SpawnError, match="output file"):
        spawn(Command(("true",), ENV, str(tmp_path), "/dev/full/x"))
    with pytest.raises(SpawnError, match="output file"):
        spawn(Command(("absent",), ENV, str(tmp_path), "/dev/full"))


def test_no_descriptor_is_left_after_failures(way: str, tmp_path: Path) -> None:
    run(tmp_path, "true")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        run(tmp_path, "absent")
        run(tmp_path, "true")
        with pytest.raises(SpawnError):
            spawn(Command(("true",), ENV, str(tmp_path / "absent"), "job.out"))
    assert len(os.listdir("/proc/self/fd")) == before


def test_out_of_descriptors_is_a_spawn_error_and_leaves_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []
    real = os.posix_spawn

    def start(*args: object, **options: object) -> int:
        started.append(real(*args, **options))  # type: ignore[arg-type]
        return started[-1]

    def refuse(pid: int) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(threading, "active_count", lambda: 1)
    monkeypatch.setattr(os, "posix_spawn", start)
    monkeypatch.setattr(os, "pidfd_open", refuse)
    with pytest.raises(SpawnError, match="Too many open files"):
        spawn(Command(("sleep", "60"), ENV, str(tmp_path), "job.out"))
    with pytest.raises(ProcessLookupError):
        os.kill(started[0], 0)


def test_shell_text(way: str, tmp_path: Path) -> None:
    child = spawn(Command(("bash", "-c", "echo a > b && cat b | tr a c"), ENV, str(tmp_path), "job.out"))
    assert wait(child).code == 0
    assert (tmp_path / "job.out").read_text() == "c\n"
