"""The back end of `file:` locations: directories that the Site can see, copied from and to, or linked.

A location `scratch: file:///lustre/project` makes `scratch:/in.dat` mean /lustre/project/in.dat. Nothing outside of
that directory is reached, whatever a Job asks for and whatever links are in it (S15).
"""

import hashlib
import os
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from balsam.domain.transfers import WHOLE_WORKDIR, TransferDirection
from balsam.transfer.base import Order, Outcome
from balsam.transfer.descent import make_directories, open_workdir, parts_of
from balsam.transfer.destination import Destination, open_directory
from balsam.transfer.sources import OURS, Contained, Selection, SourceFile, select
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
            destination = stack.enter_context(Destination(target))
            size_bytes = 0
            for file in selection.files:
                parts = _parts(order.local_path if is_in else path, selection, file, is_far=not is_in)
                self._put(batch, order, destination, target, parts, file)
                size_bytes += file.size_bytes
            return Outcome(order.item_id, skipped=tuple(selection.skipped), size_bytes=size_bytes)

    def _put(
        self, batch: Batch, order: Order, destination: Destination, target: int, parts: Sequence[str], file: SourceFile
    ) -> None:
        if file.is_directory:
            destination.directory(parts)
        elif not (self._link and order.direction is TransferDirection.stage_in and _linked(target, parts, file)):
            _copied(batch, order, destination, parts, file)


def _parts(path: str, selection: Selection, file: SourceFile, *, is_far: bool) -> list[str]:
    """Where to put a file: a tree into the directory, a file at the path; into it when that ends with / or is `.`."""
    place = [] if path == WHOLE_WORKDIR else parts_of(path, "path")
    if selection.is_tree:
        return [*place, *file.path.rstrip("/").split("/")]
    return [*place, file.path] if not place or (is_far and path.endswith("/")) else place


def _copied(batch: Batch, order: Order, destination: Destination, parts: Sequence[str], file: SourceFile) -> None:
    """Read twice: the second time is held against the hash of the first one."""
    digest = hashlib.sha256()
    for piece in file.pieces():
        digest.update(piece)
    move = batch.moves(order)
    with destination.file(parts, file.size_bytes, file.mode, digest.hexdigest()) as incoming:
        for piece in file.pieces(incoming.received_bytes):
            incoming.write(piece)
            move(len(piece))
        file.check_unchanged()
        incoming.finish()


def _linked(target: int, parts: Sequence[str], file: SourceFile) -> bool:
    """Put a hard link there, in place of what is there; False where the file systems don't let it."""
    with make_directories(target, parts[:-1]) as folder:
        temporary = f"{OURS}{hashlib.sha256(os.fsencode(parts[-1])).hexdigest()[:32]}.link"
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=folder)
        try:
            os.link(f"/proc/self/fd/{file.handle}", temporary, dst_dir_fd=folder, follow_symlinks=True)
        except OSError:
            return False
        try:
            os.rename(temporary, parts[-1], src_dir_fd=folder, dst_dir_fd=folder)
        except OSError:
            os.unlink(temporary, dir_fd=folder)
            raise
        os.fsync(folder)
    return True
