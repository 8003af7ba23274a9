"""Messages of the EventLog."""

from typing import Annotated, Literal

from pydantic import Field

from balsam.domain.failure import Failure
from balsam.domain.states import JobState
from balsam.wire import lookups
from balsam.wire.base import Count, JsonDict, Message, Number, TagFilters, Timestamp
from balsam.wire.limits import MAX_PAGE
from balsam.wire.lookups import Where


class EventView(Message):
    """One transition, or from RUNNING to RUNNING a note of a monitor. `seq` counts within the Job from 1.

    `timestamp` is by the service's clock, `reported_at` by the reporter's.
    """

    id: int
    job_id: int
    seq: int
    attempt: int
    from_state: JobState
    to_state: JobState
    actor: str
    timestamp: Timestamp
    reported_at: Timestamp | None
    data: JsonDict


class EventFilter(Message):
    """Selects events."""

    id: list[Number] | None = None
    job_id: list[Number] | None = None
    job_state: list[JobState] | None = None  # the state that the Job has now
    failure: list[Failure] | None = None  # of the Job
    site_id: list[Number] | None = None
    app_id: list[Number] | None = None
    app_name: str | None = None
    workdir__contains: str | None = None
    batch_job_id: list[Number] | None = None
    scheduler_id: str | None = None
    tags: TagFilters | None = None
    data: TagFilters | None = None
    timestamp_before: Timestamp | None = None
    timestamp_after: Timestamp | None = None
    from_state: JobState | None = None
    to_state: JobState | None = None
    where: Annotated[Where, lookups.said("EventLookup")] | None = None  # of kinds.EVENT_FIELDS, all must hold


class EventQuery(EventFilter):
    """A page of events. `after` is the id of the last row of the page before, `after_value` its timestamp."""

    ordering: Literal["timestamp", "-timestamp"] = "-timestamp"
    limit: Annotated[int, Field(ge=0, le=MAX_PAGE)] = 1000
    offset: Count = 0
    after: Number | None = None
    after_value: str | None = None


class EventsPage(Message):
    """A page of events. `count` is the number of all matches; None when it was not asked for (`with_count=false`)."""

    count: int | None
    results: list[EventView]
