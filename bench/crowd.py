"""A facility's service: 500 Sites with their agents, launchers at work in 50 of them, one process of the service.

What a Job costs the service, from its submission to its end, must not depend on how many others there are. Memory and
CPU are those of the service's process; the database server's are not in them.
"""

import http.client
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import httpx2

from balsam.domain.lease import LEASE_RENEW_SEC
from balsam.server.usecases.sites import AGENT_RENEW_SEC
from bench import machine
from bench.launcher import BATCH, Launcher
from bench.result import Goal
from bench.sizes import sized, sized_sec
from tests.server.world import Person, make_app, make_site, make_user, ok
from tests.services import RunningService, running_service

SITES, ACTIVE = 500, 50
FEW = 10_000
_REPORTED = 1e9  # no bound


def measure(root: Path, rows: int, env: Mapping[str, str]) -> list[Goal]:
    """Cost of a Job at few and at `rows` waiting Jobs; memory, and CPU when nothing happens."""
    few = sized(FEW)
    with ExitStack() as stack:
        service = stack.enter_context(running_service(root / "crowd", env=env))
        user = make_user(service, "ann")
        with service.client(user.token) as client:
            sites = [_site(client, user) for _ in range(sized(SITES, 10))]
        for site in sites:
            stack.enter_context(closing(_stream(service, f"/api/sites/{site.site_id}/stream", site.site_token)))
        active = sites[:: len(sites) // sized(ACTIVE, 5)]
        for site in active:
            place = f"/api/sessions/{site.session_id}/stream"
            stack.enter_context(closing(_stream(service, place, site.site_token)))
        idle = _idle_cores(service, sites, active)
        launchers = [Launcher(service, site) for site in active]
        few_ms, memory_few = _cost_ms(service, launchers, few), machine.rss_mb(service.pid)
        many_ms, memory_many = _cost_ms(service, launchers, rows), machine.rss_mb(service.pid)
    note = (
        f"{len(sites)} Sites, {len(active)} active; {few_ms:.3f} ms at {few:,} waiting Jobs, {many_ms:.3f} at {rows:,}"
    )
    memory = f"{memory_few:.0f} MB at {few:,} Jobs"
    unbounded = (_REPORTED, _REPORTED, True)
    return [
        Goal("crowd", "cost of a Job at few over at many", few_ms / many_ms, "x", 0.8, 1, False, note),
        Goal("crowd", "CPU of the service for a Job", many_ms, "core-ms", *unbounded, note),
        Goal("crowd", "memory of the service", memory_many, "MB", *unbounded, memory),
        Goal("crowd", "CPU while nothing happens", 100 * idle, "% of a core", *unbounded, "agents and launchers renew"),
    ]


def _site(client: httpx2.Client, user: Person) -> Person:
    """A Site with an App and a Session."""
    made = make_site(client)
    site = Person(user.name, user.token, made["site"]["id"], made["token"]["token"])
    site.app_id = make_app(client, site.site_id)
    site.session_id = ok(client.post("/api/sessions", json={"site_id": site.site_id}))["id"]
    return site


def _stream(service: RunningService, path: str, token: str) -> http.client.HTTPConnection:
    """A stream that said hello, until the connection is closed; nobody reads further."""
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)
    connection.request("GET", path, headers=service.headers(token))
    if b"hello" not in connection.getresponse().readline():
        raise RuntimeError(f"{path} did not greet")
    return connection


def _idle_cores(service: RunningService, sites: list[Person], active: list[Person]) -> float:
    """Cores that the service takes when all agents and launchers only say that they are there."""
    claim = {"instance": "i", "hostname": "h", "pid": 1}
    agents = [(site, f"/api/sites/{site.site_id}/agent", claim) for site in sites]
    leases = [(site, f"/api/sessions/{site.session_id}/renew", None) for site in active]
    begin, started = machine.cpu_seconds(service.pid), time.monotonic()
    time.sleep(sized_sec(5))
    nothing = (machine.cpu_seconds(service.pid) - begin) / (time.monotonic() - started)
    return nothing + _cpu_sec(service, agents) / AGENT_RENEW_SEC + _cpu_sec(service, leases) / LEASE_RENEW_SEC


def _cpu_sec(service: RunningService, calls: Sequence[tuple[Person, str, Mapping[str, object] | None]]) -> float:
    begin = machine.cpu_seconds(service.pid)
    with service.client("") as client:
        for site, path, body in calls:
            ok(client.post(path, json=body, headers={"Authorization": f"Bearer {site.site_token}"}))
    return machine.cpu_seconds(service.pid) - begin


def _cost_ms(service: RunningService, launchers: list[Launcher], waiting: int) -> float:
    """Core-milliseconds of the service for each Job that is submitted, granted, started and done, one batch of each
    launcher, while so many wait."""
    for launcher in launchers:
        launcher.fill(waiting // len(launchers))
    begin = machine.cpu_seconds(service.pid)
    for launcher in launchers:
        launcher.fill(launcher.left + BATCH)
        launcher.acquire_rate(1)
        launcher.update()
    return (machine.cpu_seconds(service.pid) - begin) * 1000 / (BATCH * len(launchers))
