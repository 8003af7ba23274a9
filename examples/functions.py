"""Functions as Jobs: estimate pi from many independent samples on a site of yours.

Start `balsam up` in another terminal, then:  python examples/functions.py  [name of the site]
"""

import sys
from concurrent.futures import as_completed
from random import Random

from balsam.api import JobExecutor

SAMPLES = 200_000


def hits(seed: int) -> int:
    """How many of the points in a square are in its circle. Runs at the site."""
    draw = Random(seed)
    return sum(draw.random() ** 2 + draw.random() ** 2 < 1 for _ in range(SAMPLES))


site = sys.argv[1] if len(sys.argv) > 1 else "local"
allocation = {"num_nodes": 1, "wall_time_min": 10, "queue": "local", "project": "local"}
with JobExecutor(site, allocation=allocation, node_packing_count=8) as executor:
    futures = [executor.submit(hits, seed) for seed in range(16)]
    inside = done = 0
    for future in as_completed(futures):
        inside, done = inside + future.result(), done + 1
        print(f"{done:2} of {len(futures)}: pi is about {4 * inside / (done * SAMPLES):.5f}   (Job {future.job.id})")
