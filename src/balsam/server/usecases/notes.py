"""What monitors of Apps noted of Jobs that run: the tags that go with it. The event itself is a step like any other.

Used by report.py. A report is never refused for them, or the launcher's outbox could not go on: tags that can't be are
left out, and what was noted still says that the rule was met.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from balsam.server.store.protocol import Tx
from balsam.server.store.records import JobRow, SessionRow, micros
from balsam.server.usecases.change import fields_of
from balsam.server.usecases.limits import tag_problems
from balsam.wire.jobs import JobPatch
from balsam.wire.sessions import LaunchEvent, ReportRecord


def tag_noted(tx: Tx, session: SessionRow, records: Iterable[ReportRecord], now: datetime) -> None:
    """Merge the tags into those of the Jobs. To be called before the Jobs are read: campaigns are told by tags."""
    wanted: dict[int, list[ReportRecord]] = {}
    for record in records:
        if record.event is LaunchEvent.NOTED and record.changes and record.seq > session.report_seq:
            wanted.setdefault(record.job_id, []).append(record)
    if not wanted:
        return
    changes: dict[int, dict[str, Any]] = {}
    for job in tx.jobs(wanted):
        tags = job.tags
        for record in wanted[job.id]:
            if job.session_id == session.id and job.token == record.token:
                tags = _merged(job, tags, record.changes)
        if tags != job.tags:
            changes[job.id] = {"tags": tags}
    tx.change_jobs(changes, micros(now))


def _merged(job: JobRow, tags: dict[str, str], changes: dict[str, Any]) -> dict[str, str]:
    try:
        patch = JobPatch.model_validate({"tags": tags, "merge_tags": changes.get("merge_tags", {})})
    except ValidationError:
        return tags
    merged: dict[str, str] = fields_of(patch, job)["tags"]
    return tags if any(tag_problems(merged)) else merged
