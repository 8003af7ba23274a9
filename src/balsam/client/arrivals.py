"""Results on their way to this machine: what Jobs staged out to `client:` is fetched, verified and put in place.

Called by `collector.py`, and by `Job.fetch` with a directory of the caller's choice. A file appears at its path whole
and verified or not at all; small ones of many Jobs are read in one go.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from balsam.client.blobs import ServiceBlobs
from balsam.client.contents import from_wire
from balsam.client.progress import BYTES, Advance, progress_bar
from balsam.domain.states import TransferState
from balsam.domain.transfers import CLIENT, TransferDirection
from balsam.transfer.base import PeerRefused
from balsam.transfer.descent import Refused, parts_of
from balsam.transfer.destination import ChecksumMismatch, Destination, open_directory
from balsam.transfer.manifest import BadManifest, Content
from balsam.transfer.receiving import BlobSource, Wanted, entries_of, receive
from balsam.wire.limits import MAX_BULK
from balsam.wire.transfers import TransferItemView, TransferQuery, TransfersCollected, TransfersPage, TransfersPatched

if TYPE_CHECKING:
    from balsam.client.client import Client

AT_ONCE = 100  # open directories
_WRONG = (OSError, Refused, ChecksumMismatch, PeerRefused, BadManifest)  # with one item, while others arrive


@dataclass(frozen=True, slots=True)
class Arrived:
    """One result at this machine. `error` is empty when it is in place."""

    job_id: int
    slot: str
    path: str
    size_bytes: int
    error: str = ""


@dataclass(frozen=True, slots=True)
class Sent:
    """A result that is, or was, kept at the service."""

    item: TransferItemView
    content: Content

    @property
    def loss(self) -> PeerRefused | None:
        """Why it can't be fetched any more: nobody did in its time."""
        why = self.item.transfer_info.get("error")  # of an item that is done
        how = "" if self.content.is_tree else f": balsam job get {self.item.job_id} {self.item.local_path}"
        return None if why is None else PeerRefused(f"{why}{how}", is_final=True)


def sent_home(client: "Client", job_ids: list[int]) -> dict[int, Sent]:
    """What these Jobs have sent to `client:` and nobody has collected, whoever it is meant for; by item."""
    found: dict[int, Sent] = {}
    after = None
    while True:
        query = TransferQuery(
            job_id=job_ids, direction=TransferDirection.stage_out, state=[TransferState.DONE], after=after
        )
        page = client.transport.search("/transfers", query, reply=TransfersPage)
        for item in page.results:
            if item.location_alias == CLIENT and item.content is not None and item.collected_at is None:
                found[item.id] = Sent(item, from_wire(item.content))
        if len(page.results) < query.limit:
            return found
        after = page.results[-1].id


def mark_collected(client: "Client", item_ids: list[int]) -> None:
    """Tell the service that it need not keep these."""
    for start in range(0, len(item_ids), MAX_BULK):
        body = TransfersCollected(ids=item_ids[start : start + MAX_BULK])
        client.transport.request("POST", "/transfers/collected", body=body, reply=TransfersPatched, safe_to_repeat=True)


def fetch_home(client: "Client", job_ids: list[int]) -> list[Arrived]:
    """Fetch results to the paths that their Jobs say, as far as this user named them on this machine.

    Raises PeerAway, BalsamError when the service can't be reached.
    """
    found = sent_home(client, job_ids)
    places, outcomes = dict[int, tuple[Content, str]](), dict[int, Exception | None]()
    for key, sent in found.items():
        item = sent.item
        if loss := sent.loss:
            outcomes[key] = loss
        elif client.origin.is_mine(item.origin, item.slot, item.remote_path):
            places[key] = (sent.content, item.remote_path)
        else:
            host = item.origin.partition(":")[0] or "another client"
            outcomes[key] = Refused(f"it belongs to {host}; --to DIRECTORY puts it below a directory of this machine")
    return _fetched(client, found, places, outcomes, progress=False)


def fetch_to(client: "Client", job_ids: list[int], directory: Path, progress: bool | None = False) -> list[Arrived]:
    """Fetch results into a directory: each at the path of its workdir, under the name that it was to have.

    `progress`: see `progress_bar`. Raises PeerAway, BalsamError when the service can't be reached.
    """
    found = sent_home(client, job_ids)
    places, outcomes = dict[int, tuple[Content, str]](), dict[int, Exception | None]()
    for key, sent in found.items():
        if loss := sent.loss:
            outcomes[key] = loss
            continue
        try:
            place = directory.absolute().joinpath(*parts_of(str(sent.item.workdir), "workdir"), *_name(sent.item))
        except Refused as error:
            outcomes[key] = error
        else:
            places[key] = (sent.content, str(place))
    return _fetched(client, found, places, outcomes, progress)


