"""People, Sites and Jobs at a running service, made over HTTP, for tests that need somebody else's objects."""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass
from typing import Any

import httpx2

from tests.services import RunningService

PASSWORD = "correct horse battery"


@dataclass
class Person:
    """A user with one of everything."""

    name: str
    token: str
    site_id: int = 0
    site_token: str = ""
    app_id: int = 0
    job_id: int = 0
    batch_job_id: int = 0
    launcher_token: str = ""
    job_token: str = ""
    session_id: int = 0
    staging_job_id: int = 0
    item_id: int = 0
    blob: str = ""
    team_id: int = 0
    share_id: int = 0

    def tokens(self) -> dict[str, str]:
        return {"user": self.token, "site": self.site_token, "launcher": self.launcher_token, "job": self.job_token}


def ok(reply: httpx2.Response) -> Any:
    assert reply.status_code < 300, f"{reply.request.method} {reply.request.url}: {reply.status_code} {reply.text}"
    return reply.json() if reply.content else None


def make_user(service: RunningService, name: str) -> Person:
    """A password account, logged in."""
    with service.client() as admin:
        ok(admin.post("/api/users", json={"username": name, "password": PASSWORD}))
        login = ok(admin.post("/api/auth/login", json={"username": name, "password": PASSWORD}))
    return Person(name, login["token"])


def make_site(client: httpx2.Client, name: str = "") -> dict[str, Any]:
    body = {
        "name": name or f"site-{uuid.uuid4().hex[:8]}",
        "path": "/home/ann/site",
        "hostname": "laptop",
        "allowed_queues": {"local": {"max_nodes": 4, "max_walltime": 600}},
        "allowed_projects": ["local"],
        "transfer_locations": {"client": "client:"},
    }
    found: dict[str, Any] = ok(client.post("/api/sites", json=body))
    return found


def make_app(client: httpx2.Client, site_id: int, name: str = "hello") -> int:
    body = {
        "site_id": site_id,
        "name": name,
        "command_template": "echo {{ word }}",
        "parameters": {"word": {"required": False, "default": "hi"}},
        "transfers": {"input": {"required": False, "direction": "in", "local_path": "in.dat"}},
    }
    return int(ok(client.put("/api/apps", json=body))["id"])


def make_jobs(client: httpx2.Client, app_id: int, count: int = 1, **more: Any) -> list[int]:
    jobs = [{"app_id": app_id, "workdir": f"run/{number}", **more} for number in range(count)]
    return [int(found) for found in ok(client.post("/api/jobs", json={"jobs": jobs}))["ids"]]


def make_blob(client: httpx2.Client, content: bytes) -> str:
    name = hashlib.sha256(content).hexdigest()
    query: dict[str, str | int] = {"offset": 0, "size_bytes": len(content), "sha256": name}
    assert ok(client.put(f"/api/blobs/uploads/{name}", params=query, content=content))["complete"]
    return name


def stage_in(blob: str, size_bytes: int) -> dict[str, Any]:
    """A Job's transfer of one file that was sent."""
    entry = {"path": "in.dat", "size_bytes": size_bytes, "mode": 0o644, "sha256": blob, "blob": blob}
    content = {"is_tree": False, "files": 1, "size_bytes": size_bytes, "entries": [entry], "blobs": [blob]}
    return {"location_alias": "client", "path": "/home/ann/in.dat", "content": content}


def batch_job_body(site_id: int) -> dict[str, Any]:
    wanted = {"num_nodes": 1, "wall_time_min": 10, "job_mode": "mpi", "queue": "local", "project": "local"}
    return {"site_id": site_id, **wanted}


def furnish(service: RunningService, person: Person) -> Person:
    """One Site, App, Job, BatchJob with its launcher's token, Session, and team with whom the Site is shared."""
    with service.client(person.token) as client:
        made = make_site(client)
        person.site_id, person.site_token = made["site"]["id"], made["token"]["token"]
        person.app_id = make_app(client, person.site_id)
        [person.job_id] = make_jobs(client, person.app_id)
        person.blob = make_blob(client, f"input of {person.name}".encode())
        staged = {"input": stage_in(person.blob, len(f"input of {person.name}"))}
        [person.staging_job_id] = make_jobs(client, person.app_id, transfers=staged)
        [item] = ok(client.get("/api/transfers", params={"job_id": person.staging_job_id}))["results"]
        person.item_id = item["id"]
        person.batch_job_id = ok(client.post("/api/batch-jobs", json=batch_job_body(person.site_id)))["id"]
        person.team_id = ok(client.post("/api/teams", json={"name": f"team-{person.site_id}"}))["id"]
        share = {"team_id": person.team_id, "role": "viewer", "site_id": person.site_id}
        person.share_id = ok(client.put("/api/shares", json=share))["id"]
    with service.client(person.site_token) as agent:
        place = f"/api/batch-jobs/{person.batch_job_id}"
        person.launcher_token = ok(agent.post(f"{place}/token"))["token"]
        person.job_token = ok(agent.post(f"{place}/job-token", json={"may_sync_apps": True}))["token"]
        session = {"site_id": person.site_id, "batch_job_id": person.batch_job_id}
        person.session_id = ok(agent.post("/api/sessions", json=session))["id"]
    return person
