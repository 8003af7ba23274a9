"""BatchJob: an allocation that a Site's agent asks from its scheduler."""

import shlex
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, Unpack, overload

from balsam.client.errors import Conflict, NotFound
from balsam.client.fields import INSTANT, Field, Write, one_of
from balsam.client.model import Model
from balsam.client.objects import Manager, Objects, R
from balsam.client.query import Changed, Query
from balsam.client.values import checked, json_copy, nearest
from balsam.domain.partitions import PartitionRequest, filter_tag_problems, partition_tag_problems, write_partition
from balsam.domain.states import BATCH_JOB_ENDED, BatchJobState, JobMode
from balsam.wire.kinds import BATCH_JOB_FIELDS

if TYPE_CHECKING:
    from balsam.client.signatures import BatchJobFilters, NewBatchJob
    from balsam.wire.base import Message
    from balsam.wire.batch_jobs import BatchJobPartition, BatchJobsSelect

PATCHES_AT_ONCE = 1000


class BatchJobManager(Manager["BatchJob"]):
    """Filters: id, site_id, state, scheduler_id, queue, filter_tags, created_after, start_time_before/after,
    end_time_before/after.

    >>> BatchJob.objects.filter(site_id=site.id, state=["queued", "running"]).exists()
    True
    """

    path = "/batch-jobs"
    plain_lists: ClassVar[Mapping[str, type]] = {
        **dict.fromkeys(("id", "site_id"), int),
        "state": BatchJobState,
        "filter_tags": str,
    }
    plain_values: ClassVar[Mapping[str, type]] = dict.fromkeys(("scheduler_id", "queue"), str)
    lookups = BATCH_JOB_FIELDS
    orderings = ("id", "-id", "start_time", "-start_time")

    if TYPE_CHECKING:  # the names of the filters, for editors; any look-up may come beside them

        @overload
        def filter(self, **filters: Unpack["BatchJobFilters"]) -> Query["BatchJob"]: ...
        @overload
        def filter(self, **filters: Any) -> Query["BatchJob"]: ...
        def filter(self, **filters: Any) -> Query["BatchJob"]: ...
        @overload
        def get(self, **filters: Unpack["BatchJobFilters"]) -> "BatchJob": ...
        @overload
        def get(self, **filters: Any) -> "BatchJob": ...
        def get(self, **filters: Any) -> "BatchJob": ...
        def create(self, **fields: Unpack["NewBatchJob"]) -> "BatchJob": ...

    @staticmethod
    def _filter_type() -> "type[Message]":
        from balsam.wire.batch_jobs import BatchJobQuery

        return BatchJobQuery

    def bulk_update(self, batch_jobs: Iterable["BatchJob"]) -> list["BatchJob"]:
        """Send the changes of several BatchJobs. Raises Conflict, naming them, when some are refused, and ValueError
        for one that is there twice with different changes.

        >>> allocations = list(BatchJob.objects.filter(site_id=site.id, state="pending_submission"))
        >>> for allocation in allocations:
        ...     allocation.state = "pending_deletion"
        >>> BatchJob.objects.bulk_update(allocations) == allocations
        True
        """
        given = list(batch_jobs)
        changed = self._changed_of(given)
        rows, refused = self._patch({row_id: changes for row_id, (_, changes) in changed.items()})
        for row_id, row in rows.items():
            changed[row_id][0]._take_row(row)
        if refused:
            raise Conflict("; ".join(f"BatchJob {row_id}: {why}" for row_id, why in refused.items()))
        return given

    def _patch(self, patches: Mapping[int, dict[str, Any]]) -> tuple[dict[int, dict[str, Any]], dict[int, str]]:
        from balsam.wire.batch_jobs import BatchJobsPatch, BatchJobsPatched

        rows: dict[int, dict[str, Any]] = {}
        refused: dict[int, str] = {}
        ids = list(patches)
        for start in range(0, len(ids), PATCHES_AT_ONCE):
            chunk = {row_id: patches[row_id] for row_id in ids[start : start + PATCHES_AT_ONCE]}
            body = checked(BatchJobsPatch, "", {"patches": chunk})
            reply = self.client.transport.request("PATCH", self.path, body=body, reply=BatchJobsPatched)
            rows.update({view.id: self._row_dict(view) for view in reply.results})
            refused.update(reply.refused)
        return rows, refused

    def _create(self, instance: "BatchJob") -> None:
        from balsam.wire.batch_jobs import BatchJobCreate, BatchJobView

        try:
            made = self._post_new(instance, BatchJobCreate, BatchJobView)
        except NotFound as error:
            text = f"there is no Site {instance.site_id}, or it is not yours; `balsam site ls` lists those that are"
            raise NotFound(text, code=error.code, details=error.details, status=error.status) from None
        instance._take_row(self._row_dict(made))

    def _update(self, instance: "BatchJob", changes: dict[str, Any]) -> None:
        from balsam.wire.batch_jobs import BatchJobPatch, BatchJobView

        patch = checked(BatchJobPatch, "BatchJob", changes)
        path = f"{self.path}/{instance._saved_id()}"
        instance._take_row(self._row_dict(self.client.transport.request("PATCH", path, body=patch, reply=BatchJobView)))

    def _update_matching(self, query: Query["BatchJob"], fields: dict[str, Any]) -> Changed:
        from balsam.wire.batch_jobs import BatchJobFilter, BatchJobPatch, BatchJobsChanged, BatchJobsUpdate

        unknown = [name for name in fields if name not in BatchJobPatch.model_fields]
        if unknown:
            known = nearest(unknown[0], BatchJobPatch.model_fields)
            raise TypeError(f"BatchJobs can't be updated by {unknown[0]!r}{known}")
        patch = checked(BatchJobPatch, "update", json_copy(fields, "update"))
        reply = self._verb(
            "update", BatchJobsUpdate(filter=BatchJobFilter(**query._filters), patch=patch), BatchJobsChanged
        )
        return Changed(reply.changed, reply.refused)

    def _delete_matching(self, query: Query["BatchJob"]) -> Changed:
        from balsam.wire.base import Deleted
        from balsam.wire.batch_jobs import BatchJobFilter, BatchJobsSelect

        reply = self._verb("delete", BatchJobsSelect(filter=BatchJobFilter(**query._filters)), Deleted)
        return Changed(reply.deleted, dict.fromkeys(reply.skipped, reply.reason))

    def _verb(self, verb: str, body: "BatchJobsSelect", reply: type[R]) -> R:
        path = f"{self.path}/{verb}"
        return self.client.transport.request("POST", path, body=body, reply=reply, safe_to_repeat=True)

    def _filter_value(self, name: str, value: Any) -> Any:
        if name == "scheduler_id" and isinstance(value, int):
            return str(value)  # schedulers' ids are text: not all of them are numbers
        return super()._filter_value(name, value)


