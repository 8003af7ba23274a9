"""What a list, a page of events or an acquire asks for, in a form that every store can carry out."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from balsam.domain.failure import Failure
from balsam.domain.job_order import JobOrder
from balsam.domain.states import JobState, TransferState
from balsam.domain.transfers import TransferDirection
from balsam.server.store.conditions import Condition


@dataclass(frozen=True, slots=True)
class JobSelection:
    """Selects Jobs at the Sites of one owner; None means no condition, an empty tuple selects nothing.

    One owner, so that no query ever crosses tenants (S14). Who sees the Sites of several owners is answered from one
    selection for each: usecases.several.
    """

    owner_id: int
    ids: tuple[int, ...] | None = None
    parent_ids: tuple[int, ...] | None = None
    app_ids: tuple[int, ...] | None = None
    site_ids: tuple[int, ...] | None = None
    batch_job_ids: tuple[int, ...] | None = None
    submitter_ids: tuple[int, ...] | None = None
    states: tuple[JobState, ...] | None = None
    failures: tuple[Failure, ...] | None = None
    tags: tuple[tuple[str, str], ...] = ()
    workdir_contains: str | None = None
    updated_before: int | None = None
    updated_after: int | None = None
    pending_file_cleanup: bool | None = None
    conditions: tuple[Condition, ...] = ()


@dataclass(frozen=True, slots=True)
class PageWindow:
    """Which part of an ordered result: `after` is the id of the last row of the page before, `after_value` what it was
    ordered by, where that is not the id."""

    order_by: str = "id"  # id, last_update, state, workdir (Jobs); timestamp (events)
    descending: bool = False
    limit: int = 1000
    offset: int = 0
    after: int | None = None
    after_value: int | str | None = None


@dataclass(frozen=True, slots=True)
class EventSelection:
    """Selects events of one owner's Jobs. `job_states` are the states that the Jobs have now."""

    owner_id: int
    ids: tuple[int, ...] | None = None
    job_ids: tuple[int, ...] | None = None
    job_states: tuple[JobState, ...] | None = None
    failures: tuple[Failure, ...] | None = None
    site_ids: tuple[int, ...] | None = None
    app_ids: tuple[int, ...] | None = None
    batch_job_ids: tuple[int, ...] | None = None
    workdir_contains: str | None = None
    tags: tuple[tuple[str, str], ...] = ()
    data: tuple[tuple[str, str], ...] = ()
    before: int | None = None
    after: int | None = None
    from_state: JobState | None = None
    to_state: JobState | None = None
    conditions: tuple[Condition, ...] = ()

    @property
    def jobs(self) -> JobSelection:
        """The Jobs whose events these are."""
        return JobSelection(
            owner_id=self.owner_id,
            ids=self.job_ids,
            app_ids=self.app_ids,
            site_ids=self.site_ids,
            batch_job_ids=self.batch_job_ids,
            states=self.job_states,
            failures=self.failures,
            tags=self.tags,
            workdir_contains=self.workdir_contains,
        )


# Characters of JSON that parameters and data of the Jobs of one grant may have together; one Job is always granted.
MAX_GRANT_LENGTH = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class TransferSelection:
    """Selects TransferItems of one owner; `job_states` and `tags` are conditions on their Jobs."""

    owner_id: int
    ids: tuple[int, ...] | None = None
    job_ids: tuple[int, ...] | None = None
    site_ids: tuple[int, ...] | None = None
    states: tuple[TransferState, ...] | None = None
    direction: TransferDirection | None = None
    job_states: tuple[JobState, ...] | None = None
    tags: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Backlog:
    """TransferItems that wait or are on their way: how many, and when the oldest of them was made."""

    count: int
    oldest_at: int


@dataclass(frozen=True, slots=True)
class Census:
    """Numbers over all owners, for those who run the service. `oldest`: when the first of the Jobs that stand in a
    state was submitted, for states in which Jobs do not stay; `backlog` by direction and state."""

    jobs: Mapping[JobState, int]
    oldest: Mapping[JobState, int]
    backlog: Mapping[tuple[str, str], Backlog]


@dataclass(frozen=True, slots=True)
class AcquireCriteria:
    """What a Session can run, and the order in which Jobs come.

    `awaits_hook`: Jobs that wait for a hook, by priority, then oldest first; nothing else is asked of them.
    """

    site_id: int
    max_jobs: int
    max_wall_time_min: int | None = None
    max_nodes_per_job: int | None = None
    max_aggregate_nodes: float | None = None
    max_gpus_per_node: int | None = None
    serial_only: bool = False
    filter_tags: tuple[tuple[str, str], ...] = ()
    order: JobOrder = "fifo"
    awaits_hook: bool = False

    @property
    def candidates(self) -> int:
        """How many Jobs to look at: more than are granted where some may not fit the aggregate."""
        return self.max_jobs if self.max_aggregate_nodes is None else 4 * self.max_jobs + 100


class RunnableShape(NamedTuple):
    """How many of the Jobs that were looked at ask for the same."""

    wall_time_min: int
    num_nodes: int
    node_packing_count: int
    number: int


def fitting(candidates: Iterable[tuple[int, int, int]], criteria: AcquireCriteria) -> list[int]:
    """Ids, in order, of (id, num_nodes, node_packing_count) whose footprints add up to at most `max_aggregate_nodes`.

    What is too large for the room that is left is passed over.
    """
    chosen: list[int] = []
    room = criteria.max_aggregate_nodes
    for job_id, num_nodes, packing in candidates:
        if room is not None:
            if num_nodes / packing > room + 1e-9:
                continue
            room -= num_nodes / packing
        chosen.append(job_id)
        if len(chosen) == criteria.max_jobs:  # before the next one is looked for
            break
    return chosen


def light_enough(ids: list[int], lengths: Mapping[int, int], most: int) -> list[int]:
    """The first of the Jobs whose lengths add up to at most `most`; at least one."""
    chosen: list[int] = []
    for job_id in ids:
        most -= lengths[job_id]
        if most < 0 and chosen:
            break
        chosen.append(job_id)
    return chosen
