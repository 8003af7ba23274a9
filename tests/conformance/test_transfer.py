"""Every transfer back end passes the same suite."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from balsam.domain.transfers import TransferDirection
from balsam.testing.transfer_conformance import (
    ODD_NAMES,
    Far,
    TransferConformance,
    TransferEssentials,
    contents,
    run,
)
from balsam.transfer.base import Order, Outcome, TransferBackend, Trouble
from balsam.transfer.globus_login import GlobusLogin
from balsam.transfer.locations import GlobusHere, open_location
from tests.testbed.fake_globus import CLIENT_ID, CODE, FakeGlobus, fake_globus
from tests.testbed.rclone_serve import rclone_serving, require_rclone
from tests.testbed.sshd import Sshd, running_sshd
from tests.transfer.memory_blobs import ClientFar


class TestServiceBackend(TransferConformance):
    @pytest.fixture
    def far(self) -> Far:
        return ClientFar()


class Directory:
    """A directory that the Site can see."""

    def __init__(self, root: Path, url: str) -> None:
        self._root = root
        self._url = url
        self._given = 0

    def backend(self, data: Path) -> TransferBackend:
        return open_location(self._url, data, data.parent / "spool")

    def give(self, files: Mapping[str, bytes], *, is_tree: bool) -> dict[str, Any]:
        self._given += 1
        place = self._root / f"given {self._given}"
        for path, content in files.items():
            target = os.path.join(place, path)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            Path(target).write_bytes(content)
        return {"remote_path": f"/given {self._given}" + ("" if is_tree else f"/{next(iter(files))}")}

    def take(self, name: str) -> dict[str, Any]:
        return {"remote_path": f"/results/{name}"}

    def taken(self, order: Order, outcome: Outcome) -> dict[str, bytes]:
        assert not outcome.error, outcome.error
        place = self._root / order.remote_path.lstrip("/")
        return contents(place) if place.is_dir() else {Path(order.local_path).name: place.read_bytes()}


class TestLocalBackend(TransferConformance):
    @pytest.fixture
    def far(self, tmp_path: Path) -> Far:
        (tmp_path / "scratch").mkdir()
        return Directory(tmp_path / "scratch", f"file://{tmp_path}/scratch")


class TestLocalBackendWithLinks(TransferConformance):
    @pytest.fixture
    def far(self, tmp_path: Path) -> Far:
        (tmp_path / "scratch").mkdir()
        return Directory(tmp_path / "scratch", f"file://{tmp_path}/scratch?link=hard")


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with running_sshd(tmp_path_factory.mktemp("sshd")) as running:
        yield running


class TestRsyncBackend(TransferConformance):
    @pytest.fixture
    def far(self, tmp_path: Path, sshd: Sshd) -> Far:
        (tmp_path / "far end").mkdir()
        return Directory(tmp_path / "far end", sshd.url("rsync", Path(f"{tmp_path}/far%20end")))


class TestRclone(TransferConformance):
    """What a configuration of rclone's own names: here a directory, so that all of the suite takes little time."""

    keeps_programs = False

    @pytest.fixture
    def far(self, tmp_path: Path) -> Far:
        require_rclone()
        (tmp_path / "far end").mkdir()
        (tmp_path / "rclone.conf").write_text("[far]\ntype = local\n")
        url = f"rclone://far{tmp_path}/far%20end?config={tmp_path}/rclone.conf"
        return Directory(tmp_path / "far end", url)


PLAIN_NAMES = [
    name for name in ODD_NAMES if "\n" not in name
]  # rclone writes a picture in place of a control character


class TestSftp(TransferEssentials):
    odd_names = PLAIN_NAMES
    keeps_programs = False

    @pytest.fixture
    def far(self, tmp_path: Path, sshd: Sshd) -> Far:
        require_rclone()
        (tmp_path / "far end").mkdir()
        return Directory(tmp_path / "far end", sshd.url("sftp", Path(f"{tmp_path}/far%20end")))


class TestWebdav(TransferEssentials):
    odd_names = PLAIN_NAMES
    keeps_programs = False

    @pytest.fixture
    def far(self, tmp_path: Path) -> Iterator[Far]:
        (tmp_path / "far").mkdir()
        (tmp_path / "password").write_text("rather secret\n")
        login = ("--user=ada", "--pass=rather secret")
        with rclone_serving("webdav", tmp_path / "far", *login) as address:
            yield Directory(tmp_path / "far", f"webdav://ada@{address}?password_file={tmp_path}/password")


