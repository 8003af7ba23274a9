"""Enumerations and small records under the module name that some scripts for Balsam 0.7 import them from.

Everything is in `balsam.api` as well; new code imports it from there. The messages of Balsam's old REST interface are
not here: the wire format is another one.
"""

from enum import StrEnum

from balsam.client.models.transfer import JobTransferItem
from balsam.domain.app import AppParameter, TransferSlot
from balsam.domain.states import DONE_STATES, RUNNABLE_STATES, BatchJobState, JobMode, JobState
from balsam.domain.states import TransferState as TransferItemState
from balsam.domain.transfers import TransferDirection
from balsam.wire.batch_jobs import BatchJobPartition

__all__ = [
    "DONE_STATES",
    "RUNNABLE_STATES",
    "AppParameter",
    "BatchJobOrdering",
    "BatchJobPartition",
    "BatchJobState",
    "EventOrdering",
    "JobMode",
    "JobOrdering",
    "JobState",
    "JobTransferItem",
    "TransferDirection",
    "TransferItemState",
    "TransferSlot",
]


class JobOrdering(StrEnum):
    """What `Job.objects.order_by` takes.

    >>> JobOrdering.last_update_desc == "-last_update"
    True
    """

    last_update = "last_update"
    last_update_desc = "-last_update"
    id = "id"
    id_desc = "-id"
    state = "state"
    state_desc = "-state"
    workdir = "workdir"
    workdir_desc = "-workdir"


class BatchJobOrdering(StrEnum):
    """What `BatchJob.objects.order_by` takes, beside the id."""

    start_time = "start_time"
    start_time_desc = "-start_time"


class EventOrdering(StrEnum):
    """What `EventLog.objects.order_by` takes."""

    timestamp = "timestamp"
    timestamp_desc = "-timestamp"
