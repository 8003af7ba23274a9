"""Envelopes made and opened: classes travel with their code, the same class gives the same bytes everywhere."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import balsam
from balsam.client.models.application import ApplicationDefinition
from balsam.client.pickling import NotOpened, NotPicklable, open_envelope, python_version, seal, seal_class
from balsam.domain.envelope import Envelope

MODULE = """
import math

from balsam.client.models.application import ApplicationDefinition

SIZE = 5


class Result:
    def __init__(self, value):
        self.value = value


def twice(x):
    return 2 * x


class Base(ApplicationDefinition):
    site = "local"

    def offset(self):
        return 1


class Python(Base):
    def run(self, x, mode="fast"):
        if mode in {"fast", "slow", "other", "more"}:
            return Result(twice(x) + SIZE + self.offset() + math.floor(0.5))
        return super().offset()
"""

SEAL = """
import json, sys
import mine
from balsam.client.pickling import seal_class
json.dump(seal_class(mine.Python).as_json(), sys.stdout)
"""


def sealed_elsewhere(directory: Path, seed: str) -> Envelope:
    """The class sealed by another process, in whose place alone its module can be imported."""
    import json

    (directory / "mine.py").write_text(MODULE)
    env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(directory)}
    made = subprocess.run([sys.executable, "-c", SEAL], env=env, capture_output=True, text=True, check=True)
    return Envelope.from_json(json.loads(made.stdout))


def test_a_class_travels_with_what_it_uses_of_its_module(tmp_path: Path) -> None:
    app = open_envelope(sealed_elsewhere(tmp_path, "1"))
    assert issubclass(app, ApplicationDefinition)
    result = app().run(10)
    assert result.value == 26
    assert app().run(10, mode="?") == 1
    back = open_envelope(seal(result))
    assert type(back) is type(result), "a class that comes back is the class that went"


def test_every_process_seals_the_same_bytes(tmp_path: Path) -> None:
    assert len({sealed_elsewhere(tmp_path, seed).sha256 for seed in ("1", "2", "3")}) == 1


def test_a_changed_constant_changes_the_bytes(tmp_path: Path) -> None:
    before = sealed_elsewhere(tmp_path, "1")
    changed = tmp_path / "changed"
    changed.mkdir()
    global MODULE
    MODULE = MODULE.replace("SIZE = 5", "SIZE = 6")
    try:
        assert sealed_elsewhere(changed, "1").sha256 != before.sha256
    finally:
        MODULE = MODULE.replace("SIZE = 6", "SIZE = 5")


def test_the_state_of_a_class_stays_here() -> None:
    class Known(ApplicationDefinition):
        site = "local"

        def run(self) -> int:
            return 1

    Known._state.app_id = 12
    assert open_envelope(seal_class(Known))._state.app_id is None
    Known._state.app_id = None
    assert seal_class(Known).sha256 == seal_class(Known).sha256


def test_what_can_t_be_pickled_is_named() -> None:
    with pytest.raises(NotPicklable, match="TypeError"):
        seal(item for item in ())


@pytest.mark.parametrize("python", ["3.9", "3.10", "3.99"])
def test_an_envelope_of_another_python_is_not_even_unpickled(python: str) -> None:
    envelope = Envelope.seal(b"cos\n_exit\n(I3\ntR.", python=python, pickler="cloudpickle 3.1.2")
    with pytest.raises(NotOpened, match=f"Python {python} and this is Python {python_version()}"):
        open_envelope(envelope)


def test_what_can_t_be_loaded_says_where_and_why() -> None:
    envelope = Envelope.seal(b"cno_such_module\nname\n.", python=python_version(), pickler="cloudpickle 3.1.2")
    with pytest.raises(NotOpened, match="ModuleNotFoundError: No module named 'no_such_module'") as caught:
        open_envelope(envelope)
    assert sys.executable in str(caught.value)


def test_t12_pickles_are_opened_in_one_place_for_workers_and_for_who_asks_for_a_value() -> None:
    """Not by the service, the agent or the launcher: those carry envelopes that they never look into."""
    source = Path(balsam.__file__).parent
    texts = {str(path.relative_to(source)): path.read_text() for path in source.rglob("*.py")}
    opening = re.compile(
        r"\b(pickle|cloudpickle|dill|marshal|shelve)\b.*\bimport\b|\bimport (pickle|cloudpickle|dill|marshal|shelve)\b"
    )
    assert {name for name, text in texts.items() if opening.search(text)} == {"client/pickling.py"}
    assert {name for name, text in texts.items() if "open_envelope(" in text} == {
        "client/pickling.py",
        "client/encoding.py",
        "worker/loading.py",
    }
