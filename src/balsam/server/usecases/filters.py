"""From a filter as it is sent to a selection that the store reads, scoped to the caller (S14)."""

from collections.abc import Sequence

from balsam.domain.states import JobState
from balsam.server.principal import Principal
from balsam.server.store.conditions import Condition, holds
from balsam.server.store.protocol import ReadTx
from balsam.server.store.records import AppRow, micros
from balsam.server.store.selections import JobSelection
from balsam.server.usecases.limits import pairs
from balsam.server.usecases.lookups import conditions, with_conditions
from balsam.wire.jobs import JobFilter
from balsam.wire.lookups import JOB_FIELDS


def job_selection(tx: ReadTx, principal: Principal, message: JobFilter) -> JobSelection:
    """Raises Invalid for a tag without a colon, and for a look-up that can't be."""
    principal.require("user", "site")
    wanted = conditions(message.where, JOB_FIELDS)
    of_apps = [condition for condition in wanted if condition.column == "app_name"]
    selection = JobSelection(
        owner_id=principal.user_id,
        ids=_tuple(message.id),
        parent_ids=_tuple(message.parent_id),
        app_ids=app_ids(tx, principal, message.app_id, message.app_name, of_apps),
        site_ids=visible_sites(principal, message.site_id),
        batch_job_ids=_tuple(message.batch_job_id),
        states=_states(message),
        failures=None if message.failure is None else tuple(dict.fromkeys(message.failure)),
        tags=pairs(message.tags, "tags"),
        workdir_contains=message.workdir__contains,
        updated_before=None if message.last_update_before is None else micros(message.last_update_before),
        updated_after=None if message.last_update_after is None else micros(message.last_update_after),
        pending_file_cleanup=message.pending_file_cleanup,
    )
    return with_conditions(selection, [condition for condition in wanted if condition not in of_apps])


def visible_sites(principal: Principal, wanted: list[int] | None) -> tuple[int, ...] | None:
    """The Sites of a filter, of which a site token sees only its own."""
    if principal.site_id is None:
        return _tuple(wanted)
    return (principal.site_id,) if wanted is None or principal.site_id in wanted else ()


def _tuple(values: list[int] | None) -> tuple[int, ...] | None:
    return None if values is None else tuple(dict.fromkeys(values))


def app_ids(
    tx: ReadTx,
    principal: Principal,
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
        for app in tx.find(AppRow, owner_id=principal.user_id, **named)
        if (wanted is None or app.id in wanted) and all(holds(it, app.name) for it in conditions_on_name)
    )


def _states(message: JobFilter) -> tuple[JobState, ...] | None:
    if message.state is None and message.state__ne is None:
        return None
    wanted = set(JobState) if message.state is None else set(message.state)
    return tuple(state for state in JobState if state in wanted and state != message.state__ne)
