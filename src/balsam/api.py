"""The public Python interface of Balsam: `from balsam.api import ApplicationDefinition, Job, Site, BatchJob`.

Importing it reads no file, opens no connection and prints nothing; the first use connects to the service of this user
(see `balsam.config.ClientSettings`). Runnable examples are in the docstrings of the classes.
"""

from balsam.client.client import Client, default_client
from balsam.client.errors import (
    BalsamError,
    Conflict,
    DeadlineExceeded,
    JobCancelled,
    JobFailed,
    NotConfigured,
    NotFound,
    RemoteError,
    ServiceUnavailable,
    SiteOffline,
    Unauthorized,
    ValidationFailed,
)
from balsam.client.models.app import App
from balsam.client.models.application import ApplicationDefinition
from balsam.client.models.batch_job import BatchJob
from balsam.client.models.event import EventLog
from balsam.client.models.job import Job
from balsam.client.models.session import Session
from balsam.client.models.site import Site
from balsam.domain.app import AppParameter
from balsam.domain.states import BatchJobState, JobMode, JobState
from balsam.wire.batch_jobs import BatchJobPartition

__all__ = [
    "App",
    "AppParameter",
    "ApplicationDefinition",
    "BalsamError",
    "BatchJob",
    "BatchJobPartition",
    "BatchJobState",
    "Client",
    "Conflict",
    "DeadlineExceeded",
    "EventLog",
    "Job",
    "JobCancelled",
    "JobFailed",
    "JobMode",
    "JobState",
    "NotConfigured",
    "NotFound",
    "RemoteError",
    "ServiceUnavailable",
    "Session",
    "Site",
    "SiteOffline",
    "Unauthorized",
    "ValidationFailed",
    "default_client",
]

_LATER = frozenset({"TransferItem", "JobTransferItem", "TransferDirection", "TransferSlot"})


def __getattr__(name: str) -> object:
    if name in _LATER:
        raise ImportError(f"balsam.api.{name} comes with file transfers, which are not part of this release")
    raise AttributeError(f"module 'balsam.api' has no attribute {name!r}")
