"""argon2id passwords, hashed in a thread and at most two at a time: each takes 64 MiB and a fifth of a second."""

import asyncio

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from balsam.server.errors import Invalid
from balsam.wire.base import ErrorDetail
from balsam.wire.limits import MAX_PASSWORD, MIN_PASSWORD

# A hash of nothing anybody knows: an unknown account takes as long to refuse as a wrong password (S14).
_NOBODY = "$argon2id$v=19$m=65536,t=3,p=4$YmFsc2FtLW5vYm9keS1hdC1hbGw$bm9ib2R5LWtub3dzLWEtcGFzc3dvcmQtZm9yLXRoaXM"


# What is tried first, of those that are long enough; with the names of this program.
_GUESSED = frozenset(
    [
        "password",
        "password1",
        "password12",
        "password123",
        "password1234",
        "passw0rd",
        "p@ssw0rd",
        "p@ssword",
        "12345678",
        "123456789",
        "1234567890",
        "0123456789",
        "87654321",
        "987654321",
        "11111111",
        "00000000",
        "88888888",
        "99999999",
        "12341234",
        "11223344",
        "12344321",
        "qwertyui",
        "qwerty12",
        "qwerty123",
        "qwertyuiop",
        "qwerty1234",
        "1qaz2wsx",
        "1q2w3e4r",
        "1q2w3e4r5t",
        "q1w2e3r4",
        "asdfghjkl",
        "asdfasdf",
        "zxcvbnm1",
        "abcd1234",
        "abc12345",
        "abcdefgh",
        "abcdefghi",
        "aaaaaaaa",
        "iloveyou",
        "iloveyou1",
        "sunshine",
        "princess",
        "football",
        "baseball",
        "superman",
        "batman123",
        "michael1",
        "jennifer",
        "computer",
        "internet",
        "trustno1",
        "welcome1",
        "welcome123",
        "letmein1",
        "letmein123",
        "changeme",
        "changeme1",
        "changeit",
        "admin123",
        "admin1234",
        "administrator",
        "root1234",
        "toor1234",
        "test1234",
        "testtest",
        "guest123",
        "secret12",
        "secret123",
        "dragon12",
        "monkey123",
        "starwars",
        "whatever",
        "charlie1",
        "liverpool",
        "chelsea1",
        "master12",
        "shadow12",
        "balsam12",
        "balsam123",
        "balsam1234",
        "openbalsam",
        "argonne1",
        "argonne123",
        "supercomputer",
        "simulation",
    ]
)


async def hash_new(passwords: "Passwords", password: str) -> str:
    """The hash of a password for an account. Raises Invalid for one that is too short, endless, or guessed at once."""
    fault = ""
    if not MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
        fault = f"must have {MIN_PASSWORD} to {MAX_PASSWORD} characters"
    elif password.casefold() in _GUESSED:
        fault = "is among the first that are guessed; take a longer one, such as some words"
    if fault:
        raise Invalid([ErrorDetail(where="password", message=fault)])
    return await passwords.hash(password)


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
