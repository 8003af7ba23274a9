"""Removing Jobs that ended long ago, with their events and results, a slice at a time.

Called by the sweep `remove_old` and by the route of `balsam admin prune`. Promises: what has not ended is never
touched, nor what somebody still needs: a child that has not ended, a client that has not collected a result, an agent
that has not cleaned up. What is left is removed by a later run, once nobody needs it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from balsam.domain.states import DONE_STATES
from balsam.domain.transfers import TRANSFER_DUE
from balsam.server.errors import NotFound
from balsam.server.principal import Principal
from balsam.server.store.protocol import ReadTx, Store, Tx
from balsam.server.store.records import JobRow, TransferItemRow, UserRow, micros
from balsam.server.store.selections import JobSelection, PageWindow
from balsam.wire.admin import Pruned, PruneRequest

SLICE = 200  # Jobs that one write removes
SLICES_PER_CALL = 20

_SELECTED = tuple(sorted(DONE_STATES))


@dataclass(frozen=True, slots=True)
class Place:
    """How far a search has come: the last Job it looked at, and what the search is ordered by."""

    job_id: int
    last_update: int


def chosen_owners(tx: ReadTx, principal: Principal, username: str | None) -> list[int]:
    """Whose Jobs an administrator's order is about. Raises NotFound for a name that no account has."""
    principal.require_admin()
    return owners(tx, username)


def owners(tx: ReadTx, username: str | None = None) -> list[int]:
    """Whose Jobs are looked at. Raises NotFound for a name that no account has."""
    found = tx.find(UserRow) if username is None else tx.find(UserRow, username=username)
    if username is not None and not found:
        raise NotFound
    return [user.id for user in found]


def ended_before(tx: ReadTx, owner_id: int, before: int, after: Place | None) -> list[JobRow]:
    """A slice of the Jobs that ended and did not change since `before`, the oldest first."""
    window = PageWindow(
        order_by="last_update",
        limit=SLICE,
        after=None if after is None else after.job_id,
        after_value=None if after is None else after.last_update,
    )
    return tx.job_page(JobSelection(owner_id, states=_SELECTED, updated_before=before), window)


def remove_unneeded(tx: Tx, job_ids: Iterable[int], before: int) -> int:
    """Remove those of the Jobs that are as old as they were found, and that nobody needs; returns how many."""
    unneeded = _unneeded(tx, tx.jobs(job_ids), before)
    tx.delete_jobs(unneeded)
    return len(unneeded)


def count_unneeded(tx: ReadTx, owner_id: int, before: int, after: Place | None) -> tuple[int, Place | None]:
    """How many of the next slice would be removed, and where the slice ends; no place after the last one."""
    rows = ended_before(tx, owner_id, before, after)
    return len(_unneeded(tx, rows, before)), place_after(rows)


def place_after(rows: list[JobRow]) -> Place | None:
    return Place(rows[-1].id, rows[-1].last_update) if len(rows) == SLICE else None


async def prune(store: Store, users: list[int], message: PruneRequest, now: datetime) -> Pruned:
    """An administrator's order to remove old Jobs of `users`, as far as it comes in one call."""
    before = micros(now - timedelta(days=message.older_than_days))
    users = [user for user in users if user >= (message.after_user_id or 0)]
    after = _given(message)
    removed = 0
    for _ in range(SLICES_PER_CALL):
        if not users:
            break
        count, after = await _one_slice(store, users[0], before, after, dry_run=message.dry_run)
        removed += count
        if after is None:
            users = users[1:]
    if not users:
        return Pruned(removed=removed)
    return Pruned(
        removed=removed,
        more=True,
        after_user_id=users[0],
        after_job_id=None if after is None else after.job_id,
        after_value=None if after is None else after.last_update,
    )


def _given(message: PruneRequest) -> Place | None:
    if message.after_job_id is None or message.after_value is None:
        return None
    return Place(message.after_job_id, message.after_value)


async def _one_slice(
    store: Store, owner_id: int, before: int, after: Place | None, *, dry_run: bool
) -> tuple[int, Place | None]:
    if dry_run:
        return await store.read(lambda tx: count_unneeded(tx, owner_id, before, after))
    rows = await store.read(lambda tx: ended_before(tx, owner_id, before, after))
    ids = [row.id for row in rows]
    return await store.write(lambda tx: remove_unneeded(tx, ids, before)) if ids else 0, place_after(rows)


def _unneeded(tx: ReadTx, rows: Iterable[JobRow], before: int) -> list[int]:
    old = {row.id for row in rows if _is_over(row, before)}
    links = tx.children(old)
    unfinished = {
        child.id for child in tx.hot_jobs({child for _, child in links}).values() if child.state not in DONE_STATES
    }
    needed = {parent for parent, child in links if child in unfinished}
    items = tx.find(TransferItemRow, job_id=tuple(old))
    needed |= {item.job_id for item in items if item.holds_content or item.state in TRANSFER_DUE}
    return sorted(old - needed)


def _is_over(job: JobRow, before: int) -> bool:
    ended = job.state in DONE_STATES and job.last_update < before
    return ended and job.session_id is None and not job.pending_file_cleanup
