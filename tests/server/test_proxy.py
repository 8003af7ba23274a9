"""The shipped configuration of nginx in front of a real service: streams, uploads, addresses and restarts."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from balsam.server.routes.streams import PING_SEC
from balsam.wire.blobs import MAX_PIECE_BYTES
from tests.server.test_handover import Asking, start_anew
from tests.server.world import PASSWORD, Person, furnish, make_jobs, make_user, ok
from tests.services import RunningService, running_service
from tests.testbed.ports import free_port

pytestmark = pytest.mark.slow
CONFIGURATION = Path(__file__).parents[2] / "packaging" / "nginx" / "balsam.conf"
PATIENCE_SEC = 30.0
PING = ": ping"
READ_TIMEOUT_SEC = 75  # of the shipped configuration
# A service whose streams say something as often as a test wants: what the service has for it is no setting.
PINGING = """
import os
from balsam.server.command import up
from balsam.server.routes import streams
streams.PING_SEC = float(os.environ["TESTS_PING_SEC"])
up(prog_name="pinging")
"""


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SEC
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


@dataclass
class Proxy:
    """nginx with the shipped configuration in front of a service."""

    service: RunningService
    port: int
    trusted: ssl.SSLContext

    def client(self, token: str, address: str = "127.0.0.1") -> httpx2.Client:
        transport = httpx2.HTTPTransport(verify=self.trusted, local_address=address)
        headers = {"Balsam-Wire": "1", **({"Authorization": f"Bearer {token}"} if token else {})}
        return httpx2.Client(
            base_url=f"https://localhost:{self.port}", headers=headers, timeout=PATIENCE_SEC, transport=transport
        )


def configuration(root: Path, port: int, *services: RunningService, read_timeout_sec: int = READ_TIMEOUT_SEC) -> str:
    """The shipped file with this test's ports and certificate, inside what Debian's nginx.conf has around it."""
    text = CONFIGURATION.read_text()
    changes = {
        "server 127.0.0.1:8124;": " ".join(f"server 127.0.0.1:{service.port};" for service in services),
        "listen 443 ssl;": f"listen 127.0.0.1:{port} ssl;",
        "server_name balsam.example.org;": "server_name localhost;",
        "/etc/ssl/balsam/fullchain.pem": str(root / "cert.pem"),
        "/etc/ssl/balsam/key.pem": str(root / "key.pem"),
        f"proxy_read_timeout {READ_TIMEOUT_SEC}s;": f"proxy_read_timeout {read_timeout_sec}s;",
    }
    for old, new in changes.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    spools = "".join(
        f"{name}_temp_path {root}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;\n" if os.getuid() == 0 else ""  # the directories of this test are root's
    return (
        f"{user}daemon off;\npid {root}/pid;\nerror_log {root}/error.log;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{spools}{text}}}\n"
    )


@contextmanager
def running_nginx(
    root: Path, service: RunningService, *others: RunningService, read_timeout_sec: int = READ_TIMEOUT_SEC
) -> Iterator[Proxy]:
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin")
    if program is None or shutil.which("openssl") is None:
        pytest.skip("no nginx: apt-get install nginx-light openssl")
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    made = ["-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    files = ["-keyout", str(root / "key.pem"), "-out", str(root / "cert.pem")]
    subprocess.run(["openssl", "req", *made, *names, *files], check=True, capture_output=True)
    port = free_port()
    (root / "nginx.conf").write_text(configuration(root, port, service, *others, read_timeout_sec=read_timeout_sec))
    process = subprocess.Popen(
        [program, "-p", str(root), "-e", str(root / "error.log"), "-c", str(root / "nginx.conf")]
    )
    try:
        proxy = Proxy(service, port, ssl.create_default_context(cafile=str(root / "cert.pem")))
        until(lambda: answers(port), "nginx does not answer")
        yield proxy
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE_SEC)


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    root = tmp_path_factory.mktemp("proxy")
    options = ["--behind-proxy", "--multi-user"]
    with running_service(root / "home", options=options) as service, running_nginx(root, service) as started:
        yield started


@pytest.fixture(scope="module")
def admin(proxy: Proxy) -> str:
    """The token of an administrator, who came through the proxy."""
    code = re.search(r"--code (\S+)", proxy.service.log)
    assert code is not None
    account = {"username": "root", "password": PASSWORD}
    with proxy.client("") as nobody:
        ok(nobody.post("/api/users/first", json={**account, "code": code[1]}))
        return str(ok(nobody.post("/api/auth/login", json=account))["token"])


@pytest.fixture(scope="module")
def ann(proxy: Proxy, admin: str) -> Person:
    proxy.service.token = admin
    return furnish(proxy.service, make_user(proxy.service, "ann"))


def test_a_stream_comes_through_at_once(proxy: Proxy, ann: Person) -> None:
    with proxy.client(ann.token) as reader, reader.stream("GET", "/api/jobs/stream") as stream:
        lines = stream.iter_lines()
        assert next(lines) == "event: hello"
        with proxy.client(ann.token) as client:
            (job_id,) = make_jobs(client, ann.app_id)
            ok(client.post("/api/jobs/cancel", json={"filter": {"id": [job_id]}}))
        before_ping = (line for line in lines if line)
        told = next(line for line in before_ping if line.startswith(":") or f"[{job_id}," in line)
        assert "CANCELLED" in told, "the comment that comes every 15 s had to push it"


@contextmanager
def pinged_stream(root: Path, ping_sec: float, read_timeout_sec: int) -> Iterator[tuple[Person, Proxy, Iterator[str]]]:
    """The lines of a stream from a service that says something so often, through an nginx of so little patience."""
    environment = {"TESTS_PING_SEC": str(ping_sec)}
    with (
        running_service(root / "home", program=["-c", PINGING], env=environment) as service,
        running_nginx(root, service, read_timeout_sec=read_timeout_sec) as proxy,
    ):
        ann = furnish(service, Person("ann", service.token))
        with proxy.client(ann.token) as reader, reader.stream("GET", "/api/jobs/stream") as stream:
            lines = stream.iter_lines()
            assert next(lines) == "event: hello"
            yield ann, proxy, lines


def test_a_silent_stream_is_not_cut(tmp_path: Path) -> None:
    """Nothing happens for far longer than nginx waits; what happens then still comes through the same stream."""
    assert READ_TIMEOUT_SEC >= 2 * PING_SEC
    timeout_sec = 6
    with pinged_stream(tmp_path, timeout_sec * PING_SEC / READ_TIMEOUT_SEC, timeout_sec) as (ann, proxy, lines):
        assert next(lines).startswith("data:")
        begin = time.monotonic()
        while time.monotonic() < begin + 2 * timeout_sec:
            assert next(lines) in ("", PING), "the stream is not silent"
        with proxy.client(ann.token) as client:
            ok(client.post("/api/jobs/cancel", json={"filter": {"id": [ann.job_id]}}))
        assert next(line for line in lines if f"[{ann.job_id}," in line).count("CANCELLED") == 1


def test_a_stream_that_says_nothing_for_as_long_as_nginx_waits_is_cut(tmp_path: Path) -> None:
    """Why the service says something: without that, this is what comes of a stream."""
    with pinged_stream(tmp_path, 10 * PATIENCE_SEC, 2) as (_, _, lines), pytest.raises(httpx2.RemoteProtocolError):
        for _ in lines:
            pass
    assert "upstream timed out" in (tmp_path / "error.log").read_text()


def test_a_piece_of_an_upload_goes_through_as_it_comes(proxy: Proxy, ann: Person) -> None:
    content = os.urandom(min(MAX_PIECE_BYTES, 4 * 1024 * 1024))
    digest, half, arrived = hashlib.sha256(content).hexdigest(), len(content) // 2, threading.Event()

    def slowly() -> Iterator[bytes]:
        yield content[:half]
        assert arrived.wait(PATIENCE_SEC), "nginx kept the first half for itself"
        yield content[half:]

    def look() -> None:
        files = proxy.service.data_dir / "blobs" / "uploads"
        until(lambda: sum(path.stat().st_size for path in files.rglob("*") if path.is_file()) > 0, "nothing came")
        arrived.set()

    looking = threading.Thread(target=look)
    looking.start()
    query = {"offset": 0, "size_bytes": len(content), "sha256": digest}
    with proxy.client(ann.token) as client:
        headers = {"Content-Length": str(len(content))}
        ok(client.put("/api/blobs/uploads/" + "a" * 64, params=query, content=slowly(), headers=headers))
    looking.join(PATIENCE_SEC)


def test_the_service_is_told_the_address_that_the_proxy_sees(proxy: Proxy, admin: str) -> None:
    with proxy.client("", address="127.0.0.2") as liar:
        wrong = {"username": "root", "password": "not the password"}
        liar.post("/api/auth/login", json=wrong, headers={"X-Forwarded-For": "192.0.2.1", "X-Real-IP": "192.0.2.1"})
    with proxy.client(admin) as client:
        (row, *_) = ok(client.get("/api/audit", params={"event": "login_failed"}))["results"]
        assert row["address"] == "127.0.0.2"
        answer = client.get("/api/version")
    assert "max-age" in answer.headers["strict-transport-security"]
    assert answer.headers["x-content-type-options"] == "nosniff", "the service's own headers are kept"


def test_no_request_fails_behind_the_proxy_while_the_service_starts_anew(
    proxy: Proxy, ann: Person, figure: Callable[[str], None]
) -> None:
    class Through(Asking):
        def client(self) -> httpx2.Client:
            return proxy.client(ann.token)

    asking = Through(proxy.service, ann)
    with asking.going_on():
        start_anew(proxy.service)
        done = asking.answered
        until(lambda: asking.answered > done + 50 or bool(asking.faults), "nobody is answered")
    assert asking.faults == []
    figure(f"{asking.answered} requests through nginx, none failed; the slowest took {asking.slowest_sec:.2f} s")
