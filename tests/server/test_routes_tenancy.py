"""S14: nobody reads, changes, counts or infers another user's object.

One row per route, taken from the OpenAPI document: a route without a row fails the first test. Rows that name objects
are called as another user, for each kind of token the route takes, with somebody's real ids and with ids that do not
exist: both must be refused with the same status and the same body.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

import httpx2
import pytest

from tests.server.world import Person, batch_job_body, furnish, make_user, ok, stage_in
from tests.services import RunningService

MISSING = 10**9


@dataclass(frozen=True)
class Ask:
    """One request that names objects of its owner. `refused`: the status for anybody else."""

    request: Callable[[Person], tuple[str, str, dict[str, Any]]]
    refused: int = 404


def at(method: str, path: Callable[[Person], str], **more: Any) -> Ask:
    return Ask(lambda owner: (method, path(owner), more))


def body(method: str, path: str, make: Callable[[Person], Any]) -> Ask:
    return Ask(lambda owner: (method, path, {"json": make(owner)}))


def looking_up(*lookups: dict[str, Any]) -> str:
    """A query string of look-ups."""
    return urlencode({"where": [json.dumps(lookup) for lookup in lookups]}, doseq=True)


RECORD = {"seq": 1, "token": 1, "event": "started", "at": "2026-01-01T00:00:00Z"}

# Routes that name objects: everybody but the owner gets the answer for a missing object.
NAMED: dict[str, list[Ask]] = {
    "get_site": [at("GET", lambda o: f"/api/sites/{o.site_id}")],
    "change_site": [at("PATCH", lambda o: f"/api/sites/{o.site_id}", json={"name": "taken"})],
    "delete_site": [at("DELETE", lambda o: f"/api/sites/{o.site_id}")],
    "issue_site_token": [at("POST", lambda o: f"/api/sites/{o.site_id}/token")],
    "renew_agent": [
        at("POST", lambda o: f"/api/sites/{o.site_id}/agent", json={"instance": "i", "hostname": "h", "pid": 1})
    ],
    "release_agent": [at("DELETE", lambda o: f"/api/sites/{o.site_id}/agent?instance=i")],
    "get_backlog": [at("GET", lambda o: f"/api/sites/{o.site_id}/backlog")],
    "site_stream": [at("GET", lambda o: f"/api/sites/{o.site_id}/stream")],
    "answer_file_request": [at("PUT", lambda o: "/api/file-requests/abc", json={})],
    "sync_app": [
        body("PUT", "/api/apps", lambda o: {"site_id": o.site_id, "name": "mine", "command_template": "echo"}),
    ],
    "get_app": [at("GET", lambda o: f"/api/apps/{o.app_id}")],
    "delete_app": [at("DELETE", lambda o: f"/api/apps/{o.app_id}")],
    "create_jobs": [body("POST", "/api/jobs", lambda o: {"jobs": [{"app_id": o.app_id, "workdir": "a"}]})],
    "patch_jobs": [body("PATCH", "/api/jobs", lambda o: {"patches": {str(o.job_id): {"tags": {"a": "b"}}}})],
    "get_job": [at("GET", lambda o: f"/api/jobs/{o.job_id}")],
    "get_result": [at("GET", lambda o: f"/api/jobs/{o.job_id}/result")],
    "explain_job": [at("GET", lambda o: f"/api/jobs/{o.job_id}/explain")],
    "look_at_files": [at("GET", lambda o: f"/api/jobs/{o.job_id}/files")],
    "read_file": [at("GET", lambda o: f"/api/jobs/{o.job_id}/files/content?path=job.out")],
    "follow_file": [at("GET", lambda o: f"/api/jobs/{o.job_id}/files/follow?path=job.out&wait_sec=0")],
    "get_transfer": [at("GET", lambda o: f"/api/transfers/{o.item_id}")],
    "read_blob": [at("GET", lambda o: f"/api/blobs/{o.blob}")],
    "create_batch_job": [body("POST", "/api/batch-jobs", lambda o: batch_job_body(o.site_id))],
    "get_batch_job": [at("GET", lambda o: f"/api/batch-jobs/{o.batch_job_id}")],
    "patch_batch_job": [at("PATCH", lambda o: f"/api/batch-jobs/{o.batch_job_id}", json={"status_info": {"a": 1}})],
    "delete_batch_job": [at("DELETE", lambda o: f"/api/batch-jobs/{o.batch_job_id}")],
    "issue_launcher_token": [at("POST", lambda o: f"/api/batch-jobs/{o.batch_job_id}/token")],
    "issue_job_token": [at("POST", lambda o: f"/api/batch-jobs/{o.batch_job_id}/job-token", json={})],
    "open_session": [
        body("POST", "/api/sessions", lambda o: {"site_id": o.site_id}),
        body("POST", "/api/sessions", lambda o: {"site_id": o.site_id, "batch_job_id": o.batch_job_id}),
    ],
    "get_session": [at("GET", lambda o: f"/api/sessions/{o.session_id}")],
    "acquire_jobs": [
        at("POST", lambda o: f"/api/sessions/{o.session_id}/acquire", json={"acquire_seq": 1, "max_jobs": 1})
    ],
    "report_jobs": [
        Ask(
            lambda o: (
                "POST",
                f"/api/sessions/{o.session_id}/report",
                {"json": {"records": [RECORD | {"job_id": o.job_id}]}},
            )
        )
    ],
    "renew_session": [at("POST", lambda o: f"/api/sessions/{o.session_id}/renew")],
    "close_session": [at("POST", lambda o: f"/api/sessions/{o.session_id}/close", json={})],
    "get_team": [at("GET", lambda o: f"/api/teams/{o.team_id}")],
    "delete_team": [at("DELETE", lambda o: f"/api/teams/{o.team_id}")],
    "put_member": [at("PUT", lambda o: f"/api/teams/{o.team_id}/members", json={"username": "bob"})],
    "remove_member": [at("DELETE", lambda o: f"/api/teams/{o.team_id}/members?username=ann")],
    "put_share": [
        body("PUT", "/api/shares", lambda o: {"team_id": o.team_id, "role": "owner", "campaign": "mine"}),
        body("PUT", "/api/shares", lambda o: {"team_id": o.team_id, "role": "owner", "site_id": o.site_id}),
    ],
    "delete_share": [at("DELETE", lambda o: f"/api/shares/{o.share_id}")],
    "session_stream": [at("GET", lambda o: f"/api/sessions/{o.session_id}/stream")],
}

# Routes that select: somebody else's objects are as if they were not there.
SELECTING: dict[str, list[Ask]] = {
    "list_sites": [at("GET", lambda o: "/api/sites"), at("GET", lambda o: f"/api/sites?id={o.site_id}")],
    "search_sites": [body("POST", "/api/sites/search", lambda o: {"id": [o.site_id]})],
    "list_apps": [
        at("GET", lambda o: "/api/apps"),
        at("GET", lambda o: "/api/apps?" + looking_up({"field": "id", "op": "gt", "value": 0})),
        at("GET", lambda o: f"/api/apps?site_id={o.site_id}&id={o.app_id}"),
    ],
    "search_apps": [body("POST", "/api/apps/search", lambda o: {"id": [o.app_id]})],
    "list_jobs": [
        at("GET", lambda o: "/api/jobs?" + looking_up({"field": "id", "value": o.job_id})),
        at("GET", lambda o: "/api/jobs?" + looking_up({"field": "site_id", "op": "in", "value": [o.site_id]})),
        at("GET", lambda o: "/api/jobs?" + looking_up({"field": "app_name", "op": "startswith", "value": ""})),
        at("GET", lambda o: "/api/jobs?" + looking_up({"field": "num_nodes", "op": "gte", "value": 0})),
        at("GET", lambda o: "/api/jobs"),
        at("GET", lambda o: f"/api/jobs?id={o.job_id}"),
        at("GET", lambda o: f"/api/jobs?site_id={o.site_id}&app_id={o.app_id}&app_name=hello"),
        at("GET", lambda o: f"/api/jobs?batch_job_id={o.batch_job_id}"),
        at("GET", lambda o: f"/api/jobs?parent_id={o.job_id}"),
    ],
    "count_jobs": [
        at("GET", lambda o: "/api/jobs/counts"),
        at("GET", lambda o: f"/api/jobs/counts?site_id={o.site_id}"),
    ],
    "list_results": [at("GET", lambda o: f"/api/jobs/results?id={o.job_id}")],
    "search_jobs": [body("POST", "/api/jobs/search", lambda o: {"id": [o.job_id]})],
    "search_count_jobs": [body("POST", "/api/jobs/counts/search", lambda o: {"id": [o.job_id]})],
    "group_jobs": [
        at("GET", lambda o: "/api/jobs/groups?by=state"),
        at("GET", lambda o: f"/api/jobs/groups?by=app_name&site_id={o.site_id}"),
        at("GET", lambda o: f"/api/jobs/groups?by=parameters&path=word&id={o.job_id}"),
    ],
    "search_group_jobs": [body("POST", "/api/jobs/groups/search", lambda o: {"by": "num_nodes"})],
    "update_jobs": [
        body("POST", "/api/jobs/update", lambda o: {"filter": {"id": [o.job_id]}, "patch": {"tags": {"a": "b"}}})
    ],
    "cancel_jobs": [
        body("POST", "/api/jobs/cancel", lambda o: {"filter": {"id": [o.job_id]}}),
        body("POST", "/api/jobs/cancel", lambda o: {"filter": {}}),
    ],
    "retry_jobs": [body("POST", "/api/jobs/retry", lambda o: {"filter": {"id": [o.job_id]}})],
    "delete_jobs": [body("POST", "/api/jobs/delete", lambda o: {"filter": {"site_id": [o.site_id]}})],
    "list_batch_jobs": [
        at("GET", lambda o: "/api/batch-jobs"),
        at("GET", lambda o: f"/api/batch-jobs?site_id={o.site_id}&id={o.batch_job_id}"),
    ],
    "search_batch_jobs": [body("POST", "/api/batch-jobs/search", lambda o: {"id": [o.batch_job_id]})],
    "update_batch_jobs": [
        body(
            "POST",
            "/api/batch-jobs/update",
            lambda o: {"filter": {"id": [o.batch_job_id]}, "patch": {"state": "pending_deletion"}},
        )
    ],
    "delete_batch_jobs": [body("POST", "/api/batch-jobs/delete", lambda o: {"filter": {"id": [o.batch_job_id]}})],
    "patch_batch_jobs": [
        body("PATCH", "/api/batch-jobs", lambda o: {"patches": {str(o.batch_job_id): {"status_info": {"a": 1}}}})
    ],
    "list_sessions": [at("GET", lambda o: "/api/sessions")],
    "list_teams": [at("GET", lambda o: "/api/teams")],
    "list_shares": [at("GET", lambda o: "/api/shares")],
    "list_transfers": [
        at("GET", lambda o: "/api/transfers"),
        at("GET", lambda o: f"/api/transfers?id={o.item_id}&site_id={o.site_id}"),
        at("GET", lambda o: f"/api/transfers?job_id={o.staging_job_id}"),
    ],
    "search_transfers": [body("POST", "/api/transfers/search", lambda o: {"id": [o.item_id]})],
    "report_transfers": [
        body("PATCH", "/api/transfers", lambda o: {"patches": {str(o.item_id): {"state": "error"}}}),
    ],
    "collect_transfers": [body("POST", "/api/transfers/collected", lambda o: {"ids": [o.item_id]})],
    "look_up_blobs": [body("POST", "/api/blobs/look-up", lambda o: {"sha256": [o.blob]})],
    "search_events": [body("POST", "/api/events/search", lambda o: {"job_id": [o.job_id]})],
    "list_events": [
        at("GET", lambda o: "/api/events?" + looking_up({"field": "job_id", "value": o.job_id})),
        at("GET", lambda o: "/api/events?" + looking_up({"field": "attempt", "op": "gte", "value": 0})),
        at("GET", lambda o: "/api/events"),
        at("GET", lambda o: f"/api/events?job_id={o.job_id}"),
        at("GET", lambda o: f"/api/events?batch_job_id={o.batch_job_id}"),
    ],
}

# Routes that name nobody's objects, with the test that covers who may call them.
WITHOUT_OBJECTS = {
    "version": "open",
    "healthz": "open",
    "readyz": "open",
    "metrics": "test_metrics: administrators",
    "auth_methods": "open",
    "login": "test_auth",
    "logout": "test_auth",
    "change_password": "test_auth",
    "make_browser_link": "tests/web: for the caller's own account",
    "who_am_i": "test_auth",
    "create_user": "test_auth: administrators",
    "list_users": "test_auth: administrators",
    "begin_device_login": "test_oidc",
    "collect_device_login": "test_oidc",
    "create_first_user": "test_admin",
    "change_user": "test_admin: administrators",
    "reset_password": "test_admin: administrators",
    "prune_jobs": "test_admin: administrators",
    "list_audit": "test_admin: administrators",
    "list_tokens": "test_tokens: the caller's own",
    "create_token": "test_tokens",
    "revoke_token": "test_tokens",
    "create_site": "makes the caller's own",
    "job_stream": "test_stream: of the caller's own Jobs, or of the Site's",
    "create_team": "makes the caller's own",
    "list_due_transfers": "test_usecases_transfers: the calling Site's",
    "blob_usage": "test_blobs: the caller's own",
    "upload_state": "test_blobs: names are the caller's own",
    "upload_piece": "test_blobs: names are the caller's own",
    "drop_upload": "test_blobs: names are the caller's own",
}


@pytest.fixture(scope="module")
def ann(service: RunningService) -> Person:
    return furnish(service, make_user(service, "ann"))


@pytest.fixture(scope="module")
def bob(service: RunningService) -> Person:
    return furnish(service, make_user(service, "bob"))


@pytest.fixture(scope="module")
def operations(service: RunningService) -> dict[str, dict[str, Any]]:
    with service.client() as client:
        document = ok(client.get("/openapi.json"))
    return {operation["operationId"]: operation for path in document["paths"].values() for operation in path.values()}


def test_every_route_has_a_row(operations: dict[str, Any], figure: Callable[[str], None]) -> None:
    assert set(operations) == set(NAMED) | set(SELECTING) | set(WITHOUT_OBJECTS)
    asked = {
        name: len(asks) * len(operations[name]["x-balsam-kinds"])
        for asks_of in (NAMED, SELECTING)
        for name, asks in asks_of.items()
    }
    figure(f"{len(operations)} routes, {len(asked)} of them with objects: {sum(asked.values())} foreign requests")


def answers(service: RunningService, token: str, ask: Ask, owner: Person) -> tuple[int, Any]:
    """Status and body, without the request's own number. Streams are opened and dropped."""
    method, path, more = ask.request(owner)
    with service.client(token) as client, client.stream(method, path, **more) as reply:
        if reply.headers["content-type"].startswith("text/event-stream"):
            return reply.status_code, None
        reply.read()
        found = reply.json() if reply.content else None
    if isinstance(found, dict) and "error" in found:
        found["error"].pop("request_id")
    return reply.status_code, found


