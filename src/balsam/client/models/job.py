"""Job: one run of an App in a workdir at a Site; and the verbs over many Jobs.

Waiting is by push: `wait`, `poll_state` and `as_completed` share one stream per process (see `client.watcher`).
"""

import sys
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Unpack

from balsam.client.encoding import decode_all, is_plain
from balsam.client.errors import Conflict, ServiceUnavailable
from balsam.client.fields import INSTANT, Field, Write, one_of
from balsam.client.lookups import aware
from balsam.client.model import Model
from balsam.client.models.application import ApplicationDefinition, is_definition
from balsam.client.models.job_arrivals import JobArrivals
from balsam.client.models.job_files import JobFiles
from balsam.client.models.job_objects import OF_STATE, JobManager, JobQuerySet, WaitResult
from balsam.client.models.job_result import JobResults
from balsam.client.models.transfer import JobTransferItem
from balsam.client.objects import Objects
from balsam.client.parameters import encoded
from balsam.client.remote_path import RemotePath
from balsam.domain.failure import Failure
from balsam.domain.states import DONE_STATES, JobState

if TYPE_CHECKING:
    from balsam.client.signatures import NewJob
    from balsam.client.watcher import Watch
    from balsam.wire.jobs import JobExplanation

__all__ = ["Job", "JobManager", "JobQuerySet", "WaitResult"]

FRESHEN_SEC = 3.0


def _app(value: Any) -> Any:
    if isinstance(value, (int, str)) or is_definition(value):
        return value
    if isinstance(value, Model):
        return value._saved_id()
    raise TypeError(f"app_id is {value!r}; give an ApplicationDefinition, the name of an App, or its id")


def _found_by_name(app: type[ApplicationDefinition]) -> bool:
    return getattr(sys.modules.get(app.__module__), app.__qualname__, None) is app


def _transfers(value: Mapping[str, Any]) -> dict[str, Any]:
    """Each as `alias:/path`."""
    return {slot: str(item) if isinstance(item, JobTransferItem) else item for slot, item in value.items()}


def iso_time(value: datetime | str) -> str:
    """The time as it travels; text is left as it is."""
    return aware(value).isoformat() if isinstance(value, datetime) else value


def _ids(value: Any) -> set[int]:
    """Job ids, also from a row's list; Jobs stand for their ids."""
    if isinstance(value, (str, int, Model)):
        raise TypeError(f"parent_ids is {value!r}; give a list of Jobs or of their ids")
    return {item._saved_id() if isinstance(item, Model) else _number(item) for item in value}


