"""When to try a call again, and after how long. No I/O and no clock: `now` is handed in, which is how it is simulated.

A call is repeated when that can't do harm: it never reached the service, the service said that it did nothing (429,
503), or the call may be carried out twice (idempotent method, idempotency key, numbered call).
"""

from dataclasses import dataclass
from random import Random

TOO_FAST = 429
REFUSED_UNTOUCHED = frozenset({TOO_FAST, 503})
MAYBE_DONE = frozenset({502, 504})
SHORTEST_TRY_SEC = 0.05
QUIET_TRIES = 5  # of a call that is only slowed down, before it is told like an outage


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential back-off in seconds; a delay is drawn from its upper half, so that clients do not march in step."""

    first_sec: float = 0.1
    factor: float = 2.0
    cap_sec: float = 10.0

    def delay(self, attempt: int, random: Random) -> float:
        """The pause after failed try number `attempt`, which counts from 1."""
        return min(self.cap_sec, self.first_sec * self.factor ** min(attempt - 1, 30)) * random.uniform(0.5, 1.0)


@dataclass(frozen=True, slots=True)
class Failure:
    """A try without answer. `maybe_done`: the service may have carried it out; `final`: no try will do better.

    `too_fast`: the service is well and wants fewer calls in a second.
    """

    reason: str
    maybe_done: bool
    retry_after_sec: float | None = None
    final: bool = False
    too_fast: bool = False


@dataclass(slots=True)
class Attempts:
    """The tries of one call.

    >>> attempts = Attempts(repeatable=True, give_up_at=10.0, random=Random(1))
    >>> 0.05 <= attempts.failed(Failure("refused", maybe_done=False), now=0.0) <= 0.1
    True
    >>> attempts.failed(Failure("refused", maybe_done=False), now=10.0) is None
    True
    """

    repeatable: bool
    give_up_at: float
    random: Random
    policy: RetryPolicy = RetryPolicy()
    count: int = 0
    maybe_done: bool = False

    def failed(self, failure: Failure, now: float) -> float | None:
        """Seconds to pause before the next try; None when there must be none (S3: nothing is carried out twice)."""
        self.count += 1
        self.maybe_done = self.maybe_done or failure.maybe_done
        if failure.final or (failure.maybe_done and not self.repeatable):
            return None
        left = self.give_up_at - now
        if left <= SHORTEST_TRY_SEC:
            return None
        pause = max(self.policy.delay(self.count, self.random), failure.retry_after_sec or 0.0)
        return min(pause, left - SHORTEST_TRY_SEC)