def missing(owner: Person) -> Person:
    """The same request about things that do not exist."""
    names = ("site_id", "app_id", "job_id", "batch_job_id", "session_id", "item_id", "staging_job_id")
    names += ("team_id", "share_id")
    return replace(owner, **dict.fromkeys(names, MISSING), blob="0" * 64)  # type: ignore[arg-type]


def strangers(bob: Person, kinds: list[str]) -> Iterator[tuple[str, str]]:
    tokens = bob.tokens()
    return ((kind, tokens[kind]) for kind in kinds)


@pytest.mark.parametrize("operation", sorted(NAMED))
def test_others_objects_are_refused_like_missing_ones(
    operation: str, service: RunningService, ann: Person, bob: Person, operations: dict[str, Any]
) -> None:
    for ask in NAMED[operation]:
        for kind, token in strangers(bob, operations[operation]["x-balsam-kinds"]):
            real, absent = answers(service, token, ask, ann), answers(service, token, ask, missing(ann))
            assert real[0] == ask.refused, (kind, real)
            assert without_numbers(real) == without_numbers(absent), kind


def mixed(me: Person) -> dict[str, Ask]:
    """Requests about things of one's own in which one id is another owner's: all rows above name one owner only."""
    record = RECORD | {"data": {}}
    size = len(f"input of {me.name}")

    def job(owner: Person, **more: Any) -> dict[str, Any]:
        return {"jobs": [{"app_id": me.app_id, "workdir": "mine", **more}]}

    def both(one: int, other: int) -> list[int]:
        return list(dict.fromkeys((one, other)))

    def patches(one: int, other: int, change: dict[str, Any]) -> dict[str, Any]:
        return {"patches": {str(number): change for number in both(one, other)}}

    session = f"/api/sessions/{me.session_id}"
    return {
        "own App, parent": body("POST", "/api/jobs", lambda o: job(o, parent_ids=[o.job_id])),
        "own App, file": body("POST", "/api/jobs", lambda o: job(o, transfers={"input": stage_in(o.blob, size)})),
        "own Job, App of another": body(
            "POST",
            "/api/jobs",
            lambda o: {"jobs": [{"app_id": app_id, "workdir": "mine"} for app_id in both(me.app_id, o.app_id)]},
        ),
        "own Job, and one more": body("PATCH", "/api/jobs", lambda o: patches(me.job_id, o.job_id, {"tags": {}})),
        "own BatchJob, and one more": body(
            "PATCH", "/api/batch-jobs", lambda o: patches(me.batch_job_id, o.batch_job_id, {"filter_tags": {}})
        ),
        "own Site, BatchJob": body(
            "POST", "/api/sessions", lambda o: {"site_id": me.site_id, "batch_job_id": o.batch_job_id}
        ),
        "own session, Job": body("POST", f"{session}/report", lambda o: {"records": [record | {"job_id": o.job_id}]}),
        "own team, Site": body(
            "PUT", "/api/shares", lambda o: {"team_id": me.team_id, "role": "viewer", "site_id": o.site_id}
        ),
        "own Site, team": body(
            "PUT", "/api/shares", lambda o: {"team_id": o.team_id, "role": "viewer", "site_id": me.site_id}
        ),
        "own token, Site": body(
            "POST", "/api/tokens", lambda o: {"label": "t", "scopes": ["jobs:read"], "site_id": o.site_id}
        ),
        "own transfer, and one more": body(
            "POST", "/api/transfers/collected", lambda o: {"ids": both(me.item_id, o.item_id)}
        ),
    }


