"""Submitting Jobs in bulk: all of them or none (S2), every fault named by its row.

Parents must exist when a Job is submitted, and a Job's parents never change: that is why there can be no cycles.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

from balsam.domain.app import AppSpec
from balsam.domain.job import Resources
from balsam.domain.lifecycle import Decision, JobFacts, submit
from balsam.domain.paths import BadPath, contained
from balsam.domain.states import RUNNABLE_STATES, JobState
from balsam.domain.template import ParameterError, check_parameters
from balsam.server.errors import Invalid, NotFound
from balsam.server.principal import Principal
from balsam.server.store.protocol import Tx, Wake
from balsam.server.store.records import AppRow, HotJob, NewJob, micros, steps_mask
from balsam.server.usecases.limits import BadJson, json_text, tag_problems
from balsam.wire.apps import AppSync
from balsam.wire.base import ErrorDetail
from balsam.wire.jobs import JobCreate, JobsCreate, JobsCreated

_FAILED = frozenset({JobState.FAILED, JobState.CANCELLED})
NO_TRANSFERS = (
    "this release has no transfer back end, so a Job can't have transfers; put the files where the Site can read them"
)


@dataclass(frozen=True, slots=True)
class _App:
    """What a submission needs of an App, worked out once for all its Jobs."""

    row: AppRow
    spec: AppSpec
    required: frozenset[str]
    optional: frozenset[str]
    required_slots: tuple[str, ...]
    steps: int


@dataclass(slots=True)
class _Submission:
    """One request while it is checked."""

    owner_id: int
    apps: dict[int, _App]
    parents: dict[int, HotJob]
    invalid: list[ErrorDetail] = field(default_factory=list)
    missing: list[ErrorDetail] = field(default_factory=list)
    decisions: dict[tuple[object, ...], Decision] = field(default_factory=dict)
    shapes: dict[tuple[object, ...], tuple[str, ...]] = field(default_factory=dict)


def submit_jobs(tx: Tx, principal: Principal, message: JobsCreate, now: datetime) -> JobsCreated:
    """Create all Jobs of the request. Raises Invalid naming every bad row, NotFound naming unknown Apps and parents."""
    principal.require("user")
    work = _Submission(principal.user_id, _load_apps(tx, principal, message), _load_parents(tx, principal, message))
    new = [made for index, job in enumerate(message.jobs) if (made := _checked(work, index, job)) is not None]
    if work.invalid:
        raise Invalid(work.invalid + work.missing)
    if work.missing:
        raise NotFound(work.missing)
    ids = tx.insert_jobs(new, micros(now))
    for site_id in {job.site_id for job in new if job.decision.after.state in RUNNABLE_STATES}:
        tx.wake(Wake("work", site_id, "work", {}))
    states = [job.decision.after.state for job in new]
    return JobsCreated(ids=ids, states=states, site_ids=[job.site_id for job in new], created_at=now)


def _load_apps(tx: Tx, principal: Principal, message: JobsCreate) -> dict[int, _App]:
    rows = tx.find(AppRow, id=tuple({job.app_id for job in message.jobs}), owner_id=principal.user_id)
    apps: dict[int, _App] = {}
    for row in rows:
        spec = AppSync.model_validate(row.definition).spec()
        slots = tuple(name for name, slot in spec.transfers.items() if slot.required)
        steps = steps_mask(spec.hooks)
        apps[row.id] = _App(row, spec, spec.required_parameters, spec.optional_parameters, slots, steps)
    return apps


def _load_parents(tx: Tx, principal: Principal, message: JobsCreate) -> dict[int, HotJob]:
    ids = {parent for job in message.jobs for parent in job.parent_ids}
    if not ids:
        return {}
    return {job.id: job for job in tx.hot_jobs(ids).values() if job.owner_id == principal.user_id}


def _checked(work: _Submission, index: int, job: JobCreate) -> NewJob | None:
    """The row to insert, or None after its faults were noted."""
    app = work.apps.get(job.app_id)
    if app is None:
        why = f"there is no App {job.app_id}, or it is not yours"
        work.missing.append(ErrorDetail(where=f"jobs[{index}].app_id", message=why))
    for number, parent in enumerate(job.parent_ids):
        if parent not in work.parents:
            why = f"there is no Job {parent}, or it is not yours; parents are submitted before their children"
            work.missing.append(ErrorDetail(where=f"jobs[{index}].parent_ids[{number}]", message=why))
    faults = len(work.invalid) + len(work.missing)
    texts: dict[str, str] = {}
    for where, why in _problems(work, app, job, texts):
        work.invalid.append(ErrorDetail(where=f"jobs[{index}].{where}", message=why))
    if app is None or len(work.invalid) + len(work.missing) > faults or work.missing:
        return None
    return NewJob(
        owner_id=work.owner_id,
        site_id=app.row.site_id,
        app_id=job.app_id,
        decision=_decision(work, app, job),
        priority=job.priority,
        num_nodes=job.num_nodes,
        ranks_per_node=job.ranks_per_node,
        threads_per_rank=job.threads_per_rank,
        threads_per_core=job.threads_per_core,
        gpus_per_rank=job.gpus_per_rank,
        node_packing_count=job.node_packing_count,
        wall_time_min=job.wall_time_min,
        max_attempts=job.max_attempts,
        steps=app.steps,
        workdir=texts["workdir"],
        parameters=texts["parameters"],
        tags=job.tags,
        data=texts["data"],
        launch_params=texts["launch_params"],
        transfers="{}",
        parent_ids=job.parent_ids,
    )


def _problems(work: _Submission, app: _App | None, job: JobCreate, texts: dict[str, str]) -> Iterator[tuple[str, str]]:
    """(where, what is wrong) of one Job; fills `texts` with the checked forms."""
    try:
        texts["workdir"] = contained(job.workdir)
    except BadPath as error:
        yield "workdir", str(error)
    for name, value in (("parameters", job.parameters), ("data", job.data), ("launch_params", job.launch_params)):
        try:
            texts[name] = json_text(value, name)
        except BadJson as error:
            yield name, str(error)
    for why in _shape_problems(work, job):
        yield "resources", why
    if job.tags:
        for why in tag_problems(job.tags):
            yield "tags", why
    if job.transfers:
        yield "transfers", NO_TRANSFERS
    if app is None:
        return
    try:
        check_parameters(app.required, app.optional, job.parameters, app.row.name)
    except ParameterError as error:
        yield "parameters", str(error)
    if app.required_slots:
        yield "transfers", f"App {app.row.name!r} needs {', '.join(app.required_slots)}; {NO_TRANSFERS}"


def _shape_problems(work: _Submission, job: JobCreate) -> tuple[str, ...]:
    shape = (
        job.num_nodes,
        job.ranks_per_node,
        job.threads_per_rank,
        job.threads_per_core,
        job.gpus_per_rank,
        job.node_packing_count,
        job.wall_time_min,
    )
    problems = work.shapes.get(shape)
    if problems is None:
        problems = work.shapes[shape] = tuple(Resources(*shape).problems())
    return problems


def _decision(work: _Submission, app: _App, job: JobCreate) -> Decision:
    """Equal facts give equal decisions, so most of a bulk shares one."""
    unfinished, failed = 0, ""
    for parent in job.parent_ids:
        state = work.parents[parent].state
        unfinished += state is not JobState.JOB_FINISHED
        if state in _FAILED:
            failed = failed or f"its parent Job {parent} is {state}"
    key = (app.steps, job.max_attempts, unfinished > 0, failed)
    decision = work.decisions.get(key)
    if decision is None:
        facts = JobFacts(JobState.CREATED, max_attempts=job.max_attempts, hooks=app.spec.hooks)
        decision = submit(facts, unfinished_parents=unfinished, failed_parent=failed)
        work.decisions[key] = decision
    return decision
