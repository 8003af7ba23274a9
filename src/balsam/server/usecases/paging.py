"""Which part of a list a page is: by offset, or after the last row of the page before."""

from typing import Protocol

from balsam.domain.states import JobState
from balsam.server.errors import Invalid
from balsam.server.store.records import micros
from balsam.server.store.selections import PageWindow
from balsam.wire.base import ErrorDetail
from balsam.wire.kinds import time_of

_TIMES = frozenset({"last_update", "timestamp"})


class Paged(Protocol):
    """What every page request says."""

    @property
    def limit(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def after(self) -> int | None: ...
    @property
    def after_value(self) -> str | None: ...


def page_window(message: Paged, ordering: str) -> PageWindow:
    """Raises Invalid for an `after_value` that the ordering can't have."""
    order_by = ordering.removeprefix("-")
    value: int | str | None = None
    if order_by != "id" and message.after is not None:
        value = _order_value(order_by, message.after_value)
    return PageWindow(
        order_by=order_by,
        descending=ordering.startswith("-"),
        limit=message.limit,
        offset=message.offset,
        after=message.after,
        after_value=value,
    )


def _order_value(order_by: str, text: str | None) -> int | str:
    """What the list is ordered by, of the row with the id `after`."""
    moment = time_of(text) if text is not None and order_by in _TIMES else None
    if moment is not None:
        return micros(moment)
    if text is not None and order_by == "workdir":
        return text
    if text is not None and order_by == "state" and text in frozenset(JobState):
        return text
    message = f"an ordering by {order_by} goes on after a row of that id and that {order_by}; {text!r} is none"
    raise Invalid([ErrorDetail(where="after_value", message=message)])
