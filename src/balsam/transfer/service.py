"""The back end of `client:`: files travel as blobs through the service, over the connection that the agent has anyway.

Stage-out: the files of a batch are sent, small ones packed together, and each order's content is told. Stage-in: what
the client sent before is fetched into the workdir.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from balsam.domain.transfers import WHOLE_WORKDIR, TransferDirection
from balsam.transfer.base import Order, Outcome, PeerAway
from balsam.transfer.descent import open_workdir, parts_of
from balsam.transfer.destination import Destination
from balsam.transfer.manifest import BadManifest, Content, Entry, ManifestWriter
from balsam.transfer.receiving import BlobSource, Wanted, entries_of, receive
from balsam.transfer.sending import BlobSink, Sender
from balsam.transfer.sources import Contained, Selection, select
from balsam.transfer.threaded import Batch, Cancelled, ThreadedBackend


class Blobs(BlobSink, BlobSource, Protocol):
    """The service's blobs, both ways."""


@dataclass(frozen=True, slots=True)
class _Sent:
    """An order whose files were read."""

    order: Order
    writer: ManifestWriter
    selection: Selection


class ServiceBackend(ThreadedBackend):
    """TransferBackend of the location `client`."""

    def __init__(self, data: Path, blobs: Blobs) -> None:
        """`data` is the directory of the workdirs."""
        super().__init__()
        self._data = data
        self._blobs = blobs

    def carry(self, batch: Batch) -> None:
        if batch.orders[0].direction is TransferDirection.stage_out:
            _Outward(self._data, self._blobs, batch).run()
        else:
            self._fetch(batch)

    def _fetch(self, batch: Batch) -> None:
        """Single files in the order of their blobs, so that a pack is read once; then the trees, one by one."""
        trees = [order for order in batch.orders if order.content is None or order.content.is_tree]
        files = [order for order in batch.orders if order.content is not None and not order.content.is_tree]
        arrived: list[Outcome] = []
        try:
            with ExitStack() as stack:
                arrived += self._fetched(batch, stack, files)
        finally:
            for outcome in arrived:  # now that the directories are durable
                batch.done(outcome)
        for order in trees:
            if batch.is_wanted(order):
                self._fetch_tree(batch, order)

    def _fetched(self, batch: Batch, stack: ExitStack, orders: Sequence[Order]) -> Iterator[Outcome]:
        """Orders of one file each, as they arrive."""
        wanted: list[Wanted] = []
        for order in orders:
            if not batch.is_wanted(order):
                continue
            try:
                wanted += self._wanted(order, self._destination(stack, order))
            except PeerAway:
                raise
            except Exception as error:
                batch.failed(order, error)
        wanted.sort(key=lambda one: (one.entry.blob or "", one.entry.offset))
        by_id = {order.item_id: order for order in orders}
        for one, failure in receive(self._blobs, wanted, batch.move):
            if failure is None:
                yield Outcome(one.key, size_bytes=one.entry.size_bytes)
            else:
                batch.failed(by_id[one.key], failure)

    def _fetch_tree(self, batch: Batch, order: Order) -> None:
        size_bytes = 0
        try:
            move = batch.moves(order)
            with ExitStack() as stack:
                wanted = self._wanted(order, self._destination(stack, order))
                for one, error in receive(self._blobs, wanted, lambda _, size_bytes: move(size_bytes)):
                    if error is not None:
                        raise error
                    size_bytes += one.entry.size_bytes
        except (PeerAway, Cancelled):
            if batch.is_wanted(order):
                raise
        except Exception as error:
            batch.failed(order, error)
        else:
            batch.done(Outcome(order.item_id, size_bytes=size_bytes))

    def _destination(self, stack: ExitStack, order: Order) -> Destination:
        workdir = stack.enter_context(open_workdir(self._data, order.workdir, make=True))
        return stack.enter_context(Destination(workdir))

    def _wanted(self, order: Order, destination: Destination) -> Iterator[Wanted]:
        content = order.content
        if content is None:
            raise BadManifest("the service did not say what to fetch")
        for entry in entries_of(content, self._blobs):
            yield Wanted(order.item_id, entry, destination, landing(order.local_path, content, entry))


def landing(local_path: str, content: Content, entry: Entry) -> list[str]:
    """Where an entry of a stage-in goes in the workdir: a tree into the directory, a file to the name that the slot
    has, or to its own one. Raises Refused."""
    place = [] if local_path == WHOLE_WORKDIR else parts_of(local_path, "local_path")
    if content.is_tree:
        return [*place, *entry.parts]
    return place or [entry.parts[-1]]


class _Outward:
    """A batch of stage-outs. An order is told of as soon as all of it is with the service."""

    def __init__(self, data: Path, blobs: Blobs, batch: Batch) -> None:
        self._data = data
        self._batch = batch
        self._sender = Sender(blobs, self._tell_sent)
        self._waiting: list[_Sent] = []

    def run(self) -> None:
        for order in self._batch.orders:
            if not self._batch.is_wanted(order):
                continue
            try:
                sent = self._read(order)  # which may tell of others, and change the list
            except (PeerAway, Cancelled):
                if self._batch.is_wanted(order):
                    raise
            except Exception as error:
                self._batch.failed(order, error)
            else:
                self._waiting.append(sent)
        self._sender.flush()
        self._tell_sent()

    def _read(self, order: Order) -> _Sent:
        with open_workdir(self._data, order.workdir) as workdir:
            selection = select(Contained(workdir), order.local_path, order.recursive)
            if selection.size_bytes is not None:
                self._batch.sizes[order.item_id] = selection.size_bytes
            writer = self._sender.send(selection, str(order.item_id), self._batch.moves(order))
        return _Sent(order, writer, selection)

    def _tell_sent(self) -> None:
        waiting, self._waiting = self._waiting, []
        for sent in waiting:
            if self._sender.holds(sent.writer):
                self._waiting.append(sent)
            else:
                self._tell(sent)

    def _tell(self, sent: _Sent) -> None:
        try:
            content = self._sender.finish(sent.writer, sent.selection.is_tree)
        except PeerAway:
            raise
        except Exception as error:
            self._batch.failed(sent.order, error)
            return
        skipped = tuple(sent.selection.skipped)
        outcome = Outcome(sent.order.item_id, content=content, skipped=skipped, size_bytes=content.size_bytes)
        self._batch.done(outcome)
