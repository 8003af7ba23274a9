"""Secrets of a running system stand in the files made for them and nowhere else, whatever the umask is (T16)."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.system.live_site import LiveSite, eventually, finished, live_site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

TOKEN = re.compile(rb"blsm_[a-z]+_[A-Za-z0-9_-]{20,}")
# What holds tokens: of the person, the Site's agent, a launcher, and the code of Jobs.
MEANT = {"service.json", "local.token", "credentials.json", "job-credentials.json"}
SCRIPT = """
from balsam.api import ApplicationDefinition, BatchJob, Site

[SITE] = Site.objects.all()

class Tells(ApplicationDefinition):
    site = SITE.name
    command_template = "sh -c {{ code }}"

class Works(ApplicationDefinition):
    site = SITE.name
    def run(self):
        import os, pathlib, time
        pathlib.Path("env.txt").write_text(repr(dict(os.environ)))
        while not pathlib.Path("go").exists():
            time.sleep(0.05)

code = "env > env.txt; echo said; until [ -e go ]; do sleep 0.05; done"
jobs = [Tells.submit("tells", code=code, node_packing_count=2), Works.submit("works", node_packing_count=2)]
BatchJob.objects.create(site_id=SITE.id, num_nodes=1, wall_time_min=5, job_mode="mpi", queue="local", project="local")
for job in jobs:
    job.wait(120)
    assert job.state == "JOB_FINISHED", job.explain()
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveSite]:
    before = os.umask(0)
    try:
        with live_site(tmp_path_factory.mktemp("secrets") / "home") as running:
            yield running
    finally:
        os.umask(before)


def files_below(home: Path) -> Iterator[Path]:
    return (path for path in home.rglob("*") if path.is_file() and not path.is_symlink())


def tokens_in(home: Path) -> dict[bytes, set[Path]]:
    """Each token that stands in a file, with the files it stands in."""
    found: dict[bytes, set[Path]] = {}
    for path in files_below(home):
        for token in TOKEN.findall(path.read_bytes()):
            found.setdefault(token, set()).add(path)
    return found


def processes_of(home: Path) -> dict[int, tuple[bytes, bytes]]:
    """Command line and environment of all that belong to this home."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words, environment = (entry / "cmdline").read_bytes(), (entry / "environ").read_bytes()
            except OSError:  # it has gone, or is somebody else's
                continue
            if str(home).encode() in words + environment:
                found[int(entry.name)] = words, environment
    return found


def test_t16_tokens_stand_in_their_files_alone(site: LiveSite) -> None:
    script = site.begin(SCRIPT)
    places = [site.path / "data" / name for name in ("tells", "works")]
    eventually(lambda: all((place / "env.txt").exists() for place in places), "the Jobs do not run", 90)
    running = processes_of(site.home)
    parts = {"balsam.server", "balsam.site", "balsam.launcher", "balsam.worker", "until [ -e go ]"}
    for part in parts:  # or nothing would be shown of it
        assert any(part.encode() in words for words, _ in running.values()), part
    kept = tokens_in(site.home)
    assert {path.name for paths in kept.values() for path in paths} == MEANT
    assert len(kept) >= 4
    for words, environment in running.values():
        assert not TOKEN.search(words), words
        assert not TOKEN.search(environment), environment
    for place in places:
        assert not TOKEN.search((place / "env.txt").read_bytes())
        (place / "go").touch()
    finished(script, 120)
    for token in [*kept, b"blsm_user_" + b"x" * 43]:
        for route in ("/api/teams", "/api/tokens", "/api/sites/999999/agent"):
            reply = httpx2.post(
                site.ready["url"] + route, headers={"Authorization": f"Bearer {token.decode()}"}, json={}
            )
            assert reply.status_code >= 400
            assert not TOKEN.search(reply.content), reply.text
    assert site.stop() == 0
    for path in files_below(site.home):  # logs, the database with its log of writes, what the Site keeps of Jobs
        content = path.read_bytes()
        if path.name not in MEANT:
            assert not any(token in content for token in kept), path
    site.start()


def test_t16_what_is_ours_is_nobody_else_s_whatever_the_umask_is(site: LiveSite) -> None:
    of_ours = [site.home, *(path for path in site.home.rglob("*") if path.is_dir())]
    # A workdir is as open as its owner's umask says, below a directory that is not; the scripts are this test's own.
    others = (site.path / "data", site.home / "scripts")
    for path in of_ours:
        if path not in others[1:] and not {*others} & {*path.parents}:
            assert stat.S_IMODE(path.stat().st_mode) == 0o700, path
    secret = [path for paths in tokens_in(site.home).values() for path in paths]
    secret += [path for path in files_below(site.home) if "sqlite3" in path.name or path.name.endswith(".outbox")]
    assert len(secret) >= 5
    for path in secret:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
