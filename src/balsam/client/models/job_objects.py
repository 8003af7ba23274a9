"""`Job.objects`: queries over Jobs, bulk verbs, and waiting for many."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self, Unpack, overload

from balsam.client.errors import Conflict, NotFound
from balsam.client.model import Model
from balsam.client.objects import Manager
from balsam.client.progress import progress_bar
from balsam.client.query import Changed, Query
from balsam.client.submission import submit, submit_one
from balsam.client.values import checked, json_copy, nearest
from balsam.domain.failure import Failure
from balsam.domain.states import JobState
from balsam.wire.kinds import JOB_FIELDS
from balsam.wire.limits import MAX_BULK

if TYPE_CHECKING:
    from balsam.client.models.job import Job
    from balsam.client.signatures import JobChanges, JobFilters, NewJob
    from balsam.wire.base import Deleted, Message
    from balsam.wire.jobs import JobFilter


OF_STATE = frozenset({"state", "state_data", "state_timestamp"})  # what goes with a wish for another state


class WaitResult(NamedTuple):
    """What `Job.objects.wait` returns: Jobs in the order they were given."""

    done: "list[Job]"
    not_done: "list[Job]"


def listed(jobs: "Iterable[Job]", verb: str) -> "list[Job]":
    """The Jobs as a list. Raises TypeError that says what to give instead of one Job, or of ids."""
    if isinstance(jobs, Model):
        raise TypeError(f"{verb}() takes a list of Jobs or a query, not one Job; put it in brackets: {verb}([job])")
    given = list(jobs)
    for place, job in enumerate(given):
        if not isinstance(job, Model):
            raise TypeError(f"jobs[{place}] is {job!r}, and {verb}() takes Jobs; Job.objects.filter(id=[...]) has them")
    return given


def late(jobs: "Sequence[Job]", timeout: float | None) -> TimeoutError:
    """What to raise when some are not done in time: one of them, and where its reason is found."""
    waiting = [job for job in jobs if not job._is_settled()]
    one = f"; Job {waiting[0].id} {waiting[0]._what_is_late()}" if waiting else ""
    return TimeoutError(f"{len(waiting)} of {len(jobs)} Jobs are not done after {timeout} s{one}")


def check_return_when(return_when: str) -> None:
    """Raises ValueError for a word that `wait` does not know."""
    if return_when not in ("ALL_COMPLETED", "FIRST_COMPLETED"):
        raise ValueError(f"return_when is {return_when!r}; it must be ALL_COMPLETED or FIRST_COMPLETED")


class JobManager(Manager["Job"]):
    """Filters: id, parent_id, app_id, app_name, site_id, batch_job_id, submitted_by, state, state__ne, failure, tags,
    workdir__contains, last_update_before, last_update_after, pending_file_cleanup; and every field by look-up, see
    `Query.filter`. Lists mean "any of"; `tags` is a dict or "KEY:VALUE".

    >>> Job.objects.filter(app_name="Hello", parameters={"name": "World"}, id=job.id).count()
    1
    """

    path = "/jobs"
    plain_lists: ClassVar[Mapping[str, type]] = {
        **dict.fromkeys(("id", "parent_id", "app_id", "site_id", "batch_job_id"), int),
        "state": JobState,
        "failure": Failure,
        "tags": str,
    }
    plain_values: ClassVar[Mapping[str, type]] = {
        **dict.fromkeys(("app_name", "submitted_by", "workdir__contains"), str),
        **dict.fromkeys(("last_update_before", "last_update_after"), datetime),
        "pending_file_cleanup": bool,
    }
    counts_apart = True
    orderings = ("id", "-id", "last_update", "-last_update", "state", "-state", "workdir", "-workdir")
    keyset = frozenset({"id", "last_update", "state", "workdir"})
    lookups = JOB_FIELDS

    if TYPE_CHECKING:  # the names of fields and filters, for editors

        @overload
        def get(self, **filters: Unpack["JobFilters"]) -> "Job": ...
        @overload
        def get(self, **filters: Any) -> "Job": ...
        def get(self, **filters: Any) -> "Job": ...
        def create(self, *, site_name: str | None = None, **fields: Unpack["NewJob"]) -> "Job": ...

    @staticmethod
    def _filter_type() -> "type[Message]":
        from balsam.wire.jobs import JobQuery

        return JobQuery

    def bulk_create(self, jobs: "Iterable[Job]", *, progress: bool | None = None) -> "list[Job]":
        """Create any number of Jobs, in calls of up to 10,000. Returns them as a list; each has its id and state then.

        `progress`: draw a progress bar; by default in a notebook or at a prompt, when it takes more than a second.
        Every Job is checked before the first is sent; each call creates all of its Jobs or none. Raises
        ValidationFailed that names the rows (`jobs[17].workdir`). When a later call fails, those with an id are
        created: go on with `[job for job in jobs if job.id is None]`.

        >>> jobs = [Hello.submit(f"many/{i}", name=str(i), save=False) for i in range(3)]
        >>> [job.state.value for job in Job.objects.bulk_create(jobs)]
        ['PREPROCESSED', 'PREPROCESSED', 'PREPROCESSED']
        """
        given = listed(jobs, "bulk_create")
        with progress_bar(len(given), "creating", progress) as advance:
            submit(self.client, given, advance, progress)
        return given

    def bulk_update(self, jobs: "Iterable[Job]") -> "list[Job]":
        """Send the changes of several Jobs, all or none of each 10,000. Raises Conflict that names refused Jobs, and
        ValueError for one that is there twice with different changes.

        >>> job.data["note"] = "first"
        >>> Job.objects.bulk_update([job]) == [job]
        True
        """
        given = listed(jobs, "bulk_update")
        changed = self._changed_of(given)
        ids = list(changed)
        for start in range(0, len(ids), MAX_BULK):
            chunk = {row_id: changed[row_id][1] for row_id in ids[start : start + MAX_BULK]}
            self._patch(chunk)
            for row_id in chunk:
                changed[row_id][0]._changed(chunk[row_id])
            moved = [changed[row_id][0] for row_id in chunk if "state" in chunk[row_id]]
            if moved:
                self.bulk_refresh(moved)
        return given

    def bulk_refresh(self, jobs: "Iterable[Job]") -> None:
        """Read many Jobs again. Raises `Job.DoesNotExist` that names those that are gone.

        >>> Job.objects.bulk_refresh([job])
        >>> job.return_code
        0
        """
        wanted: dict[int, list[Job]] = {}
        for job in listed(jobs, "bulk_refresh"):
            wanted.setdefault(job._saved_id(), []).append(job)
        rows = {job.id: job._row for job in self.filter(id=list(wanted))}
        for row_id, instances in wanted.items():
            row = rows.get(row_id)
            for job in instances if row is not None else ():
                job._take_row(dict(row or {}))
        gone = sorted(wanted.keys() - rows.keys())
        if gone:
            raise self.model.DoesNotExist(f"Jobs that do not exist (any more): {', '.join(map(str, gone[:20]))}")

    def wait(
        self,
        jobs: "Iterable[Job]",
        timeout: float | None = None,
        poll_interval: float = 1.0,
        return_when: str = "ALL_COMPLETED",
        *,
        progress: bool | None = None,
    ) -> WaitResult:
        """Wait until all Jobs are done (or with "FIRST_COMPLETED" one), or for `timeout` seconds.

        Done is JOB_FINISHED, FAILED or CANCELLED, and the results that go to `client:` are here; what can't be put in
        place is logged, and raised by `job.wait()` and `job.result()`. By push; `poll_interval` is accepted for old
        scripts and not needed.
        `progress`: draw a progress bar; by default in a notebook or at a prompt.

        >>> Job.objects.wait([job], timeout=60).not_done
        []
        """
        check_return_when(return_when)
        given = listed(jobs, "wait")
        first = return_when == "FIRST_COMPLETED"
        with progress_bar(1 if first else len(given), "waiting", progress) as advance:
            for _ in self.client.watcher.completed(given, timeout):
                advance(1)
                if first:
                    break
        done = [job for job in given if job._is_settled()]
        return WaitResult(done, [job for job in given if not job._is_settled()])

    def as_completed(
        self,
        jobs: "Iterable[Job]",
        timeout: float | None = None,
        poll_interval: float = 1.0,
        *,
        progress: bool | None = None,
    ) -> "Iterator[Job]":
        """Yield Jobs as they become done, those that are done first. Raises TimeoutError after `timeout` seconds.

        `progress`: draw a progress bar; by default in a notebook or at a prompt.

        >>> sorted(job.state.value for job in Job.objects.as_completed([job], timeout=60))
        ['JOB_FINISHED']
        """
        given = listed(jobs, "as_completed")
        found = 0
        with progress_bar(len(given), "waiting", progress) as advance:
            for job in self.client.watcher.completed(given, timeout):
                found += 1
                advance(1)
                yield job
        if found < len(given):
            raise late(given, timeout)

    def cancel(
        self, jobs: "Query[Job] | Iterable[Job | int]", reason: str = "", *, deadline_sec: float | None = None
    ) -> Changed:
        """Cancel Jobs, given as a query, as Jobs or as ids. Running ones end as soon as their processes are gone.

        Returns how many were cancelled; `.refused` names the others, for instance those that are done. While the
        service can't be reached the call is repeated for `deadline_sec` seconds (default: the client's patience), then
        it raises DeadlineExceeded; whether the service heard it is unknown then, and to ask again does no harm.

        >>> waiting = Hello.submit("docs/cancel", name="x", num_nodes=1000)
        >>> Job.objects.cancel(Job.objects.filter(id=waiting.id), reason="not needed")
        1
        """
        return self._verb("cancel", jobs, reason, deadline_sec)

    def retry(self, jobs: "Query[Job] | Iterable[Job | int]") -> Changed:
        """Run FAILED and CANCELLED Jobs again.

        >>> again = Hello.submit("docs/retry", name="x", num_nodes=1000)
        >>> Job.objects.cancel([again]), Job.objects.retry([again])
        (1, 1)
        """
        return self._verb("retry", jobs)

    def count_by(self, field: str, **filters: Any) -> dict[Any, int]:
        """Number of Jobs by the value of a field; see `JobQuerySet.count_by`.

        >>> Job.objects.count_by("app_name", id=job.id)
        {'Hello': 1}
        """
        return self.filter(**filters).count_by(field)

    def all(self) -> "JobQuerySet":
        """Every Job that is yours.

        >>> Job.objects.all().exists()
        True
        """
        return JobQuerySet(self)

    @overload
    def filter(self, **filters: Unpack["JobFilters"]) -> "JobQuerySet": ...
    @overload
    def filter(self, **filters: Any) -> "JobQuerySet": ...
    def filter(self, **filters: Any) -> "JobQuerySet":
        """Jobs that match every filter; the names are in the class docstring.

        >>> Job.objects.filter(id=job.id, state="JOB_FINISHED", num_nodes__lte=4).get() == job
        True
        """
        return JobQuerySet(self).filter(**filters)

    def order_by(self, *fields: str) -> "JobQuerySet":
        """Every Job, ordered.

        >>> Job.objects.order_by("-id").first().id >= job.id
        True
        """
        return JobQuerySet(self).order_by(*fields)

    def _verb(
        self,
        verb: str,
        jobs: "Query[Job] | Iterable[Job | int]",
        reason: str = "",
        deadline_sec: float | None = None,
    ) -> Changed:
        from balsam.wire.jobs import JobsCancel, JobsChanged, JobsSelect

        selected = self._selected(jobs)
        if selected is None:
            return Changed(0)
        body = JobsCancel(filter=selected, reason=reason) if reason else JobsSelect(filter=selected)
        reply = self.client.transport.request(
            "POST", f"/jobs/{verb}", body=body, reply=JobsChanged, safe_to_repeat=True, deadline_sec=deadline_sec
        )
        return Changed(reply.changed, reply.refused)

    def _selected(self, jobs: "Query[Job] | Iterable[Job | int]") -> "JobFilter | None":
        """The filter of a body; None when nothing is selected."""
        from balsam.wire.jobs import JobFilter

        if isinstance(jobs, Query) and jobs._start == 0 and jobs._stop is None:
            return None if jobs._nothing else JobFilter(**jobs._filters)
        ids = [job if isinstance(job, int) else job._saved_id() for job in jobs]
        return JobFilter(id=ids) if ids else None

    def _create(self, instance: "Job") -> None:
        submit_one(self.client, instance)

    def _update(self, instance: "Job", changes: dict[str, Any]) -> None:
        self._patch({instance._saved_id(): changes})
        instance._changed(changes)
        if "state" in changes:
            instance._take_row(self._read(instance._saved_id()))

    def _patch(self, patches: dict[int, dict[str, Any]]) -> None:
        from balsam.wire.jobs import JobsChanged, JobsPatch

        body = checked(JobsPatch, "", {"patches": patches})
        try:
            reply = self.client.transport.request("PATCH", self.path, body=body, reply=JobsChanged)
        except NotFound as error:
            raise self.model.DoesNotExist(str(error), code=error.code, details=error.details) from None
        if reply.refused:
            raise Conflict("; ".join(f"Job {row_id}: {why}" for row_id, why in reply.refused.items()))

    def _delete(self, instance: "Job") -> None:
        from balsam.wire.jobs import JobFilter

        reply = self._delete_selected(JobFilter(id=[instance._saved_id()]))
        if reply.skipped:
            raise Conflict(f"Job {instance.id} can't be deleted: {reply.reason or 'it runs; cancel() it first'}")

    def _delete_selected(self, selected: "JobFilter") -> "Deleted":
        from balsam.wire.base import Deleted
        from balsam.wire.jobs import JobsSelect

        transport = self.client.transport
        body = JobsSelect(filter=selected)
        return transport.request("POST", "/jobs/delete", body=body, reply=Deleted, safe_to_repeat=True)

    def _delete_matching(self, query: Query["Job"]) -> Changed:
        from balsam.wire.jobs import JobFilter

        reply = self._delete_selected(JobFilter(**query._filters))
        return Changed(reply.deleted, dict.fromkeys(reply.skipped, reply.reason))

    def _update_matching(self, query: Query["Job"], fields: dict[str, Any]) -> Changed:
        from balsam.wire.jobs import JobFilter, JobPatch, JobsChanged, JobsUpdate

        unknown = [name for name in fields if name not in JobPatch.model_fields]
        if unknown:
            raise TypeError(f"Jobs can't be updated by {unknown[0]!r}{nearest(unknown[0], JobPatch.model_fields)}")
        patch = checked(JobPatch, "update", {name: json_copy(value, name) for name, value in fields.items()})
        body = JobsUpdate(filter=JobFilter(**query._filters), patch=patch)
        transport = self.client.transport
        reply = transport.request("POST", "/jobs/update", body=body, reply=JobsChanged, safe_to_repeat=True)
        return Changed(reply.changed, reply.refused)


class JobQuerySet(Query["Job"]):
    """A selection of Jobs.

    >>> [one.workdir == job.workdir for one in Job.objects.filter(id=job.id)]
    [True]
    """

    if TYPE_CHECKING:

        @overload
        def filter(self, **filters: Unpack["JobFilters"]) -> Self: ...
        @overload
        def filter(self, **filters: Any) -> Self: ...
        def filter(self, **filters: Any) -> Self: ...
        @overload
        def update(self, **fields: Unpack["JobChanges"]) -> Changed: ...
        @overload
        def update(self, **fields: Any) -> Changed: ...
        def update(self, **fields: Any) -> Changed: ...

    def count_by(self, field: str) -> dict[Any, int]:
        """Number of matches by the value of a field, largest first; counted by the service, no Job is fetched.

        "state" (the keys are JobStates), "app_name", "site_id", "num_nodes", "return_code" ..., or what is below a JSON
        field: "tags__kind", "parameters__x". None stands for Jobs without the value. Raises ValidationFailed for times
        and for more than 10,000 different values.

        >>> Job.objects.filter(id=job.id).count_by("state")
        {<JobState.JOB_FINISHED: 'JOB_FINISHED'>: 1}
        """
        self._not_sliced("count_by")
        if self._nothing:
            return {}
        transport = self._manager.client.transport
        if field == "state":
            answer = transport.search_json("/jobs/counts", self._filters)
            with self._manager._understanding():
                counts = {JobState(state): int(count) for state, count in answer["counts"].items()}
            return dict(sorted(counts.items(), key=lambda pair: -pair[1]))
        by, *path = field.split("__")
        answer = transport.search_json("/jobs/groups", {**self._filters, "by": by, "path": path or None})
        with self._manager._understanding():
            return {_as_key(group["value"]): int(group["count"]) for group in answer["groups"]}


def _as_key(value: Any) -> Any:
    """Lists and dicts, which can't be keys, as JSON text."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False) if isinstance(value, (list, dict)) else value
