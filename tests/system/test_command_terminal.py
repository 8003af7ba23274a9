"""`balsam` at a terminal, in a pipe, interrupted, and completing words in a shell."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.services import RunningService, start_service
from tests.system.live_site import BALSAM

pytestmark = pytest.mark.slow

SUBMIT = """
from balsam.api import ApplicationDefinition, Job
class Say(ApplicationDefinition):
    site = "mine"
    command_template = "echo {{ text }}"
Job.objects.bulk_create([Say.submit(f"long/{'x' * 200}/{i}", text="a", save=False) for i in range(300)])
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service with a Site without agent, and 300 Jobs."""
    import sys

    home = tmp_path_factory.mktemp("terminal")
    service = start_service(home)
    try:
        environment = {**os.environ, "BALSAM_HOME": str(home)}
        subprocess.run([str(BALSAM), "site", "init", str(home / "mine")], env=environment, check=True, timeout=60)
        subprocess.run([sys.executable, "-c", SUBMIT], env=environment, check=True, timeout=60)
        yield service
    finally:
        service.stop()


def environment(service: RunningService, **more: str) -> dict[str, str]:
    plain = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "TERM")}
    return {**plain, "BALSAM_HOME": str(service.home), "TERM": "xterm", **more}


class Person:
    """A command on a pseudo terminal of 24 lines."""

    def __init__(self, words: list[str], env: dict[str, str], columns: int = 70) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        env = {name: value for name, value in env.items() if name not in ("COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            [str(BALSAM), *words], env=env, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(slave)
        self.seen = ""

    def read_until(self, wanted: str, seconds: float = 30) -> str:
        """What appeared, up to and with the wanted text; all that there is at the end of the command."""
        deadline = time.monotonic() + seconds
        while wanted not in self.seen:
            left = deadline - time.monotonic()
            assert left > 0, f"no {wanted!r} within {seconds} s, but:\n{self.seen}"
            if not select.select([self.master], [], [], left)[0]:
                continue
            try:
                self.seen += os.read(self.master, 65_536).decode(errors="replace")
            except OSError:  # the command has ended
                break
        return self.seen

    def end(self, seconds: float = 30) -> int:
        self.read_until("\0never\0", seconds) if self.process.poll() is None else None
        status = self.process.wait(seconds)
        os.close(self.master)
        return status


def test_a_table_fits_the_terminal_and_is_whole_in_a_pipe(service: RunningService) -> None:
    person = Person(["job", "ls", "--site", "all", "-n", "5"], environment(service))
    assert person.end() == 0
    lines = person.seen.replace("\r", "").split("\n")
    assert all(len(re.sub("\x1b\\[[0-9;]*m", "", line)) <= 70 for line in lines[:6]), lines
    assert "…" in lines[1] and "\x1b[1mWorkdir\x1b[0m" in lines[0]
    bare = Person(["job", "ls", "--site", "all", "-n", "5"], environment(service, NO_COLOR="1"))
    assert bare.end() == 0 and "\x1b" not in bare.seen
    piped = subprocess.run(
        [str(BALSAM), "job", "ls", "--site", "all", "-n", "5"], env=environment(service), capture_output=True, text=True
    )
    assert "x" * 200 in piped.stdout and "\x1b" not in piped.stdout and "…" not in piped.stdout
    assert re.search(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$", piped.stdout.splitlines()[1])


def test_sites_without_agent_are_mentioned(service: RunningService) -> None:
    done = subprocess.run([str(BALSAM), "job", "ls"], env=environment(service), capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == ""
    assert done.stderr == "1 Site not looked at, with no active agent; to include: --site all\nNo Jobs match.\n"


def test_a_reader_that_goes_away_is_no_error(service: RunningService) -> None:
    script = f"set -o pipefail; {BALSAM} job ls --site all -n 300 | head -1"
    done = subprocess.run(["bash", "-c", script], env=environment(service), capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("ID ")
    closed = subprocess.Popen([str(BALSAM), "job", "ls", "--site", "all", "--json"], env=environment(service),
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    assert closed.stdout is not None and closed.stderr is not None
    closed.stdout.close()
    assert (closed.wait(60), closed.stderr.read()) == (0, b"")
    closed.stderr.close()


def test_watch_draws_again_and_ends_with_ctrl_c(service: RunningService) -> None:
    person = Person(["job", "ls", "--by-state", "--site", "all", "--watch", "--every", "0.2"], environment(service))
    person.read_until("Ctrl-C ends")
    person.seen = ""
    person.read_until("Ctrl-C ends")
    assert "\x1b[H" in person.seen and "PREPROCESSED" in person.seen
    os.write(person.master, b"\x03")
    assert person.end() == 130
    assert "Traceback" not in person.seen


def test_watch_is_cut_to_the_screen(service: RunningService) -> None:
    person = Person(["job", "ls", "--site", "all", "--watch"], environment(service))
    person.read_until("Ctrl-C ends")
    assert "... and 81 more lines" in person.seen
    person.process.send_signal(signal.SIGINT)
    assert person.end() == 130


def test_watch_in_a_pipe_writes_what_changed(service: RunningService) -> None:
    watching = subprocess.Popen(
        [str(BALSAM), "job", "ls", "1-2", "--watch", "--every", "0.2"],
        env=environment(service), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert watching.stdout is not None and watching.stderr is not None
    first = [watching.stdout.readline() for _ in range(5)]
    assert first[0].startswith("# 20") and first[1].startswith("ID ") and first[4] == "\n"
    done = subprocess.run([str(BALSAM), "job", "cancel", "1", "-y"], env=environment(service), capture_output=True)
    assert done.returncode == 0
    second = [watching.stdout.readline() for _ in range(5)]
    assert "CANCELLED" in "".join(second) and second[4] == "\n"
    watching.send_signal(signal.SIGINT)
    assert watching.wait(30) == 130
    assert watching.stderr.read().strip() == ""
    watching.stdout.close()
    watching.stderr.close()


def test_json_can_not_be_watched(service: RunningService) -> None:
    words = [str(BALSAM), "job", "ls", "--watch", "--json"]
    done = subprocess.run(words, env=environment(service), capture_output=True, text=True)
    assert done.returncode == 2 and "--watch" in json.loads(done.stdout)["error"]["message"]


def test_interrupted_while_the_service_is_away(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    away = tmp_path / "service.json"
    away.write_text(json.dumps({"url": "http://127.0.0.1:9", "token": "blsm_user_x"}))
    away.chmod(0o600)
    env = {**os.environ, "BALSAM_HOME": str(tmp_path), "BALSAM_RETRY_FOR_SEC": "300"}
    asking = subprocess.Popen(
        [str(BALSAM), "job", "ls", "--json"], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert asking.stderr is not None and asking.stdout is not None
    assert "can't be reached" in asking.stderr.readline()
    asking.send_signal(signal.SIGINT)
    out, err = asking.communicate(timeout=30)
    assert asking.returncode == 130 and "Traceback" not in err
    assert json.loads(out) == {"error": {"type": "Interrupted", "message": "interrupted"}, "exit_code": 130}
    begin = time.monotonic()
    env["BALSAM_RETRY_FOR_SEC"] = "1"
    done = subprocess.run([str(BALSAM), "job", "ls"], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "can't be reached" in done.stderr and time.monotonic() - begin < 30


def test_without_a_terminal_a_password_comes_from_stdin_without_warnings(
    service: RunningService, tmp_path: Path
) -> None:
    env = environment(service, BALSAM_HOME=str(tmp_path))
    words = [str(BALSAM), "login", service.url, "--username", "nobody"]
    for put, said in (("wrong\n", "does not accept this name and password"), ("", "there is nobody to ask")):
        done = subprocess.run(
            words, env=env, input=put, capture_output=True, text=True, timeout=60, start_new_session=True
        )
        assert done.returncode != 0
        assert said in done.stderr
        assert "arning" not in done.stderr


def complete(env: dict[str, str], line: str) -> list[str]:
    """Words that bash is offered after this line."""
    words = line.split(" ")
    asked = {**env, "_BALSAM_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    done = subprocess.run([str(BALSAM)], env=asked, capture_output=True, text=True, timeout=60)
    assert done.stderr == "", done.stderr
    return [word.partition(",")[2] for word in done.stdout.split()]


def test_words_are_completed(service: RunningService) -> None:
    env = environment(service)
    assert complete(env, "balsam job e") == ["events", "explain"]
    assert complete(env, "balsam job ls --state RUN") == ["RUNNING", "RUN_DONE", "RUN_ERROR", "RUN_TIMEOUT"]
    assert complete(env, "balsam job ls --by") == ["--by-state"]
    assert complete(env, "balsam job ls --site m") == ["mine"]
    assert complete(env, "balsam job ls --site mine,") == ["mine,mine"]
    assert complete(env, "balsam completion ") == ["bash", "zsh", "fish"]


def test_completion_does_not_wait_for_a_service_that_is_away(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    away = tmp_path / "service.json"
    away.write_text(json.dumps({"url": "http://127.0.0.1:9", "token": "blsm_user_x"}))
    away.chmod(0o600)
    begin = time.monotonic()
    assert complete({**os.environ, "BALSAM_HOME": str(tmp_path)}, "balsam job ls --site a") == ["all", "active"]
    assert time.monotonic() - begin < 20


def test_the_script_works_in_bash(service: RunningService) -> None:
    bash = shutil.which("bash")
    assert bash is not None
    script = f"""
        eval "$({BALSAM} completion bash)"
        COMP_WORDS=(balsam job expl); COMP_CWORD=2; _balsam_completion {BALSAM}; echo "${{COMPREPLY[@]}}"
        complete -p balsam
    """
    done = subprocess.run([bash, "--norc", "-c", script], env=environment(service), capture_output=True, text=True)
    assert done.stdout.splitlines()[0] == "explain" and "_balsam_completion" in done.stdout, done.stderr
    for shell in ("zsh", "fish"):
        made = subprocess.run([str(BALSAM), "completion", shell], env=environment(service), capture_output=True)
        assert made.returncode == 0 and b"_BALSAM_COMPLETE" in made.stdout


def test_a_person_is_asked_whose_settings_a_site_begins_with(service: RunningService, tmp_path: Path) -> None:
    words, env = ["site", "init", str(tmp_path / "asked")], environment(service, NERSC_HOST="perlmutter")
    person = Person(words, env)
    person.read_until("Whose to begin with [perlmutter-cpu]:")
    assert "generic-pbs, generic-slurm" in " ".join(person.seen.split())
    os.write(person.master, b"generic-slrum\n")
    person.read_until("did you mean 'generic-slurm'?")
    person.read_until("Whose to begin with [perlmutter-cpu]:")
    os.write(person.master, b"local\n")
    try:
        assert person.end() == 0, person.seen
        assert "scheduler_class: local" in (tmp_path / "asked" / "settings.yml").read_text()
        again = Person(words, env)
        assert again.end() == 0 and "Whose" not in again.seen, "asked for a Site that is there"
    finally:
        subprocess.run([str(BALSAM), "site", "rm", "--yes", str(tmp_path / "asked")], env=env, check=True, timeout=60)
