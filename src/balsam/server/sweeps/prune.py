"""Removing what has served its time: old idempotency keys, dead tokens, the rest of deleted Sites. Run about hourly."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial

from balsam.server.store.protocol import Store, Tx
from balsam.server.store.records import DeviceLoginRow, IdempotencyRow, Row, SiteRow, TokenRow, micros
from balsam.server.usecases.idempotent import KEPT_FOR
from balsam.server.usecases.sites import remove_slice

DEAD_TOKENS_KEPT_FOR = timedelta(days=30)
LOGINS_KEPT_FOR = timedelta(hours=1)
SLICE = 500


def run_once(store: Store, now: datetime) -> int:
    """Remove it in slices, so that no write takes long; returns how many rows were removed."""
    keys = store.read_sync(lambda tx: tx.created_before(IdempotencyRow, micros(now - KEPT_FOR)))
    tokens = store.read_sync(lambda tx: tx.created_before(TokenRow, micros(now - DEAD_TOKENS_KEPT_FOR)))
    dead = [row for row in tokens if isinstance(row, TokenRow) and _is_dead(row, micros(now - DEAD_TOKENS_KEPT_FOR))]
    logins = store.read_sync(lambda tx: tx.created_before(DeviceLoginRow, micros(now - LOGINS_KEPT_FOR)))
    removed = _remove(store, keys) + _remove(store, dead) + _remove(store, logins)
    hidden = [site for site in store.read_sync(lambda tx: tx.find(SiteRow)) if site.deleted_at is not None]
    for site in hidden:
        while store.write_sync(partial(remove_slice, site_id=site.id)):
            pass
    return removed + len(hidden)


def _is_dead(token: TokenRow, before: int) -> bool:
    ends = [end for end in (token.revoked_at, token.expires_at) if end is not None]
    return bool(ends) and min(ends) < before


def _remove(store: Store, rows: Sequence[Row]) -> int:
    for start in range(0, len(rows), SLICE):

        def one_slice(tx: Tx, start: int = start) -> None:
            for row in rows[start : start + SLICE]:
                tx.remove(type(row), row.id)

        store.write_sync(one_slice)
    return len(rows)
