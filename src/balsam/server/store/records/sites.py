"""Rows of places: Sites, their Apps and allocations, and the leases of those who work there."""

from dataclasses import dataclass
from typing import NamedTuple

from balsam.domain.lease import LeaseKind, SessionPurpose
from balsam.domain.states import BatchJobState, JobMode
from balsam.server.store.records.jobs import HotJob
from balsam.server.store.records.values import Json


@dataclass(frozen=True, slots=True)
class SiteRow:
    """A Site, and the lease of its agent. `deleted_at` is set while its rows are being removed."""

    id: int
    owner_id: int
    name: str
    path: str
    hostname: str
    allowed_projects: list[str]
    allowed_queues: Json
    optional_batch_job_params: dict[str, str]
    transfer_locations: dict[str, str]
    backfill_windows: Json
    queued_jobs: Json
    created_at: int
    last_refresh: int | None
    agent_instance: str
    agent_hostname: str
    agent_pid: int
    agent_renewed_at: int | None
    deleted_at: int | None
    python: str | None
    scaling: Json


@dataclass(frozen=True, slots=True)
class AppRow:
    """An App; `definition` is its AppSync as JSON. `author_id` synced it; `owner_id` is the Site's owner."""

    id: int
    site_id: int
    owner_id: int
    author_id: int
    name: str
    content_hash: str
    synced_at: int
    definition: Json


class AppAtSite(NamedTuple):
    """What a submission asks of the place it goes to. `max_jobs` is the quota of the Site's owner."""

    app: AppRow
    site_name: str
    transfer_locations: dict[str, str]
    max_jobs: int | None


@dataclass(frozen=True, slots=True)
class BatchJobRow:
    """An allocation. `ended_at` is when the service heard of its end (S13); `start_time`, `end_time` are the Site's.

    `submitter_id` asked for it; `owner_id` is the Site's owner. `draining`: it is granted no more Jobs.
    """

    id: int
    site_id: int
    owner_id: int
    submitter_id: int
    num_nodes: int
    wall_time_min: int
    job_mode: JobMode
    queue: str
    project: str
    optional_params: dict[str, str]
    filter_tags: dict[str, str]
    partitions: list[Json] | None
    scheduler_id: str | None
    state: BatchJobState
    status_info: Json
    created_at: int
    start_time: int | None
    end_time: int | None
    ended_at: int | None
    draining: bool = False


@dataclass(frozen=True, slots=True)
class SessionRow:
    """A lease. Rows stay after `ended_at`, so that late results can be judged.

    `max_gpus_per_node` is what the last acquire said of the launcher's nodes; None: nothing was said.
    """

    id: int
    site_id: int
    owner_id: int
    batch_job_id: int | None
    kind: LeaseKind
    label: str
    opened_at: int
    renewed_at: int
    ended_at: int | None
    acquire_seq: int
    report_seq: int
    max_gpus_per_node: int | None
    purpose: SessionPurpose = SessionPurpose.RUN


class ReportBasis(NamedTuple):
    """What a report is judged by. Of the Jobs it names: (parent, child) pairs of those that may end; and what the
    Session, if there is one, was asked to stop."""

    session: SessionRow | None
    jobs: dict[int, HotJob]
    children: list[tuple[int, int]]
    to_stop: list[int]
