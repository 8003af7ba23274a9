"""Back ends that hand a whole batch to a program: one connection, whatever the number of files.

The program sees a directory of ours only (`staging.py`). It says by what is left there, or by what has arrived, which
files made the way; so one in error fails its own order and no other.
"""

import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from balsam.domain.transfers import TransferDirection
from balsam.transfer.base import Order, Outcome, PeerRefused
from balsam.transfer.descent import parts_of
from balsam.transfer.program import Ended
from balsam.transfer.sources import NothingThere
from balsam.transfer.staging import Gathered, Shipment, check_unwritten, far_place
from balsam.transfer.threaded import Batch, Cancelled, ThreadedBackend

MAX_SAID = 600  # characters of a program's complaint that people are told
# Words of file systems and servers for what is the same at the next try.
_FINAL = re.compile(
    r"no such file|not found|is a directory|not a directory|could not make way|name too long|read-only|"
    r"permission denied \(13\)|permission denied$|access ?denied|NoSuchBucket|not supported",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Load:
    """What a program is to move in one run: all that a shipment has places for."""

    batch: Batch
    shipment: Shipment
    recursive: bool

    def moved(self, path: str, size_bytes: int) -> None:
        """Bytes of a file were moved."""
        for order in self.shipment.owners(path):
            self.batch.moved[order.item_id] = self.batch.moved.get(order.item_id, 0) + size_bytes

    def is_wanted(self) -> bool:
        """Whether anybody still wants something of it."""
        orders = (order for owners in self.shipment.places.values() for order in owners)
        return not self.batch.stopping and any(order.item_id not in self.batch.cancelled for order in orders)


class StagedBackend(ThreadedBackend):
    """TransferBackend over a program that can `push` and `pull` a directory."""

    def __init__(self, data: Path, spool: Path) -> None:
        """`spool` is this back end's own directory, on the file system of `data`; it is emptied: what an earlier agent
        left is of no use."""
        super().__init__()
        self._data = data
        self._spool = spool
        shutil.rmtree(spool, ignore_errors=True)

    def push(self, load: Load) -> Ended:
        """Move all files of the shipment to the location, removing each that is there, verified."""
        raise NotImplementedError

    def pull(self, load: Load) -> Ended:
        """Fetch the shipment's places from the location, verified."""
        raise NotImplementedError

    def carry(self, batch: Batch) -> None:
        if batch.orders[0].direction is TransferDirection.stage_out:
            orders: Sequence[Order] = batch.orders
            while orders:
                orders = self._send(batch, orders)
        else:
            self._fetch(batch, [order for order in batch.orders if not order.recursive], recursive=False)
            self._fetch(batch, [order for order in batch.orders if order.recursive], recursive=True)

    @contextmanager
    def _shipment(self) -> Iterator[Shipment]:
        self._spool.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=self._spool, ignore_cleanup_errors=True) as folder:
            yield Shipment(Path(folder))

    def _send(self, batch: Batch, orders: Sequence[Order]) -> Sequence[Order]:
        """Send them in one run; those that want a place that another one has are left for the next."""
        gathered: list[Gathered] = []
        later: list[Order] = []
        with self._shipment() as shipment:
            for order in orders:
                if not batch.is_wanted(order):
                    continue
                try:
                    if shipment.overlaps(far_place(order)):
                        later.append(order)
                    else:
                        gathered.append(shipment.gather(self._data, order))
                        batch.sizes[order.item_id] = gathered[-1].size_bytes
                except Exception as error:
                    batch.failed(order, error)
            if gathered:
                ended = self.push(Load(batch, shipment, recursive=True))
                paths = (*shipment.left(), *shipment.held_back)
                left = {order.item_id for path in paths for order in shipment.owners(path)}
                for one in gathered:
                    note = shipment.notes.get(one.place, "")
                    self._tell_sent(batch, one, ended, note, is_left=one.order.item_id in left)
        return later

    def _tell_sent(self, batch: Batch, sent: Gathered, ended: Ended, note: str, *, is_left: bool) -> None:
        order = sent.order
        if not batch.is_wanted(order):
            return
        try:
            check_unwritten(self._data, sent)
            if is_left or (ended.code and not sent.files):
                raise refusal(ended, sent.place)
        except Exception as error:
            batch.failed(order, error)
        else:
            batch.done(Outcome(order.item_id, skipped=sent.skipped, size_bytes=sent.size_bytes, note=note))

    def _fetch(self, batch: Batch, orders: Sequence[Order], *, recursive: bool) -> None:
        with self._shipment() as shipment:
            asked: list[tuple[str, Order]] = []
            for order in orders:
                try:
                    parts_of(order.workdir, "workdir")
                    place = far_place(order)
                except Exception as error:
                    batch.failed(order, error)
                else:
                    asked.append((place, order))
                    shipment.places.setdefault(place, []).append(order)
            if not asked:
                return
            ended = self.pull(Load(batch, shipment, recursive=recursive))
            for place, order in asked:
                if batch.is_wanted(order):
                    self._deliver(batch, shipment, place, order, ended)

    def _deliver(self, batch: Batch, shipment: Shipment, place: str, order: Order, ended: Ended) -> None:
        try:
            complaints = about(ended, place) if ended.code else []
            if complaints or (ended.code and order.recursive):
                raise refusal(ended, place)
            batch.done(shipment.deliver(self._data, order))
        except Cancelled:
            raise
        except NothingThere as error:
            batch.failed(order, refusal(ended, place) if ended.code else error)
        except Exception as error:
            batch.failed(order, error)


def about(ended: Ended, place: str) -> list[str]:
    """What a program said of a place or of something in it."""
    name = re.compile(rf"(?<![^\s/\"'(:]){re.escape(place)}(?=[\s/\"':),]|$)")
    return [line for line in ended.said if place and name.search(line)]


def refusal(ended: Ended, place: str) -> PeerRefused:
    """Why something of a place was not moved: what was said of it, else the last words."""
    said = about(ended, place) or ended.said[-3:]
    text = " / ".join(said)[:MAX_SAID] or f"the program ended with code {ended.code} and without a word"
    return PeerRefused(text, is_final=bool(said) and all(_FINAL.search(line) for line in said[:1]))