@pytest.mark.parametrize("name", sorted(mixed(Person("", ""))))
def test_an_id_of_another_beside_ones_own_is_like_a_missing_one(
    name: str, service: RunningService, ann: Person
) -> None:
    me = furnish(service, make_user(service, re.sub(r"\W+", "-", f"dan-{name}")))
    with service.client(me.launcher_token) as launcher:
        ok(launcher.post(f"/api/sessions/{me.session_id}/acquire", json={"acquire_seq": 1, "max_jobs": 1}))
    ask = mixed(me)[name]
    real, absent = answers(service, me.token, ask, ann), answers(service, me.token, ask, missing(ann))
    assert without_numbers(real) == without_numbers(absent)
    own = answers(service, me.token, ask, me)
    assert own[0] < 300, "with an own id the request has to be a good one, or the others would show nothing"
    assert without_numbers(own) != without_numbers(real), "it makes a difference whose the id is"


def without_numbers(answer: tuple[int, Any]) -> str:
    """The answer without numbers: to repeat the ids that the caller sent himself tells him nothing."""
    return re.sub(r"\d+", "N", repr(answer))


@pytest.mark.parametrize("operation", sorted(SELECTING))
def test_selections_do_not_see_others_objects(
    operation: str, service: RunningService, ann: Person, operations: dict[str, Any], stranger: Person
) -> None:
    for ask in SELECTING[operation]:
        for kind, token in strangers(stranger, operations[operation]["x-balsam-kinds"]):
            real, absent = answers(service, token, ask, ann), answers(service, token, ask, missing(ann))
            assert real[0] == absent[0] == 200, (kind, real, absent)
            assert only_of(stranger, real[1]), (kind, real)


