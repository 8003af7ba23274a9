"""What the agent has to tell of its transfers, and which of them it tries again when.

A pure part of `transfers.py`: no file, no service. A trouble that may pass (a full disk, a busy file server) is told as
`inactive` with its reason and tried again, with growing pauses, until `retry_for_sec` are over; while nobody answers
nothing is told and nothing is counted.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from balsam.client.contents import to_wire
from balsam.domain.clock import Clock
from balsam.domain.states import TransferState
from balsam.transfer.base import Order, Outcome, Trouble
from balsam.wire.transfers import SentContent, TransferPatch

FIRST_RETRY_SEC = 1.0
LONGEST_RETRY_SEC = 60.0
MAX_DOUBLINGS = 30  # a trouble of days has thousands of tries, and powers of two more digits than a float
AWAY_RETRY_SEC = 2.0
MAX_PATCHES = 500
MAX_BLOBS = 20_000  # named in one call
MAX_ERROR = 2000
Info = dict[str, Any]


@dataclass(slots=True)
class _Trial:
    """An item that did not work so far."""

    since: float
    attempts: int = 0
    not_before: float = 0.0


class TransferNotes:
    """Notes of one agent."""

    def __init__(self, retry_for_sec: float, clock: Clock) -> None:
        self._retry_for_sec = retry_for_sec
        self._clock = clock
        self._trials: dict[int, _Trial] = {}
        self._patches: dict[int, TransferPatch] = {}

    def may_try(self, item_id: int) -> bool:
        """Whether it is time (again), and nothing of the item waits to be told."""
        trial = self._trials.get(item_id)
        is_time = trial is None or trial.not_before <= self._clock.monotonic()
        return is_time and item_id not in self._patches

    def next_try(self) -> float:
        """When the first of the items that wait may be tried again."""
        return min((trial.not_before for trial in self._trials.values()), default=float("inf"))

    def ended(self, order: Order, outcome: Outcome) -> None:
        """An attempt at an item is over."""
        if not outcome.error:
            self._trials.pop(order.item_id, None)
            info: Info = {"size_bytes": outcome.size_bytes}
            if outcome.skipped:
                info["skipped"] = list(outcome.skipped)
            if outcome.note:
                info["note"] = outcome.note
            content = None if outcome.content is None else to_wire(outcome.content)
            self._note(order.item_id, TransferState.DONE, info, content)
        elif outcome.trouble is Trouble.AWAY:
            self._trial(order.item_id).not_before = self._clock.monotonic() + AWAY_RETRY_SEC
        elif outcome.trouble is Trouble.FINAL:
            self.refuse(order.item_id, outcome.error)
        else:
            self._try_again(order.item_id, outcome.error)

    def _try_again(self, item_id: int, error: str) -> None:
        now, trial = self._clock.monotonic(), self._trial(item_id)
        trial.attempts += 1
        if now - trial.since >= self._retry_for_sec:
            self.refuse(item_id, f"{error} (given up after {trial.attempts} tries)")
            return
        pause_sec = min(FIRST_RETRY_SEC * 2 ** min(trial.attempts - 1, MAX_DOUBLINGS), LONGEST_RETRY_SEC)
        trial.not_before = now + pause_sec
        info = {"error": error[:MAX_ERROR], "attempts": trial.attempts, "next_try_sec": pause_sec}
        self._note(item_id, TransferState.INACTIVE, info)

    def _trial(self, item_id: int) -> _Trial:
        return self._trials.setdefault(item_id, _Trial(self._clock.monotonic()))

    def refuse(self, item_id: int, error: str) -> None:
        """It is no use to try."""
        self._trials.pop(item_id, None)
        self._note(item_id, TransferState.ERROR, {"error": error[:MAX_ERROR]})

    def progress(self, moved: Mapping[int, int], sizes: Mapping[int, int], elapsed_sec: float) -> None:
        """Bytes of items that go on, of how many."""
        for item_id, size_bytes in moved.items():
            rate = int(size_bytes / elapsed_sec) if elapsed_sec > 0 else 0
            info: Info = {"moved_bytes": size_bytes, "bytes_per_sec": rate}
            if item_id in sizes:
                info["total_bytes"] = sizes[item_id]
            self._note(item_id, TransferState.ACTIVE, info)

    def _note(self, item_id: int, state: TransferState, info: Info, content: SentContent | None = None) -> None:
        fields: Info = {"state": state, "transfer_info": info}
        if content is not None:
            fields["content"] = content
        self._patches[item_id] = TransferPatch(**fields)

    def slices(self) -> Iterator[dict[int, TransferPatch]]:
        """What is to be told, in pieces of a bounded size."""
        piece: dict[int, TransferPatch] = {}
        blobs = 0
        for item_id, patch in list(self._patches.items()):
            piece[item_id] = patch
            blobs += len(patch.content.blobs) if patch.content is not None else 0
            if len(piece) >= MAX_PATCHES or blobs >= MAX_BLOBS:
                yield piece
                piece, blobs = {}, 0
        if piece:
            yield piece

    def told(self, patches: Mapping[int, TransferPatch], refused: Mapping[int, str]) -> None:
        """The service has these. What it refused is tried again only if it asks for it again, and not at once."""
        for item_id, patch in patches.items():
            if self._patches.get(item_id) is patch:
                del self._patches[item_id]
            if item_id in refused:
                self._trial(item_id).not_before = self._clock.monotonic() + AWAY_RETRY_SEC

    def forget(self, due: frozenset[int]) -> None:
        """Items that are not due any more need no memory."""
        for item_id in self._trials.keys() - due:
            del self._trials[item_id]
