"""The JSON of a Job that is written straight from its row says what the message would say."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import from_json

from balsam.domain.failure import Failure
from balsam.domain.states import JobState
from balsam.server.store.codec import dump
from balsam.server.store.records import ShownJob, moment, moment_or_none
from balsam.server.usecases.job_texts import job_text, page_text
from balsam.wire.jobs import JobsPage, JobView

JSON_FIELDS = ("parameters", "tags", "data", "launch_params", "parent_ids", "transfers")
TIMES = ("created_at", "last_update", "started_at", "ended_at")
_NUMBERS = st.integers(min_value=0, max_value=2**63 - 1)
_MICROS = st.integers(min_value=0, max_value=4 * 10**15)
_TEXTS = st.text(max_size=20)
_BY_NAME = {
    "submitted_by": _TEXTS,
    "app_name": _TEXTS,
    "workdir": _TEXTS,
    "gpus_per_rank": st.floats(min_value=0, max_value=10_000),
    "state": st.sampled_from(JobState),
    "failure": st.none() | st.sampled_from(Failure).map(str),
    **dict.fromkeys(("max_attempts", "return_code", "batch_job_id", "session_id"), st.none() | _NUMBERS),
    **dict.fromkeys(("cancel_requested", "pending_file_cleanup"), st.booleans()),
    **dict.fromkeys(("created_at", "last_update"), _MICROS),
    **dict.fromkeys(("started_at", "ended_at"), st.none() | _MICROS),
    **dict.fromkeys(
        ("parameters", "data"), st.dictionaries(_TEXTS, st.none() | _NUMBERS | _TEXTS, max_size=2).map(dump)
    ),
    **dict.fromkeys(("tags", "launch_params", "transfers"), st.dictionaries(_TEXTS, _TEXTS, max_size=2).map(dump)),
    "parent_ids": st.lists(_NUMBERS, max_size=2).map(dump),
}
SHOWN = st.builds(ShownJob, **{name: _BY_NAME.get(name, _NUMBERS) for name in ShownJob._fields})


def as_message(job: ShownJob) -> JobView:
    values: dict[str, Any] = {name: getattr(job, name) for name in JobView.model_fields}
    values |= {name: moment_or_none(values[name]) for name in TIMES}
    return JobView.model_validate(values | {name: from_json(values[name]) for name in JSON_FIELDS})


@given(SHOWN)
def test_the_text_is_that_of_the_message(job: ShownJob) -> None:
    message = as_message(job)
    assert JobView.model_validate_json(job_text(job)) == message
    if job.gpus_per_rank == int(job.gpus_per_rank):  # of others there are several ways to write them
        assert job_text(job) == message.model_dump_json().encode()


@pytest.mark.parametrize("count", [None, 7])
def test_a_page_is_that_of_the_messages(count: int | None) -> None:
    at = int((datetime(2026, 11, 27, tzinfo=UTC) - moment(0)) / timedelta(microseconds=1))
    job = ShownJob(**{**dict.fromkeys(ShownJob._fields, 1), **_EXAMPLE, "created_at": at, "last_update": at + 1})
    for number in (0, 1, 2):
        page = JobsPage(count=count, results=[as_message(job)] * number)
        assert page_text(count, [job] * number) == page.model_dump_json().encode()


_EXAMPLE: dict[str, Any] = {
    **dict.fromkeys(("submitted_by", "app_name", "workdir"), 'a "quoted" \\ text\n\u00fc'),
    **dict.fromkeys(("parameters", "tags", "data", "launch_params", "transfers"), "{}"),
    "parent_ids": "[]",
    "gpus_per_rank": 0.5,
    "state": JobState.RUNNING,
    "failure": None,
    "cancel_requested": True,
    "pending_file_cleanup": False,
    "started_at": None,
    "ended_at": None,
}
