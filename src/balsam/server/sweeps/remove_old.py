"""Removing Jobs that ended more than `--keep-jobs-days` ago (usecases.retention says which stay). Run about hourly."""

from datetime import datetime, timedelta
from functools import partial

from balsam.server.store.protocol import Store
from balsam.server.store.records import micros
from balsam.server.usecases import retention


def run_once(store: Store, now: datetime, keep_days: int) -> int:
    """Remove them in slices, so that no write takes long; returns how many Jobs were removed."""
    before = micros(now - timedelta(days=keep_days))
    return sum(_of_owner(store, owner_id, before) for owner_id in store.read_sync(retention.owners))


def _of_owner(store: Store, owner_id: int, before: int) -> int:
    removed, after = 0, None
    while True:
        rows = store.read_sync(partial(retention.ended_before, owner_id=owner_id, before=before, after=after))
        if rows:
            ids = [row.id for row in rows]
            removed += store.write_sync(partial(retention.remove_unneeded, job_ids=ids, before=before))
        after = retention.place_after(rows)
        if after is None:
            return removed
