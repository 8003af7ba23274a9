"""Verbs on every Job that a filter selects: update, cancel, retry, delete.

Run in slices, so that a filter over a million Jobs keeps nobody else waiting: each is looked for in a read of its own,
however long that takes, and then checked again and changed in a transaction. A verb on many Jobs is therefore not one
unit: an interruption leaves the rest unchanged, and the caller can say it again.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime

from balsam.domain.roles import Role
from balsam.domain.states import DONE_STATES, JobState
from balsam.server.principal import Principal
from balsam.server.store.protocol import ReadTx, Store, Tx
from balsam.server.store.selections import JobSelection
from balsam.server.usecases.cancel import cancel_jobs
from balsam.server.usecases.change import change_slice
from balsam.server.usecases.delete import delete_jobs
from balsam.server.usecases.filters import job_selections
from balsam.server.usecases.retry import retry_jobs
from balsam.server.usecases.scope import access_of
from balsam.wire.base import Deleted
from balsam.wire.jobs import JobFilter, JobsCancel, JobsChanged, JobsSelect, JobsUpdate

SLICE = 2000
MAX_REFUSED = 100


@dataclass(slots=True)
class Outcome:
    """What a verb did to a slice."""

    changed: int = 0
    refused: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Place:
    """How far a verb has come: in which part of what the caller may change, and after which Job."""

    part: int
    after: int


Verb = Callable[[Tx, list[int]], Outcome]


async def cancel_selected(store: Store, principal: Principal, message: JobsCancel, now: datetime) -> JobsChanged:
    """Cancel the Jobs. Those that are done already are refused only when they were named by id."""

    def verb(tx: Tx, ids: list[int]) -> Outcome:
        return Outcome(*cancel_jobs(tx, ids, message.reason, now))

    keep = None if message.filter.id is not None else [state for state in JobState if state not in DONE_STATES]
    return _changed(await _over(store, principal, message.filter, verb, keep))


async def retry_selected(store: Store, principal: Principal, message: JobsSelect, now: datetime) -> JobsChanged:
    """Let FAILED and CANCELLED Jobs run again. Others are refused only when they were named by id."""

    def verb(tx: Tx, ids: list[int]) -> Outcome:
        return Outcome(*retry_jobs(tx, ids, now))

    keep = None if message.filter.id is not None else [JobState.FAILED, JobState.CANCELLED]
    return _changed(await _over(store, principal, message.filter, verb, keep))


async def update_selected(store: Store, principal: Principal, message: JobsUpdate, now: datetime) -> JobsChanged:
    """Make the same change to all of the Jobs."""
    patch = message.patch

    def verb(tx: Tx, ids: list[int]) -> Outcome:
        return Outcome(*change_slice(tx, access_of(tx, principal), dict.fromkeys(ids, patch), now))

    return _changed(await _over(store, principal, message.filter, verb))


async def delete_selected(store: Store, principal: Principal, message: JobsSelect, now: datetime) -> Deleted:
    """Remove the Jobs and their history. RUNNING and granted ones, and parents that are waited for, are skipped."""

    def verb(tx: Tx, ids: list[int]) -> Outcome:
        return Outcome(*delete_jobs(tx, ids))

    outcome = await _over(store, principal, message.filter, verb)
    while outcome.refused:
        # A parent could stand in an earlier slice than the children that kept it.
        again = await _over(store, principal, JobFilter(id=list(outcome.refused)), verb)
        again.changed, moved = outcome.changed + again.changed, again.changed
        outcome = again
        if not moved:
            break
    skipped = sorted(outcome.refused)
    reason = outcome.refused[skipped[0]] if skipped else ""
    return Deleted(deleted=outcome.changed, skipped=skipped, reason=reason)


async def _over(
    store: Store, principal: Principal, wanted: JobFilter, verb: Verb, keep: list[JobState] | None = None
) -> Outcome:
    principal.require("user", "site", "job")
    total = Outcome()
    place: _Place | None = _Place(0, 0)
    done: set[int] = set()
    while place is not None:

        def find(tx: ReadTx, place: _Place = place) -> tuple[list[int], _Place | None]:
            selections = job_selections(tx, principal, wanted, Role.SUBMITTER)
            if place.part >= len(selections):
                return [], None
            ids = tx.job_ids(_kept(selections[place.part], keep), place.after, SLICE)
            following = _Place(place.part, ids[-1]) if len(ids) == SLICE else _Place(place.part + 1, 0)
            return ids, following if following.part < len(selections) else None

        found, following = await store.read(find, principal.user_id)
        found = [job_id for job_id in found if job_id not in done]  # two parts may share a Job

        def act(tx: Tx, place: _Place = place, found: list[int] = found) -> Outcome:
            selections = job_selections(tx, principal, wanted, Role.SUBMITTER)[place.part :][:1]
            ids = [
                job_id
                for selection in selections
                for job_id in tx.job_ids(replace(_kept(selection, keep), ids=tuple(found)), 0, SLICE)
            ]
            return verb(tx, ids) if ids else Outcome()

        outcome = await store.write(act, principal.user_id) if found else Outcome()
        total.changed += outcome.changed
        total.refused.update(outcome.refused)
        place = following
        if place is not None and place.part:
            done.update(found)
    if wanted.id is not None:
        total.refused.update(await store.read(lambda tx: _not_yours(tx, principal, wanted.id or []), principal.user_id))
    return total


def _not_yours(tx: ReadTx, principal: Principal, ids: list[int]) -> dict[int, str]:
    """Of Jobs named by id, those that the caller sees and may not change."""
    access = access_of(tx, principal)
    if not access.sites and not access.campaigns:
        return {}
    jobs = [job for job in tx.jobs(ids) if access.of_job(job) is not None and not access.may_change(job)]
    return {job.id: "it was submitted by somebody else; that takes the role owner" for job in jobs}


def _kept(selection: JobSelection, keep: list[JobState] | None) -> JobSelection:
    if keep is None:
        return selection
    states = keep if selection.states is None else [state for state in selection.states if state in keep]
    return replace(selection, states=tuple(states))


def _changed(outcome: Outcome) -> JobsChanged:
    named = dict(sorted(outcome.refused.items())[:MAX_REFUSED])
    return JobsChanged(changed=outcome.changed, refused=named)
