"""The Site's TransferItems: asks the service which are due, hands them to back ends in batches, tells how they went.

The service keeps what has to be kept: an item stays due until its end was told, so the next agent goes on where a dead
one was (L4). A thread of its own, because no other duty shall wait for files; batches run in threads of the back ends.
Only the locations that the Site's settings name are used, whatever the service asks for (S15).
"""

import logging
import threading
import uuid
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from balsam.client.contents import from_wire
from balsam.domain.clock import Clock
from balsam.domain.states import TransferState
from balsam.domain.transfers import TransferDirection
from balsam.site.crash_points import crash_point
from balsam.site.service import ServiceAway
from balsam.site.services.transfer_notes import TransferNotes
from balsam.transfer.base import Order, TransferBackend
from balsam.wire.transfers import TransferItemView, TransferPatch, TransfersPatched

log = logging.getLogger(__name__)

LISTING_GAP_SEC = 0.1  # what becomes due meanwhile goes in one batch
PROGRESS_SEC = 2.0
AWAY_SEC = 2.0
CROWDED_SEC = 2.0  # between two looks for people who have none under way, while all that may be is
Group = tuple[str, TransferDirection, str, str]  # who, direction, alias, id of the task that has it already


class TransferService(Protocol):
    """The service as this part of the agent sees it. Every method may raise ServiceAway."""

    def due_transfers(self, limit: int) -> list[TransferItemView]:
        """Items that the Site is to work on, by turns of those who submitted."""
        ...

    def report_transfers(self, patches: Mapping[int, TransferPatch]) -> TransfersPatched:
        """Tell how items go; each is taken or refused by itself."""
        ...


@dataclass(frozen=True, slots=True)
class TransferLimits:
    """From settings.yml. `period_sec`: how often to look without being told that something is due.

    `max_concurrent`: batches at a time, and one more of somebody who has none among them.
    """

    max_concurrent: int = 5
    batch_size: int = 100
    query_limit: int = 2000
    period_sec: float = 30.0
    retry_for_sec: float = 3600.0


@dataclass(slots=True)
class _Task:
    """A batch that a back end has."""

    who: str
    backend: TransferBackend
    orders: dict[int, Order]
    started_at: float
    told_at: float


