"""Submitting Jobs in bulk: all of them or none (S2), every fault named by its row.

Parents must exist when a Job is submitted, and a Job's parents never change: that is why there can be no cycles.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from operator import attrgetter
from typing import Any

from balsam.domain.app import AppSpec
from balsam.domain.job import Resources
from balsam.domain.lifecycle import AWAITED_HOOKS, Decision, Hook, JobFacts, submit
from balsam.domain.paths import BadPath, contained
from balsam.domain.roles import CAMPAIGN_TAG, Role
from balsam.domain.states import RUNNABLE_STATES, JobState
from balsam.domain.template import ParameterError, check_parameters
from balsam.domain.transfers import TransferDirection
from balsam.server.errors import Forbidden, Invalid, NotFound
from balsam.server.principal import Principal
from balsam.server.store.protocol import Tx, Wake
from balsam.server.store.records import (
    STAGE_IN_BIT,
    STAGE_OUT_BIT,
    AppAtSite,
    AppRow,
    HotJob,
    JobShape,
    Json,
    NewJob,
    micros,
    steps_mask,
)
from balsam.server.usecases.limits import BadJson, json_text, parameters_limit, tag_problems
from balsam.server.usecases.scope import Access, access_of, access_to, seen_jobs
from balsam.server.usecases.submit_transfers import Slots, Wanted, insert_items, load_blobs
from balsam.server.usecases.users import check_job_quota
from balsam.wire.apps import AppSync
from balsam.wire.base import ErrorDetail
from balsam.wire.jobs import JobCreate, JobsCreate, JobsCreated
from balsam.wire.limits import MAX_PARAMETERS_BYTES

_Resources = tuple[int, int, int, int, float, int, int]
_RESOURCES = (
    *("num_nodes", "ranks_per_node", "threads_per_rank", "threads_per_core"),
    *("gpus_per_rank", "node_packing_count", "wall_time_min"),
)
# What decides whether a Job without parents and transfers may be submitted, beside its texts, tags and parameters.
_kind_of: Callable[[JobCreate], tuple[Any, ...]] = attrgetter(
    "app_id", "priority", *_RESOURCES, "max_attempts", "pending_file_cleanup"
)
_resources_of: Callable[[JobCreate], _Resources] = attrgetter(*_RESOURCES)
_FAILED = frozenset({JobState.FAILED, JobState.CANCELLED})
_NO_SLOTS: tuple[Wanted, ...] = ()


@dataclass(frozen=True, slots=True)
class _App:
    """What a submission needs of an App, worked out once for all its Jobs."""

    row: AppRow
    spec: AppSpec
    required: frozenset[str]
    optional: frozenset[str]
    slots: Slots
    steps: int
    runs_python: bool
    most_parameters: int


@dataclass(slots=True)
class _Submission:
    """One request while it is checked. Jobs that are alike share a shape, which is checked once."""

    access: Access
    whose: str  # what the Jobs that it may name are, in words
    apps: dict[int, _App]
    parents: dict[int, HotJob]
    faults: int = 0
    invalid: list[ErrorDetail] = field(default_factory=list)
    missing: list[ErrorDetail] = field(default_factory=list)
    forbidden: list[ErrorDetail] = field(default_factory=list)
    shapes: dict[tuple[object, ...], JobShape] = field(default_factory=dict)
    kinds: dict[tuple[Any, ...], JobShape] = field(default_factory=dict)  # those found well
    transfers: dict[int, tuple[Wanted, ...]] = field(default_factory=dict)  # by row, of Jobs that have any

    def refuse(self, index: int, where: str, why: object) -> None:
        self.faults += 1
        self.invalid.append(ErrorDetail(where=f"jobs[{index}].{where}", message=str(why)))

    def forbid(self, index: int, where: str, why: str) -> None:
        self.faults += 1
        self.forbidden.append(ErrorDetail(where=f"jobs[{index}].{where}", message=why))

    def miss(self, index: int, where: str, why: str) -> None:
        self.faults += 1
        self.missing.append(ErrorDetail(where=f"jobs[{index}].{where}", message=why))


def submit_jobs(tx: Tx, principal: Principal, message: JobsCreate, now: datetime) -> JobsCreated:
    """Create all Jobs of the request. Raises Invalid naming every bad row, NotFound naming unknown Apps and parents,
    Forbidden naming Apps at Sites where the caller may not submit."""
    principal.require("user", "site", "job")
    whose = "yours" if principal.site_id is None else "of this Site"
    places = tx.apps_at_sites(tuple({job.app_id for job in message.jobs}))
    parents = {parent for job in message.jobs for parent in job.parent_ids}
    access = access_of(tx, principal) if parents else access_to(tx, principal, map(_home, places))
    apps = {place.app.id: _app(place) for place in places if access.offered(*_home(place)) is not None}
    work = _Submission(access, whose, apps, seen_jobs(tx, access, parents) if parents else {})
    new = [made for index, job in enumerate(message.jobs) if (made := _checked(work, index, job)) is not None]
    if work.invalid:
        raise Invalid(work.invalid + work.missing)
    if work.missing:
        raise NotFound(work.missing)
    if work.forbidden:
        raise Forbidden(f"{work.forbidden[0].where}: {work.forbidden[0].message}", work.forbidden)
    limited = {place.app.owner_id for place in places if place.max_jobs is not None}
    if limited:
        check_job_quota(tx, Counter(made.shape.owner_id for made in new if made.shape.owner_id in limited))
    blobs = load_blobs(tx, principal, {index: message.jobs[index] for index in work.transfers})
    ids = tx.insert_jobs(new, micros(now))
    if work.transfers:
        insert_items(tx, [(ids[index], new[index], slots) for index, slots in work.transfers.items()], blobs, now)
    begun = {(it.site_id, it.decision.after.state) for it in work.shapes.values()}
    for site_id in {site_id for site_id, state in begun if state in RUNNABLE_STATES}:
        tx.wake(Wake("work", site_id, "work", {}))
    for site_id in {site_id for site_id, state in begun if state in AWAITED_HOOKS}:
        tx.wake(Wake("site", site_id, "hooks", {}))
    states = [job.shape.decision.after.state for job in new]
    return JobsCreated(ids=ids, states=states, site_ids=[job.shape.site_id for job in new], created_at=now)


def _home(place: AppAtSite) -> tuple[int, int]:
    return place.app.owner_id, place.app.site_id


def _app(place: AppAtSite) -> _App:
    row = place.app
    spec = _spec_of(_Definition(row.id, row.synced_at, row.content_hash, row.definition))
    required = tuple(name for name, slot in spec.transfers.items() if slot.required)
    slots = Slots(row.name, spec.transfers, required, place.site_name, place.transfer_locations)
    return _App(
        row,
        spec,
        spec.required_parameters,
        spec.optional_parameters,
        slots,
        steps_mask(spec.hooks),
        spec.runs_python,
        parameters_limit(spec),
    )


@dataclass(frozen=True, slots=True)
class _Definition:
    """An App's, of which its last sync gave the hash."""

    app_id: int
    synced_at: int
    content_hash: str
    content: Json = field(compare=False)


