"""Accounts and tokens: who is calling, log in and out, new users.

Passwords are hashed and secrets are made by the caller: a transaction does nothing slow and draws no random numbers.
Tokens are kept as SHA-256 of their text, and a revocation counts from the next request on.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import sha256
from typing import cast

from balsam.domain.scopes import Scope
from balsam.domain.states import BATCH_JOB_ENDED
from balsam.server.errors import AccountDisabled, AllocationEnded, Conflict, NotFound, Unauthenticated
from balsam.server.principal import Kind, Principal
from balsam.server.store.protocol import ReadTx, Tx, Wake
from balsam.server.store.records import BatchJobRow, SiteRow, TokenRow, UserRow, micros, moment_or_none
from balsam.wire.auth import Login, WhoAmI

LOCAL_LABEL = "local"


@dataclass(frozen=True, slots=True)
class Authenticated:
    """A principal, and until when its token is good (None: until it is revoked)."""

    principal: Principal
    expires_at: datetime | None


def token_hash(token: str) -> str:
    """How a token is kept. It has 256 random bits, so a fast hash is enough."""
    return sha256(token.encode()).hexdigest()


def authenticate(tx: ReadTx, token: str, now: datetime) -> Authenticated:
    """The principal behind a token. Raises Unauthenticated for one that is unknown, expired or revoked.

    Raises AllocationEnded for one that went with its BatchJob.
    """
    found = tx.find(TokenRow, token_hash=token_hash(token))
    if found and found[0].batch_job_id is not None:
        _check_allocation(tx, found[0].batch_job_id)
    if not found or found[0].revoked_at is not None:
        raise Unauthenticated
    row = found[0]
    if row.expires_at is not None and row.expires_at <= micros(now):
        raise Unauthenticated("your login has expired; run `balsam login URL` again")
    user = tx.get(UserRow, row.user_id)
    if user is None or not is_alive(tx, row):
        raise Unauthenticated
    if user.disabled_at is not None:
        raise AccountDisabled
    is_admin = user.is_admin and row.kind == "user"
    kind = cast(Kind, row.kind)
    scopes = frozenset(Scope(scope) for scope in row.scopes)
    principal = Principal(
        user.id,
        user.username,
        kind,
        is_admin,
        row.site_id,
        row.batch_job_id,
        token_id=row.id,
        scopes=scopes,
        requests_per_sec=user.requests_per_sec,
    )
    return Authenticated(principal, moment_or_none(row.expires_at))


def _check_allocation(tx: ReadTx, batch_job_id: int) -> None:
    batch_job = tx.get(BatchJobRow, batch_job_id)
    if batch_job is not None and batch_job.state in BATCH_JOB_ENDED:
        raise AllocationEnded(batch_job_id)


def is_alive(tx: ReadTx, token: TokenRow) -> bool:
    """Whether what the token speaks for still exists."""
    if token.site_id is not None:
        site = tx.get(SiteRow, token.site_id)
        if site is None or site.deleted_at is not None:
            return False
    if token.batch_job_id is not None:
        batch_job = tx.get(BatchJobRow, token.batch_job_id)
        return batch_job is not None and batch_job.state not in BATCH_JOB_ENDED
    return True


def touch_tokens(tx: Tx, token_ids: Iterable[int], now: datetime) -> list[TokenRow]:
    """Note that the tokens were used; returns those that were used for the first time."""
    rows = tx.find(TokenRow, id=tuple(token_ids))
    for row in rows:
        tx.put(replace(row, last_used_at=micros(now)))
    return [row for row in rows if row.last_used_at is None]


def add_token(
    tx: Tx,
    user_id: int,
    kind: Kind,
    secret: str,
    label: str,
    now: datetime,
    *,
    site_id: int | None = None,
    batch_job_id: int | None = None,
    expires_at: datetime | None = None,
    scopes: Iterable[Scope] = (Scope.ALL,),
) -> TokenRow:
    """Store a new token. What an agent or a launcher may do is decided by their kind, within ALL."""
    row = TokenRow(
        id=tx.new_id(TokenRow),
        token_hash=token_hash(secret),
        kind=kind,
        user_id=user_id,
        site_id=site_id,
        batch_job_id=batch_job_id,
        label=label,
        created_at=micros(now),
        expires_at=None if expires_at is None else micros(expires_at),
        revoked_at=None,
        last_used_at=None,
        scopes=sorted(scopes),
    )
    tx.put(row)
    return row


def revoke(tx: Tx, rows: Iterable[TokenRow], now: datetime) -> None:
    """Revoke tokens; whoever remembers them is told to forget."""
    for row in rows:
        if row.revoked_at is None:
            tx.put(replace(row, revoked_at=micros(now)))
    tx.wake(Wake("tokens", 0, "revoked", {}))


def user_named(tx: ReadTx, username: str) -> UserRow | None:
    """The account of this name."""
    users = tx.find(UserRow, username=username)
    return users[0] if users else None


def issue_user_token(
    tx: Tx, user_id: int, secret: str, expires_at: datetime | None, label: str, now: datetime
) -> Login:
    """A user's token after a login. Raises NotFound when the account is gone."""
    user = tx.get(UserRow, user_id)
    if user is None:
        raise NotFound
    add_token(tx, user_id, "user", secret, label, now, expires_at=expires_at)
    return Login(token=secret, username=user.username, expires_at=expires_at)


