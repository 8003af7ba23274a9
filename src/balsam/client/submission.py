"""Submitting Jobs: one or a hundred thousand, each call all or nothing (S2) and never carried out twice (S3).

A single call is checked by the service; several are all checked here first, so that a fault in the last one is found
before the first is sent.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from balsam.client.encoding import is_plain
from balsam.client.errors import BalsamError, NotFound, Problem, ValidationFailed
from balsam.client.parameters import encoded
from balsam.client.progress import Advance
from balsam.client.values import checked, json_copy
from balsam.domain.app import AppSpec, PythonCode
from balsam.domain.failure import Failure
from balsam.domain.states import JobState
from balsam.domain.transfers import CLIENT
from balsam.wire.limits import MAX_BODY_BYTES, MAX_BULK, MAX_WORKDIR

if TYPE_CHECKING:
    from balsam.client.client import Client
    from balsam.client.models.application import ApplicationDefinition
    from balsam.client.models.job import Job
    from balsam.client.staging import Staging
    from balsam.wire.jobs import JobsCreated

BODY_BYTES = MAX_BODY_BYTES // 2
NEW: dict[str, Any] = {  # what a row says of a Job that was never looked at; Field has the defaults of the rest
    "return_code": None,
    "attempt": 0,
    "cancel_requested": False,
    "batch_job_id": None,
    "session_id": None,
    "started_at": None,
    "ended_at": None,
}
ONLY_ROW = "jobs[0]."
Row = dict[str, Any]
E = TypeVar("E", bound=BalsamError)


def submit_one(client: "Client", job: "Job") -> None:
    """Create one Job. Raises ValidationFailed that names its fields."""
    try:
        submit(client, [job])
    except (ValidationFailed, NotFound) as error:
        details = [Problem(problem.where.removeprefix(ONLY_ROW), problem.message) for problem in error.details]
        text = str(error).replace(ONLY_ROW, "").removeprefix("jobs[0]: ")
        raise _again(error, text, details) from None


def submit(
    client: "Client", jobs: "Sequence[Job]", on_created: Advance = lambda _: None, progress: bool | None = None
) -> None:
    """Create the Jobs; each takes over its id and state. Raises ValidationFailed that names the rows of `jobs`.

    `on_created` is called after each call with how many it created. `progress`: of the files that are sent before.
    """
    apps = _Apps(client)
    rows = [_row(apps, job, index) for index, job in enumerate(jobs)]
    staging = _staging(client, rows) if any(map(uses_client, rows)) else None
    if staging is not None:
        _check(rows, 0)  # before files are sent for nothing
    chunks = list(_chunks(rows if staging is None else staging.stage(progress)))
    if len(chunks) > 1:
        for start, end, _ in chunks:
            _check(rows[start:end], start)
    for start, end, content in chunks:
        epoch = client.watcher_epoch()  # before the call: what is pushed while it runs must not be missed
        try:
            created = _create(client, jobs[start], content, start)
        except ValidationFailed:
            _check(rows[start:end], start)  # it says what was given as well, which the service does not repeat
            raise
        except NotFound:
            apps.forget()  # an App may have been deleted and made again
            raise
        told = {**NEW, "created_at": created.created_at, "last_update": created.created_at, "failure": None}
        answers = zip(created.ids, created.states, created.site_ids, strict=True)
        for index, (row_id, state, site_id) in enumerate(answers, start):
            job, row = jobs[index], rows[index]
            about = apps.told(row["app_id"])
            failure = Failure.PARENT if state is JobState.FAILED else None  # nothing else can fail a new Job
            facts = {"id": row_id, "state": state, "site_id": site_id, "failure": failure}
            job._created({**told, **about, **row, **facts}, epoch)
            if staging is not None and uses_client(row):
                client.collector.expect(job, staging.outputs(index))
        on_created(end - start)


def uses_client(row: Row) -> bool:
    """Whether a transfer of this Job begins or ends at this machine."""
    return any(isinstance(text, str) and text.startswith(f"{CLIENT}:") for text in row.get("transfers", {}).values())


def _staging(client: "Client", rows: list[Row]) -> "Staging":
    from balsam.client.staging import Staging  # with HTTP and TLS, which a program that only imports us needs not

    return Staging(client, rows)


class _Apps:
    """Apps of one submission: each is resolved, synced and looked at once."""

    def __init__(self, client: "Client") -> None:
        self._client = client
        self._classes: dict[type[ApplicationDefinition], tuple[int, AppSpec, frozenset[str], frozenset[str]]] = {}
        self._told: dict[int, Row] = {}

    def resolve(self, job: "Job", app: Any, parameters: Mapping[str, Any]) -> tuple[int, Row]:
        """The id for what the Job calls its App, and its parameters as JSON; they are checked when it is a class."""
        if isinstance(app, (int, str)):
            app_id = app if isinstance(app, int) else self._client.apps.id_of(app, job._site_name)
            code = None if is_plain(parameters) else self._code(app_id)
            return app_id, encoded(parameters, code)
        if app not in self._classes:
            from balsam.client.registration import spec as spec_of

            spec = spec_of(app)
            required = spec.required_parameters
            self._classes[app] = (app._ensure_synced(), spec, required, required | spec.optional_parameters)
        app_id, spec, required, known = self._classes[app]
        row = encoded(parameters, spec.code) if parameters else {}
        fits = required <= row.keys() <= known
        if not fits or (None in row.values() and not spec.runs_python):
            app.check_parameters(row)
        return app_id, row

    def _code(self, app_id: int) -> PythonCode | None:
        view = self._client.apps.view(app_id)
        return None if view.code is None else view.code.spec()

    def forget(self) -> None:
        """The next submission asks and syncs anew."""
        self._client.forget_names()
        for app in self._classes:
            app._state.synced = None

    def told(self, app_id: int) -> Row:
        """What a Job's row says of its App, as far as it is known without asking."""
        if app_id not in self._told:
            view = self._client.apps.met(app_id)
            cleanup = view is not None and bool(view.cleanup_files)
            self._told[app_id] = {
                "app_name": None if view is None else view.name,
                "pending_file_cleanup": cleanup,
            }
        return self._told[app_id]


