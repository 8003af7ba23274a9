"""Which public name stands on which page."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from objects import markdown

from balsam import aio, analytics, api, config, schemas, util
from balsam.client import errors
from balsam.client.model import Model
from balsam.client.models.job_objects import JobQuerySet, WaitResult
from balsam.client.objects import Manager
from balsam.client.query import Changed, Query
from balsam.domain.failure import Failure
from balsam.wire.jobs import JobExplanation

HEAD = "<!-- made by `make docs` out of the docstrings; change those -->\n"
ELSEWHERE = frozenset({"site_config", "DONE_STATES", "RUNNABLE_STATES"})  # with SiteConfig and JobState
APART: frozenset[type] = frozenset({Model, Manager, Query, Exception, OSError, api.BalsamError})


@dataclass(frozen=True)
class Page:
    """One file: a title, a line of introduction, and what it describes, by name."""

    file: str
    title: str
    about: str
    things: dict[str, Any]

    def text(self) -> str:
        parts = [markdown(thing, name, APART) for name, thing in self.things.items()]
        return "\n".join([HEAD, f"# {self.title}\n", f"{self.about}\n", *parts])


def from_api(*names: str) -> dict[str, Any]:
    """Classes of balsam.api, each with its `objects`."""
    found: dict[str, Any] = {}
    for name in names:
        found[name] = getattr(api, name)
        if inspect.isclass(found[name]) and issubclass(found[name], Model):
            found[f"{name}.objects"] = type(found[name]._manager())
    return found


def error_classes() -> dict[str, type]:
    """Exceptions, general ones first."""
    found = [one for _, one in inspect.getmembers(errors, inspect.isclass)
             if issubclass(one, Exception) and one.__module__ == errors.__name__]  # fmt: skip
    return {one.__name__: one for one in sorted(found, key=lambda one: (len(one.__mro__), one.__name__))}


PAGES = (
    Page("apps", "Apps", "What runs at a Site: a class, and the row behind it.",
         from_api("ApplicationDefinition", "AppParameter", "TransferSlot", "App")),
    Page("jobs", "Jobs", "One run of an App each. What all models have is on the page on [queries](queries.md).",
         {**from_api("Job"), "JobQuerySet": JobQuerySet, "WaitResult": WaitResult, "JobExplanation": JobExplanation}),
    Page("executor", "Executor", "Functions as Jobs, with the interface of `concurrent.futures`.",
         from_api("JobExecutor", "JobFuture")),
    Page("queries", "Models and queries", "What Site, App, Job, BatchJob, Session, TransferItem and EventLog share.",
         {"Model": Model, "Model.objects": Manager, "Query": Query, "Changed": Changed}),
    Page("batch-jobs", "BatchJobs", "Requests for allocations.", from_api("BatchJob", "BatchJobPartition")),
    Page("sites", "Sites and Sessions", "Where Jobs run, and who holds them while they do.",
         {**from_api("Site", "Session"), "SiteConfig": config.SiteConfig}),
    Page("events", "Events and analytics", "What happened to Jobs, and the curves drawn from it.",
         {**from_api("EventLog"), **{name: getattr(analytics, name) for name in analytics.__all__}}),
    Page("transfers", "Transfers", "Files on their way to Jobs and back.", from_api("TransferItem", "JobTransferItem")),
    Page("clients", "Clients and settings", "One service or several.",
         {**from_api("Client", "default_client"), "ClientSettings": config.ClientSettings,
          "config_root_logger": util.config_root_logger}),
    Page("asyncio", "asyncio", inspect.cleandoc(aio.__doc__ or ""), {name: getattr(aio, name) for name in aio.__all__}),
    Page("states", "States and other words", "Enumerations; their members are text as well, and compare equal to it.",
         {**from_api("JobState", "JobMode", "BatchJobState", "TransferDirection"), "Failure": Failure,
          "TransferItemState": schemas.TransferItemState,
          **{name: getattr(schemas, name) for name in ("JobOrdering", "BatchJobOrdering", "EventOrdering")}}),
    Page("errors", "Errors", "Every error of the SDK is a `BalsamError`.", error_classes()),
)  # fmt: skip


def missing_names() -> list[str]:
    """Public names that no page describes."""
    described = {name for page in PAGES for name in page.things}
    return sorted({*api.__all__, *aio.__all__, *analytics.__all__, *schemas.__all__} - described - ELSEWHERE)


def index_page() -> str:
    return "\n".join(
        [HEAD, "# Reference\n", "Everything public of the Python API, the command and the service.\n", *index_lines()]
    )


def index_lines() -> Iterator[str]:
    yield "| page | describes |"
    yield "| --- | --- |"
    for page in PAGES:
        names = [f"[{name}]({page.file}.md#{anchor(name)})" for name in page.things]
        yield f"| [{page.title}]({page.file}.md) | {', '.join(names)} |"
    yield "| [The command](command.md) | `balsam` and its sub-commands |"
    yield "| [Calls of the service](service.md) | every route: who may call it, with which scope, and what limits it |"
    yield ""


def anchor(name: str) -> str:
    return name.replace(".", "").lower()
