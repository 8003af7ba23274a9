"""EventLog: the transitions of Jobs, as the service recorded them."""

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, Unpack, overload

from balsam.client.fields import INSTANT, Field, Write
from balsam.client.model import Model
from balsam.client.objects import Manager, Objects
from balsam.domain.states import JobState
from balsam.wire.kinds import EVENT_FIELDS

if TYPE_CHECKING:
    from balsam.client.query import Query
    from balsam.client.signatures import EventFilters
    from balsam.wire.base import Message


class EventManager(Manager["EventLog"]):
    """Filters: id, job_id, batch_job_id, scheduler_id, tags, data, timestamp_before, timestamp_after, from_state,
    to_state; of the Jobs as they are now: job_state, failure, site_id, app_id, app_name, workdir__contains; and every
    field by look-up, see `Query.filter`.

    Newest first unless ordered otherwise.

    >>> EventLog.objects.filter(job_id=job.id, to_state=["RUNNING", "JOB_FINISHED"]).count()
    2
    """

    path = "/events"
    plain_lists: ClassVar[Mapping[str, type]] = {
        **dict.fromkeys(("id", "job_id", "batch_job_id", "site_id", "app_id"), int),
        "job_state": JobState,
        "tags": str,
    }
    plain_values: ClassVar[Mapping[str, type]] = {
        **dict.fromkeys(("from_state", "to_state"), JobState),
        **dict.fromkeys(("scheduler_id", "app_name", "workdir__contains"), str),
        **dict.fromkeys(("timestamp_before", "timestamp_after"), datetime),
    }
    counts_apart = True
    orderings = ("timestamp", "-timestamp")
    default_ordering = "-timestamp"
    keyset = frozenset({"timestamp"})
    lookups = EVENT_FIELDS

    if TYPE_CHECKING:  # the names of the filters, for editors; any look-up may come beside them

        @overload
        def filter(self, **filters: Unpack["EventFilters"]) -> Query["EventLog"]: ...
        @overload
        def filter(self, **filters: Any) -> Query["EventLog"]: ...
        def filter(self, **filters: Any) -> Query["EventLog"]: ...
        @overload
        def get(self, **filters: Unpack["EventFilters"]) -> "EventLog": ...
        @overload
        def get(self, **filters: Any) -> "EventLog": ...
        def get(self, **filters: Any) -> "EventLog": ...

    @staticmethod
    def _filter_type() -> "type[Message]":
        from balsam.wire.events import EventQuery

        return EventQuery

    def _filter_value(self, name: str, value: Any) -> Any:
        if name == "scheduler_id" and isinstance(value, int):
            return str(value)  # schedulers' ids are text: not all of them are numbers
        return super()._filter_value(name, value)


class EventLog(Model):
    """One transition of a Job. Read only. `seq` counts within the Job; `data` holds messages and exit codes.

    From RUNNING to RUNNING it is a note of a monitor of its App, named in `data["monitor"]`.

    >>> events = EventLog.objects.filter(job_id=job.id).order_by("timestamp")
    >>> [event.to_state.value for event in events][:2]
    ['READY', 'STAGED_IN']
    """

    job_id = Field[int](None, write=Write.NEVER)
    seq = Field[int](None, write=Write.NEVER)
    attempt = Field[int](None, write=Write.NEVER)
    from_state = Field[JobState](None, write=Write.NEVER, parse=JobState)
    to_state = Field[JobState](None, write=Write.NEVER, parse=JobState)
    actor = Field[str](None, write=Write.NEVER)
    timestamp = Field[datetime](None, write=Write.NEVER, parse=INSTANT)
    reported_at = Field[datetime | None](None, write=Write.NEVER, parse=INSTANT)
    data = Field[dict[str, Any]]({}, write=Write.NEVER)

    objects = Objects(EventManager)
    _shown = ("job_id", "seq", "from_state", "to_state", "timestamp")
    _columns = (*_shown, "attempt", "actor", "data")

    def __init__(self, **fields: Any) -> None:
        raise TypeError("EventLog entries are written by the service; read them with EventLog.objects.filter(...)")

    def refresh_from_db(self) -> None:
        """Does nothing: an event never changes.

        >>> EventLog.objects.filter(job_id=job.id).first().refresh_from_db()
        """
