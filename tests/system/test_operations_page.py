"""docs/operations.md taken at its word on a fresh machine: a group's service with TLS, PostgreSQL, nginx and OpenID.

Then what it is for: two people who come in through the provider, three Sites, a team, the forces example of one of them
while somebody fires nonsense at the service with the other one's token. systemd is a real one, the units are those that
are shipped. Stood in for are the package indexes of Debian and Python: this machine has what apt-get would install,
and this environment what pip would.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import ssl
import string
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

from tests.server.world import PASSWORD, make_app, make_jobs, ok
from tests.system.live_site import READY_SEC, eventually, finished
from tests.system.test_forces import EXAMPLE, FEW, check
from tests.testbed import oidc
from tests.testbed.fresh_machine import NAME, FreshMachine, fresh_machine

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
URL = f"https://{NAME}"
CERTIFICATE = "/etc/ssl/balsam/fullchain.pem"
BALSAM = "/opt/balsam/bin/balsam"
PIP = """\
python3 -m venv /opt/balsam
/opt/balsam/bin/pip install --require-hashes -r requirements/service.txt
/opt/balsam/bin/pip install --no-deps --no-build-isolation ."""
PYTHON = f"python{sys.version_info[0]}.{sys.version_info[1]}"
INSTALLED = f"""\
/usr/bin/{PYTHON} -m venv --without-pip /opt/balsam
printf '%s\\n' /opt/tested/source /opt/tested/venv/lib/{PYTHON}/site-packages \\
    >/opt/balsam/lib/{PYTHON}/site-packages/tested.pth
sed '1s|.*|#!/opt/balsam/bin/python|' /opt/tested/venv/bin/balsam >{BALSAM}
chmod 755 {BALSAM}"""
AGENTS = PAGE.parent / "guides" / "agents.md"
# What a login node has: accounts, logind, trust in the service's certificate. The unit lies where Carl can read it.
CARL = f"""
useradd --create-home carl
systemctl start dbus systemd-logind
loginctl enable-linger carl
ln -s /opt/balsam /home/carl/balsam
install -D -t /home/carl/packaging/systemd packaging/systemd/balsam-agent@.service
install -D /dev/stdin /etc/systemd/user/balsam-agent@.service.d/trust.conf <<'END'
[Service]
Environment=SSL_CERT_FILE={CERTIFICATE}
END
"""
BLOCK = re.compile(r"^```\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass
class Operated:
    """The service of the page."""

    machine: FreshMachine
    trusted: ssl.SSLContext
    root: Path

    def client(self, token: str = "") -> httpx2.Client:
        headers = {"Balsam-Wire": "1", **({"Authorization": f"Bearer {token}"} if token else {})}
        return httpx2.Client(base_url=URL, headers=headers, timeout=60, verify=self.trusted, trust_env=False)

    def home(self, name: str) -> dict[str, str]:
        """What a process of this person's has in its environment."""
        path = f"{sys.prefix}/bin:{os.environ['PATH']}"  # mpiexec may stand there
        return {**os.environ, "PATH": path, "BALSAM_HOME": str(self.root / name), "SSL_CERT_FILE": CERTIFICATE}

    def balsam(self, name: str, *words: str | Path, **environment: str) -> str:
        """A command of this person's."""
        return self.machine.run(BALSAM, *words, **self.home(name), **environment)

    def token(self, name: str) -> str:
        found = re.search(r"blsm_user_[\w-]+", (self.root / name / "client.yml").read_text())
        assert found is not None
        return found[0]


def section(title: str) -> list[str]:
    """The commands of a section of the page."""
    text = PAGE.read_text().partition(f"## {title}\n")[2].partition("\n## ")[0]
    return list(BLOCK.findall(text))


def certify(machine: FreshMachine, root: Path) -> ssl.SSLContext:
    """What the page expects to be there."""
    machine.run("mkdir", "-p", "/etc/ssl/balsam")
    made = ["-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={NAME}"]
    files = ["-addext", f"subjectAltName=DNS:{NAME}", "-keyout", "/etc/ssl/balsam/key.pem", "-out", CERTIFICATE]
    machine.run("openssl", "req", *made, *files)
    (root / "service.pem").write_text(machine.run("cat", CERTIFICATE))
    return ssl.create_default_context(cafile=str(root / "service.pem"))


