"""The back end of `file:` locations: directories that the Site can see, copied from and to, or linked.

A location `scratch: file:///lustre/project` makes `scratch:/in.dat` mean /lustre/project/in.dat. Nothing outside of
that directory is reached, whatever a Job asks for and whatever links are in it (S15).
"""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from balsam.domain.transfers import WHOLE_WORKDIR, TransferDirection
from balsam.transfer.base import Order, Outcome
from balsam.transfer.descent import open_workdir, parts_of
from balsam.transfer.destination import Destination, open_directory
from balsam.transfer.sources import Contained, Selection, SourceFile, select
from balsam.transfer.threaded import Batch, Cancelled, ThreadedBackend


class LocalBackend(ThreadedBackend):
    """TransferBackend of one `file:` location. `link`: inputs are hard links where that is possible, else copies."""

    def __init__(self, data: Path, root: Path, *, link: bool = False) -> None:
        super().__init__()
        self._data = data
        self._root = root
        self._link = link

    def carry(self, batch: Batch) -> None:
        for order in batch.orders:
            if not batch.is_wanted(order):
                continue
            try:
                outcome = self._copy(batch, order)
            except Cancelled:
                continue
            except Exception as error:
                batch.failed(order, error)
            else:
                batch.done(outcome)

    def _copy(self, batch: Batch, order: Order) -> Outcome:
        is_in = order.direction is TransferDirection.stage_in
        with ExitStack() as stack:
            location = stack.enter_context(open_directory(self._root, make=False))
            workdir = stack.enter_context(open_workdir(self._data, order.workdir, make=is_in))
            source, target = (location, workdir) if is_in else (workdir, location)
            path = order.remote_path.lstrip("/") or WHOLE_WORKDIR
            selection = select(Contained(source), path if is_in else order.local_path, order.recursive)
            if selection.size_bytes is not None:
                batch.sizes[order.item_id] = selection.size_bytes
            destination = stack.enter_context(Destination(target))
            size_bytes = 0
            for file in selection.files:
                parts = landing_parts(order.local_path if is_in else path, selection, file, is_far=not is_in)
                self._put(batch, order, destination, parts, file)
                size_bytes += file.size_bytes
            return Outcome(order.item_id, skipped=tuple(selection.skipped), size_bytes=size_bytes)

    def _put(
        self, batch: Batch, order: Order, destination: Destination, parts: Sequence[str], file: SourceFile
    ) -> None:
        if file.is_directory:
            destination.directory(parts)
        elif not (
            self._link and order.direction is TransferDirection.stage_in and destination.link(parts, file.handle)
        ):
            put_copy(destination, parts, file, batch.moves(order))


def landing_parts(path: str, selection: Selection, file: SourceFile, *, is_far: bool) -> list[str]:
    """Where to put a file: a tree into the directory, a file at the path; into it when that ends with / or is `.`."""
    path = path.lstrip("/") if is_far else path
    place = [] if path in ("", WHOLE_WORKDIR) else parts_of(path, "path")
    if selection.is_tree:
        return [*place, *file.path.rstrip("/").split("/")]
    return [*place, file.path] if not place or (is_far and path.endswith("/")) else place


def put_copy(
    destination: Destination,
    parts: Sequence[str],
    file: SourceFile,
    move: Callable[[int], object] = lambda size_bytes: None,
) -> None:
    """A copy, read twice: the second time is held against the hash of the first one. `move` hears of bytes."""
    digest = hashlib.sha256()
    for piece in file.pieces():
        digest.update(piece)
    with destination.file(parts, file.size_bytes, file.mode, digest.hexdigest()) as incoming:
        for piece in file.pieces(incoming.received_bytes):
            incoming.write(piece)
            move(len(piece))
        file.check_unchanged()
        incoming.finish()
