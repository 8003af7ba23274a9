"""BatchJobs that the agent itself asks the service for, each exactly once whatever crashes when (S11).

What is to be asked is written down with a key before it is asked; after a crash it is asked again with the same key,
and the service answers with the BatchJob that it made the first time. One object for each service of the agent, with a
file of its own, which also tells that service which BatchJobs are its own.
"""

import json
import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from balsam.domain.clock import Clock
from balsam.site.crash_points import crash_point
from balsam.site.directory import write_json
from balsam.wire.backlog import Backlog, BacklogQuery
from balsam.wire.batch_jobs import BatchJobCreate, BatchJobView

log = logging.getLogger(__name__)

# The service remembers a key for seven days; what was not asked by then is not wanted any more either.
KEPT_FOR = timedelta(days=1)


class RequestRefused(Exception):
    """The service will not make this BatchJob; the text says why."""


class ScalingService(Protocol):
    """The service as those see it who ask for allocations. Every method may raise ServiceAway."""

    def backlog(self, query: BacklogQuery) -> Backlog:
        """What waits at the Site, and what will take of it."""
        ...

    def ask_batch_job(self, body: BatchJobCreate, key: str) -> BatchJobView:
        """Ask for an allocation; a repeat with the same key makes no other. Raises RequestRefused."""
        ...

    def end_batch_job(self, batch_job_id: int) -> None:
        """Ask for the end of one. One that has ended already is no error."""
        ...

    def batch_jobs(self, ids: Iterable[int]) -> Mapping[int, BatchJobView]:
        """Some BatchJobs, whatever their state; those that do not exist are left out."""
        ...


@dataclass(slots=True)
class _Intent:
    """A request that was begun."""

    key: str
    body: dict[str, Any]
    reason: str
    at: str


@dataclass(slots=True)
class _Record:
    """What is in the file: `own` are the BatchJobs that were asked for, with the reason."""

    intent: _Intent | None = None
    own: dict[int, str] = field(default_factory=dict)


class AskedBatchJobs:
    """The BatchJobs of one service of the agent. One thread calls it."""

    def __init__(self, path: Path, service: ScalingService, clock: Clock) -> None:
        self._path = path
        self._service = service
        self._clock = clock
        self._record = _load(path)

    @property
    def own(self) -> Mapping[int, str]:
        """Those that were asked for here and are not forgotten, with the reason."""
        return self._record.own

    def finish(self) -> None:
        """Bring to its end what a crash or an outage cut off. Raises ServiceAway, OSError."""
        intent = self._record.intent
        if intent is None:
            return
        if self._clock.now() - datetime.fromisoformat(intent.at) > KEPT_FOR:
            self._keep(_Record(None, self._record.own))
            return
        try:
            self._carry_out(intent)
        except RequestRefused as refused:
            log.warning("a BatchJob that was to be asked for before is refused: %s", refused)

    def ask(self, body: BatchJobCreate, reason: str) -> BatchJobView:
        """Ask for an allocation. Raises RequestRefused, ServiceAway, OSError; after the last two `finish` goes on."""
        now = self._clock.now().isoformat()
        intent = _Intent(str(uuid4()), body.model_dump(mode="json", exclude_unset=True), reason, now)
        self._keep(_Record(intent, self._record.own))
        crash_point("after-request-intent")
        return self._carry_out(intent)

    def forget_all_but(self, alive: Collection[int]) -> None:
        """The others have ended. Raises OSError."""
        own = {number: reason for number, reason in self._record.own.items() if number in alive}
        if own != self._record.own:
            self._keep(_Record(self._record.intent, own))

    def _carry_out(self, intent: _Intent) -> BatchJobView:
        try:
            made = self._service.ask_batch_job(BatchJobCreate.model_validate(intent.body), intent.key)
        except RequestRefused:
            self._keep(_Record(None, self._record.own))
            raise
        crash_point("after-request-before-record")
        self._keep(_Record(None, {**self._record.own, made.id: intent.reason}))
        log.info("BatchJob %d is asked for: %s", made.id, intent.reason)
        return made

    def _keep(self, record: _Record) -> None:
        write_json(self._path, asdict(record))
        self._record = record


def _load(path: Path) -> _Record:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        intent = None if content["intent"] is None else _Intent(**content["intent"])
        return _Record(intent, {int(number): str(reason) for number, reason in content["own"].items()})
    except FileNotFoundError:
        return _Record()
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        # Whatever was asked for is counted all the same; it only is not ended for having queued too long.
        log.error("%s can't be read (%s); beginning anew", path, error)
        return _Record()