def only_of(person: Person, found: dict[str, Any]) -> bool:
    """Whether an answer tells of nothing but this person's Site: no Jobs, no events, no change."""
    kept = {key: value for key, value in found.items() if key not in ("refused", "reason", "results", "count")}
    rows = found.get("results", [])
    own = [row for row in rows if row.get("site_id", row.get("id")) in (person.site_id, person.team_id)]
    return not any(kept.values()) and rows == own and found.get("count", len(own)) == len(own)


@pytest.fixture(scope="module")
def stranger(service: RunningService) -> Person:
    """Somebody with tokens of every kind but without Jobs: whatever a selection finds is somebody else's."""
    person = make_user(service, "carol")
    person = furnish(service, person)
    with service.client(person.token) as client:
        ok(client.post("/api/jobs/delete", json={"filter": {}}))
    return person


@pytest.fixture(scope="module")
def second(service: RunningService, ann: Person) -> Person:
    """Another Site of the same owner, without Jobs."""
    person = furnish(service, Person(f"{ann.name} there", ann.token))
    with service.client(ann.token) as client:
        ok(client.post("/api/jobs/delete", json={"filter": {"site_id": [person.site_id]}}))
    return person


@pytest.mark.parametrize("operation", sorted(set(NAMED) | set(SELECTING)))
def test_a_sites_token_reaches_its_own_site_only(
    operation: str, service: RunningService, ann: Person, second: Person, operations: dict[str, Any]
) -> None:
    """Code that runs at a Site, its hooks too, can do no more than that Site may."""
    if "site" not in operations[operation]["x-balsam-kinds"]:
        return
    for ask in NAMED.get(operation, []):
        real = answers(service, second.site_token, ask, ann)
        assert real[0] == ask.refused, real
        assert without_numbers(real) == without_numbers(answers(service, second.site_token, ask, missing(ann)))
    for ask in SELECTING.get(operation, []):
        assert only_of(second, answers(service, second.site_token, ask, ann)[1])