def was_revoked(tx: ReadTx, token: str) -> bool:
    """Whether there was a token of this text that somebody has ended."""
    found = tx.find(TokenRow, token_hash=token_hash(token))
    return bool(found) and found[0].revoked_at is not None


def logout(tx: Tx, principal: Principal, now: datetime) -> None:
    """Revoke the token of this request."""
    row = tx.get(TokenRow, principal.token_id)
    if row is not None:
        revoke(tx, [row], now)


def who_am_i(tx: ReadTx, principal: Principal) -> WhoAmI:
    return WhoAmI(
        user_id=principal.user_id,
        username=principal.username,
        kind=principal.kind,
        is_admin=principal.is_admin,
        site_id=principal.site_id,
        batch_job_id=principal.batch_job_id,
        scopes=sorted(principal.scopes),
    )


def ensure_local_user(tx: Tx, username: str, secret: str, now: datetime) -> Principal:
    """Single-user mode: the account of the Unix user, and its token. The same secret as at the last start goes on,
    another one ends it."""
    user = user_named(tx, username) or add_user(tx, username, None, True, now)
    earlier = tx.find(TokenRow, user_id=user.id, label=LOCAL_LABEL, revoked_at=None)
    same = [row for row in earlier if row.token_hash == token_hash(secret)]
    if len(earlier) > len(same):
        revoke(tx, [row for row in earlier if row not in same], now)
    token = same[0] if same else add_token(tx, user.id, "user", secret, LOCAL_LABEL, now)
    return Principal(user.id, user.username, "user", user.is_admin, token_id=token.id)


def set_password(tx: Tx, user_id: int, password_hash: str, kept_token_id: int, now: datetime) -> None:
    """Give an account a password. Its other logins and the tokens of its programs end, those of its Sites stay."""
    user = tx.get(UserRow, user_id)
    if user is None:
        raise NotFound
    tx.put(replace(user, password_hash=password_hash))
    tokens = tx.find(TokenRow, user_id=user.id, kind="user", revoked_at=None)
    revoke(tx, [token for token in tokens if token.id != kept_token_id], now)


def add_user(tx: Tx, username: str, password_hash: str | None, is_admin: bool, now: datetime) -> UserRow:
    """A new account. Raises Conflict `user_exists`."""
    if tx.find(UserRow, username=username):
        raise Conflict("user_exists", f"there is a user {username!r} already")
    row = UserRow(tx.new_id(UserRow), username, password_hash, is_admin, micros(now))
    tx.put(row)
    return row
