"""BatchJobs by filter: list them, and change or delete every match."""

from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial

from balsam.domain.states import BATCH_JOB_ENDED, BatchJobState
from balsam.server.errors import Forbidden, ServiceError
from balsam.server.principal import Principal
from balsam.server.store.conditions import Condition
from balsam.server.store.protocol import ReadTx, Store, Tx
from balsam.server.store.records import BatchJobRow, micros
from balsam.server.usecases.batch_jobs import check_given, delete_batch_job, patch_batch_job
from balsam.server.usecases.limits import pairs
from balsam.server.usecases.lookups import conditions, matches
from balsam.server.usecases.scope import find_sites
from balsam.server.usecases.views import batch_job_view, batch_job_views
from balsam.wire.base import Deleted
from balsam.wire.batch_jobs import (
    BatchJobFilter,
    BatchJobQuery,
    BatchJobsChanged,
    BatchJobsPage,
    BatchJobsSelect,
    BatchJobsUpdate,
)
from balsam.wire.kinds import BATCH_JOB_FIELDS, Op

SLICE = 500


def list_batch_jobs(tx: ReadTx, principal: Principal, message: BatchJobQuery) -> BatchJobsPage:
    """A page of what the caller may see; those that have not started come first when ordered by start."""
    key = message.ordering.removeprefix("-")
    rows = selected(tx, principal, message)
    rows.sort(key=lambda row: (getattr(row, key) or 0, row.id), reverse=message.ordering.startswith("-"))
    page = rows[message.offset : message.offset + message.limit]
    return BatchJobsPage(count=len(rows), results=batch_job_views(tx, page))


def selected(tx: ReadTx, principal: Principal, message: BatchJobFilter) -> list[BatchJobRow]:
    """The BatchJobs that the filter selects and the caller may see, by id. Raises Invalid for what can't be asked."""
    principal.require("user", "site", "job")
    wanted = [*conditions(message.where, BATCH_JOB_FIELDS), *_named(message)]
    return [row for row in _candidates(tx, principal, message) if matches(wanted, partial(getattr, row))]


def _candidates(tx: ReadTx, principal: Principal, message: BatchJobFilter) -> list[BatchJobRow]:
    sites = {site.id for site in find_sites(tx, principal)}
    if message.site_id is not None:
        sites &= set(message.site_id)
    states = tuple(BatchJobState) if message.state is None else tuple(message.state)
    ids = None if message.id is None else set(message.id)
    if principal.kind == "job" and principal.batch_job_id is not None:  # sees the one it runs in
        own = {principal.batch_job_id}
        ids = own if ids is None else ids & own
    if ids is not None:
        rows = tx.find(BatchJobRow, id=tuple(sorted(ids)))
        return [row for row in rows if row.site_id in sites and row.state in states]
    return tx.find(BatchJobRow, site_id=tuple(sites), state=states)


def _named(message: BatchJobFilter) -> Iterator[Condition]:
    """The filters that have a name of their own, as conditions."""
    if message.scheduler_id is not None:
        yield Condition("scheduler_id", "eq", message.scheduler_id)
    if message.queue is not None:
        yield Condition("queue", "eq", message.queue)
    for key, value in pairs(message.filter_tags, "filter_tags"):
        yield Condition("filter_tags", "eq", value, (key,))
    spans: tuple[tuple[str, Op, datetime | None], ...] = (
        ("created_at", "gt", message.created_after),
        ("start_time", "gt", message.start_time_after),
        ("start_time", "lt", message.start_time_before),
        ("end_time", "gt", message.end_time_after),
        ("end_time", "lt", message.end_time_before),
    )
    for column, op, moment in spans:
        if moment is not None:
            yield Condition(column, op, micros(moment))


async def update_selected(
    store: Store, principal: Principal, message: BatchJobsUpdate, now: datetime
) -> BatchJobsChanged:
    """Make the same change to every match. An end is asked of those that ended already only when they were named."""
    patch = message.patch
    check_given(principal, patch.model_dump(exclude_unset=True, exclude_none=True))
    ending = patch.state is BatchJobState.PENDING_DELETION and message.filter.id is None

    def change(tx: Tx, row: BatchJobRow) -> bool | None:
        if ending and row.state in BATCH_JOB_ENDED:
            return None
        return batch_job_view(tx, row) != patch_batch_job(tx, principal, row.id, patch, now)

    changed, refused = await _over(store, principal, message.filter, change)
    return BatchJobsChanged(changed=changed, refused=refused)


async def delete_selected(store: Store, principal: Principal, message: BatchJobsSelect, now: datetime) -> Deleted:
    """Remove the records of those that ended; ask the others to end, and name them."""
    asked: dict[int, str] = {}

    def remove(tx: Tx, row: BatchJobRow) -> bool | None:
        reply = delete_batch_job(tx, principal, row.id, now)
        asked.update(dict.fromkeys(reply.skipped, reply.reason))
        return bool(reply.deleted)

    deleted, refused = await _over(store, principal, message.filter, remove)
    skipped = asked | refused
    return Deleted(deleted=deleted, skipped=sorted(skipped), reason=next(iter(skipped.values()), ""))


async def _over(
    store: Store, principal: Principal, message: BatchJobFilter, act: Callable[[Tx, BatchJobRow], bool | None]
) -> tuple[int, dict[int, str]]:
    """Act on every match, in slices that are a transaction each. What is refused hinders nothing else."""
    principal.require("user")
    ids = await store.read(lambda tx: [row.id for row in selected(tx, principal, message)], principal.user_id)
    changed = 0
    refused: dict[int, str] = {}
    for start in range(0, len(ids), SLICE):
        some = ids[start : start + SLICE]

        def one_slice(tx: Tx, some: list[int] = some) -> tuple[int, dict[int, str]]:
            rows = selected(tx, principal, message.model_copy(update={"id": some}))
            done, not_done = 0, {}
            for row in rows:
                try:
                    done += bool(act(tx, row))
                except Forbidden as error:  # another submitter's: no more than not selected, unless it was named
                    if message.id is not None:
                        not_done[row.id] = error.message
                except ServiceError as error:
                    not_done[row.id] = error.message
            return done, not_done

        done, not_done = await store.write(one_slice, principal.user_id)
        changed += done
        refused.update(not_done)
    return changed, refused
