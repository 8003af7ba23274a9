"""Site: a directory on a machine, with an agent that runs Jobs there."""

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, Unpack, overload

from balsam.client.fields import INSTANT, Field, Write, plain_copy
from balsam.client.model import Model
from balsam.client.objects import Manager, Objects
from balsam.client.remote_path import RemotePath
from balsam.client.values import checked
from balsam.wire.kinds import SITE_FIELDS

if TYPE_CHECKING:
    from balsam.client.query import Query
    from balsam.client.signatures import NewSite, SiteFilters
    from balsam.wire.base import Message


class SiteManager(Manager["Site"]):
    """Filters: id, name, path (a part of it), last_refresh_after.

    >>> Site.objects.filter(name=site.name).get() == site
    True
    """

    path = "/sites"
    plain_lists: ClassVar[Mapping[str, type]] = {"id": int}
    plain_values: ClassVar[Mapping[str, type]] = {"name": str, "path": str}
    lookups = SITE_FIELDS

    if TYPE_CHECKING:  # the names of the filters, for editors; any look-up may come beside them

        @overload
        def filter(self, **filters: Unpack["SiteFilters"]) -> Query["Site"]: ...
        @overload
        def filter(self, **filters: Any) -> Query["Site"]: ...
        def filter(self, **filters: Any) -> Query["Site"]: ...
        @overload
        def get(self, **filters: Unpack["SiteFilters"]) -> "Site": ...
        @overload
        def get(self, **filters: Any) -> "Site": ...
        def get(self, **filters: Any) -> "Site": ...
        def create(self, **fields: Unpack["NewSite"]) -> "Site": ...

    @staticmethod
    def _filter_type() -> "type[Message]":
        from balsam.wire.sites import SiteFilter

        return SiteFilter

    def _create(self, instance: "Site") -> None:
        from balsam.wire.sites import SiteCreate, SiteCreated

        made = self._post_new(instance, SiteCreate, SiteCreated)
        instance._take_row(self._row_dict(made.site))
        instance._agent_token = made.token.token

    def _update(self, instance: "Site", changes: dict[str, Any]) -> None:
        from balsam.wire.sites import SitePatch, SiteView

        patch = checked(SitePatch, "Site", changes)
        row_id = instance._saved_id()
        instance._take_row(
            self._row_dict(self.client.transport.request("PATCH", f"{self.path}/{row_id}", body=patch, reply=SiteView))
        )


def _limits(row: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    return {queue: plain_copy(limits) for queue, limits in row.items()}


class Site(Model):
    """A Site as the service knows it. `balsam site init` creates one; scripts mostly look them up.

    >>> [site.name for site in Site.objects.filter(name="local")]
    ['local']
    """

    name = Field[str]()
    path = Field[RemotePath](load=RemotePath, accept=RemotePath.of)
    hostname = Field[str]("")
    allowed_projects = Field[list[str]]([])
    allowed_queues = Field[dict[str, dict[str, int]]]({}, load=_limits)
    optional_batch_job_params = Field[dict[str, str]]({})
    transfer_locations = Field[dict[str, str]]({})
    backfill_windows = Field[dict[str, Any]]({})
    queued_jobs = Field[dict[str, Any]]({})
    python = Field[str | None](None, write=Write.NEVER)
    scaling = Field[dict[str, Any]]({}, write=Write.NEVER)  # what its agent says of the allocations it asks for
    owner = Field[str](None, write=Write.NEVER)
    role = Field[str](None, write=Write.NEVER)  # yours: viewer, submitter, owner
    creation_date = Field[datetime](None, write=Write.NEVER, parse=INSTANT)
    last_refresh = Field[datetime | None](None, write=Write.NEVER, parse=INSTANT)
    is_active = Field[bool](False, write=Write.NEVER)

    objects = Objects(SiteManager)
    _shown = ("id", "name", "path")
    _columns = (*_shown, "hostname", "is_active", "last_refresh")
    _agent_token: str | None = None

    if TYPE_CHECKING:

        def __init__(self, **fields: Unpack["NewSite"]) -> None: ...

    @property
    def agent_token(self) -> str | None:
        """The token for the Site's agent, only on the instance that created the Site: it is shown once."""
        return self._agent_token
