"""TransferItem: one file, or one directory, on its way into a Job's workdir or out of it; and what fills a slot."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, Unpack, overload

from balsam.client.fields import INSTANT, Field, Write
from balsam.client.model import Model
from balsam.client.objects import Manager, Objects
from balsam.client.remote_path import RemotePath
from balsam.domain.states import JobState, TransferState
from balsam.domain.transfers import Location, TransferDirection

if TYPE_CHECKING:
    from balsam.client.query import Query
    from balsam.client.signatures import TransferFilters
    from balsam.wire.base import Message
    from balsam.wire.transfers import TransferContent


@dataclass(frozen=True, slots=True)
class JobTransferItem:
    """What fills a transfer slot of a Job: an alias of the Site's `transfer_locations`, and an absolute path there.

    `transfers={"result": JobTransferItem("laptop", "/data/out")}` is the same as `{"result": "laptop:/data/out"}`.

    >>> str(JobTransferItem(location_alias="laptop", path="/data/out"))
    'laptop:/data/out'

    Raises BadLocation, a ValueError, for an alias or a path that can't be.
    """

    location_alias: str
    path: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", str(self.path))
        Location.parse(str(self))

    def __str__(self) -> str:
        return f"{self.location_alias}:{self.path}"


class TransferManager(Manager["TransferItem"]):
    """Filters: id, site_id, job_id, state, direction; of the Job: job_state, tags. Lists mean "any of".

    >>> TransferItem.objects.filter(job_id=job.id).count()
    0
    """

    path = "/transfers"
    plain_lists: ClassVar[Mapping[str, type]] = {
        **dict.fromkeys(("id", "site_id", "job_id"), int),
        "state": TransferState,
        "job_state": JobState,
        "tags": str,
    }
    plain_values: ClassVar[Mapping[str, type]] = {"direction": TransferDirection}
    orderings = ("id", "-id")
    keyset = frozenset({"id"})

    @staticmethod
    def _filter_type() -> "type[Message]":
        from balsam.wire.transfers import TransferQuery

        return TransferQuery

    if TYPE_CHECKING:  # the names of the filters, for editors; any look-up may come beside them

        @overload
        def filter(self, **filters: Unpack["TransferFilters"]) -> Query["TransferItem"]: ...
        @overload
        def filter(self, **filters: Any) -> Query["TransferItem"]: ...
        def filter(self, **filters: Any) -> Query["TransferItem"]: ...
        @overload
        def get(self, **filters: Unpack["TransferFilters"]) -> "TransferItem": ...
        @overload
        def get(self, **filters: Any) -> "TransferItem": ...
        def get(self, **filters: Any) -> "TransferItem": ...


def _content(value: Any) -> "TransferContent":
    from balsam.wire.transfers import TransferContent

    return TransferContent.model_validate(value)


class TransferItem(Model):
    """One file or directory on its way. Read only: the Site moves it, the service says how far it is.

    `state`: awaiting_job, pending, active, inactive, done or error; `transfer_info` has the reason of an error.

    >>> [item.local_path for item in TransferItem.objects.filter(direction="in", state="active")]
    []
    """

    job_id = Field[int](None, write=Write.NEVER)
    site_id = Field[int](None, write=Write.NEVER)
    slot = Field[str](None, write=Write.NEVER)
    direction = Field[TransferDirection](None, write=Write.NEVER, parse=TransferDirection)
    state = Field[TransferState](None, write=Write.NEVER, parse=TransferState)
    local_path = Field[RemotePath](None, write=Write.NEVER, load=RemotePath)
    location_alias = Field[str](None, write=Write.NEVER)
    remote_path = Field[RemotePath](None, write=Write.NEVER, load=RemotePath)
    recursive = Field[bool](False, write=Write.NEVER)
    task_id = Field[str]("", write=Write.NEVER)
    transfer_info = Field[dict[str, Any]]({}, write=Write.NEVER)
    content = Field["TransferContent | None"](None, write=Write.NEVER, parse=_content)
    workdir = Field[RemotePath](None, write=Write.NEVER, load=RemotePath)
    job_state = Field[JobState](None, write=Write.NEVER, parse=JobState)
    created_at = Field[datetime](None, write=Write.NEVER, parse=INSTANT)
    last_update = Field[datetime](None, write=Write.NEVER, parse=INSTANT)
    collected_at = Field[datetime | None](None, write=Write.NEVER, parse=INSTANT)

    objects = Objects(TransferManager)
    _shown = ("id", "job_id", "direction", "state", "local_path", "location_alias", "remote_path")

    def __init__(self, **fields: Any) -> None:
        raise TypeError("TransferItems are made with their Jobs; read them with TransferItem.objects.filter(...)")
