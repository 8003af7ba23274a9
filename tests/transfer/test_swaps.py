"""Links that take the place of directories and files while these are read and written: nothing outside is reached (T9).

Another process exchanges the two without a pause, as a Job could. Each case goes on until the race was won and lost.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from balsam.client.arrivals import bring
from balsam.domain.transfers import TransferDirection
from balsam.testing.transfer_conformance import run
from balsam.transfer.base import Order, Outcome, trouble_of
from balsam.transfer.descent import Refused, open_inside, open_workdir
from balsam.transfer.local import LocalBackend
from balsam.transfer.manifest import Content
from balsam.transfer.sending import Sender
from balsam.transfer.service import ServiceBackend
from balsam.transfer.sources import Free, select
from balsam.transfer.staging import Shipment
from tests.transfer.memory_blobs import MemoryBlobs, fetched

pytestmark = pytest.mark.slow

IN, OUT = TransferDirection.stage_in, TransferDirection.stage_out
DEADLINE_SEC = 40.0
ROUNDS = 200
SWAPPER = """
import ctypes, os, sys
exchange = ctypes.CDLL(None, use_errno=True).renameat2
one, other = map(os.fsencode, sys.argv[1:])
while os.getppid() == int(os.environ["SWAPPED_BY"]):
    if exchange(-100, one, -100, other, 2):
        sys.exit(os.strerror(ctypes.get_errno()))