def _partitions(value: Any) -> "list[BatchJobPartition] | None":
    if not value:
        return None
    from balsam.wire.batch_jobs import BatchJobPartition

    return [
        part if isinstance(part, BatchJobPartition) else checked(BatchJobPartition, f"partitions[{index}]", part)
        for index, part in enumerate(value)
    ]


class BatchJob(Model):
    """An allocation: asked for by `objects.create`, ended by `cancel` or `drain`. `state` follows the scheduler.

    >>> allocation = BatchJob.objects.create(
    ...     site_id=site.id, num_nodes=1, wall_time_min=5, job_mode="mpi", queue="local", project="local"
    ... )
    >>> allocation.cancel()
    >>> allocation.state in ("pending_deletion", "finished")
    True
    """

    site_id = Field[int](write=Write.CREATE)
    num_nodes = Field[int](write=Write.CREATE)
    wall_time_min = Field[int](write=Write.CREATE)
    job_mode = Field[JobMode](write=Write.CREATE, parse=JobMode, accept=one_of(JobMode))
    queue = Field[str](write=Write.CREATE)
    project = Field[str](write=Write.CREATE)
    optional_params = Field[dict[str, str]]({}, write=Write.CREATE)
    filter_tags = Field[dict[str, str]]({})
    partitions = Field["list[BatchJobPartition] | None"](None, write=Write.CREATE, load=_partitions, accept=_partitions)
    scheduler_id = Field[str | None](None)
    state = Field[BatchJobState](None, parse=BatchJobState, accept=one_of(BatchJobState))
    status_info = Field[dict[str, Any]]({})
    start_time = Field[datetime | None](None, parse=INSTANT)
    end_time = Field[datetime | None](None, parse=INSTANT)
    created_at = Field[datetime](None, write=Write.NEVER, parse=INSTANT)
    submitted_by = Field[str](None, write=Write.NEVER)
    draining = Field[bool](False, write=Write.SAVED)

    objects = Objects(BatchJobManager)
    _shown = ("id", "site_id", "state", "num_nodes", "wall_time_min", "queue", "project")
    _columns = (*_shown, "job_mode", "scheduler_id", "filter_tags", "start_time", "end_time")

    if TYPE_CHECKING:

        def __init__(self, **fields: Unpack["NewBatchJob"]) -> None: ...

    def cancel(self) -> None:
        """Ask for the end of the allocation, queued or running; its Jobs run again in the next one.

        Returns once the wish is recorded; the Site's agent obeys it, and `state` becomes `finished` then.

        >>> allocation = BatchJob.objects.create(
        ...     site_id=site.id, num_nodes=1, wall_time_min=5, job_mode="mpi", queue="local", project="local"
        ... )
        >>> allocation.cancel()
        >>> allocation.state in ("pending_deletion", "finished")
        True
        """
        self.refresh_from_db()
        if self.state in BATCH_JOB_ENDED or self.state is BatchJobState.PENDING_DELETION:
            return
        try:
            self.state = BatchJobState.PENDING_DELETION
            self.save()
        except Conflict:  # it ended by itself meanwhile
            self.refresh_from_db()
            if self.state not in BATCH_JOB_ENDED:
                raise

    def drain(self) -> None:
        """Let it take no more Jobs, and end once those that it has are over; this can't be taken back.

        Returns once the wish is recorded. Raises Conflict when it does not run: `cancel` ends one that waits.

        >>> import time
        >>> allocation = BatchJob.objects.create(
        ...     site_id=site.id, num_nodes=1, wall_time_min=5, job_mode="mpi", queue="local", project="local"
        ... )
        >>> while allocation.state != "running":
        ...     time.sleep(0.1)
        ...     allocation.refresh_from_db()
        >>> allocation.drain()
        >>> allocation.draining
        True
        """
        self.draining = True
        self.save()

    def delete(self) -> None:
        """Ask for the end of a live allocation, like `cancel`; delete the record of one that has ended.

        >>> allocation = BatchJob.objects.create(
        ...     site_id=site.id, num_nodes=1, wall_time_min=5, job_mode="mpi", queue="local", project="local"
        ... )
        >>> allocation.delete()
        """
        if self._deleted:
            return
        path = f"/batch-jobs/{self._saved_id()}"
        with suppress(NotFound):
            from balsam.wire.base import Deleted

            reply = self._manager().client.transport.request("DELETE", path, reply=Deleted)
            if not reply.deleted:
                self.refresh_from_db()
                return
        self._deleted = True

    def validate(
        self,
        allowed_queues: Mapping[str, Any],
        allowed_projects: Iterable[str],
        optional_batch_job_params: Mapping[str, str] | None = None,
    ) -> None:
        """Check against what a Site allows. Raises ValueError that names every fault.

        >>> wanted = BatchJob(
        ...     site_id=1, num_nodes=1, wall_time_min=5, job_mode="mpi", queue="local", project="local"
        ... )
        >>> wanted.validate(site.allowed_queues, site.allowed_projects)
        """
        problems = list(_problems(self, allowed_queues, list(allowed_projects), optional_batch_job_params or {}))
        if problems:
            raise ValueError("; ".join(problems))

    def partitions_to_cli_args(self) -> str:
        """The partitions as the launcher's command line takes them: ` --part mpi:2:tag=x ...`, quoted for a shell.

        Raises ValueError for tags that it can't carry.

        >>> BatchJob(
        ...     site_id=1, num_nodes=3, wall_time_min=5, job_mode="mpi", queue="local", project="local",
        ...     partitions=[{"job_mode": "mpi", "num_nodes": 1}, {"job_mode": "serial", "num_nodes": 2}],
        ... ).partitions_to_cli_args()
        ' --part mpi:1 --part serial:2'
        """
        return "".join(f" --part {shlex.quote(write_partition(part))}" for part in _requests(self))


