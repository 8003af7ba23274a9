"""Tokens for the code of Jobs: what they reach at their Site, what they don't, and how long they live."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import pytest

from tests.server.world import Person, batch_job_body, furnish, make_app, make_jobs, make_user, ok
from tests.services import RunningService


@pytest.fixture(scope="module")
def ann(service: RunningService) -> Person:
    return furnish(service, make_user(service, "ann"))


def job_token(service: RunningService, person: Person, **wanted: Any) -> str:
    with service.client(person.site_token) as agent:
        told = ok(agent.post(f"/api/batch-jobs/{person.batch_job_id}/job-token", json=wanted))
    return str(told["token"])


def test_what_code_of_a_job_may_do(service: RunningService, ann: Person) -> None:
    with service.client(job_token(service, ann)) as job:
        assert ok(job.get("/api/auth/me"))["kind"] == "job"
        made = make_jobs(job, ann.app_id, 2, parent_ids=[])
        assert ok(job.get("/api/jobs", params={"id": made}))["count"] == 2
        assert ok(job.get(f"/api/jobs/{made[0]}"))["submitted_by"] == ann.name
        assert ok(job.post("/api/jobs/cancel", json={"filter": {"id": made[:1]}}))["changed"] == 1
        assert ok(job.get(f"/api/jobs/{made[0]}/result"))["state"] == "CANCELLED"
        assert {app["site_id"] for app in ok(job.get("/api/apps"))["results"]} == {ann.site_id}
        assert ok(job.get(f"/api/apps/{ann.app_id}"))["id"] == ann.app_id
        assert [site["id"] for site in ok(job.get("/api/sites"))["results"]] == [ann.site_id]
        assert ok(job.get(f"/api/batch-jobs/{ann.batch_job_id}"))["id"] == ann.batch_job_id


def test_it_sends_and_collects_files_at_its_site(service: RunningService, ann: Person) -> None:
    """What it sends is its Site's; what its owner, or another Site of the owner's, sent stays closed to it."""
    other = furnish(service, Person(ann.name, ann.token))
    content = b"energies"
    name = hashlib.sha256(content).hexdigest()
    piece = {"offset": 0, "size_bytes": len(content), "sha256": name}
    with service.client(job_token(service, ann)) as job, service.client(ann.site_token) as site:
        assert ok(job.put("/api/blobs/uploads/one", params=piece, content=content))["complete"]
        assert job.get(f"/api/blobs/{name}").content == content == site.get(f"/api/blobs/{name}").content
        mine = ok(job.get("/api/transfers"))["results"]
        assert ann.item_id in {item["id"] for item in mine} and other.item_id not in {item["id"] for item in mine}
        refused = ok(job.post("/api/transfers/collected", json={"ids": [ann.item_id, other.item_id]}))["refused"]
        assert set(refused) == {str(other.item_id)}
        reply = job.get(f"/api/jobs/{ann.job_id}/files")
        assert reply.json()["error"]["code"] == "site_offline"  # it was asked for
        assert job.get(f"/api/jobs/{other.job_id}/files").status_code == 404
        for sender in (ann.token, other.site_token):
            content = sender.encode()
            name = hashlib.sha256(content).hexdigest()
            piece = {"offset": 0, "size_bytes": len(content), "sha256": name}
            with service.client(sender) as client:
                assert ok(client.put("/api/blobs/uploads/two", params=piece, content=content))["complete"]
            assert job.get(f"/api/blobs/{name}").status_code == 404
            assert ok(job.post("/api/blobs/look-up", json={"sha256": [name]}))["present"] == []


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/api/jobs/delete", {"filter": {"id": [1]}}),
        ("POST", "/api/jobs/retry", {"filter": {"id": [1]}}),
        ("PATCH", "/api/jobs", {"patches": {"1": {"priority": 1}}}),
        ("POST", "/api/batch-jobs", batch_job_body(1)),
        ("PATCH", "/api/batch-jobs/{batch_job_id}", {"state": "pending_deletion"}),
        ("POST", "/api/batch-jobs/{batch_job_id}/job-token", {}),
        ("POST", "/api/sites/{site_id}/token", None),
        ("POST", "/api/sessions", {"site_id": 1}),
        ("DELETE", "/api/apps/{app_id}", None),
        ("GET", "/api/users", None),
        ("GET", "/api/tokens", None),
    ],
)
def test_what_it_may_not_do(service: RunningService, ann: Person, method: str, path: str, body: Any) -> None:
    with service.client(job_token(service, ann, may_sync_apps=True)) as job:
        reply = job.request(method, path.format(**vars(ann)), json=body)
    assert reply.status_code == 403, reply.text
    assert "code of a Job" in reply.text


def test_it_reaches_its_own_site_and_batch_job_only(service: RunningService, ann: Person) -> None:
    other = furnish(service, Person(ann.name, ann.token))
    with service.client(job_token(service, ann)) as job:
        for path in ("jobs/{job_id}", "jobs/{job_id}/result", "apps/{app_id}", "sites/{site_id}"):
            assert job.get(f"/api/{path.format(**vars(other))}").status_code == 404, path
        assert job.get(f"/api/batch-jobs/{other.batch_job_id}").status_code == 404
        wanted = {"jobs": [{"app_id": other.app_id, "workdir": "x"}]}
        assert job.post("/api/jobs", json=wanted).status_code == 404
        assert ok(job.post("/api/jobs/cancel", json={"filter": {"id": [other.job_id]}}))["changed"] == 0
        assert ok(job.get("/api/jobs", params={"id": [other.job_id]}))["count"] == 0
    with service.client(ann.token) as client:
        second = ok(client.post("/api/batch-jobs", json=batch_job_body(ann.site_id)))
    with service.client(job_token(service, ann)) as job:
        assert job.get(f"/api/batch-jobs/{second['id']}").status_code == 404
        assert [row["id"] for row in ok(job.get("/api/batch-jobs"))["results"]] == [ann.batch_job_id]
        assert ok(job.get("/api/batch-jobs", params={"id": [second["id"]]}))["results"] == []


def test_it_registers_apps_where_the_site_runs_what_its_owner_registers(service: RunningService, ann: Person) -> None:
    with service.client(job_token(service, ann, may_sync_apps=True)) as job:
        assert make_app(job, ann.site_id, "made_by_a_job")
    with service.client(job_token(service, ann)) as job:
        reply = job.put("/api/apps", json={"site_id": ann.site_id, "name": "other", "command_template": "date"})
    assert reply.status_code == 403
    assert "sites:admin" in reply.text


def test_it_dies_with_its_batch_job(service: RunningService, ann: Person) -> None:
    with service.client(ann.token) as client:
        batch_job = ok(client.post("/api/batch-jobs", json=batch_job_body(ann.site_id)))["id"]
    token = job_token(service, replace(ann, batch_job_id=batch_job))
    with service.client(ann.site_token) as agent, service.client(token) as job:
        assert ok(job.get("/api/jobs"))["count"] >= 2
        ok(agent.patch(f"/api/batch-jobs/{batch_job}", json={"state": "finished"}))
        assert job.get("/api/jobs").status_code == 401
        again = agent.post(f"/api/batch-jobs/{batch_job}/job-token", json={})
    assert (again.status_code, again.json()["error"]["code"]) == (409, "batch_job_ended")
