"""What `balsam app show` and `approve` print of a definition: all that the hash covers."""

import pytest

from balsam.cli.app_list import print_definition
from balsam.domain.app import AppSpec
from balsam.domain.monitors import Monitor, MonitorAction


def test_monitors_are_shown_before_they_are_approved(capsys: pytest.CaptureFixture[str]) -> None:
    rule = Monitor(MonitorAction.KILL, "energy.dat", not_finite=True, restarts=2)
    print_definition(AppSpec("watched", "echo", monitors={"diverged": rule}))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("monitors: ")]
    assert all(word in line for word in ('"diverged"', '"kill"', '"energy.dat"', '"not_finite": true', '"restarts": 2'))
