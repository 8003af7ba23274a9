"""What administrators do with accounts: make, list, disable, limit. The service always keeps one who can."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from balsam.server.errors import Conflict, NotFound, ServiceError
from balsam.server.principal import Principal
from balsam.server.store.protocol import ReadTx, Tx, Wake
from balsam.server.store.records import IdentityRow, UserRow, micros, moment, moment_or_none
from balsam.server.store.selections import JobSelection
from balsam.server.usecases.accounts import add_user, set_password
from balsam.wire.admin import UserPatch
from balsam.wire.auth import UserView


def create_user(
    tx: Tx, principal: Principal, username: str, password_hash: str, is_admin: bool, now: datetime
) -> UserView:
    """A new password account; only for administrators."""
    principal.require_admin()
    return view(tx, add_user(tx, username, password_hash, is_admin, now))


def list_users(tx: ReadTx, principal: Principal) -> list[UserView]:
    principal.require_admin()
    return [view(tx, user) for user in tx.find(UserRow)]


def change_user(tx: Tx, principal: Principal, user_id: int, message: UserPatch, now: datetime) -> UserView:
    """Change what is given. Raises NotFound, Conflict `last_admin`."""
    principal.require_admin()
    user = tx.get(UserRow, user_id)
    if user is None:
        raise NotFound
    given: dict[str, Any] = message.model_dump(exclude_unset=True)
    if given.pop("disabled", None) is not None:
        given["disabled_at"] = (user.disabled_at or micros(now)) if message.disabled else None
    if given.get("is_admin", ...) is None:
        del given["is_admin"]
    changed = replace(user, **given)
    if is_active_admin(user) and not is_active_admin(changed):
        others = [one for one in tx.find(UserRow, is_admin=True) if one.id != user.id and is_active_admin(one)]
        if not others:
            raise Conflict("last_admin", f"{user.username} is the only administrator; make somebody else one first")
    tx.put(changed)
    tx.wake(Wake("tokens", 0, "revoked", {}))  # tokens are looked up again, with what is true now
    return view(tx, changed)


def reset_password(tx: Tx, principal: Principal, user_id: int, password_hash: str, now: datetime) -> None:
    """Another password for who has forgotten theirs. Raises NotFound."""
    principal.require_admin()
    set_password(tx, user_id, password_hash, principal.token_id, now)


def is_active_admin(user: UserRow) -> bool:
    return user.is_admin and user.disabled_at is None


def needs_first_user(tx: ReadTx, issuers: Collection[str]) -> bool:
    """Whether nobody can log in as an administrator: neither by password nor at one of these providers."""
    for user in tx.find(UserRow, is_admin=True):
        is_known = user.password_hash is not None or any(
            one.issuer in issuers for one in tx.find(IdentityRow, user_id=user.id)
        )
        if is_known and is_active_admin(user):
            return False
    return True


def create_first_user(tx: Tx, username: str, password_hash: str, issuers: Collection[str], now: datetime) -> UserRow:
    """The first administrator. Raises Conflict `not_the_first` once there is one."""
    if not needs_first_user(tx, issuers):
        raise Conflict("not_the_first", "this service has an administrator already; ask them for an account")
    return add_user(tx, username, password_hash, True, now)


def check_job_quota(tx: ReadTx, more_of: Mapping[int, int]) -> None:
    """Raises 507 `quota_reached` when a Site's owner would have more Jobs than an administrator allowed."""
    for owner in tx.find(UserRow, id=tuple(more_of)):
        if owner.max_jobs is None:
            continue
        more = more_of[owner.id]
        there = tx.job_count(JobSelection(owner.id))
        if there + more > owner.max_jobs:
            message = (
                f"{more} Jobs more would be over the quota of {owner.max_jobs} at this service; there are {there}. "
                "Delete Jobs that are needed no more"
            )
            raise ServiceError(507, "quota_reached", message)


def view(tx: ReadTx, user: UserRow) -> UserView:
    return UserView(
        id=user.id,
        username=user.username,
        is_admin=user.is_admin,
        created_at=moment(user.created_at),
        disabled_at=moment_or_none(user.disabled_at),
        max_jobs=user.max_jobs,
        quota_bytes=user.quota_bytes,
        requests_per_sec=user.requests_per_sec,
        jobs=tx.job_count(JobSelection(user.id)),
        used_bytes=tx.blob_bytes(user.id),
    )
