"""The EventLog."""

from balsam.domain.scopes import Scope
from balsam.server.auth.needs import USER_OR_SITE
from balsam.server.routes.call import Call
from balsam.server.routes.endpoint import Routes
from balsam.server.usecases import events
from balsam.wire.events import EventQuery, EventsPage

routes = Routes("events", reads=Scope.JOBS_READ, writes=Scope.JOBS_WRITE)


class EventsQuery(EventQuery):
    """A page of events; `with_count=false` leaves out the number of all matches."""

    with_count: bool = True


@routes.search("/events", needs=USER_OR_SITE)
async def list_events(call: Call, query: EventsQuery) -> EventsPage:
    """A page of transitions; follow `after` and `after_value` with the last one's id and timestamp for the next."""
    return await call.read(lambda tx: events.list_events(tx, call.principal, query, query.with_count))
