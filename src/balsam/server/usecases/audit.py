"""The audit log: who logged in, made and ended tokens, was refused, changed accounts, Sites and Apps, and from where.

Endpoints that have to leave a row say so (`audit=` of `routes.endpoint`); `routes.call` writes it in the transaction of
the act, so that there is none without the other. Rows are never changed. They hold no secrets: what a detail may be
told of is chosen by the endpoint, one by one.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from balsam.server.principal import Principal
from balsam.server.store.protocol import ReadTx, Tx, Value
from balsam.server.store.records import AuditRow, Json, TokenRow, micros, moment
from balsam.server.usecases.views import user_names
from balsam.wire.admin import AuditPage, AuditQuery, AuditView

MAX_TEXT = 256
NOBODY = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """One row to be. `target` is what it was done to: method and path of the request."""

    event: str
    actor: Principal | None
    address: str
    request_id: str
    target: str
    detail: Json = field(default_factory=dict)


def record(tx: Tx, entry: Entry, now: datetime) -> None:
    """Add a row."""
    actor = entry.actor
    row = AuditRow(
        id=tx.new_id(AuditRow),
        created_at=micros(now),
        event=entry.event,
        actor_id=NOBODY if actor is None else actor.user_id,
        actor="" if actor is None else actor.username,
        token_id=0 if actor is None else actor.token_id,
        address=entry.address[:MAX_TEXT],
        request_id=entry.request_id,
        target=entry.target[:MAX_TEXT],
        detail=entry.detail,
    )
    tx.put(row)


def record_first_uses(tx: Tx, tokens: Iterable[TokenRow], now: datetime) -> None:
    """Add a row for each token that was used for the first time; from where is in the rows of what it did."""
    for token in tokens:
        owner = Principal(token.user_id, user_names(tx, {token.user_id})[token.user_id], token_id=token.id)
        record(tx, Entry("token_first_used", owner, "", "", token.kind, {"label": token.label}), now)


def list_audit(tx: ReadTx, principal: Principal, query: AuditQuery) -> AuditPage:
    """A page of the log, newest first. Only for administrators."""
    principal.require_admin()
    equals: dict[str, Value] = {}
    if query.event is not None:
        equals["event"] = query.event
    if query.actor is not None:
        equals["actor"] = query.actor
    rows = tx.newest(AuditRow, query.before_id, query.limit, **equals)
    return AuditPage(results=[_view(row) for row in rows])


def _view(row: AuditRow) -> AuditView:
    return AuditView(
        id=row.id,
        at=moment(row.created_at),
        event=row.event,
        actor=row.actor,
        token_id=row.token_id,
        address=row.address,
        request_id=row.request_id,
        target=row.target,
        detail=row.detail,
    )
