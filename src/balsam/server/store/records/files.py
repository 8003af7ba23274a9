"""Rows of files on their way: TransferItems, and the content that the service keeps for them."""

from dataclasses import dataclass

from balsam.domain.states import TransferState
from balsam.domain.transfers import TransferDirection
from balsam.server.store.records.values import Json


@dataclass(frozen=True, slots=True)
class BlobRow:
    """Content that the service keeps. `site_id` is the Site that sent it, 0 for the user; `place` is in the storage.

    `uses` counts the TransferItems that hold it; `last_used_at` is when somebody last sent it or asked for it.
    """

    id: int
    owner_id: int
    site_id: int
    sha256: str
    size_bytes: int
    place: str
    uses: int
    created_at: int
    last_used_at: int


@dataclass(frozen=True, slots=True)
class TransferItemRow:
    """A file or tree that a Job takes in or gives out. `submitter_id` is the Job's.

    `content` is its TransferContent while it travels through the service, and `holds_content` whether blobs are kept
    for it; `origin` says which client the path belongs to.
    """

    id: int
    owner_id: int
    site_id: int
    job_id: int
    submitter_id: int
    slot: str
    direction: TransferDirection
    local_path: str
    remote_path: str
    location_alias: str
    recursive: bool
    state: TransferState
    task_id: str
    transfer_info: Json
    content: Json
    origin: str
    holds_content: bool
    created_at: int
    last_update: int
    collected_at: int | None
