"""Functions on their way to a Site: what travels with them, their names, arguments that are sent or refused."""

from __future__ import annotations

import functools
import math
import statistics
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest

from balsam.client.encoding import decode
from balsam.client.errors import ValidationFailed
from balsam.client.functions import _identifier, arguments, name_of
from balsam.client.futures import JobFuture
from balsam.client.models.function import FunctionApp
from balsam.client.pickling import open_envelope, seal_function

HERE = 7


def shifted(x: int, by: int = 1) -> int:
    return x + by + HERE


class Scale:
    def __init__(self, factor: int) -> None:
        self.factor = factor

    def __call__(self, x: int) -> int:
        return self.factor * x

    def method(self, x: int) -> int:
        return self.factor * x


def test_a_function_travels_with_its_module_and_not_with_those_of_libraries() -> None:
    payload = seal_function(FunctionApp(shifted), shifted).payload
    assert b"HERE" in payload, "by value"
    assert __name__.encode() not in seal_function(FunctionApp(statistics.mean), statistics.mean).payload
    assert b"_sum" not in seal_function(FunctionApp(statistics.mean), statistics.mean).payload, "by name"
    assert open_envelope(seal_function(FunctionApp(math.sqrt), math.sqrt)).run([16]) == 4


@pytest.mark.parametrize("function", [functools.partial(shifted, by=2), Scale(3), Scale(3).method])
def test_what_wraps_a_function_of_ones_own_travels_too(function: Any) -> None:
    app = open_envelope(seal_function(FunctionApp(function), function))
    assert app.run([4]) == function(4)


def test_a_module_that_is_not_there_at_the_site_is_not_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine.py").write_text(
        textwrap.dedent(
            """
            OFFSET = 5
            def helper(x): return x + OFFSET
            def function(x): return helper(x)
            """
        )
    )
    import mine  # type: ignore[import-not-found]

    envelope = seal_function(FunctionApp(mine.function), mine.function)
    monkeypatch.delitem(sys.modules, "mine")
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(tmp_path)])
    assert open_envelope(envelope).run([1]) == 6


@pytest.mark.parametrize(
    ("function", "name", "identifier"),
    [
        (shifted, "shifted", "shifted"),
        (functools.partial(shifted, 1), "shifted", "shifted"),
        (Scale(2), "Scale", "Scale"),
        (Scale(2).method, "Scale.method", "Scale_method"),
        (math.sqrt, "sqrt", "sqrt"),
        ((lambda: None), None, None),
    ],
)
def test_names(function: Any, name: str | None, identifier: str | None) -> None:
    found = name_of(function)
    assert found == name or name is None
    assert _identifier(found).isidentifier()
    assert _identifier(found) == identifier or identifier is None


def test_json_arguments_stay_json_and_others_travel_together() -> None:
    assert arguments(shifted, (1, [2]), {"by": "x"}) == {"args": [1, [2]], "kwargs": {"by": "x"}}
    assert arguments(shifted, (), {}) == {}
    shared = {1, 2}
    given = arguments(shifted, (shared, shared), {})
    assert given == {"args": (shared, shared)}
    assert decode(given["args"]) == (shared, shared)


@pytest.mark.parametrize(
    ("args", "kwargs", "named"),
    [
        ((1, threading.Lock()), {}, "shifted\\(\\): argument 1 can't be sent"),
        ((), {"by": threading.Lock()}, ": by can't"),
    ],
)
def test_an_argument_that_can_t_be_pickled_is_named(args: Any, kwargs: Any, named: str) -> None:
    with pytest.raises(ValidationFailed, match=named):
        arguments(shifted, args, kwargs)


def test_a_future_comes_to_one_end_only() -> None:
    future: JobFuture[int] = JobFuture(None)  # type: ignore[arg-type]
    future._settle(future._end_cancelled)
    future._settle(lambda: future.set_result(3))
    assert future.cancelled()
    other: JobFuture[int] = JobFuture(None)  # type: ignore[arg-type]
    other._settle(lambda: other.set_result(3))
    other._settle(other._end_cancelled)
    assert other.result() == 3
