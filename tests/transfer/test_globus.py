"""Globus against a labelled fake of it: tasks that outlive the agent, logins that expire, the command that logs in."""

from __future__ import annotations

import json
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from balsam.cli.site_globus import globus_login
from balsam.domain.transfers import TransferDirection
from balsam.site.directory import SiteDirectory
from balsam.testing.transfer_conformance import contents, poll, run
from balsam.transfer.base import Order, TransferBackend, Trouble
from balsam.transfer.globus_login import GlobusLogin
from balsam.transfer.locations import GlobusHere, open_location
from tests.testbed.fake_globus import CLIENT_ID, CODE, FakeGlobus, fake_globus

WAIT_SEC = 30.0
OUT = TransferDirection.stage_out
ORDER = Order(1, OUT, "run", "out.dat", "/a/out.dat", recursive=False)


class World:
    """A Site and a far collection of the fake's."""

    def __init__(self, globus: FakeGlobus, place: Path) -> None:
        self.globus = globus
        self.site = SiteDirectory(place / "site")
        (self.site.data / "run").mkdir(parents=True)
        (self.site.data / "run" / "out.dat").write_bytes(b"energies")
        self.far = place / "far"
        self._url = f"globus://{globus.add(self.far)}/results"
        self._here = globus.add(self.site.root)

    def login(self) -> None:
        GlobusLogin.begin(CLIENT_ID, (), self.site.globus_tokens).finish(CODE)

    def backend(self) -> TransferBackend:
        here = GlobusHere(self._here, "/", self.site.globus_tokens)
        return open_location(self._url, self.site.data, self.site.spool / "to-far", here)

    def wait_for_task(self) -> None:
        deadline = time.monotonic() + WAIT_SEC
        while not self.globus.tasks:
            assert time.monotonic() < deadline, "no task was submitted"
            time.sleep(0.01)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with fake_globus() as globus:
        yield World(globus, tmp_path)


@pytest.mark.slow
def test_the_next_agent_goes_on_with_a_task_and_submits_no_second_one_s11(world: World) -> None:
    world.login()
    world.globus.hold = "ACTIVE"
    first, changed = world.backend(), threading.Event()
    first.submit("task", [ORDER], changed.set)
    world.wait_for_task()
    first.close()
    assert poll(first, "task", changed) == []
    world.globus.hold = ""
    assert not run(world.backend(), [ORDER])[1].error
    assert world.globus.calls == ["submit"], "the files were moved by two tasks"
    assert contents(world.far) == {"results/a/out.dat": b"energies"}
    assert list((world.site.spool / "to-far").iterdir()) == []


@pytest.mark.slow
def test_a_login_that_expired_is_said_on_the_item_and_mended_by_another_one(world: World) -> None:
    outcome = run(world.backend(), [ORDER])[1]
    assert "not logged in" in outcome.error and "balsam site globus-login" in outcome.error
    assert outcome.trouble is Trouble.TRANSIENT
    world.login()
    world.globus.access, world.globus.refresh = "access-2", "refresh-2"
    outcome = run(world.backend(), [ORDER])[1]
    assert "balsam site globus-login" in outcome.error and outcome.trouble is Trouble.TRANSIENT
    world.login()
    assert not run(world.backend(), [ORDER])[1].error


@pytest.mark.slow
def test_a_login_that_others_can_read_is_not_used(world: World) -> None:
    world.login()
    world.site.globus_tokens.chmod(0o640)
    outcome = run(world.backend(), [ORDER])[1]
    assert f"chmod 600 {world.site.globus_tokens}" in outcome.error and outcome.trouble is Trouble.TRANSIENT
    world.site.globus_tokens.chmod(0o600)
    assert not run(world.backend(), [ORDER])[1].error


@pytest.mark.slow
def test_a_task_that_globus_holds_for_credentials_is_said_and_begun_anew(world: World) -> None:
    world.login()
    world.globus.hold = "INACTIVE"
    there = world.backend()
    outcome = run(there, [ORDER])[1]
    assert "credentials expired" in outcome.error and outcome.trouble is Trouble.TRANSIENT
    world.globus.hold = ""
    assert "FATAL" in run(there, [ORDER])[1].error, "the task that was cancelled"
    assert not run(there, [ORDER])[1].error


@pytest.mark.slow
def test_one_item_that_fails_fails_no_other_of_its_task(world: World) -> None:
    """Globus gives a task up as a whole; what it had moved is done all the same."""
    world.login()
    (world.far / "results" / "b").mkdir(parents=True)
    taken = Order(2, OUT, "run", "out.dat", "/b", recursive=False)
    outcomes = run(world.backend(), [ORDER, taken])
    assert not outcomes[1].error and "Globus gave up" in outcomes[2].error


def test_a_person_logs_a_site_in(world: World) -> None:
    world.site.marker.write_text(json.dumps({"id": 1, "name": "theta", "url": "http://127.0.0.1:1"}))
    world.site.settings.write_text("transfers: {}\n")
    words = [str(world.site.root), "--code", CODE, "-e", CLIENT_ID]
    without = CliRunner().invoke(globus_login, words)
    assert without.exit_code == 2 and "globus_client_id" in without.output
    world.site.settings.write_text(f"transfers: {{globus_client_id: {CLIENT_ID}}}\n")
    wrong = CliRunner().invoke(globus_login, [*words, "--code", "no"])
    assert wrong.exit_code == 1 and "does not take the code" in wrong.output
    assert not world.site.globus_tokens.exists()
    done = CliRunner().invoke(globus_login, words)
    assert done.exit_code == 0, done.output
    assert "data_access" in done.output and "code_challenge" in done.output
    assert stat.S_IMODE(world.site.globus_tokens.stat().st_mode) == 0o600
    assert CODE not in world.site.globus_tokens.read_text()