def _number(value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        raise TypeError(f"parent_ids has {value!r}; give a list of Jobs or of their ids") from None


class Job(JobArrivals, JobFiles, JobResults, Model):
    """One run of an App. Make it with `MyApp.submit(...)`, or by `Job(app_id=..., workdir=...)` and `save`.

    `app_id`: an ApplicationDefinition, a name (`site_name` says whose, when several Sites have it) or an id.
    `workdir`: relative to the Site's data directory. Resources: nodes, ranks, threads, GPUs; `wall_time_min` is an
    estimate in minutes (0: unknown). `return_code`, `started_at`, `ended_at` are of the last attempt.

    `state` can be set to RESTART_READY (run a FAILED or CANCELLED Job again), READY (from its inputs on) and CANCELLED,
    which `save` asks for; `state_data` goes into the event.

    >>> job = Job(app_id="Hello", site_name="local", workdir="hello/3", parameters={"name": "you"})
    >>> job.save()
    >>> job.wait(timeout=60), job.return_code, job.read_text("job.out")
    (True, 0, 'Hello, you\\n')
    """

    app_id = Field[int](write=Write.CREATE, accept=_app)
    workdir = Field[RemotePath](load=RemotePath, accept=RemotePath.of)
    parameters = Field[dict[str, Any]]({})
    tags = Field[dict[str, str]]({})
    data = Field[dict[str, Any]]({}, volatile=True)
    num_nodes = Field[int](1)
    ranks_per_node = Field[int](1)
    threads_per_rank = Field[int](1)
    threads_per_core = Field[int](1)
    gpus_per_rank = Field[float](0.0)
    node_packing_count = Field[int](1)
    wall_time_min = Field[int](0)
    launch_params = Field[dict[str, str]]({})
    parent_ids = Field[set[int]]([], write=Write.CREATE, load=_ids, accept=_ids)
    transfers = Field[dict[str, str]]({}, write=Write.CREATE, accept=_transfers)
    priority = Field[int](0)
    max_attempts = Field[int | None](None)
    return_code = Field[int | None](None)
    pending_file_cleanup = Field[bool](True)
    state = Field[JobState](None, write=Write.SAVED, parse=JobState, accept=one_of(JobState))
    state_data = Field[dict[str, Any] | None](None, write=Write.SAVED)
    state_timestamp = Field[str | None](None, write=Write.SAVED, accept=iso_time)
    site_id = Field[int](None, write=Write.NEVER)
    attempt = Field[int](0, write=Write.NEVER, volatile=True)
    failure = Field[Failure | None](None, write=Write.NEVER, parse=Failure, volatile=True)
    cancel_requested = Field[bool](False, write=Write.NEVER, volatile=True)
    batch_job_id = Field[int | None](None, write=Write.NEVER, volatile=True)
    session_id = Field[int | None](None, write=Write.NEVER, volatile=True)
    submitted_by = Field[str](None, write=Write.NEVER)  # who submitted it; None until the row was read
    created_at = Field[datetime](None, write=Write.NEVER, parse=INSTANT)
    last_update = Field[datetime](None, write=Write.NEVER, volatile=True, parse=INSTANT)
    started_at = Field[datetime | None](None, write=Write.NEVER, volatile=True, parse=INSTANT)
    ended_at = Field[datetime | None](None, write=Write.NEVER, volatile=True, parse=INSTANT)

    objects = Objects(JobManager)
    _shown = ("id", "state", "workdir", "app_id")
    _columns = ("id", "app_name", "workdir", "state", "parameters", "tags", "return_code", "last_update")
    _site_name: str | None = None
    _watch: "Watch | None" = None
    _known_in: int | None = None  # connection of the stream during which the row was read
    _seen: int = 0  # version of the watch that was taken over

    def __init__(self, *, site_name: str | None = None, **fields: Unpack["NewJob"]) -> None:
        super().__init__(**fields)
        if site_name is not None:
            self._site_name = site_name

    @property
    def app(self) -> type[ApplicationDefinition]:
        """The App as a class; loaded from the service unless the Job was made from a class."""
        given = self._values.get("app_id")
        if is_definition(given):
            return given
        if isinstance(given, str):
            return self._definitions().load_by_name(given, self._site_name)
        return self._definitions().load_by_id(self.app_id)

    @property
    def app_name(self) -> str:
        """Name of the App."""
        if self._row is None:
            return self.app.__name__
        return str(self._row.get("app_name") or self._client().apps.view(self.app_id).name)

    def get_parameters(self) -> dict[str, Any]:
        """The App's parameters of this Job as they were given.

        `parameters` has them as the service keeps them: what is no JSON is in an envelope, which is opened here; that
        runs code of whoever submitted the Job. Raises NotOpened.

        >>> job.get_parameters()
        {'name': 'World'}
        """
        return decode_all(self.parameters)

    def set_parameters(self, parameters: Mapping[str, Any]) -> None:
        """Replace the parameters; `save` sends them.

        >>> draft = Job(app_id=1, workdir="ensemble/1")
        >>> draft.set_parameters({"name": "you"})
        >>> draft.parameters
        {'name': 'you'}
        """
        self.parameters = dict(parameters)

    def poll_state(self) -> JobState:
        """The newest known state. Pushed by the service: a tight loop of this sends no requests.

        Returns what is known at once, also while the service can't be reached.

        >>> job.poll_state().value
        'JOB_FINISHED'
        """
        self._saved_id()
        if not self._known_done():
            self._client().watcher.look(self)
        state: JobState = (self._row or {})["state"]  # not what was set and is not saved
        return state

    def done(self) -> bool:
        """Whether the Job is JOB_FINISHED, FAILED or CANCELLED, as far as is known now (see `poll_state`).

        Its results may still be on their way here; see `arrived`.

        >>> job.done()
        True
        """
        return self.poll_state() in DONE_STATES

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the Job is done and its results that go to `client:` are here, or for `timeout` seconds; True when
        that is so. By push.

        Ends in time also while the service can't be reached; without a timeout it survives the outage. Why a Job does
        not go on is logged after 15 s, as a warning of `balsam.client`. Raises TransferFailed when a result can't be
        put where it belongs.

        >>> job.wait(timeout=60)
        True
        """
        self._saved_id()
        for _ in self._client().watcher.completed([self], timeout):
            break
        self._check_arrived()
        if self._is_settled():
            return True
        self.poll_state()  # it may have gone on meanwhile, if not to its end
        return self._is_settled()

    def cancel(self, reason: str = "", *, deadline_sec: float | None = None) -> None:
        """Ask for the end of the Job: waiting ones are CANCELLED at once, running ones when their processes are gone.

        A Job that is done keeps its state. Raises `Job.DoesNotExist` when it was deleted, and DeadlineExceeded when the
        service can't be reached for `deadline_sec` seconds (default: the client's patience); the Job may have been
        cancelled then, and to ask again does no harm.

        >>> waiting = Hello.submit("docs/cancel", name="x", num_nodes=1000)
        >>> waiting.cancel("not needed")
        >>> waiting.state.value
        'CANCELLED'
        """
        begin = time.monotonic()
        refused = self._jobs().cancel([self], reason, deadline_sec=deadline_sec).refused
        left_sec = None if deadline_sec is None else max(0.0, begin + deadline_sec - time.monotonic())
        self._take_row(self._manager()._read(self._saved_id(), left_sec))
        if refused and self.state not in DONE_STATES:
            raise Conflict(f"Job {self.id} can't be cancelled: {refused.get(self.id, 'refused')}")

    def retry(self) -> None:
        """Run a FAILED or CANCELLED Job again; its history is kept. Raises Conflict in any other state.

        >>> again = Hello.submit("docs/retry", name="x", num_nodes=1000)
        >>> again.cancel()
        >>> again.retry()
        >>> again.state.value
        'RESTART_READY'
        """
        ended = self._known_done() and self.state is not JobState.JOB_FINISHED
        refused = self._jobs().retry([self]).refused
        self.refresh_from_db()
        # Refused, but no longer ended: the answer to the call that did it was lost, and this one came second.
        if refused and not (ended and not self._known_done()):
            raise Conflict(f"Job {self.id} can't be run again: {refused.get(self.id, 'refused')}")

    def explain(self) -> "JobExplanation":
        """Why the Job is where it is, and what to do: `.summary` and `.reasons`.

        >>> job.explain().summary
        '...'
        """
        from balsam.wire.jobs import JobExplanation

        path = f"/jobs/{self._saved_id()}/explain"
        return self._client().transport.request("GET", path, reply=JobExplanation)

    def parent_query(self) -> "JobQuerySet":
        """The Jobs this one waits for, as a query.

        >>> child = Hello.submit("docs/child", name="x", parent_ids=[job])
        >>> child.parent_query().get() == job
        True
        """
        return self._jobs().filter(id=sorted(self.parent_ids))

    def resolve_workdir(self, data_path: "str | PurePosixPath | Path") -> Path:
        """The absolute workdir, given the Site's data directory.

        >>> Job(app_id=1, workdir="ensemble/1").resolve_workdir("/home/ann/site/data")
        PosixPath('/home/ann/site/data/ensemble/1')
        """
        return Path(data_path) / self.workdir

    def display_dict(self) -> dict[str, Any]:
        """All fields as plain values, for tables and JSON.

        >>> job.display_dict()["app_name"]
        'Hello'
        """
        shown = super().display_dict()
        shown["parent_ids"] = sorted(self.parent_ids)
        del shown["state_data"], shown["state_timestamp"]  # they go with a wish; events tell them
        if self._row is not None:
            shown["app_name"] = self.app_name
        return shown

    def _jobs(self) -> JobManager:
        return JobManager(type(self))

    def _definitions(self) -> type[ApplicationDefinition]:
        bound = self._bound_client
        return ApplicationDefinition if bound is None else bound.ApplicationDefinition

    def _changes(self) -> dict[str, Any]:
        given = self._values.get("parameters")
        if given is not None and not is_plain(given):
            view = self._client().apps.view(self.app_id)
            self._values["parameters"] = encoded(given, None if view.code is None else view.code.spec())
        return super()._changes()

    def _known_done(self) -> bool:
        return self._row is not None and self._row["state"] in DONE_STATES

    def _observed(self, state: JobState, return_code: int | None) -> None:
        """A push or a re-read told the state; what else changed is read when it is looked at."""
        if self._row is not None and (self._row["state"], self._row["return_code"]) != (state, return_code):
            self._row = {**self._row, "state": state, "return_code": return_code}
            self._stale = True
            self._expect_again(state)

    def _changed(self, changes: Mapping[str, Any]) -> None:
        """The service took over these fields; what became of the Job is to be read."""
        kept = {name: value for name, value in changes.items() if name not in OF_STATE}
        self._row = {**(self._row or {}), **kept}
        self._values = {name: value for name, value in self._values.items() if name not in changes}

    def _created(self, row: dict[str, Any], epoch: int | None) -> None:
        self.__dict__.update(_row=row, _values={}, _key=None, _stale=False, _watch=None, _known_in=epoch)

    def _take_row(self, row: dict[str, Any]) -> None:
        self._created(row, None)
        self._expect_again(row["state"])
        self._is_partial = False

    @classmethod
    def _known_in_part(cls, facts: Mapping[str, Any]) -> "Job":
        """A Job of which only some fields are known so far: what the launcher knows of it."""
        job = cls._from_row({"return_code": None, **facts, "state": JobState.RUNNING})
        job._is_partial = True
        return job

    def _freshen(self) -> None:
        """Read what a push does not carry; while the service can't be reached, the old stays in sight."""
        try:
            row = self._manager()._read(self._saved_id(), None if self._is_partial else FRESHEN_SEC)
        except ServiceUnavailable:
            if self._is_partial:  # there is nothing old
                raise
            return
        self._renew_row(row)

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        app = self._values.get("app_id")
        if is_definition(app) and not _found_by_name(app):  # such a class can't be pickled; its id can
            state["_values"] = {**self._values, "app_id": app._ensure_synced()}
        return {**state, "_site_name": self._site_name, "_stale": self._stale, "_is_partial": self._is_partial}
