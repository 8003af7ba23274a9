"""Messages about TransferItems: what a Job asks for, what the Site says of it, what a client collects.

A file that travels through the service is described by its TransferContent: which entries it has, and in which blobs
their bytes are. Small files share a blob, so an entry names the part of a blob that it is. A long list of entries is a
blob of its own, the manifest (`transfer/manifest.py` reads and writes it); the service never looks inside.
"""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from balsam.domain.states import JobState, TransferState
from balsam.domain.transfers import MAX_REMOTE_PATH, TransferDirection
from balsam.wire.base import ById, Count, Id, JsonDict, Message, Number, Short, TagFilters, Timestamp
from balsam.wire.blobs import Sha256, Size
from balsam.wire.limits import MAX_BULK, MAX_PAGE

MAX_INLINE_ENTRIES = 32
MAX_ITEM_BLOBS = 100_000
MAX_ORIGIN = 256

EntryPath = Annotated[str, StringConstraints(min_length=1, max_length=MAX_REMOTE_PATH)]


class ContentEntry(Message):
    """One file: `size_bytes` of the blob from `offset` on, which have this SHA-256. A path that ends with / is an empty
    directory. An empty file has no blob."""

    path: EntryPath
    size_bytes: Size
    mode: Annotated[int, Field(ge=0, le=0o777)]
    sha256: Sha256
    blob: Sha256 | None = None
    offset: Size = 0


class TransferContent(Message):
    """What was sent: one file (`is_tree` false, one entry), or several below a directory. `entries` is None when they
    are listed in the blob `manifest`."""

    is_tree: bool
    files: Count
    size_bytes: Size
    entries: Annotated[list[ContentEntry], Field(max_length=MAX_INLINE_ENTRIES)] | None = None
    manifest: Sha256 | None = None
    manifest_bytes: Size = 0


class SentContent(TransferContent):
    """Content together with the names of all blobs it needs, the manifest included."""

    blobs: Annotated[list[Sha256], Field(max_length=MAX_ITEM_BLOBS)] = []


class JobTransfer(Message):
    """Where one slot of a Job comes from or goes to. `content` goes with a stage-in from the client.

    `origin` names the client to which the path belongs, sealed by it; nobody else writes to that path by itself.
    """

    location_alias: Short
    path: Annotated[str, StringConstraints(min_length=1, max_length=MAX_REMOTE_PATH)]
    content: SentContent | None = None
    origin: Annotated[str, StringConstraints(max_length=MAX_ORIGIN)] = ""


class TransferItemView(Message):
    """A TransferItem as the service knows it. `size_bytes` and `files` are known once it was sent."""

    id: int
    job_id: int
    site_id: int
    slot: str
    direction: TransferDirection
    local_path: str
    remote_path: str
    location_alias: str
    recursive: bool
    submitted_by: str
    state: TransferState
    task_id: str
    transfer_info: JsonDict
    content: TransferContent | None
    origin: str
    workdir: str
    job_state: JobState
    created_at: Timestamp
    last_update: Timestamp
    collected_at: Timestamp | None


class TransferFilter(Message):
    """Selects TransferItems."""

    id: list[Number] | None = None
    site_id: list[Number] | None = None
    job_id: list[Number] | None = None
    state: list[TransferState] | None = None
    direction: TransferDirection | None = None
    job_state: list[JobState] | None = None
    tags: TagFilters | None = None  # "KEY:VALUE" of the Job, all must match


class TransferQuery(TransferFilter):
    """A page of a list; `after` is the id of the last row of the page before."""

    ordering: Literal["id", "-id"] = "id"
    limit: Annotated[int, Field(ge=0, le=MAX_PAGE)] = 1000
    offset: Count = 0
    after: Number | None = None


class TransfersPage(Message):
    """A page of TransferItems."""

    count: int
    results: list[TransferItemView]


class DueTransfersQuery(Message):
    """How many of the TransferItems that are due are looked at."""

    limit: Annotated[int, Field(ge=0, le=MAX_PAGE)] = 1000


class DueTransfers(Message):
    """TransferItems that the Site is to work on: one of each person who submitted in turn, each one's oldest first."""

    results: list[TransferItemView]


class TransferPatch(Message):
    """What the Site says of an item. `content` goes with `done` of a stage-out to the client."""

    state: TransferState | None = None
    task_id: Short | None = None
    transfer_info: JsonDict | None = None
    content: SentContent | None = None


class TransfersPatch(Message):
    """Several reports in one call; each is applied, or answered in `refused`, by itself."""

    patches: Annotated[dict[Id, TransferPatch], ById, Field(min_length=1, max_length=MAX_BULK)]


class TransfersPatched(Message):
    """How many were applied; `refused` says why one was not: the Site stops work on it."""

    changed: int
    refused: dict[int, str] = {}


class TransfersCollected(Message):
    """These have arrived at the client; the service need not keep them."""

    ids: Annotated[list[Id], Field(min_length=1, max_length=MAX_BULK)]
