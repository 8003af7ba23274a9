"""Reading the EventLog."""

from balsam.domain.roles import Role
from balsam.server.principal import Principal
from balsam.server.store.protocol import ReadTx
from balsam.server.store.records import BatchJobRow, micros
from balsam.server.store.selections import EventSelection
from balsam.server.usecases.filters import app_ids, both
from balsam.server.usecases.limits import pairs
from balsam.server.usecases.lookups import conditions, with_conditions
from balsam.server.usecases.paging import page_window
from balsam.server.usecases.scope import Part, find_sites, parts
from balsam.server.usecases.several import event_page
from balsam.server.usecases.views import event_view
from balsam.wire.events import EventFilter, EventQuery, EventsPage
from balsam.wire.kinds import EVENT_FIELDS


def list_events(tx: ReadTx, principal: Principal, message: EventQuery, with_count: bool = True) -> EventsPage:
    """A page of events of Jobs that the caller may see. A BatchJob selects the Jobs whose last attempt ran in it."""
    principal.require("user", "site")
    batch_jobs = _batch_jobs(tx, principal, message)
    selections = [_selection(tx, part, message, batch_jobs) for part in parts(tx, principal, Role.VIEWER)]
    window = page_window(message, message.ordering)
    rows = event_page(tx, selections, window) if message.limit else []
    count = sum(map(tx.event_count, selections)) if with_count else None
    return EventsPage(count=count, results=[event_view(row) for row in rows])


def _selection(tx: ReadTx, part: Part, message: EventFilter, batch_jobs: tuple[int, ...] | None) -> EventSelection:
    """Raises Invalid for what can't be asked."""
    selection = EventSelection(
        owner_id=part.owner_id,
        ids=None if message.id is None else tuple(message.id),
        job_ids=None if message.job_id is None else tuple(message.job_id),
        site_ids=both(part.site_ids, message.site_id),
        app_ids=app_ids(tx, part.owner_id, message.app_id, message.app_name),
        job_states=None if message.job_state is None else tuple(dict.fromkeys(message.job_state)),
        failures=None if message.failure is None else tuple(dict.fromkeys(message.failure)),
        workdir_contains=message.workdir__contains,
        batch_job_ids=batch_jobs,
        tags=part.with_tags(pairs(message.tags, "tags")),
        data=pairs(message.data, "data"),
        before=None if message.timestamp_before is None else micros(message.timestamp_before),
        after=None if message.timestamp_after is None else micros(message.timestamp_after),
        from_state=message.from_state,
        to_state=message.to_state,
    )
    return with_conditions(selection, conditions(message.where, EVENT_FIELDS))


def _batch_jobs(tx: ReadTx, principal: Principal, message: EventFilter) -> tuple[int, ...] | None:
    wanted = None if message.batch_job_id is None else tuple(message.batch_job_id)
    if message.scheduler_id is None:
        return wanted
    sites = tuple(site.id for site in find_sites(tx, principal))
    named = tx.find(BatchJobRow, site_id=sites, scheduler_id=message.scheduler_id)
    return tuple(row.id for row in named if wanted is None or row.id in wanted)