@lru_cache(maxsize=64)
def _spec_of(definition: _Definition) -> AppSpec:
    """Kept, as it takes a fifth of the submission of one Job."""
    return AppSync.model_validate(definition.content).spec()


def _checked(work: _Submission, index: int, job: JobCreate) -> NewJob | None:
    """The row to insert, or None after its faults were noted."""
    app = work.apps.get(job.app_id)
    before = work.faults
    kind = _kind_of(job)
    shape = work.kinds.get(kind) if not (job.parent_ids or job.transfers) else None
    if shape is None:
        if job.parent_ids:
            _check_parents(work, index, job, app)
        for why in Resources(*_resources_of(job)).problems():
            work.refuse(index, "resources", why)
    for why in tag_problems(job.tags) if job.tags else ():
        work.refuse(index, "tags", why)
    workdir = _workdir(work, index, job.workdir)
    most = MAX_PARAMETERS_BYTES if app is None else app.most_parameters
    parameters = _text(work, index, "parameters", job.parameters, most) if job.parameters else "{}"
    data = _text(work, index, "data", job.data) if job.data else "{}"
    launch_params = _text(work, index, "launch_params", job.launch_params) if job.launch_params else "{}"
    if app is None:
        work.miss(index, "app_id", f"there is no App {job.app_id}, or it is not {work.whose}")
        return None
    slots = _NO_SLOTS
    if shape is None:
        _check_role(work, index, app, job)
    _check_app(work, index, app, job)
    if shape is None and (job.transfers or app.slots.required):
        slots = _slots(work, index, app, job)
    if work.faults > before or work.missing:
        return None
    if shape is None:
        shape = _shape(work, app, job, slots)
        if not (job.parent_ids or slots or work.access.campaigns):
            work.kinds[kind] = shape
    transfers = json_text({wanted.slot: str(wanted.location) for wanted in slots}, "transfers") if slots else "{}"
    return NewJob(shape, workdir, parameters, job.tags, data, launch_params, transfers, job.parent_ids)


