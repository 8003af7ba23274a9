"""The order in which workers get the files of tests."""

from __future__ import annotations

from tests.testbed.hand_out import longest


def test_what_takes_long_is_handed_out_first_however_few_tests_it_has() -> None:
    waiting = {
        "many": [f"tests/domain/test_states.py::test_it[{number}]" for number in range(200)],
        "crash": ["tests/crash/test_agent.py::test_one"],
        "cluster": [f"tests/cluster/test_{name}.py::test_{number}" for name in "ab" for number in range(9)],
        "fuzz": ["tests/server/test_fuzz.py::test_every_operation"],
    }
    order = []
    while waiting:
        order.append(longest(waiting))
        del waiting[order[-1]]
    assert order == ["cluster", "fuzz", "many", "crash"]
