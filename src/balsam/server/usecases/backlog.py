"""The backlog of a Site: what waits to run, and what the allocations that are there will take of it.

One call tells an agent's elastic queue all that it decides upon. It reads along the indexes of an acquire and stops
after so many Jobs: its cost does not grow with the number of Jobs at the Site.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from balsam.domain.lease import SessionPurpose
from balsam.domain.roles import Role
from balsam.domain.states import BatchJobState, JobMode
from balsam.server.principal import Principal
from balsam.server.store.protocol import ReadTx
from balsam.server.store.records import BatchJobRow, SessionRow, moment_or_none
from balsam.server.store.selections import AcquireCriteria, RunnableShape
from balsam.server.usecases.limits import pairs
from balsam.server.usecases.scope import find_site
from balsam.wire.backlog import Backlog, BacklogQuery, BacklogSupply, WaitingJobs

_OPEN = (BatchJobState.PENDING_SUBMISSION, BatchJobState.QUEUED, BatchJobState.RUNNING, BatchJobState.UNKNOWN)
# Of each launcher so many Jobs are looked at; one that holds more is busy.
HELD_LOOK = 1000
_LEAST_LOOK = 500
_EXACT_TO_MIN = 100


def site_backlog(tx: ReadTx, principal: Principal, site_id: int, query: BacklogQuery) -> Backlog:
    """What waits at the Site. Raises NotFound, Invalid."""
    principal.require("user", "site")
    site = find_site(tx, principal, site_id, Role.VIEWER)
    wanted = _criteria(site.id, query)
    found = tx.runnable_shapes(wanted)
    batch_jobs = tx.find(BatchJobRow, site_id=site.id, state=tuple(map(str, _OPEN)))
    names: dict[AcquireCriteria, int] = {}
    slices = [part for row in batch_jobs if not row.draining for part in _slices(row, wanted, names)]
    share = max(_LEAST_LOOK, query.max_jobs // max(1, len(names)))
    parts = [tx.runnable_shapes(replace(part, max_jobs=share)) if found else [] for part in names]
    held = _held(tx, site.id)
    return Backlog(
        waiting=_waiting(found),
        parts=[_waiting(part) for part in parts],
        supplies=[_supply(part, held) for part in slices],
        has_others=not found and bool(tx.runnable_shapes(AcquireCriteria(site.id, 1))),
    )


def _criteria(site_id: int, query: BacklogQuery) -> AcquireCriteria:
    return AcquireCriteria(
        site_id=site_id,
        max_jobs=query.max_jobs,
        max_wall_time_min=query.max_wall_time_min,
        max_nodes_per_job=query.max_nodes_per_job,
        max_gpus_per_node=query.max_gpus_per_node,
        serial_only=query.serial_only,
        filter_tags=pairs(query.tags, "tags"),
    )


@dataclass(frozen=True, slots=True)
class _Slice:
    """What one launcher has of an allocation, and the part of the demands that it takes."""

    row: BatchJobRow
    num_nodes: int
    part: int | None


def _slices(row: BatchJobRow, wanted: AcquireCriteria, names: dict[AcquireCriteria, int]) -> Iterator[_Slice]:
    """The launchers of an allocation; `names` gets each narrower part once."""
    whole: list[tuple[str, int, Mapping[str, str]]] = [(row.job_mode, row.num_nodes, {})]
    if row.partitions is not None:
        whole = [(part["job_mode"], part["num_nodes"], part["filter_tags"]) for part in row.partitions]
    for mode, num_nodes, tags in whole:
        asked = dict(wanted.filter_tags)
        all_tags = {**row.filter_tags, **tags}
        if any(all_tags.get(key, value) != value for key, value in asked.items()):
            continue  # it takes none of these Jobs
        narrow = replace(
            wanted,
            filter_tags=tuple(sorted((asked | all_tags).items())),
            serial_only=wanted.serial_only or mode == JobMode.SERIAL,
        )
        same = narrow == replace(wanted, filter_tags=tuple(sorted(asked.items())))
        yield _Slice(row, num_nodes, None if same else names.setdefault(narrow, len(names)))


def _held(tx: ReadTx, site_id: int) -> dict[int, float | None]:
    """By BatchJob, the nodes that its launchers' Jobs take up."""
    held: dict[int, float | None] = {}
    for session in tx.find(SessionRow, site_id=site_id, purpose=SessionPurpose.RUN.value, ended_at=None):
        if session.batch_job_id is not None:
            nodes, before = tx.held_nodes(session.id, HELD_LOOK), held.get(session.batch_job_id, 0.0)
            held[session.batch_job_id] = None if nodes is None or before is None else nodes + before
    return held


def _supply(part: _Slice, held: Mapping[int, float | None]) -> BacklogSupply:
    """Partitions are taken to be equally busy."""
    row = part.row
    whole = held.get(row.id, 0.0)
    return BacklogSupply(
        batch_job_id=row.id,
        state=row.state,
        num_nodes=part.num_nodes,
        wall_time_min=row.wall_time_min,
        start_time=moment_or_none(row.start_time),
        held_nodes=None if whole is None else whole * part.num_nodes / row.num_nodes,
        part=part.part,
    )


def _waiting(shapes: Iterable[RunnableShape]) -> list[WaitingJobs]:
    counts: Counter[tuple[int, int, int]] = Counter()
    for shape in shapes:
        counts[shape.num_nodes, _rounded(shape.wall_time_min), shape.node_packing_count] += shape.number
    return [
        WaitingJobs(num_nodes=nodes, wall_time_min=minutes, node_packing_count=packing, number=number)
        for (nodes, minutes, packing), number in sorted(counts.items())
    ]


def _rounded(minutes: int) -> int:
    """Upwards to two digits, so that ten thousand estimates are not ten thousand lines."""
    step = 1
    while minutes > _EXACT_TO_MIN * step:
        step *= 10
    return -(-minutes // step) * step
