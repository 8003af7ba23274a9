"""argon2id passwords, hashed in a thread and at most two at a time: each takes 64 MiB and a fifth of a second."""

import asyncio
from decimal import Decimal

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from balsam.server.errors import Invalid
from balsam.wire.base import ErrorDetail
from balsam.wire.limits import MAX_PASSWORD, MIN_PASSWORD

# A hash of nothing anybody knows: an unknown account takes as long to refuse as a wrong password (S14).
_NOBODY = "$argon2id$v=19$m=65536,t=3,p=4$YmFsc2FtLW5vYm9keS1hdC1hbGw$bm9ib2R5LWtub3dzLWEtcGFzc3dvcmQtZm9yLXRoaXM"

# Who guesses five times a minute, which is all that the service lets through, would need three days (ASVS 6.2.4).
_FEWEST_GUESSES = 20_000
_OWN_WORDS = ("balsam", "openbalsam", "argonne", "libensemble", "supercomputer", "simulation")
_LOOKED_AT = 36  # characters; the time that the estimate takes grows faster than its length


async def hash_new(passwords: "Passwords", password: str) -> str:
    """The hash of a password for an account. Raises Invalid for one that is too short, endless, or guessed at once."""
    fault = ""
    if not MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
        fault = f"must have {MIN_PASSWORD} to {MAX_PASSWORD} characters"
    elif await asyncio.to_thread(_is_guessed, password):
        fault = "is among the first that are guessed; take a longer one, such as some words"
    if fault:
        raise Invalid([ErrorDetail(where="password", message=fault)])
    return await passwords.hash(password)


def _is_guessed(password: str) -> bool:
    """Whether some thousands of tries find it: common passwords, names and words, keys in a row, dates, repetitions."""
    from zxcvbn import zxcvbn  # its lists take a while to load, and few services ever meet a new password

    guesses: Decimal = zxcvbn(password[:_LOOKED_AT], _OWN_WORDS)["guesses"]
    return guesses < _FEWEST_GUESSES


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
