"""The public Python interface of Balsam: `from balsam.api import ApplicationDefinition, Job, Site, BatchJob`.

Importing it reads no file, opens no connection and prints nothing; each name is loaded when it is first used, and the
first use of the service connects to that of this user (see `balsam.config.ClientSettings`). Runnable examples are in
the docstrings of the classes.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from balsam.client.client import Client, default_client
    from balsam.client.errors import (
        BalsamError,
        Conflict,
        DeadlineExceeded,
        JobCancelled,
        JobFailed,
        NotConfigured,
        NotFound,
        QueryTooSlow,
        RemoteError,
        ResultTooLarge,
        ServiceUnavailable,
        SiteOffline,
        TransferFailed,
        Unauthorized,
        ValidationFailed,
    )
    from balsam.client.executor import JobExecutor
    from balsam.client.futures import JobFuture
    from balsam.client.models.app import App
    from balsam.client.models.application import ApplicationDefinition
    from balsam.client.models.batch_job import BatchJob
    from balsam.client.models.event import EventLog
    from balsam.client.models.job import Job
    from balsam.client.models.session import Session
    from balsam.client.models.site import Site
    from balsam.client.models.transfer import JobTransferItem, TransferItem
    from balsam.config import SiteConfig
    from balsam.domain.app import AppParameter, TransferSlot
    from balsam.domain.states import BatchJobState, JobMode, JobState
    from balsam.domain.transfers import TransferDirection
    from balsam.wire.batch_jobs import BatchJobPartition

    client: Client
    site_config: SiteConfig | None

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
    "JobExecutor",
    "JobFailed",
    "JobFuture",
    "JobMode",
    "JobState",
    "JobTransferItem",
    "NotConfigured",
    "NotFound",
    "QueryTooSlow",
    "RemoteError",
    "ResultTooLarge",
    "ServiceUnavailable",
    "Session",
    "Site",
    "SiteOffline",
    "TransferDirection",
    "TransferFailed",
    "TransferItem",
    "TransferSlot",
    "Unauthorized",
    "ValidationFailed",
    "default_client",
    "site_config",
]

_HOMES = {
    "balsam.client.client": ("Client", "default_client"),
    "balsam.client.errors": (
        *("BalsamError", "Conflict", "DeadlineExceeded", "JobCancelled", "JobFailed", "NotConfigured", "NotFound"),
        *("QueryTooSlow", "RemoteError", "ResultTooLarge", "ServiceUnavailable", "SiteOffline", "TransferFailed"),
        *("Unauthorized", "ValidationFailed"),
    ),
    "balsam.client.executor": ("JobExecutor",),
    "balsam.client.futures": ("JobFuture",),
    "balsam.client.models.app": ("App",),
    "balsam.client.models.application": ("ApplicationDefinition",),
    "balsam.client.models.batch_job": ("BatchJob",),
    "balsam.client.models.event": ("EventLog",),
    "balsam.client.models.job": ("Job",),
    "balsam.client.models.session": ("Session",),
    "balsam.client.models.site": ("Site",),
    "balsam.client.models.transfer": ("JobTransferItem", "TransferItem"),
    "balsam.domain.app": ("AppParameter", "TransferSlot"),
    "balsam.domain.states": ("BatchJobState", "JobMode", "JobState"),
    "balsam.domain.transfers": ("TransferDirection",),
    "balsam.wire.batch_jobs": ("BatchJobPartition",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    if name in _HOME_OF:
        found: object = getattr(import_module(_HOME_OF[name]), name)
        globals()[name] = found
        return found
    if name == "client":
        return import_module("balsam.client.client").default_client()
    if name == "site_config":
        return import_module("balsam.config").current_site_config()
    raise AttributeError(f"module 'balsam.api' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "client"]
