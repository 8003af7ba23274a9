"""An agent in tmux: the lines of docs/guides/agents.md, typed in a real login over ssh that then ends."""

from __future__ import annotations

import getpass
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.services import RunningService, running_service
from tests.system.live_site import BALSAM, eventually
from tests.testbed import session_rules
from tests.testbed.sshd import Sshd, running_sshd

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

PAGE = Path(__file__).parents[2] / "docs" / "guides" / "agents.md"
CTRL_C = "\x03"


@dataclass
class LoginNode:
    """A machine that is reached by ssh, with the Site in ~/my-site."""

    home: Path
    service: RunningService
    sshd: Sshd

    @property
    def environment(self) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
        mark = os.environ[session_rules.MARKER]
        own = {"HOME": str(self.home), "PATH": path, "TMUX_TMPDIR": str(self.home), session_rules.MARKER: mark}
        return own | {
            "BALSAM_HOME": str(self.service.home),
            "NO_PROXY": "127.0.0.1",
            "LC_ALL": "C.UTF-8",
            "TERM": "xterm",
        }

    def login(self) -> subprocess.Popen[str]:
        """A terminal of a new login, in its home."""
        options = ["-o", f"UserKnownHostsFile={self.sshd.known_hosts}", "-o", "LogLevel=ERROR", "-F", "none", "-tt"]
        where = ["-p", str(self.sshd.port), "-i", str(self.sshd.identity_file), f"{getpass.getuser()}@127.0.0.1"]
        log = (self.home / "terminal").open("a")
        with log:
            terminal = subprocess.Popen(
                ["ssh", *options, *where], stdin=subprocess.PIPE, stdout=log, stderr=log, text=True
            )
        for name, value in self.environment.items():
            self.type(terminal, f"export {name}='{value}'\n")
        self.type(terminal, "stty rows 40 cols 150; cd\n")
        return terminal

    def type(self, terminal: subprocess.Popen[str], text: str) -> None:
        assert terminal.stdin is not None
        terminal.stdin.write(text)
        terminal.stdin.flush()

    def screen(self) -> str:
        return (self.home / "terminal").read_text(errors="replace")

    def agent(self) -> psutil.Process | None:
        """The process of the agent that says that it runs, while it lives."""
        with suppress(OSError, ValueError, psutil.Error):
            said = json.loads((self.home / "my-site" / "agent.json").read_text())
            process = psutil.Process(said["pid"])
            if said["state"] == "running" and process.status() != psutil.STATUS_ZOMBIE:
                return process
        return None

    def has_tmux(self) -> bool:
        words = ["tmux", "has-session", "-t", "balsam"]
        env = {**os.environ, **self.environment}
        return subprocess.run(words, env=env, capture_output=True, check=False).returncode == 0


@pytest.fixture
def node(tmp_path: Path) -> Iterator[LoginNode]:
    if shutil.which("tmux") is None:
        pytest.skip("no tmux: apt-get install tmux")
    home, keys = tmp_path / "home", tmp_path / "keys"
    home.mkdir(mode=0o700)
    keys.mkdir(mode=0o700)
    with running_service(tmp_path / "service") as service, running_sshd(keys) as sshd:
        made = LoginNode(home, service, sshd)
        env = {**os.environ, **made.environment}
        init = [str(BALSAM), "site", "init", str(home / "my-site"), "--machine", "local"]
        subprocess.run(init, env=env, check=True, capture_output=True)
        try:
            yield made
        finally:
            subprocess.run(["tmux", "kill-server"], env=env, capture_output=True, check=False)
            eventually(lambda: made.agent() is None, "the agent stays", 20)


def test_an_agent_in_tmux_outlives_the_login(node: LoginNode) -> None:
    text = PAGE.read_text().partition("## tmux\n")[2]
    (block,) = re.findall(r"^```\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)[:1]
    start, attach = block.splitlines()
    terminal = node.login()
    node.type(terminal, f"{start}\nexit\n")
    assert terminal.wait(30) == 0, node.screen()

    first = eventually(node.agent, "no agent", 30)
    first.kill()
    begun = time.monotonic()
    second = eventually(lambda: (found := node.agent()) and found.pid != first.pid and found, "not begun again", 40)
    assert time.monotonic() - begun > 5, "a pause, so that a fault does not fill the log"

    terminal = node.login()
    node.type(terminal, f"{attach}; exit\n")
    eventually(lambda: "agent is running" in node.screen(), "nothing is seen of it", 30)
    node.type(terminal, CTRL_C)
    eventually(lambda: node.agent() is None, f"{second} does not end", 20)
    assert node.has_tmux(), "once ends the agent"
    node.type(terminal, CTRL_C)
    eventually(lambda: not node.has_tmux(), "twice ends both", 20)
    assert terminal.wait(20) == 0
    assert "agent stopped; allocations run on" in node.screen() and "Traceback" not in node.screen()


def test_the_screen_says_that_the_service_is_away_and_that_it_is_back(node: LoginNode) -> None:
    """A unit of systemd and a batch job start the agent in the same way: what it says is in their logs."""
    node.service.stop()
    log = node.home / "agent.log"
    words = [str(BALSAM), "site", "start", "--foreground", str(node.home / "my-site")]
    with log.open("w") as file:
        agent = subprocess.Popen(words, stdout=file, stderr=file, env={**os.environ, **node.environment})
    try:
        eventually(lambda: "agent is waiting: " in log.read_text(), "silent", 30)
        assert f"service at {node.service.url} can't be reached" in log.read_text()
        node.service = node.service.restart()
        eventually(lambda: "agent is running" in log.read_text(), f"not heard: {log.read_text()}", 60)
        agent.terminate()
        assert agent.wait(20) == 0
    finally:
        agent.kill()
        agent.wait()
        node.service.stop()
