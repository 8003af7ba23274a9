"""One list out of the Jobs of several owners: each is read by a query of its own, and the pages are merged.

So no query of a store ever spans two owners (S14), and people with whom nothing is shared, nearly all, pay nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from heapq import merge
from itertools import islice
from typing import Any, TypeVar

from balsam.domain.states import JobState
from balsam.server.store.conditions import groups
from balsam.server.store.protocol import ReadTx
from balsam.server.store.records import EventRow, ShownJob, TransferItemRow
from balsam.server.store.selections import EventSelection, JobSelection, PageWindow, TransferSelection

R = TypeVar("R")
_STATE_ORDER = {state: place for place, state in enumerate(JobState)}


def job_page(tx: ReadTx, selections: Sequence[JobSelection], window: PageWindow) -> list[ShownJob]:
    """One page over all of the selections, which have no Job in common."""
    if len(selections) == 1:
        return tx.shown_page(selections[0], window)
    name = window.order_by

    def place(job: ShownJob) -> tuple[Any, int]:
        return (_STATE_ORDER[job.state] if name == "state" else getattr(job, name)), job.id

    return _page([tx.shown_page(one, _from_start(window)) for one in selections], window, place)


def event_page(tx: ReadTx, selections: Sequence[EventSelection], window: PageWindow) -> list[EventRow]:
    """One page of events."""
    if len(selections) == 1:
        return tx.events(selections[0], window)
    pages = [tx.events(one, _from_start(window)) for one in selections]
    return _page(pages, window, lambda event: (event.timestamp, event.id))


def transfer_page(tx: ReadTx, selections: Sequence[TransferSelection], window: PageWindow) -> list[TransferItemRow]:
    """One page of TransferItems, by id."""
    if len(selections) == 1:
        return tx.transfer_items(selections[0], window)
    pages = [tx.transfer_items(one, _from_start(window)) for one in selections]
    return _page(pages, window, lambda item: item.id)


def job_counts(tx: ReadTx, selections: Sequence[JobSelection]) -> dict[JobState, int]:
    """Number of Jobs in each state that has any."""
    counts: dict[JobState, int] = {}
    for one in selections:
        for state, n in tx.job_counts(one).items():
            counts[state] = counts.get(state, 0) + n
    return counts


def job_groups(
    tx: ReadTx, selections: Sequence[JobSelection], column: str, path: tuple[str, ...], limit: int
) -> list[tuple[Any, int]]:
    """Numbers of Jobs by the value of a column, largest first; `limit` of them or fewer when there are no more."""
    if len(selections) == 1:
        return tx.job_groups(selections[0], column, path, limit)
    found = (pair for one in selections for pair in tx.job_groups(one, column, path, limit))
    return groups(found, limit)


def _from_start(window: PageWindow) -> PageWindow:
    """What is skipped is known only after merging."""
    return replace(window, limit=window.limit + window.offset, offset=0)


def _page(pages: list[list[R]], window: PageWindow, place: Callable[[R], Any]) -> list[R]:
    merged = merge(*pages, key=place, reverse=window.descending)
    return list(islice(merged, window.offset, window.offset + window.limit))
