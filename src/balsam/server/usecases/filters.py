"""From a filter as it is sent to the selections that the store reads, scoped to what the caller may see (S14)."""

from collections.abc import Iterable, Sequence

from balsam.domain.roles import Role
from balsam.domain.states import JobState
from balsam.server.principal import Principal
from balsam.server.store.conditions import Condition, holds
from balsam.server.store.protocol import ReadTx
from balsam.server.store.records import AppRow, UserRow, micros
from balsam.server.store.selections import JobSelection
from balsam.server.usecases.limits import pairs
from balsam.server.usecases.lookups import conditions, with_conditions
from balsam.server.usecases.scope import Part, parts
from balsam.wire.jobs import JobFilter
from balsam.wire.kinds import JOB_FIELDS


def job_selections(tx: ReadTx, principal: Principal, message: JobFilter, need: Role) -> list[JobSelection]:
    """One selection for each owner at whose Sites the caller may see Jobs, or with SUBMITTER may change them.

    Raises Invalid for a tag without a colon, and for a look-up that can't be.
    """
    principal.require("user", "site", "job")
    return [_selection(tx, part, message) for part in parts(tx, principal, need)]


def _selection(tx: ReadTx, part: Part, message: JobFilter) -> JobSelection:
    wanted = conditions(message.where, JOB_FIELDS)
    of_apps = [condition for condition in wanted if condition.column == "app_name"]
    of_people = [condition for condition in wanted if condition.column == "submitted_by"]
    selection = JobSelection(
        owner_id=part.owner_id,
        ids=_tuple(message.id),
        parent_ids=_tuple(message.parent_id),
        app_ids=app_ids(tx, part.owner_id, message.app_id, message.app_name, of_apps),
        site_ids=both(part.site_ids, message.site_id),
        batch_job_ids=_tuple(message.batch_job_id),
        submitter_ids=_submitters(tx, part, message.submitted_by, of_people),
        states=_states(message),
        failures=None if message.failure is None else tuple(dict.fromkeys(message.failure)),
        tags=part.with_tags(pairs(message.tags, "tags")),
        workdir_contains=message.workdir__contains,
        updated_before=None if message.last_update_before is None else micros(message.last_update_before),
        updated_after=None if message.last_update_after is None else micros(message.last_update_after),
        pending_file_cleanup=message.pending_file_cleanup,
    )
    rest = [condition for condition in wanted if condition not in of_apps and condition not in of_people]
    return with_conditions(selection, rest)


def both(allowed: tuple[int, ...] | None, wanted: Iterable[int] | None) -> tuple[int, ...] | None:
    """What is allowed and wanted; None on a side is no condition there."""
    if allowed is None or wanted is None:
        return allowed if wanted is None else tuple(dict.fromkeys(wanted))
    return tuple(one for one in allowed if one in set(wanted))


def _tuple(values: list[int] | None) -> tuple[int, ...] | None:
    return None if values is None else tuple(dict.fromkeys(values))


def app_ids(
    tx: ReadTx,
    owner_id: int,
    wanted: list[int] | None,
    name: str | None,
    conditions_on_name: Sequence[Condition] = (),
) -> tuple[int, ...] | None:
    """The Apps of a filter by ids, by name, by conditions on the name, or by all of them."""
    if name is None and not conditions_on_name:
        return _tuple(wanted)
    named = {} if name is None else {"name": name}
    return tuple(
        app.id
        for app in tx.find(AppRow, owner_id=owner_id, **named)
        if (wanted is None or app.id in wanted) and all(holds(it, app.name) for it in conditions_on_name)
    )


def _submitters(
    tx: ReadTx, part: Part, name: str | None, conditions_on_name: Sequence[Condition]
) -> tuple[int, ...] | None:
    allowed = None if part.submitter_id is None else (part.submitter_id,)
    if name is None and not conditions_on_name:
        return allowed
    named = {} if name is None else {"username": name}
    people = tx.find(UserRow, **named)
    return both(allowed, [user.id for user in people if all(holds(it, user.username) for it in conditions_on_name)])


def _states(message: JobFilter) -> tuple[JobState, ...] | None:
    if message.state is None and message.state__ne is None:
        return None
    wanted = set(JobState) if message.state is None else set(message.state)
    return tuple(state for state in JobState if state in wanted and state != message.state__ne)
