"""Changing fields of Jobs. What decides how a Job runs changes only while no launcher holds it."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from balsam.domain.job import Resources
from balsam.domain.lifecycle import AWAITED_HOOKS
from balsam.domain.paths import BadPath, contained
from balsam.domain.roles import Role
from balsam.domain.states import JobState
from balsam.domain.template import ParameterError
from balsam.server.errors import Conflict, Invalid, NotFound
from balsam.server.principal import Principal
from balsam.server.store.protocol import Tx
from balsam.server.store.records import AppRow, JobRow, micros
from balsam.server.usecases.limits import BadJson, json_text, parameters_limit, tag_problems
from balsam.server.usecases.scope import Access, access_of, not_yours
from balsam.server.usecases.wishes import OF_STATE, fulfil, wish_problems
from balsam.wire.apps import AppSync
from balsam.wire.base import ErrorDetail
from balsam.wire.jobs import JobPatch, JobsChanged, JobsPatch
from balsam.wire.limits import MAX_PARAMETERS_BYTES

_SHAPE = (
    *("num_nodes", "ranks_per_node", "threads_per_rank", "threads_per_core"),
    *("gpus_per_rank", "node_packing_count", "wall_time_min"),
)
_WHILE_FREE = frozenset((*_SHAPE, "parameters", "workdir", "launch_params", "priority"))
_NULLABLE = frozenset({"max_attempts", "return_code"})
_MERGED = {"merge_tags": "tags", "merge_data": "data", "merge_parameters": "parameters"}


def patch_jobs(tx: Tx, principal: Principal, message: JobsPatch, now: datetime) -> JobsChanged:
    """Make a different change to each Job; all or none. Raises NotFound, Invalid, Conflict `job_held`."""
    principal.require("user", "site")
    access = access_of(tx, principal)
    jobs = {job.id: job for job in tx.jobs(message.patches) if access.of_job(job) is not None}
    missing = [job_id for job_id in message.patches if job_id not in jobs]
    if missing:
        why = "there is no such Job, or it is not yours"
        raise NotFound([ErrorDetail(where=f"patches[{job_id}]", message=why) for job_id in missing])
    for job in jobs.values():
        if not access.may_change(job):
            raise not_yours(f"Job {job.id}")
    changed, refused = change_slice(tx, access, message.patches, now)
    if refused:
        job_id, why = next(iter(refused.items()))
        raise Conflict("job_held", f"Job {job_id}: {why}; nothing was changed")
    return JobsChanged(changed=changed)


def change_slice(tx: Tx, access: Access, patches: Mapping[int, JobPatch], now: datetime) -> tuple[int, dict[int, str]]:
    """Change Jobs, which the caller was found to be allowed to. Returns how many changed, and why others did not.

    Raises Invalid with every fault of every patch.
    """
    jobs = tx.jobs(patches)
    apps = {app.id: app for app in tx.find(AppRow, id=tuple({job.app_id for job in jobs}))}
    changes: dict[int, dict[str, Any]] = {}
    refused: dict[int, str] = {}
    faults: list[ErrorDetail] = []
    for job in jobs:
        given = fields_of(patches[job.id], job)
        faults += [
            ErrorDetail(where=f"patches[{job.id}].{where}", message=why)
            for where, why in (*problems_of(job, apps[job.app_id], given), *wish_problems(patches[job.id]))
        ]
        if (
            job.session_id is not None
            and job.state not in AWAITED_HOOKS
            and (fixed := sorted(_WHILE_FREE & given.keys()))
        ):
            state = "RUNNING" if job.state is JobState.RUNNING else "granted to a launcher"
            refused[job.id] = f"it is {state}; {', '.join(fixed)} can't be changed now"
        elif not _stays_in_reach(access, job, given):
            refused[job.id] = "with these tags it would leave the campaign in which you may submit"
        elif given or patches[job.id].state is not None:
            changes[job.id] = given
    if faults:
        raise Invalid(faults)
    refused |= fulfil(tx, {job_id: patches[job_id] for job_id in changes}, now)
    changes = {job_id: given for job_id, given in changes.items() if job_id not in refused}
    tx.change_jobs({job_id: given for job_id, given in changes.items() if given}, micros(now))
    return len(changes), refused


def _stays_in_reach(access: Access, job: JobRow, given: dict[str, Any]) -> bool:
    """Nobody takes a Job to where they may not submit."""
    if "tags" not in given:
        return True
    role = access.of_tags(job.owner_id, job.site_id, given["tags"])
    return role is not None and role.includes(Role.SUBMITTER)


def fields_of(patch: JobPatch, job: JobRow) -> dict[str, Any]:
    """What was given, by column. A null means nothing but for the fields that can be without a value."""
    given = patch.model_dump(exclude_unset=True)
    given = {name: it for name, it in given.items() if name not in OF_STATE and (it is not None or name in _NULLABLE)}
    for name, column in _MERGED.items():
        if name in given:
            merged = {**given.get(column, getattr(job, column)), **given.pop(name)}
            given[column] = {key: value for key, value in merged.items() if value is not None}
    return given


def problems_of(job: JobRow, app: AppRow, given: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(where, what is wrong); puts a workdir into its normal form."""
    if any(name in given for name in _SHAPE):
        for why in Resources(**{name: given.get(name, getattr(job, name)) for name in _SHAPE}).problems():
            yield "resources", why
    if "workdir" in given:
        try:
            given["workdir"] = contained(given["workdir"])
        except BadPath as error:
            yield "workdir", str(error)
    spec = AppSync.model_validate(app.definition).spec() if "parameters" in given else None
    for name in ("parameters", "data", "launch_params"):
        most = parameters_limit(spec) if spec is not None and name == "parameters" else MAX_PARAMETERS_BYTES
        try:
            json_text(given.get(name, {}), name, most)
        except BadJson as error:
            yield name, str(error)
    for why in tag_problems(given.get("tags", {})):
        yield "tags", why
    if spec is not None:
        try:
            spec.check_parameters(given["parameters"])
        except ParameterError as error:
            yield "parameters", str(error)
