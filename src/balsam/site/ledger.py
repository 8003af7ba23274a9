"""The agent's durable memory: one record for each BatchJob that it took on, written before it acts.

It is intent, journal and outbox in one: a record says how far the BatchJob has come and whether the service has heard
of it. After a crash, or hours without the service, the records alone tell what is left to do (S11, L4). A later state
of a BatchJob takes the place of an earlier one that was not reported yet: the outbox stays small and in order.
"""

import errno
import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from balsam.domain.states import BatchJobState
from balsam.site.directory import write_json, write_text
from balsam.wire.batch_jobs import BatchJobPatch, BatchJobView

log = logging.getLogger(__name__)

RECORD = "batch_job.json"
PREFIX = "allocation-prefix"
CLOSED_RECORD = "batch_job.closed.json"


class Phase(StrEnum):
    """How far a BatchJob has come at the Site."""

    INTENT = "intent"  # about to be submitted, perhaps submitted already: ask the scheduler for its name
    SUBMITTED = "submitted"  # the scheduler has it, its id is known
    ENDED = "ended"  # the scheduler vouches that it is over; results of a dead launcher may be left
    DELIVERED = "delivered"  # nothing is left but to tell the service


@dataclass(slots=True)
class Entry:
    """One BatchJob. Times are ISO text; `unreported` is true while the service has not acknowledged this state.

    `name` is that of its directory, `allocation_name` what the scheduler knows it by.
    """

    batch_job_id: int
    name: str
    created_at: str
    queue: str
    phase: Phase = Phase.INTENT
    state: BatchJobState = BatchJobState.PENDING_SUBMISSION
    scheduler_id: str | None = None
    status_info: dict[str, Any] = field(default_factory=dict)
    start_time: str | None = None
    end_time: str | None = None
    unreported: bool = False
    deleting: bool = False  # the user asked for its end: the service takes no state but `finished`
    orphan: bool = False  # the service does not know it any more
    project: str = ""
    allocation_name: str = ""
    num_nodes: int = 0  # 0 in records of versions that had no budgets
    wall_time_min: int = 0
    filter_tags: dict[str, str] = field(default_factory=dict)

    def patch(self) -> BatchJobPatch:
        """What to tell the service: always all of it, so that one report makes up for any number of lost ones."""
        told: dict[str, Any] = {"status_info": self.status_info}
        if self.reported_state is not None:
            told["state"] = self.reported_state
        if self.scheduler_id is not None:
            told["scheduler_id"] = self.scheduler_id
        for name in ("start_time", "end_time"):
            value = getattr(self, name)
            if value is not None:
                told[name] = datetime.fromisoformat(value)
        return BatchJobPatch(**told)

    @property
    def reported_state(self) -> BatchJobState | None:
        """The state to tell, None for no change: pending_deletion takes nothing but `finished`."""
        if self.phase is Phase.DELIVERED:
            return BatchJobState.FINISHED if self.deleting else self.state
        return None if self.deleting or self.state is BatchJobState.PENDING_SUBMISSION else self.state

    def tell(self, **facts: Any) -> None:
        """Show people these facts; what is None or empty is not shown any more."""
        known = {**self.status_info, **facts}
        self.status_info = {key: value for key, value in known.items() if value not in (None, "", ())}

    def complain(self, error: str, now: datetime) -> None:
        """Show people what went wrong."""
        self.tell(error=error, error_time=now.isoformat())

    def over(self, state: BatchJobState, phase: Phase, now: datetime, reason: str = "") -> None:
        """It has come to its end."""
        self.state, self.phase = state, phase
        self.end_time = self.end_time or now.isoformat()
        self.tell(unknown_since=None, expected_start=None)
        if reason:
            self.tell(scheduler=reason)
        log.info("BatchJob %d is over%s", self.batch_job_id, f": {reason}" if reason else "")


