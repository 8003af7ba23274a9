"""How pytest-xdist's workers get the files of tests: whole files, the long ones first, so that none ends up alone.

`tests/conftest.py` installs it. xdist itself goes by the count of tests, by which one test of 100 s comes last.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling

# Seconds that a test takes on two cores, by the beginning of its file's path: the longest one that fits says.
# Roughly is enough: a file of 20 s in the wrong place costs 20 s.
SECONDS_PER_TEST: Mapping[str, float] = {
    "": 0.1,
    "tests/cluster": 7,
    "tests/conformance/test_postgres": 1,
    "tests/crash": 6,
    "tests/docs": 8,
    "tests/libensemble/test_executor.py": 1,
    "tests/libensemble/test_task.py": 1,
    "tests/server/test_crowds.py": 15,
    "tests/server/test_fuzz.py": 97,
    "tests/server/test_nasty_values.py": 2,
    "tests/server/test_routes_tenancy.py": 0.5,
    "tests/server/test_tokens.py": 4,
    "tests/simulation": 5,
    "tests/system": 4,
    "tests/system/test_three_hosts.py": 40,
}
# The beginnings of their tests' files; what is of no other is of Slurm.
BATCH_SYSTEMS = ("tests/cluster/test_grid_engine", "tests/cluster/")


def longest(waiting: Mapping[str, Iterable[str]]) -> str:
    """Which of the waiting groups of tests takes longest, one test after another."""
    return max(waiting, key=lambda group: sum(SECONDS_PER_TEST[_beginning_of(nodeid)] for nodeid in waiting[group]))


def _beginning_of(nodeid: str) -> str:
    return max((known for known in SECONDS_PER_TEST if nodeid.startswith(known)), key=len)


class FilesTogether(LoadFileScheduling):
    """Tests of one file run in one worker, and so do all of one batch system: the machine can have one of each."""

    def _split_scope(self, nodeid: str) -> str:
        return next((name for name in BATCH_SYSTEMS if nodeid.startswith(name)), None) or super()._split_scope(nodeid)

    def _assign_work_unit(self, node: Any) -> None:
        self.workqueue.move_to_end(longest(self.workqueue), last=False)
        super()._assign_work_unit(node)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling:
    return FilesTogether(config, log)
