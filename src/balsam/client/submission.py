"""Submitting Jobs: one or a hundred thousand, checked before the first is sent, each call all or nothing (S2, S3)."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from balsam.client.errors import Problem, ValidationFailed
from balsam.client.transport.codec import dump_body
from balsam.client.values import checked, json_copy
from balsam.wire.base import MAX_BODY_BYTES, MAX_BULK
from balsam.wire.jobs import JobCreate, JobsCreate, JobsCreated

if TYPE_CHECKING:
    from balsam.client.client import Client
    from balsam.client.models.job import Job

BODY_BYTES = MAX_BODY_BYTES // 2
DEFAULTS: dict[str, Any] = {
    name: field.default for name, field in JobCreate.model_fields.items() if not field.is_required()
} | {
    "return_code": None,
    "attempt": 0,
    "cancel_requested": False,
    "batch_job_id": None,
    "session_id": None,
    "pending_file_cleanup": True,
    "started_at": None,
    "ended_at": None,
}
Row = dict[str, Any]


def submit(client: "Client", jobs: "Sequence[Job]") -> None:
    """Create the Jobs; each takes over its id and state. Raises ValidationFailed that names the rows of `jobs`."""
    rows = [_row(client, job, index) for index, job in enumerate(jobs)]
    chunks = list(_chunks(rows))
    for start, content in chunks:
        end = next((later for later, _ in chunks if later > start), len(jobs))
        epoch = client.watcher_epoch()  # before the call: what is pushed while it runs must not be missed
        created = _create(client, jobs[start], content, start)
        values = zip(jobs[start:end], rows[start:end], created.ids, created.states, created.site_ids, strict=True)
        for job, row, row_id, state, site_id in values:
            told = {"id": row_id, "state": state, "site_id": site_id, "created_at": created.created_at}
            app_name = client.apps.known_name(row["app_id"])
            job._created({**DEFAULTS, **row, **told, "last_update": created.created_at, "app_name": app_name}, epoch)


def _row(client: "Client", job: "Job", index: int) -> Row:
    """What is sent of a Job: a copy that later changes do not reach."""
    if job._row is not None:
        raise ValueError(f"jobs[{index}] is saved already, as Job {job.id}; save() sends its changes")
    values = job._values
    app = values["app_id"]
    row = {name: json_copy(value, f"jobs[{index}].{name}") for name, value in values.items() if name != "app_id"}
    row["app_id"] = app if isinstance(app, int) else _app_id(client, job, app, row, index)
    return row


def _app_id(client: "Client", job: "Job", app: Any, row: Row, index: int) -> int:
    if isinstance(app, str):
        return client.apps.id_of(app, job._site_name)
    try:
        app.check_parameters(row.get("parameters", {}))
    except ValidationFailed as error:
        raise ValidationFailed(
            f"jobs[{index}]: {error}", details=[Problem(f"jobs[{index}].{d.where}", d.message) for d in error.details]
        ) from None
    app_id: int = app._ensure_synced()
    return app_id


def _chunks(rows: list[Row]) -> Iterator[tuple[int, bytes]]:
    """Bodies of calls, each with the index of its first Job. All are made before the first is sent."""
    pieces = [(start, rows[start : start + MAX_BULK]) for start in range(0, len(rows), MAX_BULK)]
    while pieces:
        start, piece = pieces.pop(0)
        content = dump_body(_checked(piece, start))
        if len(content) > BODY_BYTES and len(piece) > 1:
            half = len(piece) // 2
            pieces[:0] = [(start, piece[:half]), (start + half, piece[half:])]
        else:
            yield start, content


def _checked(rows: list[Row], start: int) -> JobsCreate:
    try:
        return checked(JobsCreate, "", {"jobs": rows})
    except ValidationFailed as error:
        raise _renumbered(error, start) from None


def _create(client: "Client", first: "Job", content: bytes, start: int) -> JobsCreated:
    if first._key is None or first._key[1] != content:
        first._key = (client.transport.new_key(), content)
    try:
        return client.transport.request("POST", "/jobs", body=content, reply=JobsCreated, idempotency_key=first._key[0])
    except ValidationFailed as error:
        raise _renumbered(error, start) from None


def _renumbered(error: ValidationFailed, start: int) -> ValidationFailed:
    """Rows counted as the caller counts them, not as the call that carried them."""
    if not start:
        return error
    details = [Problem(_shifted(problem.where, start), problem.message) for problem in error.details]
    text = "\n  ".join(str(problem) for problem in details[:10]) or str(error)
    return ValidationFailed(text, code=error.code, details=details, status=error.status, request_id=error.request_id)


def _shifted(where: str, start: int) -> str:
    head, bracket, rest = where.partition("jobs[")
    number, closing, tail = rest.partition("]")
    return f"{head}jobs[{int(number) + start}]{tail}" if bracket and closing and number.isdigit() else where