def test_the_owner_is_served(service: RunningService, ann: Person) -> None:
    """The rows above would also pass at a service that refuses everybody."""
    for path in ("sites", "apps", "jobs", "batch-jobs", "events", "sessions", "transfers"):
        with service.client(ann.token) as client:
            assert ok(client.get(f"/api/{path}"))["count"] >= 1, path
    named = ("get_site", "get_app", "get_job", "get_batch_job", "get_session", "explain_job", "get_transfer")
    for operation in named:
        assert answers(service, ann.token, NAMED[operation][0], ann)[0] == 200, operation


def test_without_a_token_nothing_is_told(service: RunningService, ann: Person, operations: dict[str, Any]) -> None:
    with service.client(ann.token) as client:
        revoked = ok(client.post("/api/tokens", json={"label": "r", "scopes": ["jobs:read", "jobs:write"]}))
        ok(client.delete(f"/api/tokens/{revoked['about']['id']}"))
    for token in ("", "blsm_user_" + "x" * 43, revoked["token"]):
        with service.client(token) as client:
            for operation, asks in {**NAMED, **SELECTING}.items():
                method, path, more = asks[0].request(ann)
                reply: httpx2.Response = client.request(method, path, **more)
                assert reply.status_code == 401, operation


@pytest.mark.parametrize("operation", ["get_job", "get_site", "get_batch_job"])
def test_t2_the_time_of_an_answer_does_not_tell_that_there_is_something(
    operation: str, service: RunningService, ann: Person, bob: Person
) -> None:
    """Asked for in turn, so that whatever else the machine does counts for both; half of all calls are undisturbed."""
    (ask,) = NAMED[operation]
    times: dict[str, list[float]] = {"another one's": [], "nobody's": []}
    with service.client(bob.token) as client:
        for _ in range(150):
            for whose, owner in (("another one's", ann), ("nobody's", missing(ann))):
                method, path, _ = ask.request(owner)
                begun = time.perf_counter()
                assert client.request(method, path).status_code == 404
                times[whose].append(time.perf_counter() - begun)
    quick = {whose: sorted(found)[len(found) // 4] for whose, found in times.items()}
    assert abs(quick["another one's"] - quick["nobody's"]) < 0.001, quick


def test_other_kinds_of_token_are_403(service: RunningService, ann: Person, operations: dict[str, Any]) -> None:
    for operation, asks in {**NAMED, **SELECTING}.items():
        for kind, token in ann.tokens().items():
            if kind not in operations[operation]["x-balsam-kinds"]:
                assert answers(service, token, asks[0], ann)[0] == 403, (operation, kind)
