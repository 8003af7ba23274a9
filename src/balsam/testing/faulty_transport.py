"""FaultyTransport: the real transport over a network that loses, repeats and delays, drawn from a seeded Random.

For tests of everything that talks to the service. A lost reply means that the service did carry the request out; a
duplicate means that it saw the request twice.
"""

from collections import Counter
from dataclasses import dataclass
from random import Random
from time import sleep

from balsam.client.settings import ClientSettings
from balsam.client.transport import HttpLink, LinkError, PooledLink, RawReply, RawRequest, Transport
from balsam.client.transport.link import OpenReply
from balsam.domain.clock import Clock, SystemClock


@dataclass(frozen=True, slots=True)
class Faults:
    """Chances per exchange, each from 0 to 1. `max_delay_sec` bounds a delay; connecting a stream only gets lost."""

    lose_request: float = 0.0
    lose_reply: float = 0.0
    duplicate: float = 0.0
    delay: float = 0.0
    max_delay_sec: float = 0.05


class FaultyLink:
    """Stands between a Transport and the network. `happened` counts the faults by name."""

    def __init__(self, link: HttpLink, faults: Faults, random: Random) -> None:
        self.faults = faults
        self.happened: Counter[str] = Counter()
        self._link = link
        self._random = random

    def send(self, request: RawRequest) -> RawReply:
        if self._draws("delay"):
            sleep(self._random.uniform(0, self.faults.max_delay_sec))
        if self._draws("lose_request"):
            raise LinkError("the request was lost (injected)", maybe_done=True)  # the client can't tell
        reply = self._link.send(request)
        if self._draws("duplicate"):
            reply = self._link.send(request)
        if self._draws("lose_reply"):
            raise LinkError("the reply was lost (injected)", maybe_done=True)
        return reply

    def open(self, request: RawRequest) -> OpenReply:
        if self._draws("lose_request"):
            raise LinkError("the connection was lost (injected)", maybe_done=True)
        return self._link.open(request)

    def close(self) -> None:
        self._link.close()

    def _draws(self, name: str) -> bool:
        chance: float = getattr(self.faults, name)
        drawn = chance > 0 and self._random.random() < chance
        self.happened[name] += drawn
        return drawn


class FaultyTransport(Transport):
    """A Transport whose exchanges fail by chance; the same seed draws the same faults for the same calls.

    >>> transport = FaultyTransport(
    ...     ClientSettings(url="http://127.0.0.1:8000", token="t"), Faults(lose_reply=0.3), seed=7
    ... )
    >>> transport.happened["lose_reply"]
    0
    """

    def __init__(self, settings: ClientSettings, faults: Faults, seed: int, clock: Clock | None = None) -> None:
        clock = clock or SystemClock()
        self._faulty = FaultyLink(PooledLink(clock), faults, Random(seed))  # noqa: S311 - faults are to be repeatable
        super().__init__(settings, clock, link=self._faulty)

    @property
    def happened(self) -> "Counter[str]":
        """How many faults of each kind there were."""
        return self._faulty.happened

    def heal(self) -> None:
        """No more faults from here on."""
        self._faulty.faults = Faults()
