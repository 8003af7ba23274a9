"""The JSON of Jobs, written straight from what is stored: a page of a list is that and little else.

The texts are those of `wire.jobs.JobView`, field by field in its order. What is JSON in the store goes through as it
is. Making messages of a hundred rows and text of the messages took five times as long.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache

from pydantic_core import to_json

from balsam.domain.states import JobState
from balsam.server.store.records import ShownJob
from balsam.wire.jobs import JobView

_SECOND = 1_000_000
_STATES = {state: f'"{state}"' for state in JobState}
_JOB = "{" + ",".join(f'"{name}":%s' for name in JobView.model_fields) + "}"


def page_text(count: int | None, jobs: Iterable[ShownJob]) -> bytes:
    """A `JobsPage`."""
    return f'{{"count":{_or_null(count)},"results":[{",".join(map(_text, jobs))}]}}'.encode()


def job_text(job: ShownJob) -> bytes:
    """A `JobView`."""
    return _text(job).encode()


def _text(job: ShownJob) -> str:
    return _JOB % (
        job.id,
        _quoted(job.submitted_by),
        job.app_id,
        _quoted(job.app_name),
        job.site_id,
        _quoted(job.workdir),
        job.parameters,
        job.tags,
        job.data,
        job.num_nodes,
        job.ranks_per_node,
        job.threads_per_rank,
        job.threads_per_core,
        job.gpus_per_rank,
        job.node_packing_count,
        job.wall_time_min,
        job.launch_params,
        job.parent_ids,
        job.transfers,
        job.priority,
        _or_null(job.max_attempts),
        _STATES[job.state],
        job.attempt,
        _or_null(job.return_code),
        "null" if job.failure is None else f'"{job.failure}"',
        "true" if job.cancel_requested else "false",
        _or_null(job.batch_job_id),
        _or_null(job.session_id),
        "true" if job.pending_file_cleanup else "false",
        _time(job.created_at),
        _time(job.last_update),
        "null" if job.started_at is None else _time(job.started_at),
        "null" if job.ended_at is None else _time(job.ended_at),
    )


def _or_null(number: int | None) -> int | str:
    return "null" if number is None else number


def _quoted(text: str) -> str:
    return to_json(text).decode()


@lru_cache(maxsize=4096)
def _time(at: int) -> str:
    """Kept: the Jobs of a bulk were submitted at the same time."""
    seconds, rest = divmod(at, _SECOND)
    return f'"{_second(seconds)}.{rest:06}Z"' if rest else f'"{_second(seconds)}Z"'


@lru_cache(maxsize=4096)
def _second(seconds: int) -> str:
    """Kept as well: many Jobs of a page ended in the same one."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