def _slots(work: _Submission, index: int, app: _App, job: JobCreate) -> tuple[Wanted, ...]:
    """The Job's transfers, after faults were noted."""
    found: list[Wanted] = []
    for checked in app.slots.check(job.transfers):
        if isinstance(checked, Wanted):
            found.append(checked)
        else:
            work.refuse(index, *checked)
    if found:
        work.transfers[index] = tuple(found)
    return tuple(found)


def _check_parents(work: _Submission, index: int, job: JobCreate, app: _App | None) -> None:
    for number, parent in enumerate(job.parent_ids):
        known = work.parents.get(parent)
        if known is None:
            why = f"there is no Job {parent}, or it is not {work.whose}; parents are submitted before their children"
            work.miss(index, f"parent_ids[{number}]", why)
        elif app is not None and known.owner_id != app.row.owner_id:
            why = f"Job {parent} is at a Site of another owner; parents and children are at Sites of one owner"
            work.refuse(index, f"parent_ids[{number}]", why)


def _check_role(work: _Submission, index: int, app: _App, job: JobCreate) -> None:
    """Submitting takes the role at the Site, or in the campaign that the Job's tag names."""
    role = work.access.of_tags(app.row.owner_id, app.row.site_id, job.tags)
    if role is not None and role.includes(Role.SUBMITTER):
        return
    names = [name for (owner, name), _ in work.access.campaigns.items() if owner == app.row.owner_id]
    tags = " or ".join(f"{CAMPAIGN_TAG}={name}" for name in names)
    here = f"tag the Job {tags}, or ask" if tags else "ask"
    work.forbid(index, "app_id", f"you may not submit to the Site of App {app.row.name!r}; {here} its owner")


def _check_app(work: _Submission, index: int, app: _App, job: JobCreate) -> None:
    """What the App asks of its Jobs."""
    try:
        if app.runs_python:
            app.spec.check_parameters(job.parameters)
        else:
            check_parameters(app.required, app.optional, job.parameters, app.row.name)
    except ParameterError as error:
        work.refuse(index, "parameters", error)


def _workdir(work: _Submission, index: int, given: str) -> str:
    try:
        return contained(given)
    except BadPath as error:
        work.refuse(index, "workdir", error)
        return ""


def _text(
    work: _Submission, index: int, name: str, value: Mapping[str, object], max_bytes: int = MAX_PARAMETERS_BYTES
) -> str:
    try:
        return json_text(value, name, max_bytes)
    except BadJson as error:
        work.refuse(index, name, error)
        return ""


def _shape(work: _Submission, app: _App, job: JobCreate, slots: tuple[Wanted, ...]) -> JobShape:
    """Equal facts give an equal Decision, so most of a bulk shares one shape."""
    unfinished, failed = 0, ""
    for parent in job.parent_ids:
        state = work.parents[parent].state
        unfinished += state is not JobState.JOB_FINISHED
        if state in _FAILED:
            failed = failed or f"its parent Job {parent} is {state}"
    stages = _stages(slots) if slots else 0
    cleanup = job.pending_file_cleanup and bool(app.spec.cleanup_files)
    key = (*_kind_of(job), unfinished > 0, failed, stages)
    shape = work.shapes.get(key)
    if shape is None:
        decision = _first_steps(job.max_attempts, app.spec.hooks, stages, unfinished, failed)
        shape = work.shapes[key] = JobShape(
            app.row.owner_id,
            work.access.principal.user_id,
            app.row.site_id,
            job.app_id,
            decision,
            job.priority,
            *_resources_of(job),
            max_attempts=job.max_attempts,
            steps=app.steps | stages,
            pending_file_cleanup=cleanup,
        )
    return shape


@lru_cache(maxsize=1024)
def _first_steps(
    max_attempts: int | None, hooks: frozenset[Hook], stages: int, unfinished: int, failed: str
) -> Decision:
    """The Decision on a new Job, which depends on nothing else."""
    facts = JobFacts(
        JobState.CREATED,
        max_attempts=max_attempts,
        hooks=hooks,
        has_stage_in=bool(stages & STAGE_IN_BIT),
        has_stage_out=bool(stages & STAGE_OUT_BIT),
    )
    return submit(facts, unfinished_parents=unfinished, failed_parent=failed)


def _stages(slots: Iterable[Wanted]) -> int:
    directions = {wanted.direction for wanted in slots}
    into = STAGE_IN_BIT if TransferDirection.stage_in in directions else 0
    return into | (STAGE_OUT_BIT if TransferDirection.stage_out in directions else 0)
