"""Giving back the space of blobs that nothing needs: no TransferItem holds them, or nobody knows of them at all.

`run_once` often, `expire` hourly, `remove_orphans` at the start and daily. A row goes before its file, so what a crash
in between leaves is a file without a row, which the last one finds.
"""

import logging
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial

from balsam.server.blobs.storage import BlobStorage
from balsam.server.store.protocol import ReadTx, Store, Tx
from balsam.server.store.records import BlobRow, TransferItemRow, micros
from balsam.server.usecases.transfers import expire_content

log = logging.getLogger("balsam.server")

UNUSED_KEPT_FOR = timedelta(hours=1)  # a client has sent its files and is about to submit the Jobs
ORPHAN_AGE = timedelta(hours=1)  # younger ones may be about to get their row
SLICE = 500


def run_once(store: Store, storage: BlobStorage, now: datetime) -> int:
    """Remove blobs that nothing has used for an hour, or that were let go of; returns how many."""
    before = micros(now - UNUSED_KEPT_FOR)
    removed = 0
    while unused := store.read_sync(lambda tx: tx.unused_blobs(before, SLICE)):
        gone = store.write_sync(partial(_remove_rows, rows=unused, before=before))
        for row in gone:
            _remove_file(storage, row.place)
        removed += len(gone)
    return removed


def expire(store: Store, now: datetime, keep_days: int) -> int:
    """Let go of contents that were kept for `keep_days`; returns how many. Their blobs go with the next `run_once`."""
    before = micros(now - timedelta(days=keep_days))
    expired, after_id = 0, 0
    while rows := store.read_sync(partial(_holding, before=before, after_id=after_id)):
        expired += store.write_sync(partial(expire_content, rows=rows, before=before, now=now))
        after_id = rows[-1].id
    return expired


def _holding(tx: ReadTx, before: int, after_id: int) -> list[TransferItemRow]:
    return tx.holding_items(before, after_id, SLICE)


def remove_orphans(store: Store, storage: BlobStorage, now: datetime) -> int:
    """Remove what is in the storage and in no row; returns how many."""
    removed = 0
    batch: list[str] = []
    for place, kept_since in storage.places():
        if now - kept_since > ORPHAN_AGE:
            batch.append(place)
        if len(batch) == SLICE:
            removed += _remove_unknown(store, storage, batch)
            batch = []
    return removed + _remove_unknown(store, storage, batch)


def _remove_rows(tx: Tx, rows: Sequence[BlobRow], before: int) -> list[BlobRow]:
    """Those that are still unused: one may have been asked for since it was read."""
    fresh = tx.find(BlobRow, id=tuple(row.id for row in rows))
    gone = [row for row in fresh if row.uses == 0 and row.last_used_at < before]
    for row in gone:
        tx.remove(BlobRow, row.id)
    return gone


def _remove_unknown(store: Store, storage: BlobStorage, places: Sequence[str]) -> int:
    if not places:
        return 0
    known = {row.place for row in store.read_sync(lambda tx: tx.find(BlobRow, place=tuple(places)))}
    unknown = [place for place in places if place not in known]
    for place in unknown:
        log.warning("removing %s from the blobs: no row knows of it", place)
        _remove_file(storage, place)
    return len(unknown)


def _remove_file(storage: BlobStorage, place: str) -> None:
    try:
        storage.remove(place)
    except OSError as error:
        log.warning("blob %s can't be removed now: %s; the daily search finds it again", place, error)
