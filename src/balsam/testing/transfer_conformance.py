"""What every transfer back end has to pass, for authors of back ends; needs pytest.

Subclass `TransferConformance` in a test module and give it a `far` fixture: the other end of the transfers, which puts
files there and looks at what came. The suite knows the back end only through its protocol.
"""
# ruff: noqa: S101 -- tests that are shipped

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import pytest

from balsam.domain.transfers import TransferDirection
from balsam.transfer.base import Order, Outcome, TransferBackend, Trouble

IN, OUT = TransferDirection.stage_in, TransferDirection.stage_out
LONG_SEC = 30.0
# Names that break what is put together from text, and one that is no text at all.
ODD_NAMES = ["a b", "-rf", "new\nline", "quote'\"", "$(x)", "*.dat", "é", "\\", "~", os.fsdecode(b"\xff.bin")]


class Far(Protocol):
    """The other end."""

    def backend(self, data: Path) -> TransferBackend:
        """A back end whose workdirs are below `data`."""
        ...

    def give(self, files: Mapping[str, bytes], *, is_tree: bool) -> dict[str, Any]:
        """Put files there: one, or a tree. The fields of an Order that takes them in."""
        ...

    def take(self, name: str) -> dict[str, Any]:
        """The fields of an Order that gives something out under this name."""
        ...

    def taken(self, order: Order, outcome: Outcome) -> dict[str, bytes]:
        """What came of an order: paths and contents; directories that are empty end with /."""
        ...


class TransferEssentials:
    """What takes little time also where each connection takes some. What a kind of location can't hold, as the guide
    says, is said here."""

    odd_names: Sequence[str] = ODD_NAMES
    keeps_programs = True
    keeps_empty_directories = True

    @pytest.fixture
    def far(self) -> Far:
        """Override."""
        raise NotImplementedError

    @pytest.fixture
    def data(self, tmp_path: Path) -> Path:
        place = tmp_path / "site" / "data"
        place.mkdir(parents=True)
        (place.parent / "credentials.json").write_text("secret")
        return place

    @pytest.fixture
    def backend(self, far: Far, data: Path) -> Iterator[TransferBackend]:
        backend = far.backend(data)
        yield backend
        backend.close()

    def test_a_file_goes_out(self, far: Far, backend: TransferBackend, data: Path) -> None:
        order = self._out(far, data, {"out.dat": b"energies"}, "out.dat")
        assert self._taken(far, backend, order) == {"out.dat": b"energies"}

    def test_a_directory_goes_out_with_everything(self, far: Far, backend: TransferBackend, data: Path) -> None:
        files = {f"d/sub/{name}": os.fsencode(name) for name in self.odd_names} | {"d/empty": b""}
        order = self._out(far, data, files, "d", recursive=True)
        (data / order.workdir / "d" / "nothing").mkdir()
        wanted = {path.removeprefix("d/"): content for path, content in files.items()}
        if self.keeps_empty_directories:
            wanted["nothing/"] = b""
        taken = self._taken(far, backend, order)
        assert taken == wanted, set(taken) ^ set(wanted)

    def test_a_file_keeps_its_name(self, far: Far, backend: TransferBackend, data: Path) -> None:
        order = self._in(far, {"-in file.dat": b"input"}, ".")
        self._done(backend, order)
        assert contents(data / order.workdir) == {"-in file.dat": b"input"}

    def test_a_tree_comes_in(self, far: Far, backend: TransferBackend, data: Path) -> None:
        files = {f"sub/{name}": os.urandom(100) for name in self.odd_names} | {
            "empty": b"",
            "large": os.urandom(300_000),
        }
        order = self._in(far, files, "inputs/here", is_tree=True)
        self._done(backend, order)
        assert contents(data / order.workdir / "inputs" / "here") == files

    def test_programs_stay_programs(self, far: Far, backend: TransferBackend, data: Path) -> None:
        script = data / "run1" / "d" / "run.sh"
        order = self._out(far, data, {"d/run.sh": b"#!/bin/sh", "d/data": b""}, "d", recursive=True)
        script.chmod(0o755)
        outcome = run(backend, [order])[order.item_id]
        back = self._back(far, order, outcome)
        self._done(backend, back)
        assert os.access(data / back.workdir / "b" / "run.sh", os.X_OK) is self.keeps_programs
        assert not os.access(data / back.workdir / "b" / "data", os.X_OK)

    def _back(self, far: Far, order: Order, outcome: Outcome) -> Order:
        """An order that takes in what another one gave out."""
        return Order(9, IN, "back", "b", order.remote_path, True, outcome.content)

    def test_one_order_in_error_hinders_no_other(self, far: Far, backend: TransferBackend, data: Path) -> None:
        good = self._out(far, data, {"out.dat": b"1"}, "out.dat", 1)
        missing = self._out(far, data, {"x": b""}, "out.dat", 2)
        other = self._out(far, data, {"out.dat": b"3"}, "out.dat", 3)
        outcomes = run(backend, [good, missing, other])
        assert far.taken(good, outcomes[1]) == {"out.dat": b"1"}
        assert list(far.taken(other, outcomes[3]).values()) == [b"3"]
        assert "there is no out.dat" in outcomes[2].error and outcomes[2].trouble is Trouble.FINAL

    # Orders, and what becomes of them

    def _out(
        self, far: Far, data: Path, files: Mapping[str, bytes], local_path: str, number: int = 1, **more: Any
    ) -> Order:
        workdir = f"run{number}"
        for path, content in files.items():
            place = data / workdir / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
        fields = {"recursive": False, **far.take(f"taken{number}"), **more}
        return Order(number, OUT, workdir, local_path, **fields)

    def _in(
        self, far: Far, files: Mapping[str, bytes], local_path: str, number: int = 1, *, is_tree: bool = False
    ) -> Order:
        given = far.give(files, is_tree=is_tree)
        return Order(number, IN, f"run{number}", local_path, recursive=is_tree, **given)

    def _taken(self, far: Far, backend: TransferBackend, order: Order) -> dict[str, bytes]:
        outcome = run(backend, [order])[order.item_id]
        assert not outcome.error, outcome.error
        return far.taken(order, outcome)

    def _done(self, backend: TransferBackend, order: Order) -> None:
        outcome = run(backend, [order])[order.item_id]
        assert not outcome.error, outcome.error


