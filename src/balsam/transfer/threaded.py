"""Back ends that do the work in threads of this process: each batch in one, so that a slow one keeps no other waiting.

Their tasks die with the process; the next agent submits the same orders again, and what was moved already is gone on
with or found to be there.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from balsam.transfer.base import Order, Outcome, Report, Trouble, trouble_of

log = logging.getLogger(__name__)


class Cancelled(Exception):
    """The order, or all of them, is not wanted any more."""


@dataclass(slots=True)
class Batch:
    """One task: what its thread tells of it, for others to poll."""

    orders: Sequence[Order]
    changed: Callable[[], None]
    task_id: str = ""
    moved: dict[int, int] = field(default_factory=dict)  # bytes, by order
    sizes: dict[int, int] = field(default_factory=dict)  # bytes to move, where that is known beforehand
    cancelled: frozenset[int] = frozenset()
    stopping: bool = False
    _told: set[int] = field(default_factory=set)
    _ended: list[Outcome] = field(default_factory=list)
    _is_over: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def done(self, outcome: Outcome) -> None:
        """An order has ended."""
        with self._lock:
            self._told.add(outcome.item_id)
            self._ended.append(outcome)
        self.changed()

    def failed(self, order: Order, error: Exception) -> None:
        """An order ended with an error. Raises the error when it is none of those that are expected."""
        self.done(Outcome(order.item_id, *trouble_of(error)))

    def move(self, item_id: int, size_bytes: int) -> None:
        """Bytes of an order were moved. Raises Cancelled when the agent stops: a large file is left in the middle."""
        self.moved[item_id] = self.moved.get(item_id, 0) + size_bytes
        if self.stopping:
            raise Cancelled

    def moves(self, order: Order) -> Callable[[int], None]:
        """`move` for one order; raises Cancelled also when that one is not wanted any more."""

        def move(size_bytes: int) -> None:
            self.move(order.item_id, size_bytes)
            if order.item_id in self.cancelled:
                raise Cancelled

        return move

    def is_wanted(self, order: Order) -> bool:
        return order.item_id not in self.cancelled and not self.stopping

    def end(self, error: str, trouble: Trouble) -> None:
        """Nothing more will be told; what was not told of ended with this error."""
        for order in self.orders:
            if order.item_id not in self._told and self.is_wanted(order):
                self.done(Outcome(order.item_id, error, trouble))
        with self._lock:
            self._is_over = True
        self.changed()

    def report(self) -> Report:
        with self._lock:
            ended, self._ended = self._ended, []
            moved = {item: size for item, size in list(self.moved.items()) if item not in self._told}
            return Report(ended, moved, {item: self.sizes[item] for item in moved if item in self.sizes}, self._is_over)


class ThreadedBackend:
    """TransferBackend over `carry`, which works through a batch in a thread of its own."""

    keeps_tasks = False

    def __init__(self) -> None:
        self._batches: dict[str, Batch] = {}

    def carry(self, batch: Batch) -> None:
        """Work through the orders and tell of each. What it raises is told of all that were not told of yet."""
        raise NotImplementedError

    def submit(self, task_id: str, orders: Sequence[Order], changed: Callable[[], None]) -> None:
        batch = self._batches[task_id] = Batch(orders, changed, task_id)
        threading.Thread(target=self._run, args=(batch,), name=f"balsam-{task_id}", daemon=True).start()

    def poll(self, task_id: str) -> Report:
        report = self._batches[task_id].report()
        if report.is_over:
            del self._batches[task_id]
        return report

    def cancel(self, task_id: str, item_ids: frozenset[int]) -> None:
        batch = self._batches.get(task_id)
        if batch is not None:
            batch.cancelled |= item_ids

    def close(self) -> None:
        for batch in self._batches.values():
            batch.stopping = True

    def _run(self, batch: Batch) -> None:
        error, trouble = "the transfer ended without a word", Trouble.TRANSIENT
        try:
            with suppress(Cancelled):
                self.carry(batch)
        except Exception as cause:
            error, trouble = _explained(cause)
        batch.end(error, trouble)


def _explained(error: Exception) -> tuple[str, Trouble]:
    try:
        return trouble_of(error)
    except Exception:
        log.exception("a batch of transfers failed")
        return f"the agent failed: {error!r}; its log has the cause", Trouble.TRANSIENT
