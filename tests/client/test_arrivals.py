"""Results on their way to the machine that submits, over a real service: what arrives, what can't, what is refused."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from balsam.client import arrivals
from balsam.client.blobs import ServiceBlobs
from balsam.client.client import Client
from balsam.client.contents import to_wire
from balsam.client.errors import TransferFailed, ValidationFailed
from balsam.client.origin import OriginKey
from balsam.client.settings import ClientSettings
from balsam.domain.states import TransferState
from balsam.transfer.sending import Sender
from balsam.transfer.sources import Free, select
from balsam.wire.transfers import ContentEntry, SentContent, TransferPatch, TransfersPatch, TransfersPatched
from tests import time_lapse
from tests.client.runner import Runner
from tests.client.test_waiting import Traffic
from tests.services import RunningService, running_service
from tests.system.live_site import eventually

WAIT_SEC = 30.0
SLOTS = {
    "input": {"required": False, "direction": "in", "local_path": "in.dat"},
    "result": {"required": False, "direction": "out", "local_path": "out", "recursive": True},
}


class Far:
    """A Site, as far as files go: runs Jobs and sends what they are said to have made."""

    def __init__(self, client: Client, service: RunningService, site: Any, app: Any) -> None:
        self.client = client
        self.app = app
        self.service = service
        self.runner = Runner(service.url, site)

    def submit(self, *targets: object) -> list[Any]:
        jobs = [
            self.app.submit(f"w/{number}", transfers={"result": f"client:{target}"}, save=False)
            for number, target in enumerate(targets)
        ]
        return list(self.client.Job.objects.bulk_create(jobs))

    def send(self, jobs: list[Any], source: Path) -> None:
        """All of them end, each with this file or directory as its result."""
        blobs = ServiceBlobs(self.runner.transport)
        sender = Sender(blobs)
        selection = select(Free(source.parent), source.name, recursive=True)
        content = to_wire(sender.finish(sender.send(selection, "result"), selection.is_tree))
        self.tell(jobs, content)

    def tell(self, jobs: list[Any], content: SentContent) -> None:
        self.runner.run_all()
        ids = [job.id for job in jobs]
        items = self.client.TransferItem.objects.filter(job_id=ids, direction="out")
        patches = {item.id: TransferPatch(state=TransferState.DONE, content=content) for item in items}
        body = TransfersPatch(patches=patches)
        reply = self.runner.transport.request("PATCH", "/transfers", body=body, reply=TransfersPatched)
        assert not reply.refused


def far_of(client: Client, service: RunningService, name: str) -> Far:
    limits = {"local": {"max_nodes": 4, "max_walltime": 600, "max_queued_jobs": 0}}
    site = client.Site.objects.create(
        name=name,
        path="/x",
        allowed_queues=limits,
        allowed_projects=["local"],
        transfer_locations={"client": "client:"},
    )
    attributes = {"site": site.name, "command_template": "true", "transfers": SLOTS}
    return Far(client, service, site, type("Sends", (client.ApplicationDefinition,), attributes))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BALSAM_HOME", str(tmp_path / "balsam-home"))
    return tmp_path / "balsam-home"


@pytest.fixture
def far(client: Client, service: RunningService, home: Path, request: pytest.FixtureRequest) -> Iterator[Far]:
    far = far_of(client, service, request.node.name[:60])
    with far.runner:
        yield far


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "made"
    path.write_bytes(os.urandom(300_000))
    return path


def left(place: Path) -> list[str]:
    return sorted(str(path.relative_to(place)) for path in place.rglob("*"))


@pytest.mark.slow
def test_many_small_results_come_in_few_calls(far: Far, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "small").write_bytes(b"2 kB" * 500)
    jobs = far.submit(*(tmp_path / "home" / str(number) for number in range(200)))
    traffic = Traffic(far.client, monkeypatch)
    far.send(jobs, tmp_path / "small")
    done, _ = far.client.Job.objects.wait(jobs, timeout=WAIT_SEC)
    assert len(done) == 200 and all(job.arrived() for job in jobs)
    assert len(left(tmp_path / "home")) == 200
    assert sum("/transfers" in path for path in traffic.paths) < 100, "less than one call for two results"


def test_files_trees_and_nothing_at_all(far: Far, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "deep").mkdir(parents=True)
    (tree / "deep" / "x").write_text("x")
    (tree / "none").touch()
    empty = tmp_path / "empty"
    empty.touch()
    (tmp_path / "there").mkdir()
    (one,) = far.submit(tmp_path / "there")
    far.send([one], empty)
    assert one.wait(timeout=WAIT_SEC) and (tmp_path / "there" / "empty").read_bytes() == b""
    (two,) = far.submit(tmp_path / "trees")
    far.send([two], tree)
    assert two.wait(timeout=WAIT_SEC) and left(tmp_path / "trees") == ["deep", "deep/x", "none"]


def test_a_client_that_comes_back_later_collects_by_waiting(far: Far, tmp_path: Path, source: Path) -> None:
    (job,) = far.submit(tmp_path / "later")
    number = job.id
    far.client.collector.close()  # the program ended
    far.send([job], source)
    with Client(ClientSettings(far.service.url, far.service.token)) as tomorrow:
        again = tomorrow.Job.objects.get(id=number)
        assert again.wait(timeout=WAIT_SEC)
    assert (tmp_path / "later").read_bytes() == source.read_bytes()


def test_a_client_may_be_gone_for_days_and_is_told_when_they_were_too_many(
    tmp_path: Path, source: Path, home: Path
) -> None:
    ahead, day_sec = tmp_path / "ahead", timedelta(days=1).total_seconds()
    ahead.write_text("0")
    environment = {time_lapse.AHEAD: str(ahead)}
    with running_service(tmp_path / "own", program=[time_lapse.__file__], env=environment) as service:
        settings = ClientSettings(service.url, service.token)
        with Client(settings) as client:
            far = far_of(client, service, "gone")
            soon, late = far.submit(tmp_path / "home" / "soon", tmp_path / "home" / "late")
            client.collector.close()  # the program ended
            far.send([soon, late], source)
            unused = sent_and_forgotten(far)
        ahead.write_text(str(2 * day_sec))
        eventually(lambda: not kept(service, unused), "no sweep came by")
        with Client(settings) as later:
            assert later.Job.objects.get(id=soon.id).wait(timeout=WAIT_SEC)
        assert (tmp_path / "home" / "soon").read_bytes() == source.read_bytes()
        ahead.write_text(str(31 * day_sec))
        eventually(lambda: not kept(service, ""), "the result is kept for ever")
        with Client(settings) as too_late:
            job = too_late.Job.objects.get(id=late.id)
            with pytest.raises(TransferFailed, match=rf"removed on .*: balsam job get {late.id} out$"):
                job.wait(timeout=WAIT_SEC)
            (lost,) = job.fetch(tmp_path / "here")
            assert "kept for its time" in lost.error
    assert left(tmp_path / "home") == ["soon"] and not (tmp_path / "here").exists()


def sent_and_forgotten(far: Far) -> str:
    """A blob that nothing needs, which the next sweep after an hour removes."""
    content = os.urandom(100)
    ServiceBlobs(far.runner.transport).send_bytes(hashlib.sha256(content).hexdigest(), content)
    return hashlib.sha256(content).hexdigest()


def kept(service: RunningService, name: str) -> list[Path]:
    return list((service.data_dir / "blobs" / "kept").glob(f"*/*/{name}*"))


def test_another_machine_gets_it_only_where_it_says_t9(far: Far, tmp_path: Path, source: Path, home: Path) -> None:
    (job,) = far.submit(tmp_path / "of-the-laptop")
    far.client.collector.close()
    far.send([job], source)
    (home / "client.key").unlink()  # what another machine does not have
    with Client(ClientSettings(far.service.url, far.service.token)) as elsewhere:
        again = elsewhere.Job.objects.get(id=job.id)
        assert again.wait(timeout=WAIT_SEC)
        assert not (tmp_path / "of-the-laptop").exists()
        (kept,) = arrivals.fetch_home(elsewhere, [job.id])
        assert "belongs to" in kept.error
        (arrived,) = again.fetch(tmp_path / "here")
        assert Path(arrived.path).read_bytes() == source.read_bytes()
        assert again.fetch(tmp_path / "here") == [], "it was collected"


def entry(content: bytes, far: Far, path: str = "made", **lies: Any) -> SentContent:
    blobs = ServiceBlobs(far.runner.transport)
    name = hashlib.sha256(content).hexdigest()
    blobs.send_bytes(name, content)
    fields = {"path": path, "size_bytes": len(content), "mode": 0o644, "sha256": name, "blob": name, **lies}
    one = ContentEntry.model_validate(fields)
    is_tree = "/" in path
    return SentContent(is_tree=is_tree, files=1, size_bytes=len(content), entries=[one], blobs=[name])


def test_what_is_not_what_was_sent_is_never_seen(far: Far, tmp_path: Path) -> None:
    place = tmp_path / "home"
    (job,) = far.submit(place / "result")
    far.tell([job], entry(b"content", far, sha256="0" * 64))
    with pytest.raises(TransferFailed, match="is not what was sent"):
        job.wait(timeout=WAIT_SEC)
    assert left(place) == []


@pytest.mark.parametrize("path", ["../evil", "a/../../evil", "/evil", "a//b", "./a"])
def test_no_entry_leads_out_t9(far: Far, tmp_path: Path, path: str) -> None:
    place = tmp_path / "home" / "deep"
    (job,) = far.submit(place)
    far.tell([job], entry(b"evil", far, path))
    with pytest.raises(TransferFailed, match="can't be used"):
        job.wait(timeout=WAIT_SEC)
    assert left(tmp_path / "home") == ["deep"]


def test_a_link_in_the_place_of_a_directory_is_not_written_through_t9(far: Far, tmp_path: Path) -> None:
    place, outside = tmp_path / "home", tmp_path / "outside"
    place.mkdir()
    outside.mkdir()
    (place / "sub").symlink_to(outside)
    (job,) = far.submit(place)
    far.tell([job], entry(b"evil", far, "sub/file"))
    with pytest.raises(TransferFailed, match="is a link"):
        job.wait(timeout=WAIT_SEC)
    assert left(outside) == []
    (place / "sub").unlink()
    assert job.wait(timeout=WAIT_SEC) and (place / "sub" / "file").read_bytes() == b"evil"


def test_one_bad_place_hinders_no_other(far: Far, tmp_path: Path, source: Path) -> None:
    (tmp_path / "file").touch()
    bad, good = far.submit(tmp_path / "file" / "below", tmp_path / "good")
    far.send([bad, good], source)
    done, _ = far.client.Job.objects.wait([bad, good], timeout=WAIT_SEC)
    assert len(done) == 2, "a result that can't be put in place must not hold up the others for ever"
    assert good.arrived() and (tmp_path / "good").exists()
    with pytest.raises(TransferFailed, match=rf"Job {bad.id} did not arrive.*file: (File exists|Not a directory)"):
        bad.result_nowait()


@pytest.mark.slow
def test_a_full_disk_here_leaves_nothing_and_is_told_f10(far: Far, tmp_path: Path) -> None:
    place, big = tmp_path / "disk", tmp_path / "big"
    place.mkdir()
    big.write_bytes(os.urandom(3_000_000))
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("only root may mount a small file system")
    try:
        (place / "others").write_bytes(bytes(2_000_000))
        (job,) = far.submit(place / "result")
        far.send([job], big)
        with pytest.raises(TransferFailed, match="No space left"):
            job.wait(timeout=WAIT_SEC)
        assert left(place) == ["others"]
        (place / "others").unlink()
        assert job.wait(timeout=WAIT_SEC) and (place / "result").read_bytes() == big.read_bytes()
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.slow
def test_waiting_keeps_to_its_time_while_the_service_is_away(
    own_service: RunningService, tmp_path: Path, source: Path, home: Path
) -> None:
    with Client(ClientSettings(own_service.url, own_service.token)) as client:
        far = far_of(client, own_service, "own")
        (job,) = far.submit(tmp_path / "result")
        client.collector.close()
        client._collector = None
        job._fetch = None
        far.send([job], source)
        eventually(job.done, "the Job is not done")
        own_service.kill()
        assert not job.wait(timeout=1.0), "nothing of it is here"
        again = own_service.restart()
        try:
            assert job.wait(timeout=WAIT_SEC)
            assert (tmp_path / "result").read_bytes() == source.read_bytes()
        finally:
            again.stop()


def test_a_further_attempt_brings_its_own_result(far: Far, tmp_path: Path, source: Path) -> None:
    (job,) = far.submit(tmp_path / "result")
    job_ids = far.runner.start()
    far.runner.finish(job_ids, return_code=1)
    assert job.wait(timeout=WAIT_SEC) and job.state == "FAILED" and job.arrived()
    assert not (tmp_path / "result").exists()
    job.retry()
    far.send([job], source)
    assert job.wait(timeout=WAIT_SEC)
    assert (tmp_path / "result").read_bytes() == source.read_bytes()


def test_inputs_are_read_once_and_named_when_they_can_not_be(far: Far, tmp_path: Path, source: Path) -> None:
    given = f"client:{source}"
    jobs = [far.app.submit(f"in/{number}", transfers={"input": given}, save=False) for number in range(5)]
    bad = far.app.submit("in/bad", transfers={"input": f"client:{tmp_path}/absent"}, save=False)
    with pytest.raises(ValidationFailed) as refused:
        far.client.Job.objects.bulk_create([*jobs, bad])
    assert "jobs[5].transfers.input" in str(refused.value) and f"there is no {tmp_path}/absent" in str(refused.value)
    assert all(job.id is None for job in jobs), "nothing is submitted"
    far.client.Job.objects.bulk_create(jobs)
    items = list(far.client.TransferItem.objects.filter(job_id=[job.id for job in jobs]))
    assert {item.content.entries[0].blob for item in items} == {items[0].content.entries[0].blob}


class TestOrigin:
    """The seal of a path."""

    def test_only_what_was_sealed_here_is_mine(self, tmp_path: Path) -> None:
        key = OriginKey(tmp_path / "key")
        origin = key.seal("result", "/home/me/x")
        assert OriginKey(tmp_path / "key").is_mine(origin, "result", "/home/me/x")
        for other in ("", "host:", f"other-host:{origin.partition(':')[2]}", origin[:-1], origin[:-1] + "é"):
            assert not key.is_mine(other, "result", "/home/me/x")
        assert not key.is_mine(origin, "other", "/home/me/x")
        assert not key.is_mine(origin, "result", "/home/me/.bashrc")
        assert not OriginKey(tmp_path / "another").is_mine(origin, "result", "/home/me/x")
        assert not (tmp_path / "another").exists(), "looking makes no key"

    def test_the_key_is_nobody_elses(self, tmp_path: Path) -> None:
        OriginKey(tmp_path / "home" / "key").seal("a", "/b")
        assert stat.S_IMODE((tmp_path / "home" / "key").stat().st_mode) == 0o600
        assert left(tmp_path / "home") == ["key"]
        (tmp_path / "home" / "key").chmod(0o644)
        loose = OriginKey(tmp_path / "home" / "key")
        assert loose.seal("a", "/b") == "", "a key that others could read seals nothing"

    def test_a_damaged_key_seals_nothing_and_knows_nothing(self, tmp_path: Path) -> None:
        origin = OriginKey(tmp_path / "key").seal("a", "/b")
        (tmp_path / "key").write_text("no number")
        assert OriginKey(tmp_path / "key").seal("a", "/b") == ""
        assert not OriginKey(tmp_path / "key").is_mine(origin, "a", "/b")

    def test_two_at_once_have_one_key(self, tmp_path: Path) -> None:
        seals: set[str] = set()
        threads = [
            threading.Thread(target=lambda: seals.add(OriginKey(tmp_path / "key").seal("a", "/b"))) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(seals) == 1
