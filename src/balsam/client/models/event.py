"""EventLog: the transitions of Jobs, as the service recorded them."""

from datetime import datetime
from typing import Any

from balsam.client.fields import Field, Write
from balsam.client.model import Model
from balsam.client.objects import Manager, Objects
from balsam.domain.states import JobState
from balsam.wire.events import EventQuery, EventsPage, EventView


class EventManager(Manager["EventLog"]):
    """Filters: id, job_id, batch_job_id, scheduler_id, tags, data, timestamp_before, timestamp_after, from_state,
    to_state.

    Newest first unless ordered otherwise.
    """

    path = "/events"
    filter_type = EventQuery
    page_type = EventsPage
    row_type = EventView
    orderings = ("timestamp", "-timestamp")
    default_ordering = "-timestamp"


class EventLog(Model):
    """One transition of a Job. Read only. `seq` counts within the Job; `data` holds messages and exit codes.

    >>> events = EventLog.objects.filter(job_id=job.id).order_by("timestamp")  # doctest: +SKIP
    >>> [event.to_state.value for event in events][:2]  # doctest: +SKIP
    ['READY', 'STAGED_IN']
    """

    job_id = Field[int](None, write=Write.NEVER)
    seq = Field[int](None, write=Write.NEVER)
    attempt = Field[int](None, write=Write.NEVER)
    from_state = Field[JobState](None, write=Write.NEVER)
    to_state = Field[JobState](None, write=Write.NEVER)
    actor = Field[str](None, write=Write.NEVER)
    timestamp = Field[datetime](None, write=Write.NEVER)
    reported_at = Field[datetime | None](None, write=Write.NEVER)
    data = Field[dict[str, Any]]({}, write=Write.NEVER)

    objects = Objects(EventManager)
    _shown = ("job_id", "seq", "from_state", "to_state", "timestamp")

    def __init__(self, **fields: Any) -> None:
        raise TypeError("EventLog entries are written by the service; read them with EventLog.objects.filter(...)")

    def refresh_from_db(self) -> None:
        """Does nothing: an event never changes."""
