"""The shipped clock for tests keeps the promises of a Clock."""

from __future__ import annotations

import pytest

from balsam.domain.clock import Clock
from balsam.testing.clock import START, FakeClock


def test_time_passes_when_told_and_jumps_do_not_move_deadlines_s13() -> None:
    clock: Clock = FakeClock()
    assert isinstance(clock, FakeClock)
    clock.advance(1.5)
    clock.jump(-86_400)
    assert clock.monotonic() == 1.5
    assert (clock.now() - START).total_seconds() == 1.5 - 86_400
    with pytest.raises(ValueError, match="backwards"):
        clock.advance(-1)
