"""Live tokens in memory, so that a request costs no look-up; forgotten before a revocation is answered.

The dispatcher asks `authenticate`. The store's writer thread calls `hear` once a revocation is committed and before its
caller hears of it: a revoked token fails on the next request. Revocations through other processes of the service are
heard a moment later; while they can't be heard, every token is looked up.
"""

import threading
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime

from balsam.server.auth import tokens
from balsam.server.errors import Unauthenticated
from balsam.server.store.protocol import Wake
from balsam.server.usecases.accounts import Authenticated

MAX_LIVE = 20_000

Find = Callable[[str], Awaitable[Authenticated]]


class TokenCache:
    """Tokens seen lately, by digest. Wrong ones are never kept."""

    def __init__(self, find: Find) -> None:
        self._find = find
        self._live: dict[bytes, Authenticated] = {}
        self._lock = threading.Lock()
        self._forgotten = 0
        self._hears_others = True
        self._used: set[int] = set()

    async def authenticate(self, authorization: str, now: datetime) -> Authenticated:
        """Who is behind an `Authorization` header, or Unauthenticated."""
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not tokens.is_token(token):
            raise Unauthenticated
        digest = tokens.digest(token)
        live = self._live.get(digest)
        if live is None:
            live = await self._load(token, digest)
        if live.expires_at is not None and now >= live.expires_at:
            raise Unauthenticated("this token has expired; log in again with `balsam login`")
        self._used.add(live.principal.token_id)
        return live

    async def _load(self, token: str, digest: bytes) -> Authenticated:
        # A revocation between this read and the insertion below would leave a dead token alive: then it is not kept.
        before = self._forgotten
        live = await self._find(token)
        with self._lock:
            if self._forgotten == before and self._hears_others:
                if len(self._live) >= MAX_LIVE:
                    self._live.clear()
                self._live[digest] = live
        return live

    def hear(self, wakes: Sequence[Wake]) -> None:
        """Called by the store, in a thread of its own."""
        for wake in wakes:
            if wake.topic == "wakes":
                self._hears_others = wake.event == "back"
            if wake.topic in ("wakes", "tokens"):
                self.forget()

    def forget(self) -> None:
        """Look every token up again from now on."""
        with self._lock:
            self._forgotten += 1
            self._live.clear()

    def take_used(self) -> set[int]:
        """Ids of the tokens used since this was last asked."""
        used, self._used = self._used, set()
        return used