"""
GOOD, SECRET, NEW = b"of the Job", b"secret", b"new content"
Attempt = Callable[[], bytes | None]  # what was read, if anything; raises what is expected of a link


class Bed:
    """A workdir, in whose directory `tree` a name is now its own and now a link to what is outside."""

    def __init__(self, root: Path, kind: str) -> None:
        self.root = root
        self.data = root / "data"
        self.outside = root / "outside"
        self.workdir = self.data / "run"
        self.far = root / "far"
        for place in (self.workdir / "tree", self.outside, self.far):
            place.mkdir(parents=True)
        (self.outside / "x").write_bytes(SECRET)
        self.kind = kind
        self.blobs = MemoryBlobs()

    @contextmanager
    def swapping(self, place: Path) -> Iterator[None]:
        own, link = place / "sub", self.root / "link"
        own.mkdir()
        (own / "x").write_bytes(GOOD)
        link.symlink_to(self.outside)
        if self.kind == "file":
            own, link = own / "x", self.root / "link to the file"
            link.symlink_to(self.outside / "x")
        environment = {"SWAPPED_BY": str(os.getpid())}
        swapper = subprocess.Popen(
            [sys.executable, "-c", SWAPPER, own, link], env=environment, stderr=subprocess.PIPE, text=True
        )
        try:
            yield
            assert swapper.poll() is None, swapper.stderr and swapper.stderr.read()
        finally:
            swapper.terminate()
            swapper.wait()
            assert swapper.stderr is not None
            swapper.stderr.close()

    def renew(self) -> None:
        """What was written has taken the place of the link to the file: there is one again."""
        (self.root / "fresh").symlink_to(self.outside / "x")
        (self.root / "fresh").replace(self.root / "link to the file")

    def order(self, direction: TransferDirection, local_path: str, remote_path: str, content: Content | None) -> Order:
        return Order(1, direction, "run", local_path, remote_path, True, content)

    def new(self) -> Content:
        """A tree that somebody has sent."""
        (self.root / "new" / "sub").mkdir(parents=True, exist_ok=True)
        (self.root / "new" / "sub" / "x").write_bytes(NEW)
        sender = Sender(self.blobs)
        return sender.finish(sender.send(select(Free(self.root), "new", recursive=True), "new"), is_tree=True)


@pytest.fixture(params=["directory", "file"])
def bed(tmp_path: Path, request: pytest.FixtureRequest) -> Bed:
    return Bed(tmp_path, request.param)


def race(bed: Bed, place: Path, attempt: Attempt, *, at_least: int = ROUNDS, may_replace: bool = False) -> None:
    """`may_replace`: a link that takes the place of a file is replaced by what is written, so no attempt is refused."""
    done = refused = rounds = 0
    deadline = time.monotonic() + DEADLINE_SEC
    with bed.swapping(place):
        while rounds < at_least or not done or not (refused or may_replace):
            assert time.monotonic() < deadline, f"{done} went through, {refused} were refused"
            rounds += 1
            if may_replace:
                bed.renew()
            try:
                found = attempt()
            except (Refused, OSError) as error:
                trouble_of(error)  # or it is a fault of ours
                refused += 1
                continue
            assert found != SECRET, f"read from outside, in round {rounds}"
            done += 1
            assert {path.name: path.read_bytes() for path in bed.outside.iterdir()} == {"x": SECRET}, rounds
    assert {path.name: path.read_bytes() for path in bed.outside.iterdir()} == {"x": SECRET}


def ended(outcome: Outcome) -> Outcome:
    if outcome.error:
        raise Refused(outcome.error)
    return outcome


def test_what_is_looked_at_while_it_runs(bed: Bed) -> None:
    def attempt() -> bytes:
        with open_workdir(bed.data, "run") as workdir, open_inside(workdir, "tree/sub/x") as (handle, status):
            return open(handle, "rb", closefd=False).read(status.st_size)

    race(bed, bed.workdir / "tree", attempt, at_least=10_000)


@pytest.mark.parametrize("local_path", ["tree", "tree/*/x", "tree/sub/x"])
def test_what_is_sent_to_the_service(bed: Bed, local_path: str) -> None:
    order = bed.order(OUT, local_path, "/x", None)

    def attempt() -> bytes | None:
        outcome = ended(run(ServiceBackend(bed.data, bed.blobs), [order])[1])
        assert outcome.content is not None
        return next(iter(fetched(bed.blobs, outcome.content).values()), None)

    race(bed, bed.workdir / "tree", attempt)


def test_what_is_copied_out(bed: Bed) -> None:
    def attempt() -> bytes:
        ended(run(LocalBackend(bed.data, bed.far), [bed.order(OUT, "tree", "/", None)])[1])
        return (bed.far / "sub" / "x").read_bytes()

    race(bed, bed.workdir / "tree", attempt)


def test_what_a_program_is_given_to_send(bed: Bed) -> None:
    def attempt() -> bytes:
        with ExitStack() as stack:
            shipment = Shipment(bed.root / "shipment")
            stack.callback(shipment.drop, "x")
            shipment.gather(bed.data, bed.order(OUT, "tree", "/x", None))
            return (shipment.folder / "x" / "sub" / "x").read_bytes()

    race(bed, bed.workdir / "tree", attempt)


def test_an_input_from_the_service(bed: Bed) -> None:
    order = bed.order(IN, "tree", "/x", bed.new())

    def attempt() -> None:
        ended(run(ServiceBackend(bed.data, bed.blobs), [order])[1])

    race(bed, bed.workdir / "tree", attempt, may_replace=bed.kind == "file")


def test_an_input_that_is_copied_in(bed: Bed) -> None:
    bed.new()
    order = bed.order(IN, "tree", "/new", None)

    def attempt() -> None:
        ended(run(LocalBackend(bed.data, bed.root), [order])[1])

    race(bed, bed.workdir / "tree", attempt, may_replace=bed.kind == "file")


def test_an_input_that_a_program_has_fetched(bed: Bed) -> None:
    bed.new()
    order = bed.order(IN, "tree", "/new", None)

    def attempt() -> None:
        Shipment(bed.root).deliver(bed.data, order)

    race(bed, bed.workdir / "tree", attempt, may_replace=bed.kind == "file")


def test_a_result_that_is_copied_to_a_location(bed: Bed) -> None:
    (bed.workdir / "x").write_bytes(NEW)
    order = bed.order(OUT, "x", "/sub/x", None)

    def attempt() -> None:
        ended(run(LocalBackend(bed.data, bed.far), [order])[1])

    race(bed, bed.far, attempt, may_replace=bed.kind == "file")


def test_a_result_that_comes_home(bed: Bed) -> None:
    content = bed.new()

    def attempt() -> None:
        ((_, error),) = bring(bed.blobs, {1: (content, str(bed.far))})
        if error is not None:
            raise error

    race(bed, bed.far, attempt, may_replace=bed.kind == "file")
