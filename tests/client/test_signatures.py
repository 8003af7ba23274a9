"""What editors and type checkers are told of keyword arguments is what models and the service take."""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from pydantic import AwareDatetime

from balsam.api import App, BatchJob, EventLog, Job, Session, Site, TransferItem
from balsam.client import signatures
from balsam.client.objects import PAGING
from balsam.wire.base import Message
from balsam.wire.batch_jobs import BatchJobCreate
from balsam.wire.jobs import JobCreate, JobPatch
from balsam.wire.sessions import SessionCreate
from balsam.wire.sites import SiteCreate

SCRIPT = """
from balsam.api import BatchJob, EventLog, Job, JobState, Site

job = Job(app_id="Hello", workdir="a", num_nodes=2, parameters={"x": 1}, site_name="local")
Job(app_id="Hello", workdir="a", num_node=2)  # call-arg
Job(app_id="Hello", workdir="a", num_nodes="2")  # arg-type
Job(app_id="Hello")  # call-arg
Job.objects.create(app_id=1, workdir="a", tags={"a": 1})  # dict-item
BatchJob.objects.create(site_id=1, num_nodes=1, wall_time_min=5, job_mode="mpi", queue="q")  # call-arg
reveal_type(Job.objects.filter(state=JobState.RUNNING, num_nodes__gt=2))  # JobQuerySet
reveal_type(Job.objects.filter(state=["RUNNING"]).filter(id=job).order_by("-id").first())  # models.job.Job
reveal_type(Job.objects.filter(id=1).update(priority=3))  # Changed
reveal_type(EventLog.objects.filter(job_id=[1, 2], to_state="RUNNING").get())  # EventLog
reveal_type(Site.objects.get(name="local").path)  # RemotePath
reveal_type(job.state)  # JobState
reveal_type(job.parent_ids)  # set[int]
"""


@pytest.mark.parametrize(
    ("told", "message"),
    [
        (signatures.NewJob, JobCreate),
        (signatures.JobChanges, JobPatch),
        (signatures.NewBatchJob, BatchJobCreate),
        (signatures.NewSession, SessionCreate),
        (signatures.NewSite, SiteCreate),
    ],
)
def test_what_is_sent(told: Any, message: type[Message]) -> None:
    fields = message.model_fields
    assert told.__annotations__.keys() == fields.keys() - {"python"}  # told by Sites, when they register
    if message is not JobPatch:
        assert told.__required_keys__ == {name for name, field in fields.items() if field.is_required()}


@pytest.mark.parametrize(
    ("told", "model"),
    [
        (signatures.JobFilters, Job),
        (signatures.EventFilters, EventLog),
        (signatures.BatchJobFilters, BatchJob),
        (signatures.SiteFilters, Site),
        (signatures.AppFilters, App),
        (signatures.TransferFilters, TransferItem),
    ],
)
def test_filters(told: Any, model: Any) -> None:
    assert told.__annotations__.keys() == model._manager()._filter_type().model_fields.keys() - PAGING


@pytest.mark.parametrize("model", [Job, EventLog, BatchJob, Site, App, TransferItem, Session])
def test_plain_filters_are_what_the_service_takes(model: Any) -> None:
    """They are sent unchecked: the service must take these names, each as a list or not, of these types."""
    manager = model._manager()
    plain = {name: list[kind] for name, kind in manager.plain_lists.items()} | manager.plain_values
    plain = {name: AwareDatetime if kind is datetime else kind for name, kind in plain.items()}
    known = get_type_hints(manager._filter_type())  # without the ranges
    assert {name: known.get(name) for name in plain} == {name: kind | None for name, kind in plain.items()}


@pytest.mark.parametrize(
    ("told", "model"),
    [
        (signatures.NewJob, Job),
        (signatures.NewBatchJob, BatchJob),
        (signatures.NewSession, Session),
        (signatures.NewSite, Site),
    ],
)
def test_constructors_have_these_fields(told: Any, model: Any) -> None:
    assert told.__annotations__.keys() <= model._fields.keys()
    assert told.__required_keys__ == model._required


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_type_checker_finds_mistakes(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    checker = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--cache-dir", str(tmp_path / "cache")]
    said = subprocess.run([*checker, str(script)], capture_output=True, text=True, cwd=tmp_path).stdout
    expected = {number: line.split("  # ") for number, line in enumerate(SCRIPT.splitlines(), 1) if "  # " in line}
    found = dict(re.findall(r"^script\.py:(\d+): (error: .*|note: Revealed .*)$", said, flags=re.MULTILINE))
    assert {int(number) for number in found} == expected.keys(), said
    for number, (_, what) in expected.items():
        assert what in found[str(number)], found[str(number)]
