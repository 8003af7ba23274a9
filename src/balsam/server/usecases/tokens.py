"""The tokens of an account: what is good now, new ones for programs, ending one. Only a login may do this.

Secrets are drawn by the caller; what is kept is their SHA-256. A token of another account is as good as missing (S14).
"""

from datetime import datetime, timedelta

from balsam.domain.roles import Role
from balsam.domain.scopes import Scope
from balsam.server.errors import Conflict, NotFound
from balsam.server.principal import Principal
from balsam.server.store.protocol import ReadTx, Tx
from balsam.server.store.records import TokenRow, micros, moment, moment_or_none
from balsam.server.usecases.accounts import add_token, is_alive, revoke
from balsam.server.usecases.scope import find_site
from balsam.wire.auth import TokenCreate, TokenCreated, TokensPage, TokenView

MAX_TOKENS = 1_000  # of one account; agents and launchers included


def list_tokens(tx: ReadTx, principal: Principal, now: datetime) -> TokensPage:
    """Those that would be accepted now, in the order in which they were made."""
    rows = _good(tx, principal.user_id, now)
    return TokensPage(count=len(rows), results=[_view(row, principal) for row in rows])


def create_token(tx: Tx, principal: Principal, message: TokenCreate, secret: str, now: datetime) -> TokenCreated:
    """A token for a program. Raises NotFound for a Site that the caller does not see, Conflict `too_many_tokens`."""
    if message.site_id is not None:
        find_site(tx, principal, message.site_id, Role.VIEWER)
    if len(_good(tx, principal.user_id, now)) >= MAX_TOKENS:
        raise Conflict("too_many_tokens", f"there are {MAX_TOKENS} tokens; revoke some that are used no more")
    expires_at = None if message.days is None else now + timedelta(days=message.days)
    row = add_token(
        tx,
        principal.user_id,
        "user",
        secret,
        message.label,
        now,
        site_id=message.site_id,
        expires_at=expires_at,
        scopes=set(message.scopes),
    )
    return TokenCreated(token=secret, about=_view(row, principal))


def revoke_token(tx: Tx, principal: Principal, token_id: int, now: datetime) -> None:
    """End a token; it fails from the next request on. Nothing happens to one that has ended."""
    row = tx.get(TokenRow, token_id)
    if row is None or row.user_id != principal.user_id:
        raise NotFound
    revoke(tx, [row], now)


def _good(tx: ReadTx, user_id: int, now: datetime) -> list[TokenRow]:
    rows = tx.find(TokenRow, user_id=user_id, revoked_at=None)
    return [row for row in rows if (row.expires_at is None or row.expires_at > micros(now)) and is_alive(tx, row)]


def _view(row: TokenRow, principal: Principal) -> TokenView:
    return TokenView(
        id=row.id,
        kind=row.kind,
        label=row.label,
        scopes=[Scope(scope) for scope in row.scopes],
        site_id=row.site_id,
        batch_job_id=row.batch_job_id,
        created_at=moment(row.created_at),
        expires_at=moment_or_none(row.expires_at),
        last_used_at=moment_or_none(row.last_used_at),
        is_this_one=row.id == principal.token_id,
    )