@contextmanager
def provider(machine: FreshMachine) -> Iterator[str]:
    """A real one; its issuer."""
    words = ("node", oidc.DIRECTORY / "provider.mjs", f"{URL}/login/callback")
    process = machine.start(*words, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None and process.stdin is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.stdin.close()
        process.wait(30)
        process.stdout.close()


@pytest.fixture(scope="module")
def operated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operated]:
    debians = "/usr/sbin:/usr/bin"
    programs = ("nginx", "pg_createcluster", "curl", "npm", PYTHON)  # the unit hides a Python that stands below /root
    if missing := [program for program in programs if shutil.which(program, path=debians) is None]:
        pytest.skip(f"no {', '.join(missing)}")
    oidc.install()
    root = tmp_path_factory.mktemp("operations")
    with ExitStack() as stack:
        machine = stack.enter_context(fresh_machine(root))
        trusted = certify(machine, root)
        issuer = stack.enter_context(provider(machine))
        (commands,) = section("A service for a group")
        own = {
            PIP: INSTALLED,
            "https://login.example.org": issuer,
            "SECRET": oidc.CLIENT["client_secret"],
            "[example.org]": "[lab.example]",
        }
        for old, new in own.items():
            assert commands.count(old) == 1, old
            commands = commands.replace(old, new)
        said = machine.run("bash", "-euc", commands)
        code = re.search(r"--code (\S+)", said)
        assert code is not None, said
        world = Operated(machine, trusted, root)
        stack.enter_context(machine.network())
        admin = ("admin", "first", URL, "--code", code[1], "-u", "root", "--json")
        world.balsam("root", *admin, BALSAM_PASSWORD=PASSWORD)
        yield world


def come_in(world: Operated, name: str) -> None:
    """`balsam login` on a machine without a browser; the person's clicks are made here."""
    login = world.machine.start(BALSAM, "login", URL, "--json", env=world.home(name))
    assert login.stderr is not None
    address = login.stderr.readline().split()[-1]
    with oidc.Browser(verify=world.trusted) as browser:
        page = browser.submit(browser.get(address), provider="lab", code=address.rpartition("=")[2])
        assert "logged in" in browser.submit(browser.log_in_at_provider(page, name), answer="yes").text
    out, err = login.communicate(timeout=60)
    assert login.returncode == 0 and json.loads(out)["username"] == name, err


@contextmanager
def running_site(world: Operated, owner: str, name: str) -> Iterator[int]:
    """A Site of this person with an agent; its id."""
    path = world.root / f"site-{name}"
    made = json.loads(world.balsam(owner, "site", "init", path, "--name", name, "--machine", "local", "--json"))
    with (world.root / f"{name}.log").open("w") as log:
        words = (BALSAM, "site", "start", "--foreground", path)
        agent = world.machine.start(*words, stdout=log, stderr=log, env=world.home(owner))
        try:
            yield int(made["id"])
            world.balsam(owner, "site", "stop", path)
            assert agent.wait(READY_SEC) == 0
        finally:
            agent.kill()
            agent.wait()


def online(world: Operated, name: str) -> list[str]:
    listed = json.loads(world.balsam(name, "site", "ls", "--json"))
    return sorted(site["name"] for site in listed if site["is_active"])


class Fuzz:
    """Nonsense on every route of the API with somebody's token, until it is stopped; what was answered."""

    def __init__(self, world: Operated, token: str) -> None:
        self.answers: Counter[int] = Counter()
        self.faults: list[str] = []
        self._client, self._random = world.client(token), random.Random(1)
        self._routes = [
            (method, path)
            for path, methods in self._client.get("/openapi.json").json()["paths"].items()
            for method in methods
            if not path.endswith(("/stream", "/logout")) and (method, path) != ("delete", "/api/tokens/{token_id}")
        ]
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Fuzz:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()
        self._client.close()

    def _run(self) -> None:
        while not self._stopping.wait(0.01):
            method, path = self._random.choice(self._routes)
            path = re.sub(r"\{\w+\}", lambda _: self._word(), path)
            query = {self._word(): self._word(), "limit": self._word()}
            content = json.dumps(self._value(3)).encode()[: self._random.choice([10, 10_000])]
            reply = self._client.request(method.upper(), path, params=query, content=content)
            self.answers[reply.status_code] += 1
            if reply.status_code >= 500:
                self.faults.append(f"{method} {path} {query} {content!r}: {reply.status_code} {reply.text}")

    def _word(self) -> str:
        kinds = ["1", "0", "-1", str(2**63), "..", "%00", "\u00e4", "'\";--", "null", "x" * 300]
        return self._random.choice([*kinds, "".join(self._random.choices(string.printable[:62], k=5))])

    def _value(self, depth: int) -> Any:
        plain = [None, True, 0, -1, 2**63, 1.5, self._word(), []]
        if depth == 0:
            return self._random.choice(plain)
        fields = ["jobs", "filter", "app_id", "site_id", "state", "parameters", "tags", "records", self._word()]
        made = {self._random.choice(fields): self._value(depth - 1) for _ in range(3)}
        return self._random.choice([made, [made], *plain])


