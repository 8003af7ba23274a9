"""The few routes of the service that an agent uses, in this process over loopback HTTP, with faults at will.

It keeps its answers true to `balsam.wire` and to the BatchJob moves of the domain; system tests use the real service.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from balsam.domain.roles import Role
from balsam.domain.states import BATCH_JOB_MOVES, BatchJobState, JobMode
from balsam.wire.batch_jobs import BatchJobPatch, BatchJobsPatch, BatchJobView
from balsam.wire.sites import AgentLeaseRequest, FileReply, SiteCreate, SiteView

USER_TOKEN = "blsm_user_test"
LEASE_SEC = 30.0


@dataclass
class FakeService:
    """State and switches. `away`: connections are answered 503; `refuse_tokens`: 401; `lose_replies`: the work is done
    and the answer lost.
    """

    lock: threading.RLock = field(default_factory=threading.RLock)
    batch_jobs: dict[int, BatchJobView] = field(default_factory=dict)
    sites: dict[int, SiteView] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=lambda: {USER_TOKEN})
    reports: list[tuple[int, str | None]] = field(default_factory=list)
    agent: AgentLeaseRequest | None = None
    agent_until: float = 0.0
    away: bool = False
    refuse_tokens: bool = False
    lose_replies: int = 0
    requests: list[str] = field(default_factory=list)
    file_replies: dict[str, FileReply] = field(default_factory=dict)
    delivered: list[tuple[int, list[dict[str, Any]]]] = field(default_factory=list)
    creates: int = 0
    answered: dict[str, tuple[int, Any]] = field(default_factory=dict)
    streams: list[threading.Event] = field(default_factory=list)
    events: list[tuple[str, str]] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)
    url: str = ""
    stopping: bool = False

    def add_site(self, name: str, path: str, hostname: str = "") -> tuple[int, str]:
        number = len(self.sites) + 1
        self.sites[number] = SiteView(
            id=number,
            name=name,
            path=path,
            hostname=hostname,
            owner="test",
            role=Role.OWNER,
            allowed_projects=[],
            allowed_queues={},
            optional_batch_job_params={},
            transfer_locations={},
            backfill_windows={},
            queued_jobs={},
            creation_date=datetime.now(UTC),
            last_refresh=None,
            is_active=False,
        )
        return number, self.new_token()

    def new_token(self) -> str:
        token = f"blsm_site_{len(self.tokens)}"
        self.tokens.add(token)
        return token

    def add_batch_job(self, site_id: int = 1, **fields: Any) -> int:
        with self.lock:
            number = len(self.batch_jobs) + 1
            known: dict[str, Any] = {
                "num_nodes": 1,
                "wall_time_min": 10,
                "job_mode": JobMode.SERIAL,
                "queue": "local",
                "project": "local",
                "optional_params": {},
                "filter_tags": {},
                "partitions": None,
            }
            self.batch_jobs[number] = BatchJobView(
                id=number,
                submitted_by="test",
                site_id=site_id,
                scheduler_id=None,
                state=BatchJobState.PENDING_SUBMISSION,
                status_info={},
                created_at=datetime.now(UTC),
                start_time=None,
                end_time=None,
                **(known | fields),
            )
        self.push("batch_jobs", "{}")
        return number

    def set_state(self, number: int, state: BatchJobState) -> None:
        with self.lock:
            self.batch_jobs[number] = self.batch_jobs[number].model_copy(update={"state": state})
        self.push("batch_jobs", "{}")

    def remove_batch_job(self, number: int) -> None:
        with self.lock:
            del self.batch_jobs[number]
        self.push("batch_jobs", "{}")

    def push(self, name: str, data: str) -> None:
        with self.changed:
            self.events.append((name, data))
            self.changed.notify_all()

    def wait_for(self, number: int, *states: BatchJobState, timeout: float = 20.0) -> BatchJobView:
        """The BatchJob once it is in one of the states."""
        deadline = time.monotonic() + timeout
        with self.changed:
            while self.batch_jobs[number].state not in states:
                left = deadline - time.monotonic()
                assert left > 0, f"BatchJob {number} is still {self.batch_jobs[number]}"
                self.changed.wait(left)
        return self.batch_jobs[number]

    def wait_until(self, look: Any, what: str, timeout: float = 20.0) -> Any:
        deadline = time.monotonic() + timeout
        while not (found := look()):
            assert time.monotonic() < deadline, what
            time.sleep(0.01)
        return found

    def patch(self, patches: dict[int, BatchJobPatch]) -> dict[str, Any]:
        refused: dict[int, str] = {}
        for number, patch in patches.items():
            now = self.batch_jobs.get(number)
            if now is None:
                refused[number] = "not found"
                continue
            told = patch.model_dump(exclude_unset=True)
            target = told.get("state", now.state)
            if target != now.state and (now.state, target) not in BATCH_JOB_MOVES:
                refused[number] = f"{now.state} does not become {target}"
                continue
            self.reports.append((number, told.get("state")))
            self.batch_jobs[number] = now.model_copy(update=told)
        with self.changed:
            self.changed.notify_all()
        return {"results": [self.batch_jobs[n].model_dump(mode="json") for n in patches if n in self.batch_jobs]} | {
            "refused": refused
        }

    def lease(self, asked: AgentLeaseRequest) -> tuple[int, dict[str, Any]]:
        held = self.agent
        if (
            held is not None
            and time.monotonic() < self.agent_until
            and asked.instance != held.instance
            and asked.replaces != held.instance
        ):
            text = f"another agent runs for this Site: process {held.pid} on {held.hostname}"
            return 409, {"error": {"code": "agent_running", "message": text}}
        self.agent, self.agent_until = asked, time.monotonic() + LEASE_SEC
        return 200, {"ttl_sec": LEASE_SEC, "renew_sec": LEASE_SEC / 3}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    service: FakeService

    def log_message(self, *_: Any) -> None:
        pass

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        parts = urlsplit(self.path)
        path = parts.path.removeprefix("/api")
        self.service.requests.append(f"{self.command} {path}")
        if self.service.away:
            self._answer(503, {"error": {"code": "away", "message": "away"}})
        elif path == "/version":
            self._answer(
                200,
                {"service": "x", "wire_min": 1, "wire_max": 1, "instance": "i", "now": datetime.now(UTC).isoformat()},
            )
        elif self.headers.get("Authorization", "").removeprefix("Bearer ") not in self.service.tokens or (
            self.service.refuse_tokens
        ):
            self._answer(401, {"error": {"code": "unauthorized", "message": "token is not accepted"}})
        elif path.endswith("/stream"):
            self._stream()
        else:
            key = self.headers.get("Idempotency-Key", "")
            with self.service.lock:
                status, content = self.service.answered.get(key) or self._route(path, parse_qs(parts.query), body)
                if key and status < 400:
                    self.service.answered[key] = (status, content)
            if self.service.lose_replies and self.command != "GET":
                self.service.lose_replies -= 1
                self.close_connection = True
                return
            self._answer(status, content)

    do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = _serve  # noqa: N815 - names of http.server

    def _route(self, path: str, query: dict[str, list[str]], body: bytes) -> tuple[int, Any]:
        service, words = self.service, path.strip("/").split("/")
        match (self.command, *words):
            case ("GET", "batch-jobs"):
                found = [
                    view.model_dump(mode="json")
                    for view in service.batch_jobs.values()
                    if ("state" not in query or view.state in query["state"])
                    and ("id" not in query or str(view.id) in query["id"])
                    and str(view.site_id) in query["site_id"]
                ]
                return 200, {"count": len(found), "results": found}
            case ("GET", "transfers"):
                return 200, {"count": 0, "results": []}
            case ("PATCH", "batch-jobs"):
                return 200, service.patch(BatchJobsPatch.model_validate_json(body).patches)
            case ("POST", "batch-jobs", number, "token"):
                return 200, {"token": f"blsm_launcher_{number}"}
            case ("POST", "batch-jobs", number, "job-token"):
                return 201, {"token": f"blsm_job_{number}"}
            case ("POST", "sites", _, "agent"):
                return service.lease(AgentLeaseRequest.model_validate_json(body))
            case ("DELETE", "sites", _, "agent"):
                if service.agent and service.agent.instance == query["instance"][0]:
                    service.agent = None
                return 204, None
            case ("PATCH" | "GET", "sites", number):
                return 200, service.sites[int(number)].model_dump(mode="json")
            case ("PUT", "file-requests", number):
                with service.changed:
                    service.file_replies[number] = FileReply.model_validate_json(body)
                    service.changed.notify_all()
                return 204, None
            case ("POST", "sessions", number, "report"):
                records = json.loads(body)["records"]
                service.delivered.append((int(number), records))
                return 200, {"acked_seq": records[-1]["seq"]}
            case _:
                return self._sites(words, query, body)

    def _sites(self, words: list[str], query: dict[str, list[str]], body: bytes) -> tuple[int, Any]:
        service = self.service
        match (self.command, *words):
            case ("GET", "sites"):
                found = [
                    view.model_dump(mode="json")
                    for view in service.sites.values()
                    if view.name in query.get("name", [])
                ]
                return 200, {"count": len(found), "results": found}
            case ("POST", "sites"):
                asked = SiteCreate.model_validate_json(body)
                if any(view.name == asked.name for view in service.sites.values()):
                    return 409, {"error": {"code": "exists", "message": f"there is a Site {asked.name!r} already"}}
                service.creates += 1
                number, token = service.add_site(asked.name, asked.path, asked.hostname)
                site = service.sites[number].model_dump(mode="json")
                return 201, {"site": site, "token": {"token": token}}
            case ("POST", "sites", _, "token"):
                return 201, {"token": service.new_token()}
            case ("DELETE", "sites", number):
                del service.sites[int(number)]
                return 200, {"deleted": 1}
            case _:
                return 404, {"error": {"code": "not_found", "message": f"no {self.command} {'/'.join(words)}"}}

    def _answer(self, status: int, content: Any) -> None:
        data = b"" if content is None else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        if status == 503:
            self.send_header("Retry-After", "0")
        self.end_headers()
        self.wfile.write(data)

    def _stream(self) -> None:
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        service = self.service
        position = len(service.events)
        try:
            self.wfile.write(b"event: hello\ndata: {}\n\n")
            while not (service.stopping or service.away):
                with service.changed:
                    service.changed.wait(0.1)
                    new, position = service.events[position:], len(service.events)
                for name, data in new:
                    self.wfile.write(f"event: {name}\ndata: {data}\n\n".encode())
                self.wfile.flush()
        except OSError:
            return


@contextmanager
def serving(service: FakeService) -> Iterator[FakeService]:
    """Serve on a free loopback port for the length of the block."""
    handler = type("Handler", (_Handler,), {"service": service})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    service.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield service
    finally:
        service.stopping = True
        server.shutdown()
        server.server_close()
        thread.join()
