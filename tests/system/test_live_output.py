"""Output of running Jobs, read and followed from anywhere: by the SDK, many at once, the command, a browser."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect, sync_playwright

from balsam.client.client import Client
from balsam.client.settings import ClientSettings
from tests.system.live_site import BALSAM, LiveSite, eventually, live_site
from tests.system.test_command import as_json

pytestmark = pytest.mark.slow

CHROMIUM = shutil.which("chromium") or ""
WAIT_SEC = 60.0
LATEST_SEC = 0.5
_NUMBERS = count()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveSite]:
    with live_site(tmp_path_factory.mktemp("live") / "home") as site:
        yield site


@pytest.fixture(scope="module")
def client(site: LiveSite) -> Iterator[Client]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BALSAM_HOME", str(site.home))
        with Client(ClientSettings.load()) as client:
            client.BatchJob.objects.create(
                site_id=site.id, num_nodes=1, wall_time_min=20, job_mode="mpi", queue="local", project="local"
            )
            yield client


def submit(client: Client, at: LiveSite, command: str) -> Any:
    number = next(_NUMBERS)
    attributes = {"site": at.name, "command_template": command}
    app = type(f"Live{number}", (client.ApplicationDefinition,), attributes)
    return app.submit(f"live/{number}", node_packing_count=16)  # type: ignore[attr-defined]


def test_a_line_is_told_within_half_a_second(site: LiveSite, client: Client) -> None:
    lates: list[float] = []
    for _ in range(3):  # other work on this machine may hold up one of them
        job = submit(client, site, "for i in $(seq 8); do date +%s.%N; sleep 0.7; done")
        lates = [time.time() - float(line) for line in job.tail(follow=True)]
        assert len(lates) == 8
        if max(lates) <= LATEST_SEC:
            break
    assert max(lates) <= LATEST_SEC, lates


def test_thirty_follow_one_file(site: LiveSite, client: Client) -> None:
    job = submit(client, site, "while [ ! -e go ]; do sleep 0.1; done; seq 1000; sleep 1; echo end")
    told: list[list[str]] = [[] for _ in range(30)]

    def follow(lines: list[str]) -> None:
        lines.extend(job.tail(follow=True))

    threads = [threading.Thread(target=follow, args=(lines,)) for lines in told]
    for thread in threads:
        thread.start()
    workdir = site.path / "data" / job.workdir
    eventually(lambda: (workdir / "job.out").exists(), "the Job does not start", WAIT_SEC)
    (workdir / "go").touch()
    for thread in threads:
        thread.join(WAIT_SEC)
    wanted = [f"{number}\n" for number in range(1, 1001)] + ["end\n"]
    assert all(lines == wanted for lines in told)


def test_what_is_followed_may_be_cut_replaced_and_without_line_ends(site: LiveSite, client: Client) -> None:
    command = (
        r"printf 'no end'; sleep 3; printf '\303\244\n'; head -c 100000 /dev/zero | tr '\0' x; echo; printf '\377\n'"
    )
    job = submit(client, site, command)
    lines = list(job.tail(follow=True))
    assert lines[0] == "no end", "what has no line end is told after a second"
    assert "".join(lines) == "no endä\n" + "x" * 100_000 + "\n\N{REPLACEMENT CHARACTER}\n"
    assert max(map(len, lines)) <= 64 * 1024
    again = submit(client, site, "echo first >> log; sleep 2; echo other > new; mv new log; sleep 1")
    assert list(again.tail("log", follow=True)) == ["first\n", "other\n"]


def test_reading_after_the_end(site: LiveSite, client: Client) -> None:
    job = submit(client, site, "seq 20000; printf last; mkdir sub; touch sub/empty; ln -s /etc/passwd out-of-here")
    assert job.wait(timeout=WAIT_SEC)
    assert list(job.tail(lines=3)) == ["19999\n", "20000\n", "last"]
    assert list(job.tail(lines=0)) == []
    assert list(job.tail(lines=30_000)) == list(job.tail()) == job.read_text("job.out").splitlines(keepends=True)
    assert list(job.tail("sub/empty")) == [] == list(job.tail("sub/empty", follow=True))
    assert [entry.path for entry in job.files("sub")] == ["sub/empty"]
    with job.open("job.out") as file:
        assert (next(file), next(file)) == ("1\n", "2\n")
    with job.open("job.out", "rb") as file:
        file.seek(-4, os.SEEK_END)
        assert file.read() == b"last"
        file.seek(0)
        assert file.read(3) == b"1\n2"
    for look in (job.open, lambda name: list(job.tail(name))):
        with pytest.raises(FileNotFoundError):
            look("absent")
        with pytest.raises(PermissionError):
            look("out-of-here")
    with pytest.raises(FileNotFoundError):
        list(job.tail("absent", follow=True))


def test_the_agent_may_be_restarted_under_a_follower(site: LiveSite, client: Client) -> None:
    job = submit(client, site, "for i in $(seq 30); do echo $i; sleep 0.3; done")
    lines = job.tail(follow=True)
    told = [next(lines)]
    site.kill("agent")
    told += lines
    assert told == [f"{number}\n" for number in range(1, 31)]


def run(site: LiveSite, *words: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([str(BALSAM), *words], env=site.environment, capture_output=True, timeout=60, **options)


def test_the_command_follows_lists_and_copies(site: LiveSite, client: Client, tmp_path: Path) -> None:
    job = submit(client, site, r"echo one; printf '\033[2Jtwo\n'; head -c 3000000 /dev/urandom > 'big one'; sleep 1")
    number = str(job.id)
    assert run(site, "job", "logs", "-f", number).stdout.decode() == "one\n\N{REPLACEMENT CHARACTER}[2Jtwo\n"
    assert job.wait(timeout=WAIT_SEC)
    listed = as_json(site.environment, "job", "ls-files", number)
    assert [(one["path"], one["size_bytes"]) for one in listed if not one["path"].startswith("job.out")] == [
        ("big one", 3_000_000)
    ]
    assert b"big one" in run(site, "job", "ls-files", number).stdout
    original = (site.path / "data" / job.workdir / "big one").read_bytes()
    copied = as_json(site.environment, "job", "get", number, "big one", "-o", str(tmp_path))
    assert Path(copied["path"]).read_bytes() == original and copied["size_bytes"] == 3_000_000
    assert [path.name for path in tmp_path.iterdir()] == ["big one"]
    assert run(site, "job", "get", number, "big one", "-o", "-").stdout == original
    refused = run(site, "job", "get", number, "big one", "-o", str(tmp_path))
    assert refused.returncode == 2 and b"--force" in refused.stderr
    assert run(site, "job", "get", number, "absent").returncode == 1
    assert run(site, "job", "logs", "-f", "--tag", "a=b").returncode == 2


def test_ctrl_c_ends_following(site: LiveSite, client: Client) -> None:
    job = submit(client, site, "echo begun; sleep 60")
    follower = subprocess.Popen(
        [str(BALSAM), "job", "logs", "-f", str(job.id)], env=site.environment, stdout=subprocess.PIPE
    )
    try:
        assert follower.stdout is not None
        assert follower.stdout.readline() == b"begun\n"
        follower.send_signal(signal.SIGINT)
        assert follower.wait(20) == 130
    finally:
        follower.kill()
        follower.wait()
        job.cancel()


@pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium here")
def test_a_browser_shows_output_as_it_grows(site: LiveSite, client: Client) -> None:
    """Each line before the next is written, also after the agent was killed, as text whatever it says."""
    command = (
        "echo begun; while [ ! -e one ]; do sleep 0.1; done; printf '<b>bold</b>\\033[2J\\n'; "
        "while [ ! -e two ]; do sleep 0.1; done; echo ended"
    )
    job = submit(client, site, command)
    workdir = site.path / "data" / job.workdir
    link = run(site, "open", "--print").stdout.decode().split()[-1]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(WAIT_SEC * 1000)
        page.goto(link)
        page.get_by_role("button", name="Go on as").click()
        page.wait_for_url("**/ui")
        page.goto(f"{link.partition('/ui')[0]}/ui/jobs/{job.id}")
        tail = page.locator("#tail")
        expect(tail).to_have_text("begun\n", timeout=WAIT_SEC * 1000)
        (workdir / "one").touch()
        expect(tail).to_have_text("begun\n<b>bold</b>\n", timeout=WAIT_SEC * 1000)
        assert page.locator("#tail b").count() == 0
        site.kill("agent")
        (workdir / "two").touch()
        expect(tail).to_contain_text("ended", timeout=WAIT_SEC * 1000)
        expect(page.locator(".lead")).to_contain_text("JOB_FINISHED", timeout=WAIT_SEC * 1000)
        browser.close()
