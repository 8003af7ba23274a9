"""1,000 worlds hold; and each protection of the shipping code, switched off, is missed in one that is named."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from balsam.server.store.sqlite import SqliteStore
from tests.simulation.__main__ import explain, known_seeds, run_seeds
from tests.simulation.mutations import MUTATIONS, Mutation
from tests.simulation.world import Outcome, run_world

SEEDS = int(os.environ.get("BALSAM_SIM_SEEDS", "1000"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_worlds_hold(figure: Callable[[str], None]) -> None:
    """S1 to S13, L1 to L4 as `checkers.py` has them, in 1,000 worlds and in every one that ever failed."""
    bad: list[Outcome] = []
    starts = 0
    for outcome in run_seeds([*known_seeds(), *range(1, SEEDS + 1)]):
        starts += outcome.starts
        if outcome.problem:
            bad.append(outcome)
    assert not bad, f"{len(bad)} bad worlds: {sorted(one.seed for one in bad)}\n{explain(bad[0])}"
    assert starts > 5 * SEEDS, "the worlds are too quiet to prove anything"
    known = len(known_seeds())
    figure(f"{SEEDS:,} worlds and {known} that failed once: {starts:,} runs of Jobs, no rule broken")


def test_a_seed_is_one_story() -> None:
    """The same seed tells the same story to the last line, or no failure could be looked at again."""
    told: list[list[str]] = [[], []]
    for lines in told:
        run_world(7, story=lines.append)
    assert told[0] == told[1]
    assert len(told[0]) > 50


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.takes_away)
def test_a_protection_switched_off_is_noticed(mutation: Mutation, figure: Callable[[str], None]) -> None:
    """A fault test that can't fail is not counted."""
    for seed in range(1, mutation.within + 1):
        outcome = run_world(seed, mutation.profile(seed), mutation=mutation.changes)
        if outcome.problem:
            figure(f"without {mutation.takes_away}: missed in world {seed} of at most {mutation.within}")
            return
    pytest.fail(f"nobody misses {mutation.takes_away} in {mutation.within} worlds")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 11))
def test_worlds_hold_over_sqlite(seed: int, tmp_path: Path) -> None:
    """The same over the store that ships, with its kept counters."""
    store = SqliteStore(tmp_path / "balsam.sqlite", durable=False)
    try:
        outcome = run_world(seed, store=store)
    finally:
        store.close()
    assert not outcome.problem, f"seed {seed}: {outcome.problem}"
