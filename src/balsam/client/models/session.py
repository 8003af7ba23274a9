"""Session: a launcher's lease, under which it acquires Jobs. Launchers make their own; scripts mostly look at them."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, Unpack

from balsam.client.errors import NotFound, SessionEnded
from balsam.client.fields import Field, Write
from balsam.client.model import Model
from balsam.client.objects import Manager, Objects
from balsam.client.values import checked
from balsam.domain.lease import LeaseKind, SessionPurpose
from balsam.domain.states import RUNNABLE_STATES
from balsam.wire.base import Message
from balsam.wire.sessions import (
    AcquireReply,
    AcquireRequest,
    RenewReply,
    SessionClose,
    SessionCreate,
    SessionsPage,
    SessionView,
)

if TYPE_CHECKING:
    from balsam.client.models.job import Job
    from balsam.client.signatures import NewSession


class SessionFilter(Message):
    """Open Sessions come all at once; `id` is looked up here."""

    id: list[int] | None = None
    limit: int = 1000
    offset: int = 0


class SessionManager(Manager["Session"]):
    """Filters: id. Only open Sessions are listed.

    >>> [one.site_id == site.id for one in Session.objects.all()][:1]
    [True]
    """

    path = "/sessions"
    filter_type = SessionFilter
    page_type = SessionsPage
    row_type = SessionView

    if TYPE_CHECKING:

        def create(self, **fields: Unpack["NewSession"]) -> "Session": ...

    def _get_page(self, fields: Mapping[str, Any], deadline_sec: float | None = None) -> SessionsPage:
        query = checked(SessionFilter, self.name, fields)
        transport = self.client.transport
        found = transport.request("GET", self.path, reply=SessionsPage, deadline_sec=deadline_sec).results
        rows = [row for row in found if query.id is None or row.id in query.id]
        return SessionsPage(count=len(rows), results=rows[query.offset : query.offset + query.limit])

    def _create(self, instance: "Session") -> None:
        made = self._post_new(instance, SessionCreate, SessionView)
        instance._take_row(self._row_dict(made))

    def _delete(self, instance: "Session") -> None:
        with suppress(NotFound, SessionEnded):
            self.client.transport.request(
                "POST", f"{self.path}/{instance._saved_id()}/close", body=SessionClose(), safe_to_repeat=True
            )


class Session(Model):
    """An open lease. `acquire_jobs` grants Jobs to it, `tick` renews it, `delete` closes it in order.

    >>> Session.objects.all().count() >= 0
    True
    """

    site_id = Field[int](write=Write.CREATE)
    batch_job_id = Field[int | None](None, write=Write.CREATE)
    kind = Field[LeaseKind](LeaseKind.HEARTBEAT, write=Write.CREATE, accept=LeaseKind)
    purpose = Field[SessionPurpose](SessionPurpose.RUN, write=Write.CREATE, accept=SessionPurpose)
    label = Field[str]("", write=Write.CREATE)
    ttl_sec = Field[float](None, write=Write.NEVER)
    renew_sec = Field[float](None, write=Write.NEVER)
    margin_sec = Field[float](None, write=Write.NEVER)
    opened_at = Field[datetime](None, write=Write.NEVER)
    renewed_at = Field[datetime](None, write=Write.NEVER)
    acquire_seq = Field[int](0, write=Write.NEVER)
    report_seq = Field[int](0, write=Write.NEVER)

    objects = Objects(SessionManager)
    _shown = ("id", "site_id", "batch_job_id", "label")
    _last_acquire: int | None = None

    if TYPE_CHECKING:

        def __init__(self, **fields: Unpack["NewSession"]) -> None: ...

    @property
    def heartbeat(self) -> datetime:
        """When the lease was last renewed."""
        return self.renewed_at

    def tick(self) -> None:
        """Renew the lease. Raises SessionEnded when it is over.

        >>> session = Session.objects.create(site_id=site.id)
        >>> session.tick()
        >>> session.delete()
        """
        path = f"/sessions/{self._saved_id()}/renew"
        self._client().transport.request("POST", path, reply=RenewReply, safe_to_repeat=True)

    def acquire_jobs(
        self,
        max_num_jobs: int,
        max_wall_time_min: int | None = None,
        max_nodes_per_job: int | None = None,
        max_aggregate_nodes: float | None = None,
        serial_only: bool = False,
        sort_by: str | None = None,
        filter_tags: Mapping[str, str] | None = None,
        states: Iterable[str] = RUNNABLE_STATES,
        app_ids: Iterable[int] | None = None,
    ) -> "list[Job]":
        """Take up to `max_num_jobs` runnable Jobs of the Site under this lease and return them.

        `states` and `app_ids` are there for old scripts: what runs is PREPROCESSED or RESTART_READY, of any App; choose
        by `filter_tags`. Raises SessionEnded when the lease is over, ValidationFailed for limits out of range.

        >>> session = Session.objects.create(site_id=site.id)
        >>> session.acquire_jobs(10, filter_tags={"nobody": "has this"})
        []
        >>> session.delete()
        """
        if frozenset(states) != RUNNABLE_STATES:
            raise ValueError("a Session acquires what can run: PREPROCESSED and RESTART_READY together")
        if app_ids:
            raise ValueError("a Session acquires Jobs of every App of its Site; give them a tag and use filter_tags")
        number = (self.acquire_seq if self._last_acquire is None else self._last_acquire) + 1
        fields = {
            "acquire_seq": number,
            "max_jobs": max_num_jobs,
            "max_wall_time_min": max_wall_time_min or None,
            "max_nodes_per_job": max_nodes_per_job,
            "max_aggregate_nodes": max_aggregate_nodes,
            "serial_only": serial_only,
            "sort_by": sort_by or "fifo",
            "filter_tags": dict(filter_tags or {}),
        }
        request = checked(AcquireRequest, "acquire_jobs", fields)
        client = self._client()
        path = f"/sessions/{self._saved_id()}/acquire"
        granted = client.transport.request("POST", path, body=request, reply=AcquireReply, safe_to_repeat=True).jobs
        self._last_acquire = number
        from balsam.client.models.job import Job

        kind = Job if self._bound_client is None else client.Job
        rows = {job.id: job for job in kind.objects.filter(id=[grant.id for grant in granted])}
        return [rows[grant.id] for grant in granted]