class Bucket:
    """A bucket of moto's S3 on loopback; its credentials are in a file."""

    def __init__(self, s3: Any, prefix: str, url: str) -> None:
        self._s3 = s3
        self._prefix = prefix
        self._url = url
        self._given = 0

    def backend(self, data: Path) -> TransferBackend:
        return open_location(self._url, data, data.parent / "spool")

    def give(self, files: Mapping[str, bytes], *, is_tree: bool) -> dict[str, Any]:
        self._given += 1
        for path, content in files.items():
            self._s3.put_object(Bucket="results", Key=f"{self._prefix}/given {self._given}/{path}", Body=content)
        return {"remote_path": f"/given {self._given}" + ("" if is_tree else f"/{next(iter(files))}")}

    def take(self, name: str) -> dict[str, Any]:
        return {"remote_path": f"/out/{name}"}

    def taken(self, order: Order, outcome: Outcome) -> dict[str, bytes]:
        assert not outcome.error, outcome.error
        place = f"{self._prefix}{order.remote_path}"
        found = {}
        for one in self._s3.list_objects_v2(Bucket="results", Prefix=place).get("Contents", ()):
            name = one["Key"].removeprefix(place).removeprefix("/") or Path(order.local_path).name
            found[name] = self._s3.get_object(Bucket="results", Key=one["Key"])["Body"].read()
        return found


PRINTABLE_NAMES = [name for name in PLAIN_NAMES if name.isprintable()]


@pytest.fixture(scope="module")
def s3_address() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    require_rclone()
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


class TestS3(TransferEssentials):
    odd_names = PRINTABLE_NAMES
    keeps_programs = False
    keeps_empty_directories = False

    @pytest.fixture
    def far(self, tmp_path: Path, s3_address: str) -> Far:
        import boto3

        keys = {"aws_access_key_id": "ada", "aws_secret_access_key": "rather secret"}
        lines = "".join(f"{name} = {value}\n" for name, value in keys.items())
        (tmp_path / "credentials").write_text(f"[default]\n{lines}")
        s3 = boto3.client("s3", endpoint_url=s3_address, region_name="us-east-1", **keys)
        s3.create_bucket(Bucket="results")
        files = f"credentials_file={tmp_path}/credentials"
        return Bucket(s3, tmp_path.name, f"s3://results/{tmp_path.name}?endpoint={s3_address}&region=us-east-1&{files}")


def test_http_is_read(tmp_path: Path) -> None:
    (tmp_path / "far" / "d").mkdir(parents=True)
    (tmp_path / "far" / "d" / "in.dat").write_bytes(b"input")
    (tmp_path / "data" / "out").mkdir(parents=True)
    (tmp_path / "data" / "out" / "x").touch()
    into, out = TransferDirection.stage_in, TransferDirection.stage_out
    with rclone_serving("http", tmp_path / "far") as address:
        backend = open_location(f"http://{address}", tmp_path / "data", tmp_path / "spool")
        orders = [
            Order(1, into, "1", ".", "/d/in.dat", recursive=False),
            Order(2, into, "2", "d", "/d/", recursive=True),
            Order(3, into, "3", ".", "/d/missing", recursive=False),
        ]
        outcomes = run(backend, orders)
        assert contents(tmp_path / "data" / "1") == {"in.dat": b"input"}
        assert contents(tmp_path / "data" / "2") == {"d/in.dat": b"input"}
        assert "there is no d/missing" in outcomes[3].error
        refused = run(backend, [Order(4, out, "out", "x", "/x", recursive=False)])[4]
        assert "only read" in refused.error and refused.trouble is Trouble.FINAL


class GlobusDirectory(Directory):
    """A directory that a labelled fake of Globus takes for a collection."""

    def __init__(self, globus: FakeGlobus, place: Path) -> None:
        self._globus = globus
        self._site = place / "site"
        self._tokens = place / "globus.json"
        far = globus.add(place / "far end")
        super().__init__(place / "far end", f"globus://{far}/")

    def backend(self, data: Path) -> TransferBackend:
        GlobusLogin.begin(CLIENT_ID, (), self._tokens).finish(CODE)
        here = GlobusHere(self._globus.add(self._site), "/", self._tokens)
        return open_location(self._url, data, self._site / "spool" / "to-far", here)


@pytest.fixture(scope="module")
def globus() -> Iterator[FakeGlobus]:
    with fake_globus() as fake:
        yield fake


class TestGlobus(TransferConformance):
    keeps_programs = False

    @pytest.fixture
    def far(self, tmp_path: Path, globus: FakeGlobus) -> Far:
        return GlobusDirectory(globus, tmp_path)
