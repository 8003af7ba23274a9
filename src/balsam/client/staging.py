"""Sending the inputs of Jobs before the Jobs are submitted: `client:/abs/path` of a stage-in slot.

Called by `submission.py` with all Jobs of a submission. Each file is read once however many Jobs take it, what the
service has already is not sent, and small files share uploads. For every other slot it says who may write the result.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from balsam.client.blobs import ServiceBlobs
from balsam.client.contents import to_wire
from balsam.client.errors import Problem, ValidationFailed
from balsam.client.progress import BYTES, Advance, progress_bar
from balsam.client.submission import Row, uses_client
from balsam.domain.transfers import CLIENT, BadLocation, Location, TransferDirection
from balsam.transfer.base import PeerAway, PeerRefused
from balsam.transfer.descent import Refused
from balsam.transfer.manifest import ManifestWriter
from balsam.transfer.sending import Sender
from balsam.transfer.sources import FileChanged, Free, Selection, SourceFile, select
from balsam.wire.transfers import JobTransfer, SentContent

if TYPE_CHECKING:
    from balsam.client.client import Client

ROOT = "/"
Source = tuple[str, bool]  # path, recursive


@dataclass(frozen=True, slots=True)
class _Transfer:
    """One transfer that begins or ends at this machine."""

    slot: str
    direction: TransferDirection
    recursive: bool
    path: str


@dataclass(slots=True)
class _Input:
    """A file or tree that was read."""

    writer: ManifestWriter
    selection: Selection
    content: SentContent | None = None


class Staging:
    """The transfers of one submission between this machine and the Site."""

    def __init__(self, client: "Client", rows: Sequence[Row]) -> None:
        self._client = client
        self._rows = rows
        patience_sec = client.settings.retry_for_sec
        self._sender = Sender(ServiceBlobs(client.transport, hash_first=True, patience_sec=patience_sec))
        self._inputs: dict[Source, _Input] = {}

    def stage(self, progress: bool | None = None) -> list[Row]:
        """Rows of Jobs as they are submitted: with the contents of their inputs, which are at the service then.

        `progress`: see `progress_bar`. Raises ValidationFailed that names the slot whose file can't be read,
        StorageFull, ServiceUnavailable.
        """
        wanted: dict[tuple[int, str], Source] = {}
        for index, row in enumerate(self._rows):
            for one in self._transfers(row):
                if one.direction is TransferDirection.stage_in:
                    wanted[index, one.slot] = (one.path, one.recursive)
        with progress_bar(partial(_total_bytes, set(wanted.values())), "sending", progress, BYTES) as advance:
            for (index, slot), source in wanted.items():
                with _explained(index, slot):
                    self._read(source, advance)
            for (index, slot), source in wanted.items():
                with _explained(index, slot):
                    self._finish(self._inputs[source])
        return self._staged(wanted)

    def outputs(self, index: int) -> dict[str, str]:
        """The paths of this machine that a Job's results go to, by slot."""
        transfers = self._transfers(self._rows[index])
        return {one.slot: one.path for one in transfers if one.direction is TransferDirection.stage_out}

    def _transfers(self, row: Row) -> Iterator[_Transfer]:
        """The transfers of a Job that begin or end here and make sense; the service names what does not."""
        if not uses_client(row):
            return
        specs = self._client.apps.view(row["app_id"]).transfers
        for slot, text in row["transfers"].items():
            try:
                location = Location.parse(text)
            except BadLocation:
                continue
            if slot in specs and location.alias == CLIENT:
                spec = specs[slot]
                yield _Transfer(slot, TransferDirection(spec.direction), spec.recursive, location.path)

    def _read(self, source: Source, advance: Advance) -> None:
        if source not in self._inputs:
            path, recursive = source
            selection = select(Free(Path(ROOT)), path, recursive)
            meter = _Meter(advance)
            selection.files = meter.metered(selection.files)
            self._inputs[source] = _Input(self._sender.send(selection, path, meter), selection)

    def _finish(self, given: _Input) -> None:
        if given.content is None:
            given.content = to_wire(self._sender.finish(given.writer, given.selection.is_tree))

    def _staged(self, wanted: Mapping[tuple[int, str], Source]) -> list[Row]:
        staged = list(self._rows)
        for index, row in enumerate(self._rows):
            for one in self._transfers(row):
                given = JobTransfer(location_alias=CLIENT, path=one.path)
                if one.direction is TransferDirection.stage_out:
                    more = {"origin": self._client.origin.seal(one.slot, one.path)}
                    given = given.model_copy(update=more)
                else:
                    given = given.model_copy(update={"content": self._inputs[wanted[index, one.slot]].content})
                told = given.model_dump(mode="json", exclude_defaults=True)
                staged[index] = {**staged[index], "transfers": {**staged[index]["transfers"], one.slot: told}}
        return staged


class _Meter:
    """Tells how many bytes are sent. A large file is read twice, to be hashed and to be sent, or once when the service
    has it: what is read counts half, and the rest when the file is done."""

    def __init__(self, advance: Advance) -> None:
        self._advance = advance
        self._left_bytes = 0
        self._lock = Lock()  # a large file is read by two threads

    def __call__(self, read_bytes: int) -> None:
        """So much of the present file was read."""
        with self._lock:
            self._count(min(read_bytes // 2, self._left_bytes))

    def metered(self, files: Iterator[SourceFile]) -> Iterator[SourceFile]:
        """The same files; when the next one is asked for, the one before is done."""
        for file in files:
            self._left_bytes = file.size_bytes
            yield file
            with self._lock:
                self._count(self._left_bytes)

    def _count(self, size_bytes: int) -> None:
        self._left_bytes -= size_bytes
        self._advance(size_bytes)


def _total_bytes(sources: Iterable[Source]) -> int:
    """How much there is to read; a source that can't be read is told of when it is its turn."""
    total = 0
    for path, recursive in sources:
        with suppress(OSError, Refused):
            total += sum(file.size_bytes for file in select(Free(Path(ROOT)), path, recursive).files)
    return total


@contextmanager
def _explained(index: int, slot: str) -> Iterator[None]:
    """What goes wrong with a file, in the words of a submission."""
    try:
        yield
    except (PeerAway, PeerRefused) as error:
        raise error.__cause__ or error from None
    except (OSError, Refused, FileChanged) as error:
        text = (error.strerror if isinstance(error, OSError) else None) or str(error)
        place = getattr(error, "filename", None)
        message = f"can't be sent: {place}: {text}" if isinstance(place, str) else f"can't be sent: {text}"
        where = f"jobs[{index}].transfers.{slot}"
        raise ValidationFailed(f"{where}: {message}", code="validation", details=[Problem(where, message)]) from error
