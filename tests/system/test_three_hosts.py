"""From a laptop to a cluster, neither of which anybody can connect to: both reach the service's 443, and nothing else.

The three are network namespaces with firewalls (tests/testbed/hosts); none of them sees the files of another one.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.system.live_site import BALSAM, READY_SEC, STOP_SEC, eventually, finished
from tests.system.test_forces import EXAMPLE, FEW, check
from tests.system.test_page import BLOCK_1, BLOCK_2, BLOCK_3, page_queue
from tests.testbed.three_hosts import SERVICE_ADDRESS, Host, ThreeHosts, three_hosts

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
URL = f"https://{SERVICE_ADDRESS}"
SITE = "my-balsam-site"
PASSWORD = "correct horse battery"
CUT_SEC = 20
# Says of each address whether it is open, what the error is, or that nobody answers for as long as argv[1] says.
KNOCK = """
import socket, sys
from concurrent.futures import ThreadPoolExecutor
def knock(word):
    host, port = word.split(":")
    try:
        socket.create_connection((host, int(port)), float(sys.argv[1])).close()
    except OSError as error:
        return "silence" if isinstance(error, TimeoutError) else error.strerror
    return "open"
print(*ThreadPoolExecutor().map(knock, sys.argv[2:]), sep="\\n")
"""
LISTEN = """
import socket
sock = socket.create_server(("0.0.0.0", 8080))
print("ready", flush=True)
while True:
    sock.accept()[0].close()
