"""Results that a dead launcher could not report: handed in by the agent before it says that the allocation ended (L3).

Each launcher session keeps its records in `session-<id>.outbox` in the BatchJob's directory. The service knows up to
where it has heard a session and skips the rest, so handing in twice does no harm (S3). In slices, so that the agent's
other duties go on in between.
"""

import errno
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from balsam.client.errors import Conflict, NotFound
from balsam.client.outbox import PATTERN, OutboxError, bare, batch_length, read_outbox
from balsam.site.ledger import Entry
from balsam.site.service import SiteService
from balsam.wire.limits import MAX_REPORT
from balsam.wire.sessions import Report, ReportRecord

log = logging.getLogger(__name__)

SLICES_PER_PASS = 5
SET_ASIDE = ".refused"


class Delivery:
    """Hands in outboxes. `directory` tells where those of an entry are."""

    def __init__(self, service: SiteService, directory: Callable[[Entry], Path]) -> None:
        self._service = service
        self._directory = directory
        self._waiting: dict[Path, tuple[int, list[ReportRecord]]] = {}

    def deliver(self, entry: Entry) -> bool:
        """Hand in a few slices; whether nothing is left. Raises ServiceAway."""
        slices = SLICES_PER_PASS
        for path in sorted(self._directory(entry).glob(PATTERN)):
            while slices and not self._hand_in(path):
                slices -= 1
            if path in self._waiting:
                return False
        return True

    def _hand_in(self, path: Path) -> bool:
        """One slice of one outbox; whether that outbox is done with."""
        try:
            session_id, records = self._waiting.get(path) or self._read(path)
        except OutboxError as error:
            if error.errno != errno.EILSEQ:
                raise
            log.error("%s; it is set aside", error.strerror)
            _set_aside(path)
            return True
        if records:
            self._waiting[path] = (session_id, records)
            try:
                length = batch_length((len(record.model_dump_json()) for record in records), MAX_REPORT)
                reply = self._service.deliver(session_id, Report(records=records[:length]))
            except (Conflict, NotFound) as error:
                log.warning("the service takes no results of session %d any more: %s", session_id, error)
                _set_aside(path)
                del self._waiting[path]
                return True
            left = [record for record in records if record.seq > reply.acked_seq]
            if len(left) == len(records):
                raise OSError(f"the service acknowledges none of the records in {path}")
            self._waiting[path] = (session_id, left)
            if left:
                return False
            log.info("session %d: %d results of a dead launcher delivered", session_id, len(records))
        self._waiting.pop(path, None)
        path.unlink(missing_ok=True)
        return True

    def _read(self, path: Path) -> tuple[int, list[ReportRecord]]:
        contents = read_outbox(path)
        if contents.torn:
            log.warning("%s ends in the middle of a record; that record is lost with the launcher that wrote it", path)
        records = []
        for found in contents.records:
            try:
                records.append(ReportRecord.model_validate(found))
            except ValidationError as error:
                log.error("%s has a record that can't be understood: %s", path, error)
                records += _bare(found, error)
        return contents.session_id, records


def _bare(found: dict[str, Any], why: ValidationError) -> list[ReportRecord]:
    """What became of the Job, if at least that can be understood."""
    try:
        return [ReportRecord.model_validate(bare(found, str(why)))]
    except ValidationError:
        return []


def _set_aside(path: Path) -> None:
    """Keep for people what can't be delivered; out of the way of the next pass."""
    path.replace(path.with_name(path.name + SET_ASIDE))
