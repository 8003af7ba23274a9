"""forces.c where there is no C compiler or no MPI: the same arguments, the same numbers bit for bit, and much slower.

python forces.py PARTICLES STEPS SEED [KILL_RATE]

Ranks share the particles with mpi4py where that is installed; without MPI the first rank does the work alone.
"""

import math
import os
import sys
import time
from typing import Any

MASK = (1 << 64) - 1
TIME_STEP, SOFTENING = 1e-5, 1e-4
BAD_RUN_SEC = 3600
MAX_PARTICLES = 100_000
SIZES = ("PMI_SIZE", "PMIX_SIZE", "OMPI_COMM_WORLD_SIZE")
RANKS = ("BALSAM_RANK", "PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID")  # by whoever started the ranks
Vector = list[float]


class Random:
    """splitmix64: the top 53 bits make a float in [0, 1)."""

    def __init__(self, seed: int) -> None:
        self._state = seed & MASK

    def unit(self) -> float:
        self._state = z = (self._state + 0x9E3779B97F4A7C15) & MASK
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return ((z ^ (z >> 31)) >> 11) / 9007199254740992.0


def force_on(i: int, x: list[Vector], v: Vector) -> tuple[Vector, float]:
    """The force on one particle, and its energy: that of motion and half of that with each other one."""
    f0 = f1 = f2 = energy = 0.0
    x0, x1, x2 = x[i]
    for j, (y0, y1, y2) in enumerate(x):
        if j == i:
            continue
        d0, d1, d2 = x0 - y0, x1 - y1, x2 - y2
        square = d0 * d0 + d1 * d1 + d2 * d2 + SOFTENING
        pair = (-1.0 if (i + j) % 2 else 1.0) / math.sqrt(square)
        slope = pair / square
        f0 += slope * d0
        f1 += slope * d1
        f2 += slope * d2
        energy += 0.5 * pair
    # Speeds are half a step behind.
    w0, w1, w2 = v[0] + 0.5 * TIME_STEP * f0, v[1] + 0.5 * TIME_STEP * f1, v[2] + 0.5 * TIME_STEP * f2
    return [f0, f1, f2], energy + 0.5 * (w0 * w0 + w1 * w1 + w2 * w2)


def energies(count: int, steps: int, random: Random, world: Any = None) -> Any:
    """The total energy of each step. `world` is mpi4py's communicator, or None for one rank."""
    rank, size = (0, 1) if world is None else (world.rank, world.size)
    mine = range(count * rank // size, count * (rank + 1) // size)
    x = [[random.unit() for _ in range(3)] for _ in range(count)]
    v = {i: [0.0, 0.0, 0.0] for i in mine}
    for _ in range(steps):
        found = [force_on(i, x, v[i]) for i in mine]
        energy = 0.0
        for one in _shared(world, [one for _, one in found]):  # in this order on any number of ranks
            energy += one
        yield energy
        for i, (force, _) in zip(mine, found, strict=True):
            v[i] = [speed + TIME_STEP * push for speed, push in zip(v[i], force, strict=True)]
            x[i] = [place + TIME_STEP * speed for place, speed in zip(x[i], v[i], strict=True)]
        x = _shared(world, [x[i] for i in mine])


def _shared(world: Any, values: list[Any]) -> list[Any]:
    """All ranks' values, in the order of the ranks."""
    return values if world is None else [value for part in world.allgather(values) for value in part]


def find_world() -> Any:
    """mpi4py's communicator; None where this is the only rank that works. Without MPI, all but the first end here."""
    if "BALSAM_RANK" not in os.environ:  # else they are plain processes
        try:
            from mpi4py import MPI
        except (ImportError, RuntimeError):  # not installed, or no MPI library under it
            pass
        else:
            if MPI.COMM_WORLD.size == 1 and any(os.environ.get(name, "1") != "1" for name in SIZES):
                sys.exit("forces.py: mpi4py uses another MPI than that of the mpiexec that started it (MPI4PY_MPIABI)")
            return MPI.COMM_WORLD
    if any(os.environ.get(name, "0") != "0" for name in RANKS):
        sys.exit(0)
    return None


def main(words: list[str]) -> None:
    try:
        count, steps, seed = (int(word) for word in words[:3])
        kill_rate = float(words[3]) if len(words) > 3 else 0.0
        if not (2 <= count <= MAX_PARTICLES and steps >= 1 and 0 <= kill_rate <= 1 and len(words) <= 4):
            raise ValueError
    except ValueError:
        limits = f"PARTICLES 2 to {MAX_PARTICLES}, STEPS at least 1, KILL_RATE 0 to 1"
        sys.exit(f"usage: forces.py PARTICLES STEPS SEED [KILL_RATE]\n{limits}")
    world = find_world()
    random = Random(seed)
    is_bad = random.unit() < kill_rate
    is_first = world is None or world.rank == 0
    if is_first:
        print(
            f"{count} particles, {steps} steps, seed {seed} on {1 if world is None else world.size} ranks", flush=True
        )
    with open("forces.stat" if is_first else os.devnull, "w") as stat:
        for step, energy in enumerate(energies(count, steps, random, world)):
            print(f"{energy:.17g}", file=stat, flush=True)
            if is_bad and step >= steps // 2:
                print("kill", file=stat, flush=True)
                time.sleep(BAD_RUN_SEC)
                sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
