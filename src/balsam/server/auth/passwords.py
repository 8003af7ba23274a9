"""argon2id passwords, hashed in a thread and at most two at a time: each takes 64 MiB and a fifth of a second."""

import asyncio

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

MAX_PASSWORD = 1024
MIN_PASSWORD = 8
# A hash of nothing anybody knows: an unknown account takes as long to refuse as a wrong password (S14).
_NOBODY = "$argon2id$v=19$m=65536,t=3,p=4$YmFsc2FtLW5vYm9keS1hdC1hbGw$bm9ib2R5LWtub3dzLWEtcGFzc3dvcmQtZm9yLXRoaXM"


class Passwords:
    """The hasher of one service."""

    def __init__(self) -> None:
        self._hasher = PasswordHasher()
        self._turn = asyncio.Semaphore(2)

    async def hash(self, password: str) -> str:
        async with self._turn:
            return await asyncio.to_thread(self._hasher.hash, password)

    async def verify(self, stored: str | None, password: str) -> bool:
        """Whether the password is right; `stored` None (no such account) takes the same time and is False."""
        async with self._turn:
            return await asyncio.to_thread(self._verify, stored or _NOBODY, password) and stored is not None

    def _verify(self, stored: str, password: str) -> bool:
        try:
            return self._hasher.verify(stored, password)
        except (VerificationError, InvalidHashError):
            return False
