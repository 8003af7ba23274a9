"""Hashes computed beside the moving are those of all pieces in their order, wherever a batch ends."""

from __future__ import annotations

import hashlib
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balsam.transfer import hashing
from balsam.transfer.hashing import HashBeside, KnownHash


@given(st.lists(st.binary(max_size=40), max_size=20), st.integers(0, 20))
def test_it_is_the_hash_of_all_pieces(pieces: list[bytes], copied_at: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hashing, "BATCH_BYTES", 64)
        digest, copies = HashBeside(), list[HashBeside]()
        for number, piece in enumerate(pieces):
            if number == copied_at:
                copies.append(digest.copy())
            digest.update(piece)
        for copy in copies:
            assert copy.hexdigest() == hashlib.sha256(b"".join(pieces[:copied_at])).hexdigest()
            copy.update(b"another end")
        assert digest.hexdigest() == digest.hexdigest() == hashlib.sha256(b"".join(pieces)).hexdigest()


def test_no_thread_is_left_and_small_ones_start_none() -> None:
    before = threading.active_count()
    digest = HashBeside()
    digest.update(b"small")
    assert threading.active_count() == before
    for _ in range(20):
        digest.update(bytes(1024 * 1024))
        assert threading.active_count() <= before + 1
    digest.hexdigest()
    assert threading.active_count() == before


def test_a_known_digest_stays_what_it_is() -> None:
    known = KnownHash(lambda: "abc")
    known.copy().update(b"anything")
    assert known.hexdigest() == "abc"