def _row(apps: _Apps, job: "Job", index: int) -> Row:
    """What is sent of a Job: a copy that later changes do not reach. What is as the service would set it stays out."""
    if job._row is not None:
        raise ValueError(f"jobs[{index}] is saved already, as Job {job.id}; save() sends its changes")
    values = dict(job._values)
    app, parameters, fields = values.pop("app_id"), values.pop("parameters", {}), job._fields
    try:
        row = {name: json_copy(value, name) for name, value in values.items() if not fields[name].is_default(value)}
        row["app_id"], given = apps.resolve(job, app, parameters)
        if given:
            row["parameters"] = given
    except ValidationFailed as error:
        details = [Problem(f"jobs[{index}].{problem.where}", problem.message) for problem in error.details]
        raise ValidationFailed(f"jobs[{index}]: {error}", code=error.code, details=details) from None
    return row


def _chunks(rows: list[Row]) -> Iterator[tuple[int, int, bytes]]:
    """(first row, end, body) of each call: at most MAX_BULK Jobs and BODY_BYTES bytes."""
    from pydantic_core import to_json  # with pydantic, whose import takes longer than a call

    pieces = [(start, min(start + MAX_BULK, len(rows))) for start in range(0, len(rows), MAX_BULK)]
    while pieces:
        start, end = pieces.pop(0)
        content = to_json({"jobs": rows[start:end]})
        if len(content) > BODY_BYTES and end - start > 1:
            middle = (start + end) // 2
            pieces[:0] = [(start, middle), (middle, end)]
        else:
            yield start, end, content


def _check(rows: list[Row], start: int) -> None:
    """A row like the one before it needs no look: most of a bulk differ in workdir and parameters only."""
    from balsam.wire.jobs import JobsCreate

    looked_at = [index for index, row in enumerate(rows) if index == 0 or not _are_alike(row, rows[index - 1])]
    try:
        checked(JobsCreate, "", {"jobs": [rows[index] for index in looked_at]})
    except ValidationFailed as error:
        raise _renumbered(error, lambda number: start + looked_at[number]) from None


def _are_alike(row: Row, other: Row) -> bool:
    """Whether a row is as right as the other: the same, but for a fitting workdir and any parameters."""
    if row.keys() != other.keys():
        return False
    for name, value in row.items():
        if name == "workdir":
            fits = type(value) is str and 0 < len(value) <= MAX_WORKDIR
        else:
            fits = type(value) is dict if name == "parameters" else value == other[name]
        if not fits:
            return False
    return True


def _create(client: "Client", first: "Job", content: bytes, start: int) -> "JobsCreated":
    from balsam.wire.jobs import JobsCreated

    if first._key is None or first._key[1] != content:
        first._key = (client.transport.new_key(), content)
    try:
        return client.transport.request("POST", "/jobs", body=content, reply=JobsCreated, idempotency_key=first._key[0])
    except (ValidationFailed, NotFound) as error:
        raise (_renumbered(error, lambda number: start + number) if start else error) from None


def _renumbered(error: E, place: Callable[[int], int]) -> E:
    """Rows counted as the caller counts them, not as the call that carried them."""
    details = [Problem(_shifted(problem.where, place), problem.message) for problem in error.details]
    return _again(error, "\n  ".join(str(problem) for problem in details[:10]) or str(error), details)


def _again(error: E, text: str, details: list[Problem]) -> E:
    return type(error)(text, code=error.code, details=details, status=error.status, request_id=error.request_id)


def _shifted(where: str, place: Callable[[int], int]) -> str:
    head, bracket, rest = where.partition("jobs[")
    number, closing, tail = rest.partition("]")
    return f"{head}jobs[{place(int(number))}]{tail}" if bracket and closing and number.isdigit() else where