"""


@contextmanager
def ended(process: subprocess.Popen[str], status: int) -> Iterator[subprocess.Popen[str]]:
    """A process for the length of a block; then it ends with this status on SIGTERM."""
    try:
        yield process
        process.send_signal(signal.SIGTERM)
        assert process.wait(STOP_SEC) == status
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


@contextmanager
def ready(host: Host, log: Path, *words: str | Path, status: int = 0) -> Iterator[None]:
    """A process of the host that says in one line when it is ready, and ends with this status."""
    with log.open("w") as stderr, ended(host.start(*words, stderr=stderr), status) as process:
        assert process.stdout is not None
        assert process.stdout.readline(), log.read_text()  # pytest-timeout ends one that hangs
        yield


@contextmanager
def running_service(hosts: ThreeHosts) -> Iterator[None]:
    """With TLS on port 443, and an administrator who logged in from the laptop and from the cluster."""
    log = hosts.service.directory / "service.log"
    files = ("--tls-cert", "certificate.pem", "--tls-key", "key.pem")
    where = ("--host", SERVICE_ADDRESS, "--port", "443")
    with ready(hosts.service, log, BALSAM, "server", "up", "--json", *where, *files):
        code = re.search(r"--code (\S+)", log.read_text())
        assert code is not None
        account = ("-u", "ann", "--json")
        hosts.laptop.run(BALSAM, "admin", "first", URL, "--code", code[1], *account, BALSAM_PASSWORD=PASSWORD)
        for host in (hosts.laptop, hosts.cluster):
            host.run(BALSAM, "login", URL, *account, BALSAM_PASSWORD=PASSWORD)
        yield


@contextmanager
def running_agent(cluster: Host) -> Iterator[int]:
    """The page's Site with the page's queue and project; its id."""
    made = json.loads(cluster.run(BALSAM, "site", "init", SITE, "--name", SITE, "--machine", "local", "--json"))
    path = cluster.directory / SITE / "settings.yml"
    settings = yaml.safe_load(path.read_text())
    page_queue(settings)
    path.write_text(yaml.safe_dump(settings))
    with (cluster.directory / "agent.log").open("w") as log:
        agent = cluster.start(BALSAM, "site", "start", "--foreground", SITE, stdout=log, stderr=log)
        with ended(agent, 0):
            eventually(
                lambda: json.loads(cluster.run(BALSAM, "site", "ls", "--json"))[0]["is_active"],
                "the agent does not come",
                READY_SEC,
            )
            yield int(made["id"])


@dataclass(frozen=True)
class World:
    hosts: ThreeHosts
    site_id: int

    @contextmanager
    def nothing_else_tried(self) -> Iterator[None]:
        """No packet of a block's programs was meant for anything but the service's 443."""
        both = (self.hosts.laptop, self.hosts.cluster)
        before = [host.dropped("out") for host in both]
        yield
        assert [host.dropped("out") for host in both] == before


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root = tmp_path_factory.mktemp("hosts")
    with three_hosts(root) as hosts, running_service(hosts), running_agent(hosts.cluster) as site_id:
        yield World(hosts, site_id)


def knock(host: Host, *addresses: str, patience_sec: float) -> list[str]:
    return host.run(sys.executable, "-c", KNOCK, str(patience_sec), *addresses).splitlines()


def test_the_firewalls_let_out_the_service_s_443_and_nothing_in(world: World) -> None:
    """Somebody listens behind each of the doors, so that it is the firewall that keeps them shut."""
    hosts = world.hosts
    laptop, service, cluster = "10.77.0.2:8080", f"{SERVICE_ADDRESS}:8080", "10.77.0.3:8080"
    with ExitStack() as stack:
        for host in (hosts.laptop, hosts.service, hosts.cluster):
            listener = (host.directory / "listener.log", sys.executable, "-c", LISTEN)
            stack.enter_context(ready(host, *listener, status=-signal.SIGTERM))
        for host, own in ((hosts.laptop, laptop), (hosts.service, service), (hosts.cluster, cluster)):
            assert knock(host, own, f"{SERVICE_ADDRESS}:443", patience_sec=30) == ["open", "open"]
        for host, other in ((hosts.laptop, cluster), (hosts.cluster, laptop)):
            before = host.dropped("out")
            assert knock(host, service, other, patience_sec=1) == ["silence", "silence"]
            assert host.dropped("out") >= before + 2
        before_in = [host.dropped("in") for host in (hosts.laptop, hosts.cluster)]
        assert knock(hosts.service, laptop, cluster, patience_sec=1) == ["silence", "silence"]
        after_in = [host.dropped("in") for host in (hosts.laptop, hosts.cluster)]
        assert all(after > before for before, after in zip(before_in, after_in, strict=True))


def test_the_page_s_blocks_from_laptop_to_cluster(world: World) -> None:
    laptop, cluster = world.hosts.laptop, world.hosts.cluster
    program = cluster.directory / "hello.app"
    program.write_text('#!/bin/sh\necho "Hello, $1"\n')
    program.chmod(0o755)
    blocks = (BLOCK_1 + BLOCK_2 + BLOCK_3).replace("999", str(world.site_id))
    script = laptop.directory / "page.py"
    script.write_text(
        blocks.replace("/path/to/hello.app", str(program))
        + "import os\n"
        + f"assert not os.path.exists({str(program)!r}), 'the laptop sees the files of the cluster'\n"
        + "task.wait(timeout=60)\nprint(task.state, task.errcode)\nprint(task.read_stdout(), end='')\n"
        + "assert exctr.revoke_allocation(exctr.allocations[0], timeout=60) is True\n"
    )
    with world.nothing_else_tried():
        said = laptop.run(sys.executable, "-X", "faulthandler", script, timeout=120)
    assert said.splitlines() == ["FINISHED 0", *["Hello, World"] * 4]


def test_forces_from_laptop_to_cluster_whose_link_is_cut_meanwhile(world: World) -> None:
    """The energies come home through the service; for a while nothing goes to or from the cluster."""
    laptop, cluster = world.hosts.laptop, world.hosts.cluster
    home = laptop.directory / "forces_results"
    with world.nothing_else_tried():
        forces = cluster.run(sys.executable, EXAMPLE / "build.py").splitlines()[-1]
        laptop.run(sys.executable, EXAMPLE / "define_apps.py", "--site", SITE, "--forces", forces)
        allocation = ("--site", SITE, "--queue", "debug-queue", "--project", "my-project")
        script = (sys.executable, "-X", "faulthandler", EXAMPLE / "run_libe_forces.py")
        ensemble = laptop.start(*script, *allocation, *FEW, "--comms", "local", "--nworkers", "2")
        try:
            eventually(lambda: len(list(home.glob("forces*.stat"))) >= 2, "no energies come home", 90)
            with cluster.cut_off(), pytest.raises(subprocess.TimeoutExpired):
                ensemble.wait(CUT_SEC)
            said = finished(ensemble, 120)
        finally:
            ensemble.kill()
            ensemble.wait()
    assert "6 of 6 simulations gave an energy" in said
    history = np.load(home / "H.npy")
    assert sorted(history["sim_id"]) == list(range(6))
    check(home, history)
    assert json.loads(laptop.run(BALSAM, "queue", "ls", "--json")) == [], "an allocation is left"