def _requests(batch_job: BatchJob) -> list[PartitionRequest]:
    return [PartitionRequest(part.job_mode, part.num_nodes, part.filter_tags) for part in batch_job.partitions or []]


def _problems(
    batch_job: BatchJob, queues: Mapping[str, Any], projects: list[str], params: Mapping[str, str]
) -> Iterable[str]:
    limits = queues.get(batch_job.queue)
    if limits is None:
        yield f"queue {batch_job.queue!r} is not allowed; allowed are: {', '.join(queues) or 'none'}"
    else:
        for field, name in (("num_nodes", "max_nodes"), ("wall_time_min", "max_walltime")):
            limit = limits[name] if isinstance(limits, Mapping) else getattr(limits, name)
            if getattr(batch_job, field) > limit:
                yield f"{field} is {getattr(batch_job, field)}; queue {batch_job.queue!r} allows at most {limit}"
    if batch_job.project not in projects:
        yield f"project {batch_job.project!r} is not allowed; allowed are: {', '.join(projects) or 'none'}"
    if extra := sorted(set(batch_job.optional_params) - set(params)):
        yield f"optional_params {', '.join(extra)} are not known; known are: {', '.join(params) or 'none'}"
    yield from filter_tag_problems(batch_job.filter_tags)
    for part in _requests(batch_job):
        yield from partition_tag_problems(part.filter_tags)
    nodes = sum(part.num_nodes for part in batch_job.partitions or [])
    if batch_job.partitions and nodes != batch_job.num_nodes:
        yield f"the partitions have {nodes} nodes, the BatchJob {batch_job.num_nodes}"
