"""Where blobs are kept: the disk and an object store (moto's S3 on loopback) do the same."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from balsam.cli import server_doctor
from balsam.server.blobs import s3
from balsam.server.blobs.s3 import S3Storage, bucket_problem
from balsam.server.blobs.storage import BlobGone, BlobStorage, DiskStorage, new_place
from balsam.server.settings import ServerSettings, SettingsError
from tests.server.world import make_blob
from tests.services import running_service

pytestmark = pytest.mark.slow

_NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The address of a bucket on loopback, with what the environment has to say of it."""
    from moto.server import ThreadedMotoServer
    from obstore.store import S3Store

    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    variables = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        import boto3

        boto3.client("s3").create_bucket(Bucket="balsam-blobs")
        assert S3Store("balsam-blobs")
        yield "s3://balsam-blobs"
    server.stop()


@pytest.fixture(params=["disk", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStorage:
    if request.param == "disk":
        return DiskStorage(tmp_path / "kept")
    return S3Storage(f"{request.getfixturevalue('bucket')}/deep/{next(_NUMBERS)}")


def kept(storage: BlobStorage, content: bytes, tmp_path: Path, unique: str = "a") -> str:
    partial = tmp_path / "upload.part"
    partial.write_bytes(content)
    place = new_place(7, hashlib.sha256(content).hexdigest(), unique)
    storage.keep(partial, place)
    assert not partial.exists()
    return place


def read(storage: BlobStorage, place: str, offset: int, length: int) -> bytes:
    reader = storage.open(place)
    try:
        return reader.read(offset, length)
    finally:
        reader.close()


def test_kept_read_listed_and_removed(storage: BlobStorage, tmp_path: Path) -> None:
    content = os.urandom(20_000_001)  # several parts, several windows
    place = kept(storage, content, tmp_path)
    reader = storage.open(place)
    pieces = [reader.read(offset, 3_000_000) for offset in range(0, len(content), 3_000_000)]
    assert b"".join(pieces) == content
    assert reader.read(5, 10) == content[5:15] and reader.read(len(content) - 3, 99) == content[-3:]
    assert reader.read(len(content), 1) == b""
    reader.close()
    ((found, since),) = storage.places()
    assert found == place and abs(datetime.now(UTC) - since) < timedelta(minutes=5)
    storage.remove(place)
    storage.remove(place)
    assert list(storage.places()) == []
    with pytest.raises(BlobGone):
        storage.open(place)


def test_two_copies_of_a_content_are_two(storage: BlobStorage, tmp_path: Path) -> None:
    first, second = (kept(storage, b"same", tmp_path, unique) for unique in ("a", "b"))
    storage.remove(first)
    assert read(storage, second, 0, 9) == b"same"


def test_a_large_object_has_no_more_parts_than_s3_takes(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "MAX_PARTS", 2)
    storage = S3Storage(f"{bucket}/{next(_NUMBERS)}")
    content = os.urandom(30_000_000)
    assert read(storage, kept(storage, content, tmp_path), 0, len(content)) == content


@pytest.mark.parametrize("url", ["", "balsam", "http://x/y", "s3:///prefix", "s3://b?endpoint=x"])
def test_addresses_that_are_none(url: str) -> None:
    assert "s3://BUCKET" in bucket_problem(url)
    with pytest.raises(SettingsError, match="s3://BUCKET"):
        S3Storage(url)


def test_a_bucket_that_is_not_there_is_told_at_the_start(bucket: str) -> None:
    with pytest.raises(SettingsError, match="nothing-here"):
        S3Storage("s3://nothing-here/x")


def test_a_store_that_can_not_be_reached_keeps_the_upload(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What arrived stays on the service's disk, and is completed once the store is back."""
    monkeypatch.setattr(s3, "RETRY_FOR", timedelta(seconds=0.1))
    storage = S3Storage(f"{bucket}/{next(_NUMBERS)}")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(SettingsError, match="object store"):
        S3Storage(bucket)
    partial = tmp_path / "upload.part"
    partial.write_bytes(b"content")
    storage._store = type(storage._store)("gone-away", retry_config={"max_retries": 0})
    with pytest.raises(OSError, match="object store"):
        storage.keep(partial, "7/ab/x.1")
    assert partial.read_bytes() == b"content"


def test_a_service_over_a_bucket(bucket: str, tmp_path: Path) -> None:
    url = f"{bucket}/{next(_NUMBERS)}"
    content = os.urandom(3_000_000)
    with running_service(tmp_path / "home", options=["--blob-store", url]) as service, service.client() as user:
        name = make_blob(user, content)
        assert user.get(f"/api/blobs/{name}").content == content
        part = user.get(f"/api/blobs/{name}", params={"offset": 2_000_000, "length": 10})
        assert part.content == content[2_000_000:2_000_010]
        assert not list((service.data_dir / "blobs").rglob("*.part"))
        assert not (service.data_dir / "blobs" / "kept").exists()
    ((place, _),) = S3Storage(url).places()
    assert name in place


def test_the_doctor_lists_the_bucket(bucket: str, tmp_path: Path) -> None:
    for url, status in ((bucket, "ok"), (f"{bucket}-no-such", "problem"), ("s3:///none", "problem")):
        findings = server_doctor.findings_of(ServerSettings(home=tmp_path, port=0, blob_store=url))
        assert {one.check: one.status for one in findings}["bucket"] == status
