"""Logging in over HTTP: passwords, rates, revocation, administrators, the local user's file."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import httpx2

from tests.server.world import PASSWORD, Person, furnish, make_user, ok
from tests.services import RunningService, running_service


def login(service: RunningService, name: str, password: str) -> httpx2.Response:
    with service.client("") as nobody:
        return nobody.post("/api/auth/login", json={"username": name, "password": password})


def test_the_local_user_is_logged_in_by_a_private_file(own_service: RunningService) -> None:
    path = own_service.home / "service.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(own_service.home.stat().st_mode) == 0o700
    assert stat.S_IMODE(own_service.data_dir.stat().st_mode) == 0o700
    assert not [found.name for found in own_service.data_dir.iterdir() if found.stat().st_mode & 0o077]
    found = json.loads(path.read_text())
    assert set(found) == {"url", "token", "pid", "data_dir", "instance"}
    assert (found["url"], found["pid"]) == (own_service.url, own_service.pid)
    with own_service.client(found["token"]) as client:
        me = ok(client.get("/api/auth/me"))
        assert me["is_admin"] and me["kind"] == "user"
    with own_service.client("") as nobody:
        assert nobody.get("/api/auth/me").status_code == 401
    assert own_service.stop() == 0
    assert not path.exists()


def test_the_local_users_token_survives_kill_and_restart(own_service: RunningService) -> None:
    own_service.kill()
    again = own_service.restart()
    try:
        assert again.token == own_service.token and again.url == own_service.url
        assert again.instance != own_service.instance
        with again.client(own_service.token) as client:
            ok(client.get("/api/auth/me"))
    finally:
        again.stop()


def test_multi_user_mode_logs_nobody_in_by_a_file(tmp_path: Path) -> None:
    with running_service(tmp_path / "home", options=["--multi-user"]) as service:
        assert not (service.home / "service.json").exists() and service.token == ""
        with service.client() as nobody:
            assert ok(nobody.get("/api/auth/methods")) == {"methods": ["password"], "providers": []}
        assert "balsam admin first" in service.log


def test_accounts_made_on_loopback_work_when_the_service_goes_public(tmp_path: Path) -> None:
    admin = {"username": "root-of-it", "password": PASSWORD, "is_admin": True}
    with running_service(tmp_path / "home") as private, private.client() as client:
        ok(client.post("/api/users", json=admin))
    with running_service(tmp_path / "home", options=["--multi-user"]) as public:
        assert "admin first" not in public.log.rpartition("stopped")[2]
        token = login(public, "root-of-it", PASSWORD).json()["token"]
        with public.client(token) as client:
            assert ok(client.get("/api/auth/me"))["is_admin"]
        with public.client(private.token) as client:
            assert client.get("/api/auth/me").status_code == 401
    with running_service(tmp_path / "home") as again, again.client() as client:
        assert again.token != private.token and ok(client.get("/api/auth/me"))["is_admin"]


def test_login_logout_and_revocation_on_the_next_request(service: RunningService) -> None:
    ann = make_user(service, "ann")
    with service.client(ann.token) as client:
        assert ok(client.get("/api/auth/me"))["username"] == "ann"
        assert client.post("/api/auth/logout").status_code == 204
        assert client.get("/api/auth/me").status_code == 401  # the very next one, although it was cached
    again = login(service, "ann", PASSWORD).json()
    assert again["token"] != ann.token and again["expires_at"]
    with service.client(again["token"]) as client:
        ok(client.get("/api/auth/me"))


def test_wrong_password_and_unknown_account_are_the_same_answer(service: RunningService) -> None:
    make_user(service, "eve")
    wrong, unknown = login(service, "eve", "not it at all"), login(service, "nobody-here", "not it at all")
    assert wrong.status_code == unknown.status_code == 401
    assert wrong.json()["error"]["message"] == unknown.json()["error"]["message"]
    assert wrong.headers["www-authenticate"] == "Bearer" and wrong.headers["cache-control"] == "no-store"


def test_a_local_token_that_was_revoked_ends_and_the_next_start_makes_another(own_service: RunningService) -> None:
    with own_service.client() as user:
        assert user.post("/api/auth/logout").status_code == 204
        assert user.get("/api/auth/me").status_code == 401
    own_service.stop()
    again = own_service.restart()
    try:
        assert again.token != own_service.token
        with again.client() as user:
            assert user.get("/api/auth/me").status_code == 200
    finally:
        again.stop()


def test_the_local_account_has_no_password(service: RunningService, client: httpx2.Client) -> None:
    name = ok(client.get("/api/auth/me"))["username"]
    assert login(service, name, "anything at all").status_code == 401


def test_six_logins_in_a_minute_are_one_too_many(own_service: RunningService) -> None:
    answers = [login(own_service, "mallory", f"guess number {number}").status_code for number in range(6)]
    assert answers == [401] * 5 + [429]
    refused = login(own_service, "mallory", PASSWORD)
    assert int(refused.headers["retry-after"]) > 0 and "5 logins a minute" in refused.json()["error"]["message"]
    others = [login(own_service, f"user{number}", "guess").status_code for number in range(14)]
    assert others == [401] * 13 + [429]  # 20 from one address: 5 + 2 refused + 13


def test_only_administrators_make_and_see_accounts(service: RunningService, client: httpx2.Client) -> None:
    frank = furnish(service, make_user(service, "frank"))
    body = {"username": "grace", "password": PASSWORD}
    for token, status in ((frank.token, 403), (frank.site_token, 403), (frank.launcher_token, 403), ("", 401)):
        with service.client(token) as asking:
            assert asking.post("/api/users", json=body).status_code == status
            assert asking.get("/api/users").status_code == status
    ok(client.post("/api/users", json=body))
    assert client.post("/api/users", json=body).status_code == 409
    assert "grace" in [user["username"] for user in ok(client.get("/api/users"))]


def test_short_and_endless_passwords_are_refused(client: httpx2.Client) -> None:
    text = "f3vqk2zw and so on " * 60
    for password, status in ((text[:7], 422), (text[:8], 201), (text[:1024], 201), (text[:1025], 422)):
        reply = client.post("/api/users", json={"username": f"u{len(password)}", "password": password})
        assert reply.status_code == status, reply.text
        assert password not in reply.text


def test_who_am_i_for_each_kind(service: RunningService) -> None:
    heidi = furnish(service, make_user(service, "heidi"))
    for kind, token in heidi.tokens().items():
        with service.client(token) as client:
            me = ok(client.get("/api/auth/me"))
        assert (me["kind"], me["username"]) == (kind, "heidi")
        assert me["site_id"] == (None if kind == "user" else heidi.site_id)


def test_a_launchers_token_dies_with_its_batch_job(service: RunningService) -> None:
    ivan = furnish(service, make_user(service, "ivan"))
    with service.client(ivan.launcher_token) as launcher, service.client(ivan.site_token) as agent:
        ok(launcher.get("/api/auth/me"))
        for state in ("queued", "running", "finished"):
            path = f"/api/batch-jobs/{ivan.batch_job_id}"
            ok(agent.patch(path, json={"state": state, "scheduler_id": "1", "end_time": "2026-01-01T00:00:00Z"}))
        assert launcher.get("/api/auth/me").status_code == 401


def test_secrets_are_not_in_the_log_or_the_data(own_service: RunningService) -> None:
    judy: Person = furnish(own_service, make_user(own_service, "judy"))
    login(own_service, "judy", "an unmistakable wrong one")
    with own_service.client(judy.token) as client:
        site, key = {"name": "keyed", "path": "/keyed"}, {"Idempotency-Key": "k"}
        made = [ok(client.post("/api/sites", json=site, headers=key)) for _ in range(2)]
    assert made[0]["site"] == made[1]["site"]
    keyed = [each["token"]["token"] for each in made]
    for token in keyed:  # the answer to a repeat has a token that works, although none was kept
        with own_service.client(token) as agent:
            ok(agent.get(f"/api/sites/{made[0]['site']['id']}"))
    assert own_service.stop() == 0
    secrets = [*judy.tokens().values(), *keyed, PASSWORD, "an unmistakable wrong one"]
    files = [path for path in own_service.data_dir.rglob("*") if path.name != "local.token" and path.is_file()]
    contents = [own_service.log.encode(), *(path.read_bytes() for path in files)]
    for secret in secrets:
        assert not any(secret.encode() in content for content in contents), secret
    assert own_service.token.encode() not in b"".join(contents)


def test_a_person_changes_the_password(service: RunningService, client: httpx2.Client) -> None:
    kim = furnish(service, make_user(service, "kim"))
    with service.client(kim.token) as own:
        other = ok(own.post("/api/tokens", json={"label": "p", "scopes": ["jobs:read"]}))["token"]
    with service.client(kim.token) as own, service.client(other) as elsewhere:
        body = {"current": "wrong one", "password": "another pass phrase"}
        assert own.post("/api/auth/password", json=body).status_code == 403
        weak = own.post("/api/auth/password", json={"current": PASSWORD, "password": "Password123"})
        assert weak.status_code == 422 and "first that are guessed" in weak.text
        ok(own.post("/api/auth/password", json={**body, "current": PASSWORD}))
        ok(own.get("/api/auth/me"))
        assert elsewhere.get("/api/auth/me").status_code == 401
    with service.client(kim.site_token) as agent:
        ok(agent.get("/api/auth/me"))
    assert login(service, "kim", "another pass phrase").status_code == 200
    events = [row["event"] for row in ok(client.get("/api/audit", params={"actor": "kim"}))["results"]]
    assert {"password_changed", "password_change_failed"} <= set(events)
