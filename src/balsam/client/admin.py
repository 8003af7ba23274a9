"""What administrators ask of a service: its accounts and their limits, the audit log. Used by `balsam admin`."""

import json
from typing import Any

from balsam.client.errors import NotFound
from balsam.client.settings import ClientSettings
from balsam.client.transport import Transport
from balsam.client.values import checked
from balsam.wire.admin import (
    AuditPage,
    AuditQuery,
    AuditView,
    FirstUser,
    PasswordReset,
    Pruned,
    PruneRequest,
    UserPatch,
)
from balsam.wire.auth import Users, UserView

DEADLINE_SEC = 30.0
PRUNE_DEADLINE_SEC = 300.0


def list_users(transport: Transport) -> list[UserView]:
    """All accounts, with what they use. Raises Forbidden to whoever is no administrator, as all of this module."""
    return transport.request("GET", "/users", reply=Users, deadline_sec=DEADLINE_SEC).root


def change_user(transport: Transport, username: str, **changes: Any) -> UserView:
    """Change an account: `is_admin`, `disabled`, `max_jobs`, `quota_bytes`, `requests_per_sec` (None: no own limit)."""
    body = checked(UserPatch, "", changes)
    path = f"/users/{_account(transport, username).id}"
    return transport.request("PATCH", path, body=body, reply=UserView, deadline_sec=DEADLINE_SEC)


def reset_password(transport: Transport, username: str, password: str) -> None:
    """Give an account another password; its logins and its programs' tokens end."""
    checked(PasswordReset, "", {"password": password})
    path = f"/users/{_account(transport, username).id}/password"
    body = json.dumps({"password": password}).encode()  # the message prints its secrets as stars
    transport.request("POST", path, body=body, deadline_sec=DEADLINE_SEC)


def _account(transport: Transport, username: str) -> UserView:
    for user in list_users(transport):
        if user.username == username:
            return user
    raise NotFound(f"there is no account {username!r}; see: balsam admin users")


def read_audit(transport: Transport, **query: Any) -> list[AuditView]:
    """Rows of the audit log, newest first: `event`, `actor`, `before_id`, `limit`."""
    asked = checked(AuditQuery, "", {name: value for name, value in query.items() if value is not None})
    return transport.request("GET", "/audit", query=asked, reply=AuditPage, deadline_sec=DEADLINE_SEC).results


def prune_jobs(transport: Transport, *, older_than_days: int, username: str | None, dry_run: bool) -> int:
    """Remove Jobs that ended so many days ago (`dry_run`: count them); returns how many. It may be interrupted."""
    if username is not None:
        _account(transport, username)  # says who is not there
    body = checked(PruneRequest, "", {"older_than_days": older_than_days, "username": username, "dry_run": dry_run})
    removed = 0
    while True:
        done = transport.request("POST", "/jobs/prune", body=body, reply=Pruned, deadline_sec=PRUNE_DEADLINE_SEC)
        removed += done.removed
        if not done.more:
            return removed
        place = done.model_dump(include={"after_user_id", "after_job_id", "after_value"})
        body = body.model_copy(update=place)


def make_first_user(url: str, code: str, username: str, password: str) -> UserView:
    """The first administrator of a new service. Raises Unauthorized for a wrong code."""
    fields = {"code": code, "username": username, "password": password}
    checked(FirstUser, "", fields)
    transport = Transport(ClientSettings(url=url))
    try:
        body = json.dumps(fields).encode()  # the message prints its secrets as stars
        return transport.request("POST", "/users/first", body=body, reply=UserView, deadline_sec=DEADLINE_SEC)
    finally:
        transport.close()
