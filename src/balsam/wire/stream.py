"""Server-sent events: names and data of what the service pushes.

A push is a hint with data. Nobody relies on having heard all of them: after each (re)connect the receiver reads the
state again, and a slow poll is the safety net.
"""

from enum import StrEnum

from balsam.domain.states import JobState
from balsam.wire.base import Message


class StreamEvent(StrEnum):
    """The `event:` field of a server-sent event."""

    HELLO = "hello"  # first on every stream: the subscription is in place, read the state now
    STATES = "states"  # jobs stream: JobStates
    WORK = "work"  # session stream: runnable Jobs at the Site
    CANCEL = "cancel"  # session stream: JobIds to kill; site stream: JobIds whose hooks are to be stopped
    CLOSING = "closing"  # session stream: drain, the BatchJob is to end
    HOOKS = "hooks"  # site stream: Jobs began to wait for a hook
    BATCH_JOBS = "batch_jobs"  # site stream: BatchJobs were created or changed
    TRANSFERS = "transfers"  # site stream: TransferItems are due
    FILE_REQUEST = "file_request"  # site stream: FileRequest
    SITE_CHANGED = "site_changed"  # site stream


class JobStates(Message):
    """Newest states: (job id, state, return code)."""

    jobs: list[tuple[int, JobState, int | None]]


class JobIds(Message):
    """Ids of Jobs."""

    job_ids: list[int]
