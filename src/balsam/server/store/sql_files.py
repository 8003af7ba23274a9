"""Transactions over SQL: blobs and TransferItems. Mixed into SqlReadTx and SqlTx."""

# ruff: noqa: S608 - the texts are put together from names of our own; every value is a parameter

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from balsam.server.store.codec import STATE_NUMBERS, table, tag_number
from balsam.server.store.records import BlobRow, Row, TransferItemRow
from balsam.server.store.selections import PageWindow, TransferSelection
from balsam.server.store.sql_database import Database, listed
from balsam.server.store.sql_select import Query
from balsam.server.store.turns import one_of_each

_ANY = "IN (SELECT value FROM json_each(?))"
_DUE = "t.state IN ('pending', 'active', 'inactive')"
_ITEMS = f"item_id {_ANY}"
_DUE_HERE = f"transfer_items AS t INDEXED BY transfer_items_turns WHERE t.site_id = ? AND {_DUE}"
# By jumps along the index, however many each one has. Ordered as the index is, so that PostgreSQL reads no other.
_PEOPLE = f"""SELECT who.person FROM (
    WITH RECURSIVE people (person) AS (
        SELECT (SELECT t.submitter_id FROM {_DUE_HERE} ORDER BY t.submitter_id, t.id LIMIT 1)
        UNION ALL
        SELECT (SELECT t.submitter_id FROM {_DUE_HERE} AND t.submitter_id > people.person
            ORDER BY t.submitter_id, t.id LIMIT 1)
        FROM people WHERE people.person IS NOT NULL
    ) SELECT person FROM people WHERE person IS NOT NULL
) AS who"""


