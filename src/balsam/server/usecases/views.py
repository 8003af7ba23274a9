"""From rows to the messages that show them."""

from collections.abc import Iterable

from balsam.domain.lease import LEASE_MARGIN_SEC, LEASE_RENEW_SEC, LEASE_TTL_SEC
from balsam.server.store.protocol import ReadTx
from balsam.server.store.records import (
    AppRow,
    BatchJobRow,
    EventRow,
    JobRow,
    SessionRow,
    TransferItemRow,
    UserRow,
    moment,
    moment_or_none,
)
from balsam.wire.apps import AppView
from balsam.wire.batch_jobs import BatchJobPartition, BatchJobView
from balsam.wire.events import EventView
from balsam.wire.sessions import SessionView
from balsam.wire.transfers import TransferContent, TransferItemView


def app_view(app: AppRow, author: str) -> AppView:
    return AppView(
        **app.definition,
        id=app.id,
        content_hash=app.content_hash,
        synced_at=moment(app.synced_at),
        synced_by=author,
    )


def app_views(tx: ReadTx, apps: Iterable[AppRow]) -> list[AppView]:
    """The Apps with the names of those who synced them."""
    apps = list(apps)
    names = user_names(tx, {app.author_id for app in apps})
    return [app_view(app, names[app.author_id]) for app in apps]


def user_names(tx: ReadTx, user_ids: set[int]) -> dict[int, str]:
    """Names of accounts, which are never removed."""
    return {user.id: user.username for user in tx.find(UserRow, id=tuple(user_ids))} if user_ids else {}


def batch_job_views(tx: ReadTx, rows: Iterable[BatchJobRow]) -> list[BatchJobView]:
    """The BatchJobs with the names of those who asked for them."""
    rows = list(rows)
    names = user_names(tx, {row.submitter_id for row in rows})
    return [_batch_job_view(row, names[row.submitter_id]) for row in rows]


def batch_job_view(tx: ReadTx, row: BatchJobRow) -> BatchJobView:
    return batch_job_views(tx, [row])[0]


def _batch_job_view(row: BatchJobRow, submitter: str) -> BatchJobView:
    partitions = None if row.partitions is None else [BatchJobPartition(**part) for part in row.partitions]
    return BatchJobView(
        id=row.id,
        submitted_by=submitter,
        site_id=row.site_id,
        num_nodes=row.num_nodes,
        wall_time_min=row.wall_time_min,
        job_mode=row.job_mode,
        queue=row.queue,
        project=row.project,
        optional_params=row.optional_params,
        filter_tags=row.filter_tags,
        partitions=partitions,
        scheduler_id=row.scheduler_id,
        state=row.state,
        status_info=row.status_info,
        created_at=moment(row.created_at),
        start_time=moment_or_none(row.start_time),
        end_time=moment_or_none(row.end_time),
        draining=row.draining,
    )


def session_view(row: SessionRow) -> SessionView:
    return SessionView(
        id=row.id,
        site_id=row.site_id,
        batch_job_id=row.batch_job_id,
        kind=row.kind,
        purpose=row.purpose,
        label=row.label,
        ttl_sec=LEASE_TTL_SEC,
        renew_sec=LEASE_RENEW_SEC,
        margin_sec=LEASE_MARGIN_SEC,
        opened_at=moment(row.opened_at),
        renewed_at=moment(row.renewed_at),
        acquire_seq=row.acquire_seq,
        report_seq=row.report_seq,
    )


def transfer_views(tx: ReadTx, rows: Iterable[TransferItemRow]) -> list[TransferItemView]:
    """The items, with where and how their Jobs are, and whose."""
    rows = list(rows)
    jobs = {job.id: job for job in tx.jobs({row.job_id for row in rows})}
    people = user_names(tx, {job.submitter_id for job in jobs.values()})
    return [_transfer_view(row, jobs[row.job_id], people[jobs[row.job_id].submitter_id]) for row in rows]


def _transfer_view(row: TransferItemRow, job: JobRow, submitter: str) -> TransferItemView:
    return TransferItemView(
        id=row.id,
        job_id=row.job_id,
        site_id=row.site_id,
        submitted_by=submitter,
        slot=row.slot,
        direction=row.direction,
        local_path=row.local_path,
        remote_path=row.remote_path,
        location_alias=row.location_alias,
        recursive=row.recursive,
        state=row.state,
        task_id=row.task_id,
        transfer_info=row.transfer_info,
        content=TransferContent.model_validate(row.content) if row.content else None,
        origin=row.origin,
        workdir=job.workdir,
        job_state=job.state,
        created_at=moment(row.created_at),
        last_update=moment(row.last_update),
        collected_at=moment_or_none(row.collected_at),
    )


def event_view(row: EventRow) -> EventView:
    return EventView(
        id=row.id,
        job_id=row.job_id,
        seq=row.seq,
        attempt=row.attempt,
        from_state=row.from_state,
        to_state=row.to_state,
        actor=row.actor,
        timestamp=moment(row.timestamp),
        reported_at=moment_or_none(row.reported_at),
        data=row.data,
    )
