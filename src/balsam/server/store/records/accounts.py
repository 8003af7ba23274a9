"""Rows of people: accounts, how they log in, the tokens they hold, their teams, and what they did."""

from dataclasses import dataclass

from balsam.domain.roles import Role
from balsam.server.store.records.values import Json


@dataclass(frozen=True, slots=True)
class UserRow:
    """An account. `password_hash` is None where no password login is possible (the local single user)."""

    id: int
    username: str
    password_hash: str | None
    is_admin: bool
    created_at: int
    disabled_at: int | None = None
    max_jobs: int | None = None  # this and the two below: None as for everybody
    quota_bytes: int | None = None
    requests_per_sec: int | None = None


@dataclass(frozen=True, slots=True)
class TokenRow:
    """A token, by the SHA-256 of its text. `kind` is user, site or launcher; `label` says what made it, or what for.

    A user's token with a `site_id` reaches that Site only.
    """

    id: int
    token_hash: str
    kind: str
    user_id: int
    site_id: int | None
    batch_job_id: int | None
    label: str
    created_at: int
    expires_at: int | None
    revoked_at: int | None
    last_used_at: int | None
    scopes: list[str]


@dataclass(frozen=True, slots=True)
class IdentityRow:
    """Somebody at an OpenID provider, and the account that is theirs here."""

    id: int
    issuer: str
    subject: str
    user_id: int
    created_at: int


@dataclass(frozen=True, slots=True)
class DeviceLoginRow:
    """A login through a browser that is under way, see `usecases.logins`; codes and secrets of browsers as SHA-256."""

    id: int
    device_hash: str
    user_code: str
    client: str
    address: str
    created_at: int
    expires_at: int
    polled_at: int | None
    status: str
    user_id: int | None
    browser_hash: str
    provider: str
    state_hash: str
    nonce: str
    verifier: str


@dataclass(frozen=True, slots=True)
class IdempotencyRow:
    """The answer to a write that carried an Idempotency-Key; kept for seven days (S2)."""

    id: int
    user_id: int
    key: str
    body_hash: str
    reply: str
    created_at: int


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One act, see `usecases.audit`. `actor_id` is 0 where nobody was logged in."""

    id: int
    created_at: int
    event: str
    actor_id: int
    actor: str
    token_id: int
    address: str
    request_id: str
    target: str
    detail: Json


@dataclass(frozen=True, slots=True)
class TeamRow:
    """People with whom something is shared. Its name is unique among those that its founder made."""

    id: int
    founder_id: int
    name: str
    created_at: int


@dataclass(frozen=True, slots=True)
class MembershipRow:
    """One person in one team; a leader adds and removes others."""

    id: int
    team_id: int
    user_id: int
    is_leader: bool
    created_at: int


@dataclass(frozen=True, slots=True)
class ShareRow:
    """What a team may do at one Site, or with the Jobs of one campaign of `owner_id`; one of both is set."""

    id: int
    owner_id: int
    team_id: int
    site_id: int | None
    campaign: str | None
    role: Role
    created_at: int