def test_the_service_of_the_page_serves_a_group(operated: Operated, figure: Callable[[str], None]) -> None:
    world = operated
    (_, both) = section("Is everything right?")[0].split("\n\n")
    assert "problem" not in world.machine.run("bash", "-euc", both), "the page's doctor is content"
    backup = both[: both.rindex("as_service '")] + "as_service 'server backup /var/lib/balsam/monday.sqlite3'"
    assert "Saved" in world.machine.run("bash", "-euc", backup)
    for name in ("ann", "bob"):
        come_in(world, name)
    with ExitStack() as sites:
        ids = [
            sites.enter_context(running_site(world, *who)) for who in (("ann", "one"), ("ann", "two"), ("bob", "three"))
        ]
        eventually(lambda: online(world, "ann") == ["one", "two"] and online(world, "bob") == ["three"], "agents", 90)
        forces = world.machine.run(sys.executable, EXAMPLE / "build.py").splitlines()[-1]
        define = (sys.executable, EXAMPLE / "define_apps.py", "--site", "one", "--forces", forces)
        world.machine.run(*define, **world.home("ann"))
        share(world, ids[0])
        home = world.root / "ensemble"
        home.mkdir()
        script = (sys.executable, "-X", "faulthandler", EXAMPLE / "run_libe_forces.py", "--site", "one", *FEW)
        begun = time.monotonic()
        with Fuzz(world, world.token("bob")) as fuzz:
            words = ("env", "-C", home, *script, "--comms", "local", "--nworkers", "2")
            said = finished(world.machine.start(*words, env=world.home("ann")), 200)
        assert "6 of 6 simulations gave an energy" in said
        history = np.load(home / "forces_results" / "H.npy")
        check(home / "forces_results", history)
        assert fuzz.faults == [] and sum(fuzz.answers.values()) > 100
        figure(
            f"forces in {time.monotonic() - begun:.0f} s; nonsense was answered {dict(sorted(fuzz.answers.items()))}"
        )
    assert "Traceback" not in world.machine.run("journalctl", "-u", "balsam")


def test_systemd_reloads_the_service_and_starts_one_that_died_again(operated: Operated) -> None:
    def instance() -> str:
        with operated.client() as nobody:
            return str(ok(nobody.get("/api/version"))["instance"])

    before, pid = instance(), main_pid(operated.machine, "balsam")
    operated.machine.run("systemctl", "reload", "balsam")
    eventually(lambda: instance() != before, "no successor", 60)
    assert main_pid(operated.machine, "balsam") == pid, "the same process"
    operated.machine.run("systemctl", "kill", "--signal", "KILL", "--kill-who", "main", "balsam")
    eventually(lambda: main_pid(operated.machine, "balsam") not in ("0", pid), "not started again", 60)
    instance()  # the socket was open all the time


def main_pid(machine: FreshMachine, *unit: str | Path) -> str:
    """Of a unit, by name and what may stand before it."""
    *before, name = unit
    words = ("--user",) if before else ()
    return machine.run(*before, "systemctl", *words, "show", "--property", "MainPID", "--value", name).strip()


def test_an_agent_is_kept_running_by_its_owners_own_systemd(operated: Operated) -> None:
    """The guide's commands, typed by somebody with an account on the machine and no right to linger by themselves."""
    world, home = operated, Path("/home/carl")
    come_in(world, "carl")
    world.machine.run("bash", "-euc", CARL)
    world.balsam("carl", "site", "init", home / "my-site", "--name", "four", "--machine", "local", "--json")
    world.machine.run("chown", "-R", "carl:carl", home)
    number = world.machine.run("id", "-u", "carl").strip()
    carl = (
        "env",
        "-C",
        home,
        "runuser",
        "-u",
        "carl",
        "--",
        "env",
        f"XDG_RUNTIME_DIR=/run/user/{number}",
        f"HOME={home}",
    )
    text = AGENTS.read_text().partition("## A systemd unit of your own\n")[2]
    commands = BLOCK.findall(text)[0].replace("loginctl enable-linger\n", "").replace(" -f\n", "\n")
    try:
        world.machine.run(*carl, "bash", "-euc", commands)
        eventually(lambda: online(world, "carl") == ["four"], "no agent", 90)
        first = main_pid(world.machine, *carl, "balsam-agent@my-site")
        world.machine.run("kill", "-9", first)
        eventually(lambda: main_pid(world.machine, *carl, "balsam-agent@my-site") not in ("0", first), "died", 60)
    finally:
        world.machine.run(*carl, "systemctl", "--user", "stop", "balsam-agent@my-site")
    said = world.machine.run(*carl, "journalctl", "--user", "-u", "balsam-agent@my-site")
    assert "Traceback" not in said


def share(world: Operated, site_id: int) -> None:
    """Ann's Site with a team of which Bob is a member: he submits a Job of her App there; he sees no other."""
    with world.client(world.token("ann")) as ann, world.client(world.token("bob")) as bob:
        app_id = make_app(ann, site_id)
        assert [site["name"] for site in ok(bob.get("/api/sites"))["results"]] == ["three"]
        team = ok(ann.post("/api/teams", json={"name": "beamline"}))["id"]
        ok(ann.put(f"/api/teams/{team}/members", json={"username": "bob"}))
        ok(ann.put("/api/shares", json={"team_id": team, "site_id": site_id, "role": "submitter"}))
        assert sorted(site["name"] for site in ok(bob.get("/api/sites"))["results"]) == ["one", "three"]
        (job_id,) = make_jobs(bob, app_id)
        assert ok(ann.get(f"/api/jobs/{job_id}"))["submitted_by"] == "bob"
