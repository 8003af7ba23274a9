"""The SDK against a real service in a process of its own, with a Site, an App and somebody who runs Jobs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from balsam.client.client import Client
from balsam.client.settings import ClientSettings
from tests.client.runner import Runner
from tests.services import RunningService, running_service

_names = itertools.count(1)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with running_service(tmp_path_factory.mktemp("home") / "balsam") as started:
        yield started


@pytest.fixture
def own_service(tmp_path: Path) -> Iterator[RunningService]:
    """One that may be killed."""
    with running_service(tmp_path / "balsam") as started:
        yield started


@pytest.fixture
def client(service: RunningService) -> Iterator[Client]:
    with Client(ClientSettings(service.url, service.token)) as client:
        yield client


@pytest.fixture
def api(service: RunningService, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`balsam.api` whose default client talks to the service of this module."""
    from balsam import api

    monkeypatch.setenv("BALSAM_URL", service.url)
    monkeypatch.setenv("BALSAM_TOKEN", service.token)
    yield api
    api.default_client().close()


def new_site(client: Client) -> Any:
    return client.Site.objects.create(
        name=f"site{next(_names)}",
        path="/home/ann/site",
        allowed_queues={"local": {"max_nodes": 4, "max_walltime": 600, "max_queued_jobs": 0}},
        allowed_projects=["local"],
    )


def hello_app(client: Client, at: Any) -> Any:
    class Hello(client.ApplicationDefinition):  # type: ignore[misc,name-defined]
        """Says hello."""

        site = at.name
        command_template = "echo Hello, {{ name }}"

    return Hello


@pytest.fixture
def site(client: Client) -> Any:
    return new_site(client)


@pytest.fixture
def hello(client: Client, site: Any) -> Any:
    return hello_app(client, site)


@pytest.fixture
def runner(client: Client, site: Any) -> Iterator[Runner]:
    with Runner(client.url, site) as runner:
        yield runner
