"""A private copy of what travels, for programs that take paths: rsync, rclone, Globus.

Such a program follows links and would be raced by the Job's own processes, so it never sees a workdir (S15). What goes
out is linked, else copied, into a directory of ours in which nothing but files is, laid out as at the far end; what
comes in arrives in such a directory and is put into the workdir from there, whole. Called by `staged.py` and
`globus.py`.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from balsam.domain.transfers import WHOLE_WORKDIR
from balsam.transfer.base import Order, Outcome
from balsam.transfer.descent import open_workdir, parts_of
from balsam.transfer.destination import Destination, open_directory
from balsam.transfer.local import landing_parts, put_copy
from balsam.transfer.sources import Contained, FileChanged, SourceFile, select


def far_place(order: Order) -> str:
    """Where an order's far end is, relative to its location; "" is the location itself. Raises Refused."""
    return "/".join(parts_of(order.remote_path.lstrip("/"), "path")) if order.remote_path.strip("/") else ""


@dataclass(frozen=True, slots=True)
class Gathered:
    """An order whose files are in the shipment; `fingerprint` tells whether they were written since."""

    order: Order
    place: str
    files: int
    size_bytes: int
    skipped: Sequence[str]
    fingerprint: str


@dataclass(slots=True)
class Shipment:
    """A directory of ours, laid out as the location is. `places` are what it holds, by path."""

    folder: Path
    places: dict[str, list[Order]] = field(default_factory=dict)
    held_back: set[str] = field(default_factory=set)  # places that something left for without getting there
    notes: dict[str, str] = field(default_factory=dict)  # for people, by place

    def owners(self, path: str) -> Sequence[Order]:
        """The orders to which a path belongs: those of its nearest place."""
        place = self.place_of(path)
        return () if place is None else self.places[place]

    def place_of(self, path: str) -> str | None:
        """The nearest place above a path."""
        while path not in self.places:
            if not path:
                return None
            path = path.rpartition("/")[0]
        return path

    def overlaps(self, place: str) -> bool:
        """Whether another order's files are, or may come to be, in the same place."""
        return bool(self.owners(place)) or any(not place or other.startswith(f"{place}/") for other in self.places)

    def left(self) -> Iterator[str]:
        """Paths of the files that are in it now."""
        for folder, _, names in os.walk(self.folder):
            base = os.path.relpath(folder, self.folder)
            for name in names:
                yield name if base == "." else f"{base}/{name}"

    def directories(self) -> Iterator[str]:
        """Paths of the directories in it."""
        for folder, names, _ in os.walk(self.folder):
            base = os.path.relpath(folder, self.folder)
            for name in names:
                yield name if base == "." else f"{base}/{name}"

    def gather(self, data: Path, order: Order) -> Gathered:
        """Put the files of a stage-out in. After an error nothing of it is in. Raises Refused, OSError, FileChanged."""
        place = far_place(order)
        try:
            with ExitStack() as stack:
                workdir = stack.enter_context(open_workdir(data, order.workdir))
                folder = stack.enter_context(open_directory(self.folder, make=True))
                destination = Destination(folder)  # never entered: nothing here needs to be durable
                selection = select(Contained(workdir), order.local_path, order.recursive)
                if not selection.is_tree and (order.remote_path.endswith("/") or not place):
                    place = f"{place}/{Path(order.local_path).name}".lstrip("/")
                print_of, files, size_bytes = _Fingerprint(), 0, 0
                for file in selection.files:
                    print_of.add(file)
                    files, size_bytes = files + (not file.is_directory), size_bytes + file.size_bytes
                    parts = landing_parts(order.remote_path, selection, file, is_far=True)
                    _put(destination, parts, file, may_link=True)
        except BaseException:
            self.drop(place)
            raise
        self.places[place] = [order]
        return Gathered(order, place, files, size_bytes, tuple(selection.skipped), print_of.text)

    def drop(self, place: str) -> None:
        """Take out what is in a place, and the directories on the way there that are empty then."""
        target = self.folder / place if place else self.folder
        if target.is_dir():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)
        self.places.pop(place, None)
        for parent in target.parents:
            if parent == self.folder or self.folder not in parent.parents:
                return
            with suppress(OSError):
                parent.rmdir()

    def deliver(self, data: Path, order: Order) -> Outcome:
        """Put what arrived of a stage-in into the workdir. Raises Refused, OSError, FileChanged."""
        with ExitStack() as stack:
            folder = stack.enter_context(open_directory(self.folder, make=False))
            workdir = stack.enter_context(open_workdir(data, order.workdir, make=True))
            destination = stack.enter_context(Destination(workdir))
            selection = select(Contained(folder), far_place(order) or WHOLE_WORKDIR, order.recursive)
            size_bytes = 0
            for file in selection.files:
                size_bytes += file.size_bytes
                parts = landing_parts(order.local_path, selection, file, is_far=False)
                os.fsync(file.handle)
                # With a second name it is another Job's input as well, which either of them may write.
                _put(destination, parts, file, may_link=file.status.st_nlink == 1)
            return Outcome(order.item_id, skipped=tuple(selection.skipped), size_bytes=size_bytes)


def check_unwritten(data: Path, gathered: Gathered) -> None:
    """Raises FileChanged when a file that was sent was written meanwhile; OSError, Refused when it is gone."""
    order, now = gathered.order, _Fingerprint()
    with open_workdir(data, order.workdir) as workdir:
        for file in select(Contained(workdir), order.local_path, order.recursive).files:
            now.add(file)
    if now.text != gathered.fingerprint:
        raise FileChanged(f"{order.local_path} was changed while it was sent")


def _put(destination: Destination, parts: Sequence[str], file: SourceFile, *, may_link: bool) -> None:
    if file.is_directory:
        destination.directory(parts)
    elif not (may_link and destination.link(parts, file.handle)):
        put_copy(destination, parts, file)


class _Fingerprint:
    """Names, sizes and times of files, in the order in which they were looked at."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, file: SourceFile) -> None:
        status = file.status
        told = f"{file.path}\0{file.size_bytes}\0{0 if file.is_directory else status.st_mtime_ns}\0{status.st_ino}\n"
        self._digest.update(told.encode(errors="surrogateescape"))

    @property
    def text(self) -> str:
        return self._digest.hexdigest()
