"""Which rows a selection means, by looking at each. Used by memory_tx; the SQL stores are compared with it."""

import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, TypeVar

from balsam.domain.states import JobState
from balsam.server.store.conditions import Condition, holds
from balsam.server.store.records import EventRow, JobRow
from balsam.server.store.selections import EventSelection, JobSelection, PageWindow

T = TypeVar("T")
STATE_ORDER = {state: index for index, state in enumerate(JobState)}


def job_conditions(selection: JobSelection) -> Iterator[Callable[[JobRow], bool]]:
    """Each condition of a selection but the owner."""
    lists: tuple[tuple[str, tuple[Any, ...] | None], ...] = (
        ("id", selection.ids),
        ("app_id", selection.app_ids),
        ("site_id", selection.site_ids),
        ("batch_job_id", selection.batch_job_ids),
        ("submitter_id", selection.submitter_ids),
        ("state", selection.states),
    )
    for column, values in lists:
        if values is not None:
            yield _is_one_of(column, frozenset(values))
    if selection.parent_ids is not None:
        parents = frozenset(selection.parent_ids)
        yield lambda job: not parents.isdisjoint(job.parent_ids)
    if selection.failures is not None:
        yield _is_one_of("failure", frozenset(selection.failures))
    if selection.tags:
        yield lambda job: all(job.tags.get(key) == value for key, value in selection.tags)
    if selection.workdir_contains is not None:
        part = selection.workdir_contains
        yield lambda job: part in job.workdir
    if selection.updated_before is not None:
        before = selection.updated_before
        yield lambda job: job.last_update < before
    if selection.updated_after is not None:
        after = selection.updated_after
        yield lambda job: job.last_update > after
    if selection.pending_file_cleanup is not None:
        yield lambda job: job.pending_file_cleanup == selection.pending_file_cleanup
    for condition in selection.conditions:
        yield partial(_holds, condition)


def is_selected_event(event: EventRow, selection: EventSelection) -> bool:
    """Whether an event of a selected Job is selected itself."""
    return (
        (selection.ids is None or event.id in selection.ids)
        and (selection.before is None or event.timestamp < selection.before)
        and (selection.after is None or event.timestamp > selection.after)
        and selection.from_state in (None, event.from_state)
        and selection.to_state in (None, event.to_state)
        and all(key in event.data and _text(event.data[key]) == value for key, value in selection.data)
        and all(_holds(condition, event) for condition in selection.conditions)
    )


def _holds(condition: Condition, row: JobRow | EventRow) -> bool:
    return holds(condition, getattr(row, condition.column))


def part_of(
    rows: list[T], key: Callable[[T], tuple[Any, ...]], window: PageWindow, ranks: Mapping[Any, int] | None = None
) -> list[T]:
    """The window of ordered rows."""
    if window.after is not None:
        value = window.after_value
        last = (window.after, window.after) if value is None else ((ranks or {}).get(value, value), window.after)
        rows = [row for row in rows if (key(row) < last if window.descending else key(row) > last)]
    return rows[window.offset : window.offset + window.limit]


def _is_one_of(column: str, values: frozenset[Any]) -> Callable[[JobRow], bool]:
    return lambda job: getattr(job, column) in values


def _text(value: object) -> str:
    """The text of a JSON value as SQL casts it."""
    if isinstance(value, bool):
        return str(int(value))
    return json.dumps(value, separators=(",", ":")) if isinstance(value, (list, dict)) else str(value)
