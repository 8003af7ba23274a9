"""The address of a database: what is taken, and that its password is shown nowhere."""

import pytest

from balsam.server.database_address import BadAddress, DatabaseAddress


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://db.example/balsam", "postgresql://db.example/balsam"),
        ("postgres://ada@db.example:5433/balsam", "postgres://ada@db.example:5433/balsam"),
        ("postgresql://ada:secret@db.example/balsam", "postgresql://ada@db.example/balsam"),
        ("postgresql://ada:se%40cret@[::1]:5432/balsam?sslmode=require", "postgresql://ada@[::1]:5432/balsam"),
        (
            "postgresql://ada@/balsam?host=/run/postgresql&password=secret",
            "postgresql://ada@/balsam?host=/run/postgresql",
        ),
        ("postgresql://ada:secret@one:5432,two:5433/balsam", "postgresql://ada@one:5432,two:5433/balsam"),
        ("postgresql:///balsam", "postgresql:///balsam"),
    ],
)
def test_addresses(text: str, shown: str) -> None:
    address = DatabaseAddress(text)
    assert address.text == text
    assert str(address) == repr(address) == shown
    assert address.has_password == ("se" in text and "secret" in text.replace("%40", ""))
    assert "cret" not in repr(address)


@pytest.mark.parametrize(
    "text",
    [
        "mysql://ada:secret@db/balsam",
        "secret",
        "postgresql://ada:se@secret@db/balsam",
        "postgresql://ada:se/secret@db/balsam",
        "postgresql://ada:secret@db:port/balsam",
        "postgresql://ada:secret@db/balsam with blanks",
        "postgresql://ada:sec:ret@db/balsam",
        "postgresql://[::1/secret",
    ],
)
def test_what_can_not_be_read_is_not_repeated(text: str) -> None:
    with pytest.raises(BadAddress) as refusal:
        DatabaseAddress(text)
    assert "ecret" not in str(refusal.value)
    assert "postgresql://USER" in str(refusal.value)


def test_passwords_are_taken_out_of_texts() -> None:
    address = DatabaseAddress("postgresql://ada:s%40cret@db/balsam?sslpassword=other")
    text = address.without_password("bad s@cret, bad s%40cret, bad other")
    assert text == "bad ***, bad ***, bad ***"
    assert DatabaseAddress("postgresql://db/balsam").without_password("as it is") == "as it is"
