"""A service as far as a launcher sees it: session routes over real HTTP, in threads of the test's own process.

`jobs` and `history` are what tests look at; `stop()` and `start()` take it away and bring it back on the same port.
"""

import contextlib
import json
import socket
import threading
from collections import defaultdict
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from balsam.domain.app import AppSpec
from balsam.domain.monitors import Monitor
from balsam.domain.template import CommandTemplate

NOW = "2026-01-01T00:00:00Z"


@dataclass
class FakeJob:
    """A Job: runnable, held, running or over. `token` grows with each grant."""

    id: int
    app_id: int
    workdir: str
    parameters: dict[str, Any]
    resources: dict[str, Any]
    state: str = "runnable"
    token: int = 0
    attempt: int = 0
    session: int | None = None
    about: dict[str, Any] = field(default_factory=lambda: {"tags": {}, "data": {}, "parent_ids": []})


@dataclass
class FakeSession:
    """A Session and what was done to it."""

    id: int
    body: dict[str, Any]
    acked: int = 0
    closed: dict[str, Any] | None = None
    ended: bool = False
    last_reply: dict[str, Any] = field(default_factory=dict)
    streams: list[Any] = field(default_factory=list)


class FakeService:
    """See the module. `lease` are the terms that new Sessions get."""

    def __init__(self) -> None:
        self.jobs: dict[int, FakeJob] = {}
        self.apps: dict[int, dict[str, Any]] = {}
        self.sessions: dict[int, FakeSession] = {}
        self.history: dict[int, list[str]] = defaultdict(list)
        self.records: list[dict[str, Any]] = []
        self.cancel: set[int] = set()
        self.closing = False
        self.lease = {"ttl_sec": 300.0, "renew_sec": 60.0, "margin_sec": 60.0}
        self.refuse_sessions = ""
        self.allocation_ended = False  # see `end_allocation`
        self.refuses = ""  # reports with this text in a record
        self.requests: dict[str, int] = defaultdict(int)
        self.body_sizes: list[int] = []
        self.lock = threading.RLock()
        self.port = 0
        self.connections: set[socket.socket] = set()
        self._server: ThreadingHTTPServer | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self) -> None:
                super().setup()
                service.connections.add(self.connection)

            def finish(self) -> None:
                service.connections.discard(self.connection)
                with contextlib.suppress(OSError):
                    super().finish()

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                service.body_sizes.append(len(body))
                status, reply = service.answer(self.path, json.loads(body) if body else {})
                data = b"" if reply is None else json.dumps(reply).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def do_GET(self) -> None:
                service.follow(self)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            allow_reuse_address = True
            daemon_threads = True

        self._server = Server(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """Connections are refused from now on, open ones broken."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        with self.lock:
            for session in self.sessions.values():
                for stream in session.streams:
                    stream.close_connection = True
                    stream.broken = True
                session.streams.clear()

    def add_app(self, template: str, app_id: int = 1, **changes: Any) -> None:
        names = CommandTemplate.parse(template).parameters
        parameters = {name: {"required": True, "default": None, "help": ""} for name in names}
        view: dict[str, Any] = {
            "id": app_id, "site_id": 1, "name": f"App{app_id}", "command_template": template, "parameters": parameters,
            "environment_variables": {}, "transfers": {}, "cleanup_files": [], "hooks": [], "description": "",
            "source_code": "", "synced_at": NOW, "synced_by": "test",
        }  # fmt: skip
        from balsam.domain.app import AppParameter

        spec = AppSpec(
            name=view["name"],
            command_template=template,
            parameters={name: AppParameter(**given) for name, given in parameters.items()},
            environment_variables=changes.get("environment_variables", {}),
            monitors={name: Monitor.from_view(given) for name, given in changes.get("monitors", {}).items()},
        )
        self.apps[app_id] = {**view, "content_hash": spec.content_hash, **changes}

    def add_class(self, app: Any, app_id: int = 1) -> None:
        """An App with methods, as the client would register it."""
        from balsam.client import registration

        app.site = 1
        found = registration.spec(app)
        code = registration._code_fields(app, found)
        view: dict[str, Any] = {
            "id": app_id, "site_id": 1, "name": found.name, "command_template": found.command_template,
            "parameters": {name: registration.vars_of(spec) for name, spec in found.parameters.items()},
            "environment_variables": dict(app.environment_variables), "transfers": {}, "cleanup_files": [], "hooks": [],
            "description": "", "source_code": "", "code": code, "synced_at": NOW, "synced_by": "test",
        }  # fmt: skip
        self.apps[app_id] = {**view, "content_hash": AppSpec.from_view(view).content_hash}

    def add_jobs(self, count: int, app_id: int = 1, workdir: str = "job{id}", **given: Any) -> list[int]:
        parameters = given.pop("parameters", {})
        resources = {
            "num_nodes": 1, "ranks_per_node": 1, "threads_per_rank": 1, "threads_per_core": 1, "gpus_per_rank": 0.0,
            "node_packing_count": 1, "wall_time_min": 0, **given,
        }  # fmt: skip
        with self.lock:
            ids = []
            for _ in range(count):
                number = len(self.jobs) + 1
                self.jobs[number] = FakeJob(number, app_id, workdir.format(id=number), parameters, resources)
                ids.append(number)
            for session in self.sessions.values():
                self.push(session.id, "work", {})
        return ids

    def push(self, session_id: int, name: str, data: dict[str, Any]) -> None:
        with self.lock:
            for stream in self.sessions[session_id].streams:
                try:
                    stream.wfile.write(f"event: {name}\ndata: {json.dumps(data)}\n\n".encode())
                    stream.wfile.flush()
                except OSError:
                    continue

    def request_cancel(self, *job_ids: int) -> None:
        with self.lock:
            self.cancel |= set(job_ids)
            for job_id in job_ids:
                session = self.jobs[job_id].session
                if session is not None:
                    self.push(session, "cancel", {"job_ids": [job_id]})

    def states(self) -> list[str]:
        with self.lock:
            return [job.state for job in self.jobs.values()]

    def events(self, job_id: int) -> list[str]:
        with self.lock:
            return list(self.history[job_id])

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any] | None]:
        with self.lock:
            parts = path.removeprefix("/api/sessions").strip("/").split("/")
            self.requests[parts[-1] or "open"] += 1
            if self.allocation_ended:
                return _error(401, "allocation_ended", "BatchJob 1 has ended, and this token with it")
            if parts == [""]:
                return self._open(body)
            session = self.sessions.get(int(parts[0]))
            if session is None:
                return _error(404, "not_found")
            if parts[1] == "report":
                return self._report(session, body)
            if session.ended or session.closed is not None:
                return _error(409, "session_ended")
            return getattr(self, f"_{parts[1]}")(session, body)

    def end_allocation(self) -> None:
        """The batch system told the agent that it is over: its token is no good any more, and streams break."""
        with self.lock:
            self.allocation_ended = True
            for session in self.sessions.values():
                for stream in session.streams:
                    stream.broken = True

    def _open(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if self.refuse_sessions:
            return _error(403, "forbidden", self.refuse_sessions)
        number = len(self.sessions) + 1
        self.sessions[number] = FakeSession(number, body)
        return 201, {
            "id": number, "site_id": body["site_id"], "batch_job_id": body.get("batch_job_id"),
            "kind": body.get("kind", "heartbeat"), "purpose": "run", "label": body.get("label", ""), **self.lease,
            "opened_at": NOW, "renewed_at": NOW, "acquire_seq": 0, "report_seq": 0,
        }  # fmt: skip

    def _acquire(self, session: FakeSession, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if session.last_reply.get("acquire_seq") == body["acquire_seq"]:
            return 200, session.last_reply
        granted, nodes = [], body["max_aggregate_nodes"]
        for job in self.jobs.values():
            footprint = job.resources["num_nodes"] / job.resources["node_packing_count"]
            if job.state != "runnable" or len(granted) >= body["max_jobs"] or footprint > nodes + 1e-9:
                continue
            nodes -= footprint
            job.state, job.session, job.token = "held", session.id, job.token + 1
            granted.append({
                "id": job.id, "app_id": job.app_id, "token": job.token, "attempt": job.attempt + 1,
                "workdir": job.workdir, "parameters": job.parameters, **job.resources, "launch_params": {},
                **job.about,
            })  # fmt: skip
        wanted = {job["app_id"] for job in granted} - {int(key) for key in body["known_apps"]}
        session.last_reply = {
            "acquire_seq": body["acquire_seq"],
            "jobs": granted,
            "apps": [self.apps[app_id] for app_id in sorted(wanted)],
        }
        return 200, session.last_reply

    def _report(self, session: FakeSession, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        fenced = []
        if self.refuses and any(self.refuses in record.get("message", "") for record in body["records"]):
            return _error(422, "invalid")
        for record in body["records"]:
            job = self.jobs[record["job_id"]]
            if record["token"] != job.token:
                fenced.append(job.id)
            elif record["seq"] > session.acked:
                self._take(job, record)
            session.acked = max(session.acked, record["seq"])
        cancel = [job.id for job in self.jobs.values() if job.id in self.cancel and job.session == session.id]
        return 200, {"acked_seq": session.acked, "fenced": fenced, "cancel": cancel}

    def _take(self, job: FakeJob, record: dict[str, Any]) -> None:
        event = record["event"]
        self.records.append(record)
        self.history[job.id].append(event)
        if event == "started":
            job.state, job.attempt = "running", job.attempt + 1
        elif event == "noted":
            pass
        elif event in ("released", "run_timeout"):
            # As at the service, nobody gets a Job again that a user has cancelled.
            job.state, job.session = "cancelled" if job.id in self.cancel else "runnable", None
        else:
            job.state, job.session = event, None
            self.cancel.discard(job.id)

    def _renew(self, session: FakeSession, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        cancel = [job.id for job in self.jobs.values() if job.id in self.cancel and job.session == session.id]
        return 200, {"ttl_sec": self.lease["ttl_sec"], "cancel": cancel, "closing": self.closing}

    def _close(self, session: FakeSession, body: dict[str, Any]) -> tuple[int, None]:
        session.closed = body
        self.take_back(session.id)
        return 204, None

    def take_back(self, session_id: int) -> None:
        """What the Session held may be granted again."""
        with self.lock:
            for job in self.jobs.values():
                if job.session == session_id and job.state in ("held", "running"):
                    if job.state == "running":
                        self.history[job.id].append("lease_ended")
                    job.state, job.session = "runnable", None

    def follow(self, handler: Any) -> None:
        session = self.sessions.get(int(handler.path.split("/")[3]))
        if self.allocation_ended or session is None or session.ended or session.closed is not None:
            status, reply = _error(401, "allocation_ended") if self.allocation_ended else _error(409, "session_ended")
            data = json.dumps(reply).encode()
            handler.send_response(status)
            handler.send_header("Content-Length", str(len(data)))
            handler.end_headers()
            handler.wfile.write(data)
            return
        handler.broken = False
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Connection", "close")
        handler.end_headers()
        with self.lock:
            handler.wfile.write(b"event: hello\ndata: {}\n\n")
            session.streams.append(handler)
        while not handler.broken:
            threading.Event().wait(0.02)
        handler.close_connection = True


def _error(status: int, code: str, message: str = "no") -> tuple[int, dict[str, Any]]:
    return status, {"error": {"code": code, "message": message, "details": [], "request_id": "x"}}
