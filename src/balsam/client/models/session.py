"""Session: a launcher's lease, under which it acquires Jobs. Launchers make their own; scripts mostly look at them."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

from balsam.client.errors import NotFound, SessionEnded
from balsam.client.fields import INSTANT, Field, Write, one_of
from balsam.client.model import Model
from balsam.client.objects import Manager, Objects, Page
from balsam.client.values import checked
from balsam.domain.lease import LeaseKind, SessionPurpose
from balsam.domain.states import RUNNABLE_STATES

if TYPE_CHECKING:
    from balsam.client.models.job import Job
    from balsam.client.signatures import NewSession
    from balsam.wire.base import Message


class SessionManager(Manager["Session"]):
    """Filters: id. Only open Sessions are listed.

    >>> [one.site_id == site.id for one in Session.objects.all()][:1]
    [True]
    """

    path = "/sessions"
    plain_lists: ClassVar[Mapping[str, type]] = {"id": int}

    if TYPE_CHECKING:

        def create(self, **fields: Unpack["NewSession"]) -> "Session": ...

    @staticmethod
    def _filter_type() -> "type[Message]":
        from balsam.wire.sessions import SessionFilter

        return SessionFilter

    def _get_page(self, fields: Mapping[str, Any], deadline_sec: float | None = None) -> Page:
        """Open Sessions come all at once; `id` is looked up here."""
        found = super()._get_page({}, deadline_sec).rows
        ids, offset = fields.get("id"), fields.get("offset", 0)
        rows = [row for row in found if ids is None or row["id"] in ids]
        return Page(len(rows), rows[offset : offset + fields["limit"]])

    def _create(self, instance: "Session") -> None:
        from balsam.wire.sessions import SessionCreate, SessionView

        made = self._post_new(instance, SessionCreate, SessionView)
        instance._take_row(self._row_dict(made))

    def _delete(self, instance: "Session") -> None:
        from balsam.wire.sessions import SessionClose

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
    kind = Field[LeaseKind](LeaseKind.HEARTBEAT, write=Write.CREATE, parse=LeaseKind, accept=one_of(LeaseKind))
    purpose = Field[SessionPurpose](
        SessionPurpose.RUN, write=Write.CREATE, parse=SessionPurpose, accept=one_of(SessionPurpose)
    )
    label = Field[str]("", write=Write.CREATE)
    ttl_sec = Field[float](None, write=Write.NEVER)
    renew_sec = Field[float](None, write=Write.NEVER)
    margin_sec = Field[float](None, write=Write.NEVER)
    opened_at = Field[datetime](None, write=Write.NEVER, parse=INSTANT)
    renewed_at = Field[datetime](None, write=Write.NEVER, parse=INSTANT)
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
        from balsam.wire.sessions import RenewReply

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
        by `filter_tags`. `sort_by` is fifo (the default), long_large_first or smallest_first; in each a higher priority
        goes first. Raises SessionEnded when the lease is over, ValidationFailed for limits out of range.

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
        from balsam.wire.sessions import AcquireReply, AcquireRequest

        request = checked(AcquireRequest, "acquire_jobs", fields)
        client = self._client()
        path = f"/sessions/{self._saved_id()}/acquire"
        granted = client.transport.request("POST", path, body=request, reply=AcquireReply, safe_to_repeat=True).jobs
        from balsam.client.models.job import Job

        kind = Job if self._bound_client is None else client.Job
        rows = {job.id: job for job in kind.objects.filter(id=[grant.id for grant in granted])}
        # Only now: after an error the same number is asked for again, and answered with the same Jobs (S3).
        self._last_acquire = number
        return [rows[grant.id] for grant in granted if grant.id in rows]
