"""Opaque tokens `blsm_<kind>_<43 characters>`: 256 random bits, shown once, kept as SHA-256.

No slow hash: there is nothing to guess. The prefix lets leak scanners and people recognise what they found.
"""

import hashlib
import re
import secrets
from collections.abc import Callable

KINDS = ("user", "site", "launcher", "job")
_TOKEN = re.compile(r"blsm_(user|site|launcher|job)_[A-Za-z0-9_-]{43}")


def mint(kind: str, random_text: Callable[[int], str] = secrets.token_urlsafe) -> str:
    """A new token of one of KINDS."""
    if kind not in KINDS:
        raise ValueError(f"{kind!r} is not a kind of token; the kinds are {', '.join(KINDS)}")
    return f"blsm_{kind}_{random_text(32)}"


def is_token(text: str) -> bool:
    """Whether the text has the form of a token; anything else is refused without asking the store."""
    return _TOKEN.fullmatch(text) is not None


def digest(token: str) -> bytes:
    """By what a token is looked up; a look-up by digest leaks no time that helps to find a token."""
    return hashlib.sha256(token.encode()).digest()
