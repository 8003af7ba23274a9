"""How much is measured: with `--quick` a hundredth of everything.

Its numbers mean nothing. It shows within seconds that a part of the bench still runs (tests/system/test_bench.py).
"""

QUICK = 100

_divisor = 1


def make_quick() -> None:
    """From now on in this process, a hundredth of each size."""
    global _divisor
    _divisor = QUICK


def sized(full: int, least: int = 1) -> int:
    """How many of something are measured; never fewer than `least`."""
    return full if _divisor == 1 else max(least, full // _divisor)


def sized_sec(full: float) -> float:
    """How long something is measured or waited for."""
    return full / _divisor
