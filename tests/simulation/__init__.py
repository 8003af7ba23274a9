"""The seeded simulation: the shipping rules of service, launcher, guardian and agent in one simulated world.

`python -m tests.simulation --seeds 5000` runs many worlds, `--seed 17` tells the story of one.
"""
