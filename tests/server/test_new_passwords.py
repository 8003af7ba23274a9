"""Which passwords an account may not have."""

import asyncio

import pytest
from zxcvbn.frequency_lists import FREQUENCY_LISTS

from balsam.server.auth.passwords import Passwords, hash_new
from balsam.server.errors import Invalid
from balsam.wire.limits import MAX_PASSWORD, MIN_PASSWORD

COMMON = [word for word in FREQUENCY_LISTS["passwords"] if len(word) >= MIN_PASSWORD]


def refusal(password: str) -> str:
    with pytest.raises(Invalid) as raised:
        asyncio.run(hash_new(Passwords(), password))
    (detail,) = raised.value.details
    assert detail.where == "password"
    return detail.message


@pytest.mark.parametrize(
    "password",
    [
        "Password123",  # whatever its case
        "p@ssw0rd",
        "aaaaaaaa",
        "a" * MAX_PASSWORD,
        "qwertyuiop",
        "12345678901234567890",
        "balsam1234",
        "openbalsam",
        "Supercomputer",
    ],
)
def test_what_is_guessed_at_once_is_refused(password: str) -> None:
    assert "first that are guessed" in refusal(password)


def test_the_first_three_thousand_that_are_long_enough_are_refused() -> None:
    for password in [*COMMON[:3000:50], COMMON[2999]]:
        assert "first that are guessed" in refusal(password), password


@pytest.mark.parametrize("password", ["short", "x" * (MAX_PASSWORD + 1)])
def test_what_is_too_short_or_endless_is_refused(password: str) -> None:
    assert f"{MIN_PASSWORD} to {MAX_PASSWORD} characters" in refusal(password)


@pytest.mark.parametrize(
    "password", ["another pass phrase", "tide mulberry 7", "f3vqk2zw", "пароль моей кошки", "🦊 jumps the fence"]
)
def test_some_words_or_eight_characters_at_random_are_taken(password: str) -> None:
    assert asyncio.run(hash_new(Passwords(), password)).startswith("$argon2id$")