class Transfers:
    """One Site's transfers. `backends` are by alias of the location."""

    def __init__(
        self, service: TransferService, backends: Mapping[str, TransferBackend], limits: TransferLimits, clock: Clock
    ) -> None:
        self._service = service
        self._backends = backends
        self._limits = limits
        self._clock = clock
        self._notes = TransferNotes(limits.retry_for_sec, clock)
        self._tasks: dict[str, _Task] = {}
        self._batches = 0
        self._begun: dict[Group, int] = {}  # the number of each group's last batch
        self._listed_at = float("-inf")
        self._asked = True
        self._is_more = False  # due items wait for a free back end
        self._stopping = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="balsam-transfers", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """No more transfers; what is under way is left in the middle."""
        self._stopping = True
        for backend in self._backends.values():
            backend.close()
        self._wake.set()

    def look(self) -> None:
        """Items may be due. Safe to call from any thread."""
        self._asked = True
        self._wake.set()

    def _run(self) -> None:
        while not self._stopping:
            self._wake.clear()
            try:
                pause_sec = self.run_once()
            except ServiceAway:
                pause_sec = AWAY_SEC
            except Exception:
                log.exception("a pass over the transfers failed; the next one tries again")
                pause_sec = AWAY_SEC
            self._wake.wait(pause_sec)

    def run_once(self) -> float:
        """One pass; seconds until the next one, unless woken before. Raises ServiceAway."""
        self._poll()
        self._tell()
        now = self._clock.monotonic()
        list_at = self._list_at()
        if now < list_at:
            return min(list_at - now, PROGRESS_SEC) if self._tasks else list_at - now
        self._asked, self._listed_at = False, now
        self._take(self._service.due_transfers(self._limits.query_limit))
        return PROGRESS_SEC if self._tasks else max(0.0, self._list_at() - self._clock.monotonic())

    def _list_at(self) -> float:
        """While all that may be under way is, nothing could be begun: the end of a batch wakes this thread."""
        soon, late = self._listed_at + LISTING_GAP_SEC, self._listed_at + self._limits.period_sec
        beyond = len(self._tasks) - self._limits.max_concurrent
        if beyond >= 0:
            return self._listed_at + CROWDED_SEC if beyond == 0 and self._asked else late
        return soon if self._asked or self._is_more else min(late, max(self._notes.next_try(), soon))

    def _poll(self) -> None:
        """Note what the back ends have to say."""
        for task_id, task in list(self._tasks.items()):
            report = task.backend.poll(task_id)
            for outcome in report.ended:
                if order := task.orders.pop(outcome.item_id, None):
                    crash_point("after-transfer-before-told")
                    self._notes.ended(order, outcome)
            if report.is_over:
                del self._tasks[task_id]
                continue
            now = self._clock.monotonic()
            if now - task.told_at >= PROGRESS_SEC:
                task.told_at = now
                self._notes.progress(report.moved, report.sizes, now - task.started_at)

    def _tell(self) -> None:
        """Bring the notes to the service; what it refuses is not the Site's to do any more."""
        for patches in self._notes.slices():
            reply = self._service.report_transfers(patches)
            crash_point("after-transfer-told")
            self._notes.told(patches, reply.refused)
            for item_id, why in reply.refused.items():
                log.info("transfer %d: the service says %s", item_id, why)
            self._drop(frozenset(reply.refused))

    def _drop(self, item_ids: frozenset[int]) -> None:
        """These are not wanted any more: their Job was cancelled."""
        for task_id, task in self._tasks.items():
            if gone := item_ids & task.orders.keys():
                task.backend.cancel(task_id, gone)
                for item_id in gone:
                    del task.orders[item_id]

    def _take(self, due: Sequence[TransferItemView]) -> None:
        """Start what is due and not started; let go of what is due no more."""
        started = {item_id for task in self._tasks.values() for item_id in task.orders}
        if len(due) < self._limits.query_limit:  # else there may be more
            ids = frozenset(item.id for item in due)
            self._drop(frozenset(started) - ids)
            self._notes.forget(ids)
        groups: dict[Group, list[TransferItemView]] = defaultdict(list)
        for item in due:
            backend = self._backends.get(item.location_alias)
            if item.id in started or not self._notes.may_try(item.id):
                continue
            if backend is None:
                self._notes.refuse(item.id, f"Site has no transfer location {item.location_alias!r} (any more)")
            else:
                kept = item.task_id if backend.keeps_tasks else ""
                groups[item.submitted_by, item.direction, item.location_alias, kept].append(item)
        self._start(groups)
        self._tell()

    def _start(self, waiting: dict[Group, list[TransferItemView]]) -> None:
        """As many batches as may be under way, each of one person, direction and location.

        The next one is of whoever has the fewest under way: neither many items nor slow ones hold up another person's.
        Who has as many takes turns, and so do directions and locations of one person.
        """
        under_way = Counter(task.who for task in self._tasks.values())
        self._begun = {group: self._begun.get(group, 0) for group in waiting}
        last: Counter[str] = Counter()
        for group, number in self._begun.items():
            last[group[0]] = max(last[group[0]], number)
        while waiting:
            group = min(waiting, key=lambda group: (under_way[group[0]], last[group[0]], self._begun[group]))
            who, _, alias, task_id = group
            beyond = len(self._tasks) - self._limits.max_concurrent
            if beyond > 0 or (beyond == 0 and under_way[who]):
                break
            items = waiting.pop(group)
            size = len(items) if task_id else self._limits.batch_size
            if items[size:]:
                waiting[group] = items[size:]  # behind the others
            self._submit(who, self._backends[alias], task_id, items[:size])
            under_way[who] += 1
            self._batches += 1
            last[who] = self._begun[group] = self._batches
        self._is_more = bool(waiting)

    def _submit(self, who: str, backend: TransferBackend, task_id: str, items: Sequence[TransferItemView]) -> None:
        orders = {item.id: _order(item) for item in items}
        if not task_id:
            task_id = f"transfer-{uuid.uuid4().hex[:12]}"
            if backend.keeps_tasks:  # S11
                claim = TransferPatch(state=TransferState.ACTIVE, task_id=task_id)
                refused = self._service.report_transfers(dict.fromkeys(orders, claim)).refused
                orders = {item_id: order for item_id, order in orders.items() if item_id not in refused}
                if not orders:
                    return
        crash_point("before-transfer")
        now = self._clock.monotonic()
        self._tasks[task_id] = _Task(who, backend, orders, now, now)
        backend.submit(task_id, list(orders.values()), self._wake.set)


def _order(item: TransferItemView) -> Order:
    return Order(
        item.id,
        item.direction,
        item.workdir,
        item.local_path,
        item.remote_path,
        item.recursive,
        None if item.content is None else from_wire(item.content),
    )
