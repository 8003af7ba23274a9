"""Transfers of submitted Jobs: the check of each slot, and the TransferItems made with the Jobs.

Called by `submit.py` within its transaction: an item exists if and only if its Job does (S2).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from balsam.domain.app import TransferSlot
from balsam.domain.states import JobState, TransferState
from balsam.domain.transfers import CLIENT, BadLocation, Location, TransferDirection
from balsam.server.errors import ServiceError
from balsam.server.principal import Principal
from balsam.server.store.protocol import ReadTx, Tx, Wake
from balsam.server.store.records import BlobRow, JobShape, NewJob, TransferItemRow, micros
from balsam.server.usecases.blobs import own_blobs, sender_of
from balsam.server.usecases.transfers import content_json
from balsam.wire.base import ErrorDetail
from balsam.wire.jobs import JobCreate
from balsam.wire.transfers import JobTransfer, SentContent

_RESEND = "it is not at the service (any more); send it again, then submit"


@dataclass(frozen=True, slots=True)
class Wanted:
    """One slot of one Job, checked."""

    slot: str
    spec: TransferSlot
    location: Location
    content: SentContent | None
    origin: str

    @property
    def direction(self) -> TransferDirection:
        return TransferDirection(self.spec.direction)


@dataclass(frozen=True, slots=True)
class Slots:
    """What a submission needs of an App's slots and its Site's locations."""

    app_name: str
    specs: Mapping[str, TransferSlot]
    required: tuple[str, ...]
    site_name: str
    locations: Mapping[str, str]

    def check(self, given: Mapping[str, str | JobTransfer]) -> Iterator[Wanted | tuple[str, str]]:
        """Each slot that was given, or (where, what is wrong with it)."""
        for name in self.required:
            if name not in given:
                yield "transfers", f"App {self.app_name!r} needs {name}: give it as {name}=ALIAS:/absolute/path"
        for name, value in given.items():
            spec = self.specs.get(name)
            if spec is None:
                known = ", ".join(self.specs) or "none"
                yield f"transfers.{name}", f"App {self.app_name!r} has no such transfer slot; it has: {known}"
                continue
            try:
                wanted = _wanted(name, spec, value)
            except BadLocation as error:
                yield f"transfers.{name}", str(error)
                continue
            why = self._misfit(wanted)
            yield (f"transfers.{name}", why) if why else wanted

    def _misfit(self, wanted: Wanted) -> str:
        alias = wanted.location.alias
        if alias not in self.locations:
            known = ", ".join(self.locations) or "none yet: its agent tells them when it starts"
            return f"Site {self.site_name!r} has no transfer location {alias!r}; it has: {known}"
        sends = alias == CLIENT and wanted.direction is TransferDirection.stage_in
        if sends and wanted.content is None:
            return "what comes from the client is sent to the service before the Job is submitted; balsam.api does that"
        if not sends and wanted.content is not None:
            return "content goes only with what comes from the client"
        return ""


def _wanted(name: str, spec: TransferSlot, value: str | JobTransfer) -> Wanted:
    if isinstance(value, str):
        return Wanted(name, spec, Location.parse(value), None, "")
    location = Location.parse(f"{value.location_alias}:{value.path}")
    return Wanted(name, spec, location, value.content, value.origin)


def load_blobs(tx: ReadTx, principal: Principal, jobs: Mapping[int, JobCreate]) -> dict[str, BlobRow]:
    """The blobs that the inputs of Jobs, given by row, are made of. Raises ServiceError `blob_missing` naming rows."""
    needed: dict[str, str] = {}
    for index, job in jobs.items():
        for name, value in job.transfers.items():
            if isinstance(value, JobTransfer) and value.content is not None:
                for blob in value.content.blobs:
                    needed.setdefault(blob, f"jobs[{index}].transfers.{name}")
    if not needed:
        return {}
    found = own_blobs(tx, sender_of(principal), needed)
    missing = [ErrorDetail(where=where, message=_RESEND) for blob, where in needed.items() if blob not in found]
    if missing:
        message = f"the content of {len(missing)} inputs is missing, first {missing[0].where}; {_RESEND}"
        raise ServiceError(409, "blob_missing", message, missing)
    return found


def insert_items(
    tx: Tx, jobs: Iterable[tuple[int, NewJob, Sequence[Wanted]]], blobs: Mapping[str, BlobRow], now: datetime
) -> None:
    """The items of new Jobs, each given with its id and slots."""
    rows: list[TransferItemRow] = []
    uses: list[tuple[int, int]] = []
    for job_id, job, slots in jobs:
        for wanted in slots:
            row = _new_item(tx.new_id(TransferItemRow), job_id, job.shape, wanted, micros(now))
            rows.append(row)
            if wanted.content is not None:
                uses += [(row.id, blobs[name].id) for name in dict.fromkeys(wanted.content.blobs)]
    tx.put_all(rows)
    tx.use_blobs(uses)
    for site_id in {row.site_id for row in rows if row.state is TransferState.PENDING}:
        tx.wake(Wake("site", site_id, "transfers", {}))


def _new_item(item_id: int, job_id: int, shape: JobShape, wanted: Wanted, at: int) -> TransferItemRow:
    is_due = shape.decision.after.state is JobState.READY and wanted.direction is TransferDirection.stage_in
    return TransferItemRow(
        id=item_id,
        owner_id=shape.owner_id,
        site_id=shape.site_id,
        job_id=job_id,
        submitter_id=shape.submitter_id,
        slot=wanted.slot,
        direction=wanted.direction,
        local_path=wanted.spec.local_path,
        remote_path=wanted.location.path,
        location_alias=wanted.location.alias,
        recursive=wanted.spec.recursive,
        state=TransferState.PENDING if is_due else TransferState.AWAITING_JOB,
        task_id="",
        transfer_info={},
        content={} if wanted.content is None else content_json(wanted.content),
        origin=wanted.origin,
        holds_content=wanted.content is not None,
        created_at=at,
        last_update=at,
        collected_at=None,
    )
