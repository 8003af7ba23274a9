"""Back ends by name: built-ins, entry points of other packages, and what goes wrong with them."""

import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from balsam.platform.registry import MPIRUNS, NODES, SCHEDULERS, BackEndBroken, BackEnds, UnknownBackEnd
from balsam.platform.scheduler.local import LocalScheduler


def entry(name: str, target: str) -> EntryPoint:
    return EntryPoint(name, target, "test.group")


@pytest.mark.parametrize("group", [SCHEDULERS, MPIRUNS, NODES])
def test_every_built_in_loads(group: BackEnds) -> None:
    assert group.names()
    for name in group.names():
        assert callable(group.load(name))


@pytest.mark.parametrize("group", [SCHEDULERS, MPIRUNS, NODES])
def test_built_ins_are_declared_as_other_packages_declare_theirs(group: BackEnds) -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    declared = project["entry-points"][group.group]
    entries = [EntryPoint(name, target, group.group) for name, target in declared.items()]
    assert all(BackEnds(group.group, {}, entries).load(name) is group.load(name) for name in group.names())
    assert declared == dict(group.builtin)


def test_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(UnknownBackEnd, match="has no 'mpicc'; did you mean 'mpich'"):
        MPIRUNS.load("mpicc")
    with pytest.raises(UnknownBackEnd, match="has no 'zzz'; known: flux, intelmpi, jsrun, mpich, openmpi, pals, plain"):
        MPIRUNS.load("zzz")


@pytest.mark.parametrize("name", ["local", "LocalProcessScheduler", "balsam.platform.scheduler.LocalProcessScheduler"])
def test_names_of_balsam_07_are_understood(name: str) -> None:
    assert SCHEDULERS.load(name) is LocalScheduler


def test_entry_point_is_found_and_imported_only_when_asked_for() -> None:
    sys.modules.pop("this", None)
    group = BackEnds("test.group", {}, [entry("zen", "colorsys:rgb_to_hsv"), entry("this", "this:s")])
    assert group.names() == ["this", "zen"]
    assert group.load("zen")(0, 0, 0) == (0, 0, 0)
    assert "this" not in sys.modules


def test_same_target_declared_twice_is_one_back_end() -> None:
    group = BackEnds("test.group", {"x": "colorsys:rgb_to_hsv"}, [entry("x", "colorsys:rgb_to_hsv")])
    assert callable(group.load("x"))


def test_duplicate_name_is_refused_and_both_are_named() -> None:
    group = BackEnds("test.group", {"x": "colorsys:rgb_to_hsv", "y": "colorsys:rgb_to_yiq"}, [entry("x", "other:X")])
    with pytest.raises(BackEndBroken, match=r"'x' is claimed by colorsys:rgb_to_hsv \(from balsam\) and other:X"):
        group.load("x")
    assert callable(group.load("y"))


@pytest.mark.parametrize("target", ["no_such_module_at_all:X", "colorsys:NoSuchName"])
def test_broken_back_end_hurts_only_who_asks_for_it(target: str) -> None:
    group = BackEnds("test.group", {"good": "colorsys:rgb_to_hsv"}, [entry("bad", target)])
    assert callable(group.load("good"))
    with pytest.raises(BackEndBroken, match=r"'bad' .* fails"):
        group.load("bad")
