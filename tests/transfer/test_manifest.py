"""Manifests: what is written is read back, and what somebody else wrote leads nowhere."""

from __future__ import annotations

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balsam.transfer import manifest
from balsam.transfer.manifest import EMPTY_SHA256, BadManifest, Entry, ManifestWriter, checked, decode, encode
from balsam.wire import transfers

HASH = "a" * 64
NAMES = st.binary(min_size=1, max_size=20).filter(lambda name: b"/" not in name and b"\0" not in name)
PATHS = st.lists(NAMES.map(os.fsdecode).filter(lambda name: name not in (".", "..")), min_size=1, max_size=4).map(
    "/".join
)
ENTRIES = st.builds(
    Entry,
    path=PATHS,
    size_bytes=st.integers(1, 2**50),
    mode=st.integers(0, 0o777),
    sha256=st.just(HASH),
    blob=st.just(HASH),
    offset=st.integers(0, 2**50),
)


@given(entries=st.lists(ENTRIES, max_size=20), cut=st.integers(1, 200))
def test_what_is_written_is_read_back_however_it_arrives(entries: list[Entry], cut: int) -> None:
    text = b"".join(map(encode, entries))
    assert list(decode(text[start : start + cut] for start in range(0, len(text), cut))) == entries


@given(path=st.text(alphabet=st.sampled_from("./ab\0~\n"), max_size=10))
def test_no_path_leads_out_t9(path: str) -> None:
    try:
        entry = checked(Entry(path, 1, 0o644, HASH, HASH))
    except BadManifest:
        return
    assert not path.startswith("/") and "\0" not in path
    assert os.path.normpath("/root/" + "/".join(entry.parts)).startswith("/root/")
    assert not {"", ".", ".."} & set(entry.parts)


@pytest.mark.parametrize(
    "line",
    [
        b"[]",
        b"{}",
        b"nonsense",
        b'"text"',
        b'["a",1,420,"x"]',
        json.dumps(["a", 1, 420, "x", HASH, 0]).encode(),
        json.dumps(["a", 1, 420, HASH, None, 0]).encode(),
        json.dumps(["a", 0, 420, EMPTY_SHA256, HASH, 0]).encode(),
        json.dumps(["a/", 1, 420, HASH, HASH, 0]).encode(),
        json.dumps(["a", -1, 420, HASH, HASH, 0]).encode(),
        json.dumps(["a", True, 420, HASH, HASH, 0]).encode(),
        json.dumps(["a", 1, 0o4755, HASH, HASH, 0]).encode(),
        json.dumps(["a", 1, 420, HASH, HASH, 2**60]).encode(),
        json.dumps(["../a", 1, 420, HASH, HASH, 0]).encode(),
        json.dumps(["\ud8ff", 1, 420, HASH, HASH, 0]).encode(),
        json.dumps([["a"], 1, 420, HASH, HASH, 0]).encode(),
    ],
)
def test_lines_that_are_no_entry_are_refused(line: bytes) -> None:
    with pytest.raises(BadManifest):
        list(decode([line + b"\n"]))


def test_a_torn_manifest_and_an_endless_line_are_refused_s16() -> None:
    whole = encode(Entry("a", 1, 0, HASH, HASH))
    for cut in range(1, len(whole)):
        with pytest.raises(BadManifest, match="middle of a line"):
            list(decode([whole[:cut]]))
    with pytest.raises(BadManifest, match="more than"):
        list(decode([b"["] * 70_000))


def test_few_entries_travel_inside_the_message_and_many_or_odd_ones_do_not() -> None:
    writer = ManifestWriter()
    for number in range(33):
        assert writer.entries is not None
        writer.add(Entry(str(number), 1, 0, HASH, HASH))
    assert writer.entries is None and writer.files == 33 and writer.blobs == {HASH: None}
    assert len(list(decode(writer.lines()))) == 33
    odd = ManifestWriter()
    odd.add(Entry(os.fsdecode(b"\xff"), 1, 0, HASH, HASH))
    assert odd.entries is None  # JSON messages are Unicode
    for one in (writer, odd):
        one.close()


def test_what_is_written_fits_into_a_message() -> None:
    assert (manifest.MAX_INLINE, manifest.MAX_BLOBS) == (transfers.MAX_INLINE_ENTRIES, transfers.MAX_ITEM_BLOBS)
