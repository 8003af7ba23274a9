"""T8: the service calls nobody whom a user names, and only one of its modules calls anybody at all."""

from __future__ import annotations

import ast
import asyncio
import json
import os
from pathlib import Path

import pytest

import balsam.server
from balsam.server.auth.outbound import Outbound, ProviderAway
from tests.server.world import make_app, make_jobs, make_user, ok
from tests.services import running_service

SOURCE = Path(balsam.server.__file__).parent
CALLING = {
    *("aiohttp", "boto3", "ftplib", "http.client", "httpcore2", "httpx2", "obstore", "requests", "smtplib"),
    *("urllib.request", "urllib3", "websockets", "xmlrpc"),
}
# Providers of the configuration; the operator's own object store, collector and services; the database.
MAY_CALL = {"auth/outbound.py", "blobs/s3.py"}
METADATA = "169.254.169.254"
AUDITED = """
import os, sys
def look(event, given):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto", "subprocess.Popen", "os.posix_spawn"):
        with open(os.environ["CALLS"], "a") as file:
            file.write(f"{event} {given!r}\\n")
sys.addaudithook(look)
"""


def imported(path: Path) -> set[str]:
    text, found = path.read_text(), set[str]()
    if not any(module in text for module in CALLING):
        return found
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {module for module in CALLING if any(name == module or name.startswith(f"{module}.") for name in found)}


@pytest.mark.parametrize("url", ["https://[half", "https://[::1", "ftp://lab.example/keys", "nothing", ""])
def test_what_a_provider_calls_an_address_and_is_none_is_its_fault(url: str) -> None:
    async def ask() -> None:
        outbound = Outbound()
        try:
            await outbound.get_json(url)
        finally:
            await outbound.close()

    with pytest.raises(ProviderAway):
        asyncio.run(ask())


def test_t8_one_module_calls_providers_and_one_the_operators_store() -> None:
    calling = {str(path.relative_to(SOURCE)): imported(path) for path in SOURCE.rglob("*.py")}
    assert {name for name, modules in calling.items() if modules} == MAY_CALL


@pytest.mark.slow
def test_t8_no_text_of_a_user_makes_the_service_call_anybody(tmp_path: Path) -> None:
    """Addresses in every field that takes a text like one: nothing is looked up, connected to, or started."""
    (tmp_path / "sitecustomize.py").write_text(AUDITED)
    calls = tmp_path / "calls"
    calls.touch()
    url = f"http://{METADATA}/latest/meta-data"
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH", ""))))
    with running_service(tmp_path / "home", env={"PYTHONPATH": path, "CALLS": str(calls)}) as service:
        ann = make_user(service, "ann")
        before = calls.read_text()
        assert "getaddrinfo" in before, "the service looked up where it listens, and nobody saw it"
        with service.client(ann.token) as client:
            places = {"metadata": url, "file": "file:///etc", "other": f"ssh://{METADATA}/", "globus": "globus://x"}
            site = {"name": url, "path": "/x", "hostname": METADATA, "transfer_locations": places}
            made = ok(client.post("/api/sites", json=site))["site"]
            app_id = make_app(client, made["id"])
            moved = {"input": {"location_alias": "metadata", "path": "/latest"}}
            job = {"tags": {"webhook": url}, "parameters": {"word": url}, "data": {"url": url}, "transfers": moved}
            make_jobs(client, app_id, **job)
            client.get("/api/jobs", params={"where": json.dumps({"field": "data", "path": ["url"], "value": url})})
            client.get("/login", params={"next": url, "provider": url})
            client.get("/login/callback", params={"state": url, "code": url, "iss": url})
            client.get("/api/version", headers={"Host": METADATA, "X-Forwarded-Host": METADATA, "Referer": url})
        assert service.stop() == 0
        assert calls.read_text() == before
