"""`python -m tests.simulation --seeds 5000 [--first 1]`, or `--seed 17` for the story of one world.

`--without WORDS` switches a protection of the shipping code off (see `mutations.py`) and looks for a world that breaks.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterable, Iterator
from multiprocessing import get_context
from pathlib import Path

from tests.simulation.mutations import DOUBLED, MUTATIONS
from tests.simulation.world import Outcome, run_world, shrink

SEEDS_FILE = Path(__file__).with_name("seeds.txt")
SHOWN = 5


def known_seeds() -> list[int]:
    """Every seed that ever failed: `number # what it found`."""
    lines = SEEDS_FILE.read_text(encoding="utf-8").splitlines()
    return [int(line.split("#")[0]) for line in lines if line.split("#")[0].strip()]


def run_seeds(seeds: Iterable[int], processes: int | None = None) -> Iterator[Outcome]:
    """All worlds, on all cores."""
    count = processes or os.cpu_count() or 1
    with get_context("fork").Pool(count) as pool:
        yield from pool.imap_unordered(run_world, seeds, chunksize=10)


def explain(failed: Outcome) -> str:
    """A failure as people need it: how to see it again, and the fewest faults that lead to it."""
    small = shrink(failed)
    faults = "\n".join(f"    {fault}" for fault in small.profile.faults) or "    none"
    return (
        f"make sim SEED={failed.seed}\n  {failed.problem}\n"
        f"  shrunk to {len(small.profile.faults)} faults, {small.profile.lease_kind} lease, {small.profile.rates}:\n"
        f"  {small.problem}\n{faults}"
    )


def look_without(words: str, seeds: Iterable[int]) -> int:
    """0 when some world misses the protection."""
    found = [mutation for mutation in [*MUTATIONS, *DOUBLED] if words in mutation.takes_away]
    for mutation in found:
        for seed in seeds:
            outcome = run_world(seed, mutation.profile(seed), mutation=mutation.changes)
            if outcome.problem:
                print(f"without {mutation.takes_away}: seed {seed}: {outcome.problem}")
                break
        else:
            print(f"without {mutation.takes_away}: not missed")
            return 1
    return not found


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.simulation")
    parser.add_argument("--seeds", type=int, default=1000, help="how many worlds")
    parser.add_argument("--first", type=int, default=1, help="the first of them")
    parser.add_argument("--seed", type=int, help="one world, with its story")
    parser.add_argument("--processes", type=int)
    parser.add_argument("--without", metavar="WORDS", help="switch a protection off, and look for a world that breaks")
    given = parser.parse_args()
    if given.without is not None:
        return look_without(given.without, range(given.first, given.first + given.seeds))
    if given.seed is not None:
        outcome = run_world(given.seed, story=print)
        print(explain(outcome) if outcome.problem else f"seed {given.seed}: everything held")
        return bool(outcome.problem)
    started = time.monotonic()
    seeds = [*known_seeds(), *range(given.first, given.first + given.seeds)]
    failed, starts, simulated = [], 0, 0.0
    for outcome in run_seeds(seeds, given.processes):
        starts += outcome.starts
        simulated += outcome.simulated_sec
        if outcome.problem:
            failed.append(outcome)
            if len(failed) <= SHOWN:
                print(explain(outcome), flush=True)
    took = time.monotonic() - started
    print(
        f"{len(seeds)} worlds, {starts} runs of Jobs, {simulated / 3600:.0f} simulated hours in {took:.1f} s "
        f"({len(seeds) / took:.0f} worlds/s): {len(failed)} bad"
    )
    if failed:
        print("bad seeds:", *sorted(outcome.seed for outcome in failed))
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