class Ledger:
    """All open records of a Site, in `qsubmit/<name>/batch_job.json`."""

    def __init__(self, qsubmit: Path, site_id: int) -> None:
        self._qsubmit = qsubmit
        self._site_id = site_id
        self._entries: dict[int, Entry] = {}
        self._unsaved: set[int] = set()
        self._closed: list[Entry] | None = None
        for path in sorted(qsubmit.glob(f"*/{RECORD}")):
            entry = _load(path)
            if entry is not None:
                self._entries[entry.batch_job_id] = entry

    def __iter__(self) -> Iterator[Entry]:
        return iter(list(self._entries.values()))

    def all_records(self) -> list[Entry]:
        """Open ones, and those that have ended as long as their directories are there."""
        if self._closed is None:
            loaded = (_load(path) for path in sorted(self._qsubmit.glob(f"*/{CLOSED_RECORD}")))
            self._closed = [entry for entry in loaded if entry is not None]
        return [*self._closed, *self._entries.values()]

    def get(self, batch_job_id: int) -> Entry | None:
        return self._entries.get(batch_job_id)

    def allocation_name(self, view: BatchJobView) -> str:
        """The name under which the scheduler gets a BatchJob: the same after any crash, so it can be searched (S11).

        And no other's: a user may have Sites of several services on a cluster, which number their BatchJobs alike, and
        a service that was set up anew begins again at 1, while the scheduler remembers.
        """
        return f"{self.allocation_prefix}{view.id}-{_mark(view.created_at.isoformat())}"

    @property
    def allocation_prefix(self) -> str:
        """How the names of this Site's allocations begin, and no other Site's."""
        try:
            return (self._qsubmit / PREFIX).read_text(encoding="utf-8")
        except FileNotFoundError:
            return f"balsam-{_mark(f'{self._site_id} {self._qsubmit}')}-"

    def keep_prefix(self) -> None:
        """Names of allocations begin as they do now, also when the Site is moved. Raises OSError."""
        write_text(self._qsubmit / PREFIX, self.allocation_prefix)

    def directory(self, entry: Entry) -> Path:
        """The BatchJob's own directory under qsubmit."""
        return self._qsubmit / entry.name

    def output(self, entry: Entry) -> Path:
        """Where the scheduler puts what the batch script prints."""
        return self._qsubmit / f"{entry.allocation_name}.output"

    def open(self, view: BatchJobView) -> Entry:
        """A new entry, in memory only until `save` or `save_durably`."""
        entry = Entry(
            batch_job_id=view.id,
            name=f"balsam-{self._site_id}-{view.id}",
            created_at=view.created_at.isoformat(),
            queue=view.queue,
            project=view.project,
            allocation_name=self.allocation_name(view),
            num_nodes=view.num_nodes,
            wall_time_min=view.wall_time_min,
            filter_tags=dict(view.filter_tags),
        )
        self._entries[view.id] = entry
        self._unsaved.add(view.id)
        return entry

    def save_durably(self, entry: Entry) -> None:
        """Write the entry down before acting on it (S11). Raises OSError; the caller must not act then."""
        directory = self.directory(entry)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_json(directory / RECORD, asdict(entry))
        self._unsaved.discard(entry.batch_job_id)

    def save(self, entry: Entry) -> None:
        """Write the entry down now, or with a later `flush` when the disk is full: what happened has happened."""
        self._unsaved.add(entry.batch_job_id)
        self.flush()

    def note(self, entry: Entry) -> None:
        """The service is to hear of this state; durable until it did."""
        entry.unreported = not entry.orphan
        self.save(entry)

    def flush(self) -> bool:
        """Write what could not be written so far; whether all is on disk now."""
        for number in sorted(self._unsaved):
            try:
                self.save_durably(self._entries[number])
            except OSError as error:
                log.error("%s can't be written (%s); trying again", self.directory(self._entries[number]), _why(error))
                return False
        return True

    def close(self, entry: Entry) -> None:
        """The service knows the end: keep the record for people, out of the way. OSError: it stays open."""
        directory = self.directory(entry)
        if (directory / RECORD).exists():
            (directory / RECORD).replace(directory / CLOSED_RECORD)
            if self._closed is not None:
                self._closed.append(entry)
        self._unsaved.discard(entry.batch_job_id)
        del self._entries[entry.batch_job_id]


def _load(path: Path) -> Entry | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        known = {one.name for one in fields(Entry)}
        entry = Entry(**{key: value for key, value in content.items() if key in known})
        entry.phase, entry.state = Phase(entry.phase), BatchJobState(entry.state)
        entry.allocation_name = entry.allocation_name or entry.name
    except (OSError, ValueError, TypeError, AttributeError) as error:
        # The name can still be searched at the scheduler, so nothing is submitted twice without this record.
        log.error("%s can't be read (%s); asking service and scheduler instead", path, error)
        return None
    return entry


def _mark(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]


def _why(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{error.strerror}: free some space"
    return error.strerror or str(error)
