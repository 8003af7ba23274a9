"""The service as a process and as an HTTP server: start, stop, lock, docs, wire version, errors, headers."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from balsam.domain.clock import SystemClock
from balsam.domain.scopes import Scope
from balsam.server import routes
from balsam.server.app import create_app
from balsam.server.auth import tokens
from balsam.server.auth.needs import OPEN
from balsam.server.errors import Unavailable
from balsam.server.limits import RequestRates
from balsam.server.routes.call import Call
from balsam.server.routes.dispatch import tree_of
from balsam.server.routes.endpoint import Routes
from balsam.server.run import STOP_SEC
from balsam.server.settings import ServerSettings
from balsam.server.store.memory import MemoryStore
from balsam.server.timer import Sweep, SweepTimer
from balsam.server.usecases import accounts
from balsam.server.workers import SAME_SIGNAL_SEC
from tests.server.sse import Listener
from tests.server.world import ok
from tests.services import RunningService, running_service, start_service


def test_version_and_probes_are_open(service: RunningService) -> None:
    with service.client("") as nobody:
        found = ok(nobody.get("/api/version"))
        assert (found["wire_min"], found["wire_max"], found["instance"]) == (1, 1, service.instance)
        assert ok(nobody.get("/healthz")) == ok(nobody.get("/readyz")) == {"status": "ok"}


def test_wire_version_missing_is_accepted_right_is_accepted_wrong_is_426(service: RunningService) -> None:
    with httpx2.Client(base_url=service.url, trust_env=False) as curl:
        assert curl.get("/api/version").status_code == 200
        assert curl.get("/api/version", headers={"Balsam-Wire": "1"}).status_code == 200
        for wrong, what in (("2", "upgrade the service"), ("0", "upgrade openbalsam"), ("one", "upgrade the service")):
            reply = curl.get("/api/version", headers={"Balsam-Wire": wrong})
            assert reply.status_code == 426
            error = reply.json()["error"]
            assert error["code"] == "wire_version" and what in error["message"]


def test_every_answer_has_its_headers_and_no_server_name(service: RunningService) -> None:
    with service.client("") as nobody:
        for path in ("/api/version", "/api/jobs", "/api/nothing", "/nothing", "/docs", "/healthz"):
            headers = nobody.get(path).headers
            assert headers["x-content-type-options"] == "nosniff" and headers["cache-control"] == "no-store", path
            assert headers["x-request-id"] and "server" not in headers, path
            assert headers["referrer-policy"] == "no-referrer" and "access-control-allow-origin" not in headers, path
            policy = headers["content-security-policy"]
            assert {"default-src 'none'", "base-uri 'none'", "frame-ancestors 'none'"} <= set(policy.split("; ")), path


@pytest.mark.slow
def test_behind_a_proxy_browsers_are_told_to_keep_to_https(tmp_path: Path) -> None:
    with running_service(tmp_path / "home", options=["--behind-proxy"]) as service, service.client("") as nobody:
        assert nobody.get("/healthz").headers["strict-transport-security"] == "max-age=31536000; includeSubDomains"


def test_errors_have_one_form(service: RunningService, client: httpx2.Client) -> None:
    asked = [
        (client.get("/api/nothing"), 404, "not_found"),
        (client.get("/nothing"), 404, "not_found"),
        (client.get("/api/jobs/abc"), 404, "not_found"),
        (client.get(f"/api/jobs/{2**63}"), 404, "not_found"),
        (client.put("/api/jobs"), 405, "method_not_allowed"),
        (client.post("/api/jobs", content=b"{"), 400, "malformed"),
        (client.post("/api/jobs", content=b'{"jobs": "\xff"}'), 400, "malformed"),
        (client.get("/api/jobs?limit=1&limit=2"), 400, "malformed"),
        (client.get("/api/jobs?nope=1"), 422, "invalid"),
        (client.get("/api/jobs?limit=10001"), 422, "invalid"),
        (client.get("/api/version?nope=1"), 422, "invalid"),
    ]
    for reply, status, code in asked:
        error = reply.json()["error"]
        assert (reply.status_code, error["code"]) == (status, code), reply.text
        assert error["request_id"] == reply.headers["x-request-id"] and error["message"]
    assert asked[4][0].headers["allow"] == "GET, PATCH, POST"


def test_validation_names_every_place_and_repeats_no_secret(client: httpx2.Client) -> None:
    good = {"app_id": 1, "workdir": "a"}
    jobs = [good] * 17 + [{"app_id": 1, "workdir": "", "num_nodes": 0, "owner_id": 3}]
    error = client.post("/api/jobs", json={"jobs": jobs}).json()["error"]
    assert {detail["where"] for detail in error["details"]} == {
        "jobs[17].workdir",
        "jobs[17].num_nodes",
        "jobs[17].owner_id",
    }
    reply = client.post("/api/auth/login", json={"username": "a b", "password": "hunter2-hunter2"})
    assert reply.status_code == 422 and "hunter2" not in reply.text


def test_openapi_documents_bodies_replies_and_errors(client: httpx2.Client) -> None:
    document = ok(client.get("/openapi.json"))
    create = document["paths"]["/api/jobs"]["post"]
    assert create["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("/JobsCreate")
    assert create["responses"]["201"]["content"]["application/json"]["schema"]["$ref"].endswith("/JobsCreated")
    for status in ("400", "401", "403", "404", "409", "413", "422", "426", "429", "500", "503"):
        assert create["responses"][status] == {"$ref": f"#/components/responses/{status}"}
        said = document["components"]["responses"][status]
        assert said["content"]["application/json"]["schema"]["$ref"].endswith("/ErrorReply")
    listed = document["paths"]["/api/jobs"]["get"]
    assert {"state", "after", "limit", "with_count"} <= {one["name"] for one in listed["parameters"]}
    served = {(endpoint.path, endpoint.method.lower()) for endpoint in routes.ALL}
    assert served == {(path, method) for path, methods in document["paths"].items() for method in methods}


def test_docs_need_nothing_from_elsewhere(client: httpx2.Client) -> None:
    reply = client.get("/docs")
    assert reply.status_code == 200 and "/api/jobs" in reply.text and "JobsCreate" in reply.text
    assert not re.findall(r"(?:https?:)?//[a-z]", reply.text) and "<script" not in reply.text
    assert reply.headers["content-security-policy"].startswith("default-src 'none'")


def test_a_route_without_an_auth_declaration_cannot_be_made() -> None:
    made = Routes("test", reads=Scope.JOBS_READ, writes=Scope.JOBS_WRITE)
    with pytest.raises(TypeError, match="needs"):
        made.get("/x")  # type: ignore[call-arg]

    with pytest.raises(TypeError, match="first parameter"):

        @made.get("/y", needs=OPEN)
        async def without_call() -> None: ...

    with pytest.raises(TypeError, match="its path"):

        @made.get("/z/{number}", needs=OPEN)
        async def other_names(call: Call, name: int) -> None: ...


def test_two_endpoints_for_one_path_are_refused() -> None:
    made = Routes("test", reads=Scope.JOBS_READ, writes=Scope.JOBS_WRITE)

    @made.get("/x", needs=OPEN)
    async def one(call: Call) -> None: ...

    with pytest.raises(TypeError, match="two endpoints"):
        tree_of([*made.endpoints, *made.endpoints])


class BrokenStore(MemoryStore):
    """A store whose reads fail in a chosen way."""

    error: Exception = RuntimeError("secret detail: SELECT * FROM tokens")

    async def read(self, fn: Any, account: int = 0) -> Any:
        raise self.error


def ask_in_process(store: MemoryStore, path: str) -> tuple[int, str, dict[str, str]]:
    from starlette.testclient import TestClient

    app = create_app(ServerSettings(), store, SystemClock())
    with TestClient(app) as client:
        reply = client.get(path)
        return reply.status_code, reply.text, dict(reply.headers)


def test_an_unexpected_error_is_a_generic_500_with_a_request_id(caplog: pytest.LogCaptureFixture) -> None:
    status, text, headers = ask_in_process(BrokenStore(), "/readyz")
    assert status == 500 and "secret" not in text and "SELECT" not in text and headers["x-request-id"] in text
    assert headers["x-request-id"] in caplog.text and "secret detail" in caplog.text


def test_a_store_that_cannot_answer_is_503_and_says_when_to_come_back() -> None:
    store = BrokenStore()
    store.error = Unavailable("the database is locked")
    status, text, headers = ask_in_process(store, "/readyz")
    assert status == 503 and "database is locked" in text and int(headers["retry-after"]) > 0


def test_requests_above_the_rate_are_429_and_say_when() -> None:
    from starlette.testclient import TestClient

    store, clock, token = MemoryStore(), SystemClock(), tokens.mint("user")
    store.write_sync(lambda tx: accounts.ensure_local_user(tx, "ann", token, clock.now()))
    app = create_app(ServerSettings(requests_per_sec=1.0), store, clock)
    with TestClient(app, headers={"Authorization": f"Bearer {token}"}) as client:
        replies = [client.get("/api/auth/me") for _ in range(5)]
    assert [reply.status_code for reply in replies] == [200] * 4 + [429]
    assert replies[4].headers["retry-after"] == "1" and "1 requests a second" in replies[4].text


def test_pages_and_calls_of_one_account_are_counted_together() -> None:
    from starlette.testclient import TestClient

    store, clock, token = MemoryStore(), SystemClock(), tokens.mint("user")
    ann = store.write_sync(lambda tx: accounts.ensure_local_user(tx, "ann", token, clock.now()))
    app = create_app(ServerSettings(requests_per_sec=1.0, requests_at_once=1), store, clock)
    cookies = {"balsam-session-80": token}
    with TestClient(app, headers={"Authorization": f"Bearer {token}"}, cookies=cookies) as client:
        paths = ("/ui/tokens", "/api/auth/me")
        assert [client.get(path).status_code for path in paths * 3] == [200] * 4 + [429] * 2
        app.service.rates = RequestRates(None)
        app.service.crowd.enter(ann.user_id)
        for reply in map(client.get, paths):
            assert reply.status_code == 429 and "at once" in reply.text
        app.service.crowd.leave(ann.user_id)
        assert [client.get(path).status_code for path in paths] == [200] * 2


def test_a_sweep_that_fails_runs_again(caplog: pytest.LogCaptureFixture) -> None:
    runs: list[str] = []

    def broken() -> None:
        runs.append("broken")
        raise RuntimeError("no")

    timer = SweepTimer(
        [Sweep("broken", 0.01, broken), Sweep("rare", 60.0, lambda: runs.append("rare"))], SystemClock(), lambda: True
    )
    timer.start()
    time.sleep(0.2)
    timer.stop()
    assert runs.count("broken") >= 2 and runs.count("rare") == 1 and "sweep broken failed" in caplog.text


# -- the process --------------------------------------------------------------------------------------------------


def test_a_second_service_on_the_same_data_is_refused(own_service: RunningService) -> None:
    with pytest.raises(RuntimeError, match=f"in use by process {own_service.pid}.*--data-dir"):
        start_service(own_service.home)
    with own_service.client() as client:
        ok(client.get("/readyz"))


def test_a_busy_port_is_named(own_service: RunningService, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=f"port {own_service.port}: another program listens there"):
        start_service(tmp_path / "other", port=own_service.port)


def test_plain_http_to_the_world_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="refusing to send tokens in clear"):
        start_service(tmp_path / "home", options=["--host", "0.0.0.0"])


def test_an_open_data_directory_is_refused(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o755)
    data.chmod(0o755)
    with pytest.raises(RuntimeError, match="chmod 700"):
        start_service(tmp_path / "home", options=["--data-dir", str(data)])


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_stop_is_clean_and_soon(own_service: RunningService, sig: signal.Signals) -> None:
    with own_service.client() as idle:  # a kept-alive connection must not hold it
        ok(idle.get("/healthz"))
        start = time.monotonic()
        assert own_service.stop(sig) == 0
        assert time.monotonic() - start < 1.5
    assert "Traceback" not in own_service.log
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", own_service.port), 1)


SITE = b'{"name": "slow", "path": "/p", "hostname": "h"}'


@contextmanager
def slow_request(service: RunningService) -> Iterator[socket.socket]:
    """One that is being answered: all but the last byte of its body has been sent."""
    headers = "".join(f"{name}: {value}\r\n" for name, value in service.headers().items())
    head = f"POST /api/sites HTTP/1.1\r\nHost: h\r\n{headers}Content-Length: {len(SITE)}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", service.port), 30) as asking, service.client() as client:
        asking.sendall(head + SITE[:-1])
        ok(client.get("/healthz"))
        yield asking


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_waiting_for_requests_and_nothing_breaks(
    own_service: RunningService, sig: signal.Signals
) -> None:
    with slow_request(own_service) as asking, Listener(own_service, "/api/jobs/stream") as stream:
        own_service.process.send_signal(sig)
        assert stream.wait_end(30) == "clean", "the first one was heard"
        time.sleep(SAME_SIGNAL_SEC + 0.1)
        assert own_service.process.poll() is None
        begun = time.monotonic()
        assert own_service.stop(sig) == 0
        assert time.monotonic() - begun < STOP_SEC - 1
        reply = asking.recv(10_000).decode()
    assert reply.startswith("HTTP/1.1 503 ") and "retry-after: 2" in reply and "the service is stopping" in reply
    assert "Traceback" not in own_service.log and "ERROR" not in own_service.log
    assert not (own_service.home / "service.json").exists()


def test_a_signal_that_comes_twice_at_once_is_one(own_service: RunningService) -> None:
    with slow_request(own_service) as asking, Listener(own_service, "/api/jobs/stream") as stream:
        for _ in range(2):
            own_service.process.send_signal(signal.SIGTERM)
        assert stream.wait_end(30) == "clean"
        asking.sendall(SITE[-1:])
        assert asking.recv(10_000).startswith(b"HTTP/1.1 201 ")
    assert own_service.stop() == 0


def test_signals_during_the_last_steps_break_nothing_off(own_service: RunningService) -> None:
    own_service.process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + 30
    while own_service.process.poll() is None:
        assert time.monotonic() < deadline
        own_service.process.send_signal(signal.SIGINT)
        time.sleep(0.002)
    assert own_service.process.returncode == 0 and "Traceback" not in own_service.log


def test_tls_is_served_and_plain_http_is_not(tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl command here to make a certificate with")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    make = f"{openssl} req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    files = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    subprocess.run([*make.split(), *files], check=True, capture_output=True)
    with running_service(tmp_path / "home", options=["--tls-cert", str(cert), "--tls-key", str(key)]) as service:
        assert service.url.startswith("https://127.0.0.1:")
        trusting = ssl.create_default_context(cafile=str(cert))
        with httpx2.Client(verify=trusting, trust_env=False) as client:
            ok(client.get(f"{service.url}/readyz"))
        with httpx2.Client(trust_env=False) as plain, pytest.raises(httpx2.HTTPError):
            plain.get(f"http://127.0.0.1:{service.port}/readyz")


def test_the_ready_line_for_people(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "balsam.server", "--port", "0", "--data-dir", str(tmp_path / "d")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("Balsam service at http://127.0.0.1:")
    finally:
        process.terminate()
        assert process.wait(10) == 0
        process.stdout.close()


def test_a_log_file_is_rotated_with_what_else_goes_to_stderr(tmp_path: Path) -> None:
    log = tmp_path / "service.log"
    log.write_bytes(b"old\n" * 2_500_000)
    with running_service(tmp_path / "home", options=["--log-file", str(log), "--access-log"]) as service:
        with httpx2.Client(trust_env=False) as client:
            ok(client.get(f"{service.url}/readyz"))
        stderr = Path(f"/proc/{service.process.pid}/fd/2").readlink()
    assert stderr == log
    assert "listening on" in log.read_text() and "old" not in log.read_text()
    assert (tmp_path / "service.log.1").stat().st_size == 10_000_000
    assert service.log == ""


def test_several_processes_rotate_no_file(tmp_path: Path) -> None:
    options = ["--log-file", str(tmp_path / "log"), "--workers", "2", "--database", "postgresql://x@127.0.0.1/x"]
    command = [sys.executable, "-m", "balsam.server", "--port", "0", "--data-dir", str(tmp_path / "d"), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2 and "several processes can't rotate one file" in done.stderr
