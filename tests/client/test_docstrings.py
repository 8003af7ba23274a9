"""Every example in the docstrings of the SDK runs as it stands, against `balsam up` with a real site."""

from __future__ import annotations

import ast
import asyncio
import doctest
import enum
import importlib
import inspect
import pkgutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import pytest

import balsam.aio
import balsam.client
import balsam.domain
import balsam.wire
from tests.system.live_site import LiveSite, live_site

PUBLIC = ("balsam.api", "balsam.aio", "balsam.analytics", "balsam.config", "balsam.schemas", "balsam.util")
ROOMS = (balsam.aio, balsam.client, balsam.domain, balsam.wire)
INSIDE = [name for room in ROOMS for _, name, _ in pkgutil.walk_packages(room.__path__, f"{room.__name__}.")]
MODULES = sorted({*INSIDE, *PUBLIC, "balsam.testing.faulty_transport"})


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveSite]:
    with live_site(tmp_path_factory.mktemp("live") / "balsam") as live:
        yield live


@pytest.fixture
def names(live: LiveSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """What the examples may use: the names of balsam.api, `site`, `Hello` and a finished `job` of it, an AsyncClient
    `balsam`, the path `site_directory`, and `scratch`, a directory to write into."""
    from balsam import aio, api

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
    balsam = aio.AsyncClient(client=api.Client())
    yield {
        **{name: getattr(api, name) for name in api.__all__},
        "site": here,
        "Hello": Hello,
        "job": job,
        "balsam": balsam,
        "site_directory": live.path,
        "scratch": tmp_path,
    }
    balsam.client.close()
    asyncio.run(balsam.close())


@pytest.fixture
def awaiting(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Examples may have a bare `await`, as in a notebook; one event loop runs those of a module."""
    with asyncio.Runner() as runner:

        def compiled(source: str, name: str, mode: str, flags: int, *rest: Any) -> CodeType:
            code: CodeType = compile(source, name, mode, flags | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, *rest)
            return code

        def executed(code: CodeType, scope: dict[str, Any]) -> None:
            answer = eval(code, scope)
            if code.co_flags & inspect.CO_COROUTINE:
                runner.run(answer)

        monkeypatch.setattr(doctest, "compile", compiled, raising=False)
        monkeypatch.setattr(doctest, "exec", executed, raising=False)
        yield


@pytest.mark.slow
@pytest.mark.parametrize("module", MODULES)
def test_examples_run(module: str, request: pytest.FixtureRequest) -> None:
    here = importlib.import_module(module)
    found = [test for test in doctest.DocTestFinder().find(here) if test.examples]
    if not found:
        return
    request.getfixturevalue("awaiting")
    names = request.getfixturevalue("names")
    report: list[str] = []
    for test in found:
        test.globs = {**vars(here), **names, "__name__": "__main__"}  # as the classes of a script
        doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=report.append)
    assert report == [], "".join(report)


def test_every_public_class_and_function_has_an_example() -> None:
    bare = [name for name, found in sorted(public()) if ">>>" not in (inspect.getdoc(found) or "")]
    assert bare == []


def public() -> set[tuple[str, Any]]:
    """Functions, classes and methods that scripts use, exceptions and enumerations aside."""
    found: set[tuple[str, Any]] = set()
    for module in map(importlib.import_module, PUBLIC):
        for name in getattr(module, "__all__", None) or own_names(module):
            thing = getattr(module, name)
            if inspect.isfunction(thing):
                found.add((name, thing))
            elif inspect.isclass(thing) and not issubclass(thing, (BaseException, enum.Enum)):
                found |= {(name, thing), *methods_of(name, thing)}
                if hasattr(thing, "_manager"):
                    manager = thing._manager()
                    found |= methods_of(f"{name}.objects", type(manager)) | methods_of("query", type(manager.all()))
    assert len(found) > 150
    return found


def methods_of(name: str, owner: type) -> set[tuple[str, Callable[..., Any]]]:
    public = [part for part in dir(owner) if not part.startswith("_")]
    values = ((part, inspect.getattr_static(owner, part)) for part in public)
    plain = ((part, getattr(value, "__func__", value)) for part, value in values)
    return {(f"{name}.{part}", value) for part, value in plain if is_ours(value)}


def own_names(module: ModuleType) -> list[str]:
    return [name for name, value in vars(module).items() if not name.startswith("_") and is_ours(value)]


def is_ours(value: Any) -> bool:
    return inspect.isfunction(value) and value.__module__.startswith("balsam.")


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
from balsam.api import ApplicationDefinition, BatchJob, EventLog, Job, Session, Site, TransferItem
heavy = ("pydantic", "httpcore2", "ssl", "yaml", "numpy", "libensemble", "asyncio")
late = [name for name in heavy if name in sys.modules]
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