class TransferConformance(TransferEssentials):
    """The whole suite."""

    # Out

    def test_sizes_around_every_limit(self, far: Far, backend: TransferBackend, data: Path) -> None:
        """None, one, what is packed, what is not, what takes several pieces."""
        orders = [
            self._out(far, data, {"out.dat": os.urandom(size)}, "out.dat", number)
            for number, size in enumerate((0, 1, 262_144, 262_145, 4_300_000), 1)
        ]
        outcomes = run(backend, orders)
        for order in orders:
            want = (data / order.workdir / "out.dat").read_bytes()
            assert list(far.taken(order, outcomes[order.item_id]).values()) == [want]
            assert outcomes[order.item_id].size_bytes == len(want)

    def test_more_files_than_one_message_holds(self, far: Far, backend: TransferBackend, data: Path) -> None:
        files = {f"d/{number:04}": b"%d" % number for number in range(1500)}
        order = self._out(far, data, files, "d", recursive=True)
        assert self._taken(far, backend, order) == {path[2:]: content for path, content in files.items()}

    def test_the_whole_workdir(self, far: Far, backend: TransferBackend, data: Path) -> None:
        order = self._out(far, data, {"a": b"1", "b/c": b"2"}, ".", recursive=True)
        assert self._taken(far, backend, order) == {"a": b"1", "b/c": b"2"}

    @pytest.mark.parametrize(
        ("pattern", "recursive", "wanted"),
        [
            ("*.dat", False, {"1.dat", "2.dat"}),
            ("o/*/x.dat", False, {"p/x.dat"}),
            ("o/[pq]/*", False, {"p/x.dat", "q/y.txt"}),
            ("**/*.dat", False, {"1.dat", "2.dat", "o/p/x.dat"}),
            ("o/*", True, {"p/x.dat", "q/y.txt"}),
            ("?.dat", False, {"1.dat", "2.dat"}),
        ],
    )
    def test_patterns(
        self, far: Far, backend: TransferBackend, data: Path, pattern: str, recursive: bool, wanted: set[str]
    ) -> None:
        files = dict.fromkeys(["1.dat", "2.dat", ".hidden.dat", "o/p/x.dat", "o/q/y.txt", "job.out"], b"x")
        order = self._out(far, data, files, pattern, recursive=recursive)
        assert set(self._taken(far, backend, order)) == wanted

    def test_a_name_that_looks_like_a_pattern_is_meant_as_it_is(
        self, far: Far, backend: TransferBackend, data: Path
    ) -> None:
        order = self._out(far, data, {"a[1].dat": b"this one", "a1.dat": b"not this one"}, "a[1].dat")
        assert list(self._taken(far, backend, order).values()) == [b"this one"]

    # In

    def test_a_file_comes_in(self, far: Far, backend: TransferBackend, data: Path) -> None:
        order = self._in(far, {"in.dat": b"input"}, "input.txt")
        self._done(backend, order)
        assert contents(data / order.workdir) == {"input.txt": b"input"}

    def test_what_is_there_is_replaced(self, far: Far, backend: TransferBackend, data: Path) -> None:
        order = self._in(far, {"in.dat": b"new"}, "in.dat")
        (data / order.workdir).mkdir()
        (data / order.workdir / "in.dat").write_bytes(b"of an earlier try, and longer")
        self._done(backend, order)
        assert contents(data / order.workdir) == {"in.dat": b"new"}

    def test_many_small_files_of_many_jobs(self, far: Far, backend: TransferBackend, data: Path) -> None:
        orders = [self._in(far, {"in.dat": b"%d" % (number // 2)}, "in.dat", number) for number in range(1, 60)]
        outcomes = run(backend, orders)
        assert not any(outcome.error for outcome in outcomes.values())
        for number in range(1, 60):
            assert (data / f"run{number}" / "in.dat").read_bytes() == b"%d" % (number // 2)

    # What goes wrong

    @pytest.mark.parametrize(
        ("local_path", "said"),
        [
            ("nothing.*", "nothing matches"),
            ("d", "is a directory"),
            ("../credentials.json", "refused"),
            ("/etc", "refused"),
        ],
    )
    def test_what_can_not_be_sent_is_said(
        self, far: Far, backend: TransferBackend, data: Path, local_path: str, said: str
    ) -> None:
        order = self._out(far, data, {"d/x": b""}, local_path)
        outcome = run(backend, [order])[order.item_id]
        assert said in outcome.error and outcome.trouble is Trouble.FINAL

    @pytest.mark.parametrize("workdir", ["..", "/", "../../x", "", "a\nb"])
    def test_no_workdir_leads_out_s15(self, far: Far, backend: TransferBackend, data: Path, workdir: str) -> None:
        out = Order(1, OUT, workdir, "credentials.json", recursive=False, **far.take("x"))
        into = Order(2, IN, workdir, "credentials.json", recursive=False, **far.give({"a": b"evil"}, is_tree=False))
        for order in (out, into):
            assert "refused" in run(backend, [order])[order.item_id].error
        assert (data.parent / "credentials.json").read_text() == "secret"

    @pytest.mark.parametrize("target", ["../../credentials.json", "/etc/passwd", "../other/secret"])
    def test_links_out_of_the_workdir_are_not_sent_t9(
        self, far: Far, backend: TransferBackend, data: Path, target: str
    ) -> None:
        (data / "other").mkdir()
        (data / "other" / "secret").write_text("secret")
        order = self._out(far, data, {"d/good": b"1"}, "d", recursive=True)
        (data / order.workdir / "d" / "evil").symlink_to(target if target.startswith("/") else f"../{target}")
        outcome = run(backend, [order])[order.item_id]
        assert "refused" in outcome.error and outcome.trouble is Trouble.FINAL

    def test_no_link_is_written_through_t9(self, far: Far, backend: TransferBackend, data: Path) -> None:
        workdir = data / "run1"
        workdir.mkdir()
        (workdir / "up").symlink_to("../..")
        (workdir / "file").symlink_to("../../credentials.json")
        through = self._in(far, {"credentials.json": b"evil"}, "up/credentials.json")
        assert "refused" in run(backend, [through])[1].error
        replaced = self._in(far, {"x": b"mine"}, "file")
        self._done(backend, replaced)
        assert (workdir / "file").read_bytes() == b"mine" and not (workdir / "file").is_symlink()
        assert (data.parent / "credentials.json").read_text() == "secret"

    def test_links_that_stay_inside_are_followed(self, far: Far, backend: TransferBackend, data: Path) -> None:
        order = self._out(far, data, {"d/x": b"1", "real/y": b"2"}, "d", recursive=True)
        (data / order.workdir / "d" / "file").symlink_to("x")
        (data / order.workdir / "d" / "dir").symlink_to("../real")
        assert self._taken(far, backend, order) == {"x": b"1", "file": b"1", "dir/y": b"2"}

    def test_a_ring_of_links_ends(self, far: Far, backend: TransferBackend, data: Path) -> None:
        order = self._out(far, data, {"d/x": b"1"}, "d", recursive=True)
        (data / order.workdir / "d" / "again").symlink_to("../d")
        assert "contains itself" in run(backend, [order])[order.item_id].error

    def test_what_is_no_file_is_skipped_and_named(self, far: Far, backend: TransferBackend, data: Path) -> None:
        order = self._out(far, data, {"d/x": b"1"}, "d", recursive=True)
        os.mkfifo(data / order.workdir / "d" / "pipe")
        (data / order.workdir / "d" / "dangling").symlink_to("nowhere")
        outcome = run(backend, [order])[order.item_id]
        assert far.taken(order, outcome) == {"x": b"1"}
        assert sorted(outcome.skipped) == ["d/dangling", "d/pipe"]

    def test_a_place_that_can_not_be_written(self, far: Far, backend: TransferBackend, data: Path) -> None:
        order = self._in(far, {"in.dat": b"x"}, "in.dat")
        (data / order.workdir / "in.dat").mkdir(parents=True)
        outcome = run(backend, [order])[order.item_id]
        assert "directory" in outcome.error.lower() and outcome.trouble is Trouble.FINAL
        assert contents(data / order.workdir) == {"in.dat/": b""}, "something half-written is left"

    def test_a_repeated_batch_comes_to_the_same(self, far: Far, backend: TransferBackend, data: Path) -> None:
        """The agent died after a batch was carried and before it could say so."""
        out = self._out(far, data, {"out.dat": os.urandom(400_000)}, "out.dat")
        first = run(backend, [out])[1]
        again = run(far.backend(data), [out])[1]
        assert far.taken(out, again) == far.taken(out, first)

    def test_closing_ends_soon(self, far: Far, backend: TransferBackend, data: Path) -> None:
        backend.submit("task", [self._out(far, data, {"out.dat": os.urandom(5_000_000)}, "out.dat")], lambda: None)
        backend.close()


def run(backend: TransferBackend, orders: list[Order]) -> dict[int, Outcome]:
    """Carry a batch to its end."""
    changed = threading.Event()
    backend.submit("task", orders, changed.set)
    outcomes = poll(backend, "task", changed)
    assert len(outcomes) == len({outcome.item_id for outcome in outcomes}), "an order ended twice"
    return {outcome.item_id: outcome for outcome in outcomes}


def poll(backend: TransferBackend, task_id: str, changed: threading.Event) -> list[Outcome]:
    """Everything that a batch tells until it is over."""
    outcomes: list[Outcome] = []
    while True:
        assert changed.wait(LONG_SEC), "nothing is heard of the batch"
        changed.clear()
        report = backend.poll(task_id)
        outcomes += report.ended
        if report.is_over:
            return outcomes


def contents(place: Path) -> dict[str, bytes]:
    """Every file below a directory; directories that are empty end with /."""
    found: dict[str, bytes] = {}
    for path in place.rglob("*"):
        name = str(path.relative_to(place))
        if path.is_file():
            found[name] = path.read_bytes()
        elif path.is_dir() and not any(path.iterdir()):
            found[f"{name}/"] = b""
    return found