class FilesReadTx:
    """The part of ReadTx about files on their way."""

    _db: Database

    def transfer_items(self, selection: TransferSelection, window: PageWindow) -> list[TransferItemRow]:
        its, query = table(TransferItemRow), _query(selection)
        if window.after is not None:
            query.add("t.id < ?" if window.descending else "t.id > ?", window.after)
        columns = ", ".join(f"t.{column}" for column in its.columns)
        sql = (
            f"SELECT {columns} FROM {query.source} WHERE {query.where}"
            f" ORDER BY t.id {'DESC' if window.descending else 'ASC'} LIMIT ? OFFSET ?"
        )
        return [its.decode(row) for row in self._db.execute(sql, (*query.params, window.limit, window.offset))]

    def due_items(self, site_id: int, limit: int) -> list[TransferItemRow]:
        people = [row[0] for row in self._db.execute(_PEOPLE, (site_id, site_id)).fetchall()]
        share = -(-limit // max(1, len(people)))
        return list(islice(one_of_each(self._due_of(site_id, person, (share, limit)) for person in people), limit))

    def _due_of(self, site_id: int, person: int, pieces: Sequence[int]) -> Iterator[TransferItemRow]:
        """One person's, oldest first: first as many as are likely to be wanted, then the rest."""
        its, after = table(TransferItemRow), 0
        sql = (
            f"SELECT {', '.join(f't.{column}' for column in its.columns)} FROM {_DUE_HERE}"
            " AND t.submitter_id = ? AND t.id > ? ORDER BY t.submitter_id, t.id LIMIT ?"
        )
        for limit in pieces:
            rows = [its.decode(row) for row in self._db.execute(sql, (site_id, person, after, limit)).fetchall()]
            yield from rows
            if len(rows) < limit or not rows:
                return
            after = rows[-1].id

    def transfer_count(self, selection: TransferSelection) -> int:
        query = _query(selection)
        sql = f"SELECT count(*) FROM {query.source} WHERE {query.where}"
        return int(self._db.execute(sql, query.params).fetchone()[0])

    def holding_items(self, before: int, after_id: int, limit: int) -> list[TransferItemRow]:
        its = table(TransferItemRow)
        sql = (
            f"SELECT {', '.join(its.columns)} FROM transfer_items INDEXED BY transfer_items_holding"
            " WHERE holds_content = 1 AND last_update < ? AND id > ? ORDER BY id LIMIT ?"
        )
        return [its.decode(row) for row in self._db.execute(sql, (before, after_id, limit))]

    def blob_bytes(self, owner_id: int) -> int:
        sql = "SELECT coalesce(sum(size_bytes), 0) FROM blobs INDEXED BY blobs_by_owner WHERE owner_id = ?"
        return int(self._db.execute(sql, (owner_id,)).fetchone()[0])

    def unused_blobs(self, before: int, limit: int) -> list[BlobRow]:
        its = table(BlobRow)
        sql = (
            f"SELECT {', '.join(its.columns)} FROM blobs INDEXED BY blobs_unused"
            " WHERE uses = 0 AND last_used_at < ? ORDER BY last_used_at LIMIT ?"
        )
        return [its.decode(row) for row in self._db.execute(sql, (before, limit))]

    def site_takes_blob(self, site_id: int, blob_id: int) -> bool:
        sql = (
            "SELECT 1 FROM blob_uses u INDEXED BY blob_uses_by_blob CROSS JOIN transfer_items t ON t.id = u.item_id"
            " WHERE u.blob_id = ? AND t.site_id = ? AND t.direction = 'in' LIMIT 1"
        )
        return self._db.execute(sql, (blob_id, site_id)).fetchone() is not None

    def jobs_of_blob(self, blob_id: int) -> list[int]:
        sql = (
            "SELECT DISTINCT t.job_id FROM blob_uses u INDEXED BY blob_uses_by_blob"
            " CROSS JOIN transfer_items t ON t.id = u.item_id WHERE u.blob_id = ? ORDER BY t.job_id"
        )
        return [row[0] for row in self._db.execute(sql, (blob_id,))]


class FilesTx:
    """The part of Tx about files on their way."""

    _db: Database

    def put_all(self, rows: Sequence[Row]) -> None:
        if rows:
            its = table(type(rows[0]))
            self._db.executemany(its.put_sql, [its.encode(row) for row in rows])

    def use_blobs(self, uses: Iterable[tuple[int, int]]) -> None:
        pairs = sorted(set(uses))
        self._db.executemany("INSERT INTO blob_uses (item_id, blob_id) VALUES (?, ?)", pairs)
        self._db.executemany("UPDATE blobs SET uses = uses + 1 WHERE id = ?", [(blob,) for _, blob in pairs])

    def release_blobs(self, item_ids: Iterable[int]) -> None:
        items = listed(item_ids)
        released = self._db.execute(
            f"SELECT blob_id, count(*) FROM blob_uses WHERE {_ITEMS} GROUP BY blob_id", (items,)
        ).fetchall()
        # What nothing holds any more may go at once; asking for it again (BlobsLookUp) would keep it for a while.
        self._db.executemany(
            "UPDATE blobs SET uses = uses - ?, last_used_at = CASE uses WHEN ? THEN 0 ELSE last_used_at END"
            " WHERE id = ?",
            [(count, count, blob) for blob, count in released],
        )
        self._db.execute(f"DELETE FROM blob_uses WHERE {_ITEMS}", (items,))

    def delete_transfer_items(self, job_ids: Sequence[int]) -> None:
        """With the Jobs they belong to."""
        sql = f"SELECT id FROM transfer_items WHERE job_id {_ANY}"
        items = [row[0] for row in self._db.execute(sql, (listed(job_ids),))]
        if items:
            self.release_blobs(items)
            self._db.execute(f"DELETE FROM transfer_items WHERE id {_ANY}", (listed(items),))


def _query(selection: TransferSelection) -> Query:
    """Through the narrowest index the selection allows; the owner is always a condition (S14)."""
    query = Query("transfer_items t")
    due = selection.states is not None and {"pending", "active", "inactive"} >= set(selection.states)
    if selection.ids is not None:
        query.add(f"t.id {_ANY}", listed(selection.ids))
    elif selection.job_ids is not None:
        query.source += " INDEXED BY transfer_items_by_job"
    elif selection.site_ids is not None and due:
        query.source += " INDEXED BY transfer_items_due"
        query.add(_DUE)
    else:
        query.source += " INDEXED BY transfer_items_by_owner"
    by_owner = query.source.endswith("by_owner")
    query.add("t.owner_id = ?" if by_owner else "+t.owner_id = ?", selection.owner_id)
    if selection.job_ids is not None:
        query.add(f"{'+' * (selection.ids is not None)}t.job_id {_ANY}", listed(selection.job_ids))
    if selection.site_ids is not None:
        query.add(f"t.site_id {_ANY}", listed(selection.site_ids))
    if selection.states is not None:
        query.add(f"+t.state {_ANY}", listed(selection.states))
    if selection.direction is not None:
        query.add("t.direction = ?", str(selection.direction))
    _add_job_conditions(query, selection)
    return query


def _add_job_conditions(query: Query, selection: TransferSelection) -> None:
    if selection.job_states is None and not selection.tags:
        return
    query.source += " CROSS JOIN jobs ON jobs.id = t.job_id"
    if selection.job_states is not None:
        query.add(f"+jobs.state {_ANY}", listed(STATE_NUMBERS[state] for state in selection.job_states))
    for key, value in selection.tags:
        tag: Any = tag_number(selection.owner_id, key, value)
        query.add("EXISTS (SELECT 1 FROM job_tags o WHERE o.tag = ? AND o.job_id = t.job_id)", tag)
