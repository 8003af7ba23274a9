"""Transactions over dictionaries: blobs and TransferItems. MemoryTx stands on it."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from balsam.domain.transfers import TRANSFER_DUE
from balsam.server.store.memory_tables import TableTx
from balsam.server.store.records import BlobRow, JobRow, Row, TransferItemRow
from balsam.server.store.selections import PageWindow, TransferSelection
from balsam.server.store.turns import one_of_each


class MemoryFilesTx(TableTx):
    """The part of Tx about files on their way."""

    def transfer_items(self, selection: TransferSelection, window: PageWindow) -> list[TransferItemRow]:
        rows = [row for row in self._of(TransferItemRow) if self._fits(row, selection)]
        rows.sort(key=lambda row: row.id, reverse=window.descending)
        if window.after is not None:
            rows = [row for row in rows if (row.id < window.after if window.descending else row.id > window.after)]
        return rows[window.offset : window.offset + window.limit]

    def due_items(self, site_id: int, limit: int) -> list[TransferItemRow]:
        of_people: defaultdict[int, list[TransferItemRow]] = defaultdict(list)
        for row in sorted(self._of(TransferItemRow), key=lambda row: row.id):
            if row.site_id == site_id and row.state in TRANSFER_DUE:
                of_people[row.submitter_id].append(row)
        return list(islice(one_of_each(iter(of_people[person]) for person in sorted(of_people)), limit))

    def transfer_count(self, selection: TransferSelection) -> int:
        return sum(self._fits(row, selection) for row in self._of(TransferItemRow))

    def _fits(self, row: TransferItemRow, selection: TransferSelection) -> bool:
        lists: tuple[tuple[object, tuple[Any, ...] | None], ...] = (
            (row.id, selection.ids),
            (row.job_id, selection.job_ids),
            (row.site_id, selection.site_ids),
            (row.state, selection.states),
        )
        if row.owner_id != selection.owner_id or selection.direction not in (None, row.direction):
            return False
        if any(values is not None and value not in values for value, values in lists):
            return False
        job: JobRow = self._tables.jobs[row.job_id]
        if selection.job_states is not None and job.state not in selection.job_states:
            return False
        return all(job.tags.get(key) == value for key, value in selection.tags)

    def holding_items(self, before: int, after_id: int, limit: int) -> list[TransferItemRow]:
        def is_old(row: TransferItemRow) -> bool:
            return row.holds_content and row.last_update < before and row.id > after_id

        return [row for row in self._of(TransferItemRow) if is_old(row)][:limit]

    def blob_bytes(self, owner_id: int) -> int:
        return sum(row.size_bytes for row in self._of(BlobRow) if row.owner_id == owner_id)

    def unused_blobs(self, before: int, limit: int) -> list[BlobRow]:
        rows = [row for row in self._of(BlobRow) if row.uses == 0 and row.last_used_at < before]
        return sorted(rows, key=lambda row: row.last_used_at)[:limit]

    def site_takes_blob(self, site_id: int, blob_id: int) -> bool:
        items = self._tables.rows[TransferItemRow]
        takers = (items[item] for item, blob in self._tables.blob_uses if blob == blob_id)
        return any(item.site_id == site_id and item.direction == "in" for item in takers)

    def jobs_of_blob(self, blob_id: int) -> list[int]:
        items = self._tables.rows[TransferItemRow]
        return sorted({items[item].job_id for item, blob in self._tables.blob_uses if blob == blob_id})

    def put_all(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self.put(row)

    def use_blobs(self, uses: Iterable[tuple[int, int]]) -> None:
        for pair in sorted(set(uses)):
            if pair in self._tables.blob_uses:
                raise ValueError(f"TransferItem {pair[0]} holds blob {pair[1]} already")
            self._set(self._tables.blob_uses, pair, True)
            self._add_uses(pair[1], 1)

    def release_blobs(self, item_ids: Iterable[int]) -> None:
        items = frozenset(item_ids)
        pairs = [pair for pair in self._tables.blob_uses if pair[0] in items]
        for blob_id, count in Counter(blob for _, blob in pairs).items():
            self._add_uses(blob_id, -count)
        for pair in pairs:
            self._unset(self._tables.blob_uses, pair)

    def _add_uses(self, blob_id: int, count: int) -> None:
        blobs = self._tables.rows[BlobRow]
        if blob_id in blobs:
            row: BlobRow = blobs[blob_id]
            uses = row.uses + count
            self._set(blobs, blob_id, replace(row, uses=uses, last_used_at=row.last_used_at if uses else 0))

    def delete_transfer_items(self, job_ids: Sequence[int]) -> None:
        """With the Jobs they belong to."""
        gone = [row.id for row in self._of(TransferItemRow) if row.job_id in frozenset(job_ids)]
        self.release_blobs(gone)
        for item_id in gone:
            self.remove(TransferItemRow, item_id)
