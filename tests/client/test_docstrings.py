"""Every example in the docstrings of the SDK runs as it stands, against `balsam up` with a real site."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import balsam.client
from tests.system.live_site import LiveSite, live_site

MODULES = sorted(
    [name for _, name, _ in pkgutil.walk_packages(balsam.client.__path__, "balsam.client.")]
    + ["balsam.api", "balsam.config", "balsam.testing.faulty_transport"]
)
TAUGHT = ("ApplicationDefinition", "App", "BatchJob", "Client", "EventLog", "Job", "Session", "Site", "ClientSettings")


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveSite]:
    with live_site(tmp_path_factory.mktemp("live") / "balsam") as live:
        yield live


@pytest.fixture
def names(live: LiveSite, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What the examples may use: the names of balsam.api, `site`, `Hello` and a finished `job` of it."""
    from balsam import api

    monkeypatch.setenv("BALSAM_HOME", str(live.home))
    here = api.Site.objects.get(id=live.id)

    class Hello(api.ApplicationDefinition):  # type: ignore[misc,name-defined]
        """Says hello."""

        site = here.name
        command_template = "echo Hello, {{ name }}"

    active = ["pending_submission", "queued", "running"]
    if not api.BatchJob.objects.filter(site_id=here.id, state=active).exists():
        api.BatchJob.objects.create(
            site_id=here.id, num_nodes=1, wall_time_min=20, job_mode="mpi", queue="local", project="local"
        )
    job = Hello.submit(f"hello/{uuid.uuid4().hex}", name="World")
    assert job.wait(timeout=90), job.explain()
    return {**{name: getattr(api, name) for name in api.__all__}, "site": here, "Hello": Hello, "job": job}


@pytest.mark.slow
@pytest.mark.parametrize("module", MODULES)
def test_examples_run(module: str, names: dict[str, Any]) -> None:
    found = doctest.DocTestFinder().find(importlib.import_module(module))
    report: list[str] = []
    for example in found:
        for step in example.examples:
            step.options.pop(doctest.SKIP, None)
        globs = {**vars(importlib.import_module(module)), **names}
        example.globs = globs
        doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example, out=report.append)
    assert report == [], "".join(report)


def test_every_public_class_has_an_example() -> None:
    from balsam import api, config

    for name in TAUGHT:
        assert ">>>" in ((getattr(api, name, None) or getattr(config, name)).__doc__ or ""), name


def test_importing_the_api_reads_nothing_and_connects_nowhere(tmp_path: Path) -> None:
    import os
    import subprocess
    import sys

    program = """
import builtins, socket, sys
home = sys.argv[1]
real_open = builtins.open
def no_socket(*args, **kwargs): raise AssertionError("a socket at import")
socket.socket.connect = no_socket
def watched(name, *args, **kwargs):
    assert not str(name).startswith(home), name
    return real_open(name, *args, **kwargs)
builtins.open = watched
import balsam.api
late = [name for name in ("httpcore2", "httpx2", "yaml", "numpy", "libensemble", "asyncio") if name in sys.modules]
assert late == [], late
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        env={**os.environ, "BALSAM_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_names_that_are_not_there() -> None:
    with pytest.raises(ImportError, match="cannot import name"):
        from balsam.api import Nonsense  # type: ignore[attr-defined] # noqa: F401
