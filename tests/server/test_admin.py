"""Administrators: the first one, disabling, quotas, rates; and the audit log, one row for each act it must tell of."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from balsam.server.store.protocol import Tx
from balsam.server.store.records import IdentityRow, micros
from balsam.server.store.sqlite import SqliteStore
from balsam.server.usecases import accounts
from tests.server.test_routes_tenancy import MISSING
from tests.server.world import PASSWORD, Person, furnish, make_app, make_jobs, make_site, make_user, ok
from tests.services import RunningService, running_service

pytestmark = pytest.mark.slow  # each account costs a hash


def log(client: httpx2.Client, **query: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ok(client.get("/api/audit", params=query))["results"]
    return found


def id_of(client: httpx2.Client, name: str) -> int:
    return int(next(user["id"] for user in ok(client.get("/api/users")) if user["username"] == name))


def test_a_disabled_account_is_out_with_all_its_tokens_and_comes_back(
    service: RunningService, client: httpx2.Client
) -> None:
    ann = furnish(service, make_user(service, "ann"))
    number = id_of(client, "ann")
    with service.client(ann.token) as user:
        program = ok(user.post("/api/tokens", json={"label": "p", "scopes": ["jobs:read"]}))["token"]
    tokens = [*ann.tokens().values(), program]
    ok(client.patch(f"/api/users/{number}", json={"disabled": True}))
    for token in tokens:
        with service.client(token) as one:
            refused = one.get("/api/auth/me")
            assert refused.status_code == 401 and "disabled" in refused.json()["error"]["message"]
    wrong = {"username": "ann", "password": PASSWORD}
    assert client.post("/api/auth/login", json=wrong).json()["error"]["message"] == "wrong user name or password"
    ok(client.patch(f"/api/users/{number}", json={"disabled": False}))
    for token in tokens:
        with service.client(token) as one:
            ok(one.get("/api/auth/me"))


def test_a_forgotten_password_is_reset_and_ends_every_login(service: RunningService, client: httpx2.Client) -> None:
    fay = furnish(service, make_user(service, "fay"))
    number = id_of(client, "fay")
    other = {"password": "four words of another one"}
    with service.client(fay.token) as user:
        program = ok(user.post("/api/tokens", json={"label": "p", "scopes": ["jobs:read"]}))["token"]
        assert user.post(f"/api/users/{number}/password", json=other).status_code == 403
        assert client.post(f"/api/users/{number}/password", json={"password": "short"}).status_code == 422
        ok(user.get("/api/auth/me"))
    assert client.post(f"/api/users/{MISSING}/password", json=other).status_code == 404
    ok(client.post(f"/api/users/{number}/password", json=other))
    for token, status in ((fay.token, 401), (program, 401), (fay.site_token, 200), (fay.launcher_token, 200)):
        with service.client(token) as one:
            assert one.get("/api/auth/me").status_code == status
    tries = [client.post("/api/auth/login", json={"username": "fay", **one}) for one in ({"password": PASSWORD}, other)]
    assert [reply.status_code for reply in tries] == [401, 200]
    (row,) = [row for row in log(client) if row["event"] == "password_reset"]
    assert row["detail"] == {"user_id": number} and row["actor"] != "fay"


def test_the_last_administrator_stays(service: RunningService, client: httpx2.Client) -> None:
    me = ok(client.get("/api/auth/me"))
    for change in ({"disabled": True}, {"is_admin": False}):
        assert client.patch(f"/api/users/{me['user_id']}", json=change).json()["error"]["code"] == "last_admin"
    assert client.patch(f"/api/users/{MISSING}", json={"disabled": True}).status_code == 404


def test_quotas_of_one_account(service: RunningService, client: httpx2.Client) -> None:
    bob = make_user(service, "bob")
    number = id_of(client, "bob")
    ok(client.patch(f"/api/users/{number}", json={"max_jobs": 3, "quota_bytes": 4}))
    with service.client(bob.token) as user:
        app = make_app(user, make_site(user)["site"]["id"])
        make_jobs(user, app, 2)
        jobs = [{"app_id": app, "workdir": str(one)} for one in range(2)]
        refused = user.post("/api/jobs", json={"jobs": jobs})
        assert (refused.status_code, refused.json()["error"]["code"]) == (507, "quota_reached")
        assert "quota of 3" in refused.json()["error"]["message"]
        make_jobs(user, app, 1)
        query = {"offset": 0, "size_bytes": 5, "sha256": "0" * 64}
        assert user.put("/api/blobs/uploads/" + "0" * 64, params=query, content=b"12345").status_code == 507
        assert ok(user.get("/api/blobs/usage"))["quota_bytes"] == 4
        ok(client.patch(f"/api/users/{number}", json={"max_jobs": None}))
        make_jobs(user, app, 5)
    [row] = [user for user in ok(client.get("/api/users")) if user["username"] == "bob"]
    assert (row["jobs"], row["max_jobs"], row["quota_bytes"]) == (8, None, 4)


def test_the_rate_of_an_account_counts_all_its_tokens_and_nobody_elses(
    service: RunningService, client: httpx2.Client
) -> None:
    eve, other = make_user(service, "eve"), make_user(service, "other")
    with service.client(eve.token) as user:
        second = ok(user.post("/api/tokens", json={"label": "p", "scopes": ["jobs:read"]}))["token"]
    ok(client.patch(f"/api/users/{id_of(client, 'eve')}", json={"requests_per_sec": 1}))
    with service.client(eve.token) as one, service.client(second) as two, service.client(other.token) as third:
        replies = [use.get("/api/auth/me") for _ in range(10) for use in (one, two)]
        refused = [reply for reply in replies if reply.status_code == 429]
        assert len(refused) >= 5 and replies[0].status_code == 200
        assert int(refused[0].headers["retry-after"]) >= 1 and "your account" in refused[0].text
        assert {third.get("/api/auth/me").status_code for _ in range(20)} == {200}


def test_each_act_leaves_its_row(service: RunningService, client: httpx2.Client) -> None:
    dan = furnish(service, make_user(service, "dan"))
    with service.client(dan.token) as user:
        made = ok(user.post("/api/tokens", json={"label": "evil\n\x1b[31m"[:4], "scopes": ["jobs:read"]}))
        ok(user.get("/api/jobs"))
        assert user.get("/api/users").status_code == user.get("/api/users").status_code == 403
        ok(user.delete(f"/api/tokens/{made['about']['id']}"))
        ok(user.delete(f"/api/sites/{dan.site_id}"))
        ok(user.post("/api/auth/logout"))
    client.post("/api/auth/login", json={"username": "dan", "password": "wrong one"})
    rows = [row for row in log(client, actor="dan", limit=1000) if row["event"] != "token_first_used"]
    events = [row["event"] for row in rows]
    assert {"token_made", "token_revoked", "site_made", "app_synced", "site_removed", "logout"} <= set(events)
    assert events.count("refused") == 1  # once an hour for the same call, or it would be a way to fill the disk
    assert next(row["detail"]["username"] for row in log(client, event="login_failed")) == "dan"
    assert all(row["address"] == "127.0.0.1" and row["request_id"] and row["token_id"] for row in rows)
    [made_row] = [row for row in rows if row["detail"].get("label") == "evil"]
    assert made_row["target"] == "POST /api/tokens" and made_row["detail"]["scopes"] == ["jobs:read"]
    assert {"account_made", "login"} <= {row["event"] for row in log(client, limit=1000)}
    text = str(log(client, limit=1000))
    assert PASSWORD not in text and made["token"] not in text and dan.token not in text
    assert [row["id"] for row in rows] == sorted((row["id"] for row in rows), reverse=True)
    older = log(client, before_id=rows[0]["id"], limit=1)
    assert len(older) == 1 and older[0]["id"] < rows[0]["id"]


def test_what_fails_leaves_no_row_of_success(service: RunningService, client: httpx2.Client) -> None:
    before = len(log(client, event="account_made", limit=1000))
    assert client.post("/api/users", json={"username": "short", "password": "x"}).status_code == 422
    make_user(service, "twice")
    assert client.post("/api/users", json={"username": "twice", "password": PASSWORD}).status_code == 409
    assert len(log(client, event="account_made", limit=1000)) == before + 1


def test_only_administrators_read_or_change(service: RunningService, client: httpx2.Client) -> None:
    gus: Person = furnish(service, make_user(service, "gus"))
    for token, status in ((gus.token, 403), (gus.site_token, 403), (gus.launcher_token, 403), ("", 401)):
        with service.client(token) as asking:
            assert asking.get("/api/audit").status_code == status
            assert asking.patch(f"/api/users/{id_of(client, 'gus')}", json={"is_admin": True}).status_code == status


def test_the_first_administrator_needs_the_code_of_the_log_and_is_the_only_one(tmp_path: Path) -> None:
    with running_service(tmp_path / "home", options=["--multi-user"]) as service, service.client("") as nobody:
        found = re.search(r"--code (\S+)", service.log)
        assert found is not None
        body = {"code": "guess", "username": "root", "password": PASSWORD}
        assert nobody.post("/api/users/first", json=body).status_code == 401
        body["code"] = found[1]
        assert nobody.post("/api/users/first", json={**body, "password": "short"}).status_code == 422
        assert ok(nobody.post("/api/users/first", json=body))["is_admin"]
        assert nobody.post("/api/users/first", json={**body, "username": "second"}).status_code == 401
        login = ok(nobody.post("/api/auth/login", json={"username": "root", "password": PASSWORD}))
        with service.client(login["token"]) as admin:
            assert [user["username"] for user in ok(admin.get("/api/users"))] == ["root"]
            assert log(admin)[-1]["event"] == "first_account_made"
        assert service.stop() == 0
    with running_service(tmp_path / "home", options=["--multi-user"]) as again:
        assert "--code" not in again.log.rpartition("stopped")[2]


def test_an_administrator_who_comes_in_through_a_provider_is_one(tmp_path: Path) -> None:
    """Else each start would tell whoever reads the log how to become another one."""

    def code_of_another_start(*options: str) -> str | None:
        with running_service(tmp_path / "home", options=["--multi-user", *options]) as service:
            return re.search(r"--code (\S+)", service.log.rpartition("stopped")[2])

    def make_root_a_persons_of(issuer: str) -> None:
        store = SqliteStore(tmp_path / "home" / "service" / "balsam.sqlite3")
        store.write_sync(lambda tx: add_identity(tx, issuer))
        store.close()

    def add_identity(tx: Tx, issuer: str) -> None:
        now = datetime.now(UTC)
        root = accounts.add_user(tx, "root", None, True, now)
        tx.put(IdentityRow(tx.new_id(IdentityRow), issuer, "root", root.id, micros(now)))

    login_file = tmp_path / "login.yml"
    login_file.touch(0o600)
    provider = {"name": "lab", "issuer": "https://login.lab.example/", "client_id": "balsam", "allow_groups": ["staff"]}
    login_file.write_text(yaml.safe_dump({"public_url": "https://balsam.example", "providers": [provider]}))
    assert code_of_another_start("--login-file", str(login_file))
    make_root_a_persons_of("https://login.lab.example")
    assert code_of_another_start("--login-file", str(login_file)) is None
    assert code_of_another_start(), "the provider is gone, and nobody can log in"


@pytest.mark.parametrize("bad", [{"max_jobs": -1}, {"requests_per_sec": 0}, {"owner_id": 1}, {"username": "x"}])
def test_bad_changes_are_named(bad: dict[str, Any], client: httpx2.Client) -> None:
    me = ok(client.get("/api/auth/me"))
    refused = client.patch(f"/api/users/{me['user_id']}", json=bad)
    assert refused.status_code == 422 and next(iter(bad)) in refused.json()["error"]["message"]


def test_old_jobs_are_removed_when_an_administrator_says_so(service: RunningService, client: httpx2.Client) -> None:
    kim = furnish(service, make_user(service, "kim"))
    with service.client(kim.token) as user:
        assert user.post("/api/jobs/prune", json={"older_than_days": 1}).status_code == 403
    assert client.post("/api/jobs/prune", json={"older_than_days": 0}).status_code == 422
    assert client.post("/api/jobs/prune", json={"older_than_days": 1, "username": "nobody"}).status_code == 404
    asked = {"older_than_days": 1, "username": "kim"}
    assert ok(client.post("/api/jobs/prune", json=asked))["removed"] == 0, "all of them are of today"
    assert log(client, event="jobs_pruned", limit=1)[0]["detail"] == asked | {"dry_run": False}