def _fetched(
    client: "Client",
    found: Mapping[int, Sent],
    places: Mapping[int, tuple[Content, str]],
    outcomes: dict[int, Exception | None],
    progress: bool | None,
) -> list[Arrived]:
    size_bytes = sum(content.size_bytes for content, _ in places.values())
    with progress_bar(size_bytes, "fetching", progress, BYTES) as advance:
        outcomes.update(bring(ServiceBlobs(client.transport), places, advance))
    mark_collected(client, [item_id for item_id, error in outcomes.items() if error is None])
    return [_arrived(found[key], places[key][1] if key in places else "", error) for key, error in outcomes.items()]


def _name(item: TransferItemView) -> list[str]:
    name = PurePosixPath(item.remote_path).name
    return parts_of(name, "path") if name else []


def _arrived(sent: Sent, path: str, error: Exception | None) -> Arrived:
    text = "" if error is None else told(error)
    return Arrived(sent.item.job_id, sent.item.slot, path, sent.content.size_bytes, text)


def told(error: Exception) -> str:
    """What went wrong with a file, for people."""
    if isinstance(error, OSError):
        text = error.strerror or str(error)
        return f"{error.filename}: {text}" if isinstance(error.filename, str) else text
    return str(error)


def bring(
    source: BlobSource, places: Mapping[int, tuple[Content, str]], advance: Advance = lambda size_bytes: None
) -> Iterator[tuple[int, Exception | None]]:
    """Fetch contents, each to its path, and say of each what went wrong (None: it is there). Raises PeerAway.

    `advance` hears of bytes that arrived.

    A single file is put at the path, or into it when that is a directory or ends with /; a tree into the directory.
    """
    files = [key for key, (content, _) in places.items() if not content.is_tree]
    for start in range(0, len(files), AT_ONCE):
        yield from _bring_files(source, {key: places[key] for key in files[start : start + AT_ONCE]}, advance).items()
    for key, (content, path) in places.items():
        if content.is_tree:
            yield key, _bring_tree(source, content, path, advance)


def _bring_files(
    source: BlobSource, places: Mapping[int, tuple[Content, str]], advance: Advance
) -> dict[int, Exception | None]:
    outcomes: dict[int, Exception | None] = {}
    try:
        with ExitStack() as stack:
            wanted: list[Wanted] = []
            there = _Directories(stack)
            for key, (content, path) in places.items():
                try:
                    wanted += _wanted_file(there, source, key, content, path)
                except _WRONG as error:
                    outcomes[key] = error
            wanted.sort(key=lambda one: (one.entry.blob or "", one.entry.offset))
            for one, failure in receive(source, wanted, lambda _, size_bytes: advance(size_bytes)):
                outcomes[one.key] = failure
    except OSError as error:  # what was renamed could not be made durable
        return dict.fromkeys(places, error)
    return outcomes


@dataclass(slots=True)
class _Directories:
    """Those that files are put into: many of them often into the same one."""

    stack: ExitStack
    open: dict[Path, Destination] = field(default_factory=dict)

    def destination(self, directory: Path) -> Destination:
        """Made if need be. Raises OSError."""
        if directory not in self.open:
            root = self.stack.enter_context(open_directory(directory, make=True))
            self.open[directory] = self.stack.enter_context(Destination(root))
        return self.open[directory]


def _wanted_file(there: _Directories, source: BlobSource, key: int, content: Content, path: str) -> Iterator[Wanted]:
    place = Path(path)
    into = path.endswith("/") or place.is_dir()
    destination = there.destination(place if into else place.parent)
    for entry in entries_of(content, source):
        yield Wanted(key, entry, destination, [entry.parts[-1] if into else place.name])


def _bring_tree(source: BlobSource, content: Content, path: str, advance: Advance) -> Exception | None:
    try:
        with open_directory(Path(path), make=True) as root, Destination(root) as destination:
            wanted = (Wanted(0, entry, destination, entry.parts) for entry in entries_of(content, source))
            for _, failure in receive(source, wanted, lambda _, size_bytes: advance(size_bytes)):
                if failure is not None:
                    return failure
    except _WRONG as error:
        return error
    return None
