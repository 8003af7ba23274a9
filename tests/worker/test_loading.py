"""Code of Apps is loaded where it runs; what can't be loaded says what is missing, and where."""

import sys
from typing import Any

import pytest

from balsam.client.models.application import ApplicationDefinition
from balsam.client.pickling import python_version, seal, seal_class
from balsam.domain.envelope import Envelope
from balsam.worker.loading import AppNotLoaded, load_app


class Twice(ApplicationDefinition):
    site = "local"

    def run(self, x: int) -> int:
        return 2 * x


def test_a_class_makes_an_instance_for_each_job() -> None:
    make = load_app("Twice", seal_class(Twice).as_json())
    first, second = make(), make()
    first.note = "of the first Job"  # type: ignore[attr-defined]
    assert first.run(4) == 8  # type: ignore[attr-defined]
    assert not hasattr(second, "note")


def test_an_instance_is_copied_for_each_job() -> None:
    prepared = Twice()
    prepared.offset = 3  # type: ignore[attr-defined]
    make = load_app("Twice", seal(prepared).as_json())
    first = make()
    first.offset = 4  # type: ignore[attr-defined]
    assert make().offset == 3  # type: ignore[attr-defined]


def sealed(payload: bytes, python: str = python_version()) -> dict[str, Any]:
    return Envelope.seal(payload, python=python, pickler="cloudpickle 3.1.2").as_json()


@pytest.mark.parametrize(
    ("envelope", "said"),
    [
        (sealed(b"cno_such_module\nname\n."), "ModuleNotFoundError: No module named 'no_such_module'"),
        (sealed(b"cos\n_exit\n(I3\ntR.", "3.99"), f"pickled by Python 3.99 and this is Python {python_version()}"),
        (sealed(b"not a pickle"), sys.executable),
        (seal(12).as_json(), "is a int, not an ApplicationDefinition"),
        ({**sealed(b"N."), "payload": "TS4="}, "not what its hash says"),
        ({}, "format None"),
    ],
)
def test_what_can_t_be_loaded_names_the_app_and_the_reason(envelope: dict[str, Any], said: str) -> None:
    with pytest.raises(AppNotLoaded, match="the code of App Mine") as caught:
        load_app("Mine", envelope)
    assert said in str(caught.value)


def test_there_is_no_job_elsewhere() -> None:
    with pytest.raises(RuntimeError, match="at its Site"):
        _ = Twice().job
