"""Goals without an allocation: bulk (G7), reads and counts at a million Jobs (G10, G11), single posts (G12)."""

import asyncio
import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bench import apps, floors, machine
from bench.product import Product
from bench.result import Goal
from bench.sizes import sized, sized_sec

BULK = 10_000
MANY = 100_000  # chunked by the client


def measure(product: Product, root: Path, rows: int, database: str = "") -> list[Goal]:
    """G12, G7, then fill up to `rows` Jobs and read. `database`: the PostgreSQL that the product has; else SQLite."""
    no_op = apps.no_op(product.site["name"])
    goals = [_posts(product, no_op, floors.commit_rate(root, database)), *_bulk(no_op, root, database)]
    return goals + _reads(_fill(no_op, rows))


def _bulk(no_op: Any, root: Path, database: str) -> list[Goal]:
    from balsam.api import Job

    rates, count = [], sized(BULK)
    for turn in range(5):
        jobs = [no_op.submit(workdir=f"bulk/{turn}/{number}", save=False) for number in range(count)]
        rates.append(count / machine.timed_ms(partial(Job.objects.bulk_create, jobs)) * 1000)
    body = json.dumps([{"workdir": f"bulk/{number}", "parameters": {}} for number in range(count)]).encode()
    with floors.BareService(root, database) as bare:
        floor = floors.bulk_rate(bare, body, count)
    rate = sorted(rates)[len(rates) // 2]
    note = f"{rate:,.0f} Jobs/s; floor {floor:,.0f}/s"
    return [
        Goal("G7", f"bulk_create of {count:,}", rate / floor, "x floor", 0.33, 0.5, False, note),
        Goal("G7", f"bulk_create of {count:,}", rate, "Jobs/s", 20_000, 30_000, False, note),
        _many(no_op),
    ]


def _many(no_op: Any) -> Goal:
    """A hundred thousand in one call, with its progress bar, which goes to stderr."""
    from balsam.api import Job

    count = sized(MANY)
    jobs = [no_op.submit(workdir=f"many/{number}", save=False) for number in range(count)]
    elapsed_sec = machine.timed_ms(lambda: Job.objects.bulk_create(jobs, progress=True)) / 1000
    note = f"{elapsed_sec:.1f} s with progress bar"
    return Goal("G7", f"bulk_create of {count:,}", count / elapsed_sec, "Jobs/s", 20_000, 30_000, False, note)


def _fill(no_op: Any, rows: int) -> int:
    """At least once: it is these that have tags. How many Jobs there are then."""
    from balsam.api import Job

    have, chunk = Job.objects.all().count(), sized(BULK, 1000)
    rows = max(rows, have + chunk)
    while have < rows:
        tags = {"part": str(have // 1000 % 100)}
        jobs = [no_op.submit(workdir=f"fill/{have + n}", save=False, tags=tags) for n in range(min(chunk, rows - have))]
        have += len(Job.objects.bulk_create(jobs))
    return have


def _reads(rows: int) -> list[Goal]:
    from balsam.api import Job

    last = Job.objects.all().order_by("-id")[0].id
    middle = last - rows // 2
    newest = Job.objects.get(id=last)
    state, tags = newest.state, newest.tags
    cases = (
        ("G10", "get", lambda: Job.objects.get(id=middle), 3, 2),
        ("G10", "first page of 100", lambda: list(Job.objects.filter(state=state)[:100]), 10, 5),
        ("G10", "tag page of 100", lambda: list(Job.objects.filter(tags=tags)[:100]), 12, 6),
        ("G10", "newest page of 100", lambda: list(Job.objects.all().order_by("-id")[:100]), 12, 6),
        ("G10", "deep keyset page of 100", lambda: _page_after(middle), 12, 6),
        ("G11", "counts by state", lambda: Job.objects.all().count_by("state"), 120, 5),
    )
    if len(list(Job.objects.filter(tags=tags)[:100])) < 100:
        raise RuntimeError(f"a tag page of 100 was to be measured, and {tags} has fewer Jobs")
    note = f"at {rows:,} Jobs"
    goals = [
        Goal(name, what, machine.median_ms(call, 40), "ms", must, aim, True, note)
        for name, what, call, must, aim in cases
    ]
    listed = machine.median_ms(_job_ls, 9)
    return [*goals, Goal("G10", "balsam job ls, start-up included", listed, "ms", 400, 300, True, note)]


def _job_ls() -> None:
    """The first page, as somebody types it; with bytecode, as it is installed."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    balsam = Path(sys.executable).parent / "balsam"
    subprocess.run([balsam, "job", "ls", "--site", "all"], check=True, stdout=subprocess.DEVNULL, env=environment)


def _page_after(job_id: int) -> list[Any]:
    """A page by keyset, as iteration over a long list reads them."""
    from balsam.api import default_client
    from balsam.wire.jobs import JobQuery, JobsPage

    query = JobQuery(after=job_id, limit=100)
    return list(default_client().transport.request("GET", "/jobs", query=query, reply=JobsPage).results)


def _posts(product: Product, no_op: Any, floor: float, connections: int = 16, seconds: float = 4.0) -> Goal:
    from balsam.api import App, default_client

    app = App.objects.get(name=no_op.__name__)
    body = json.dumps({"jobs": [{"app_id": app.id, "workdir": "post/x"}]}).encode()
    token, seconds = default_client().settings.token, sized_sec(seconds)
    rate = asyncio.run(_post_loop(product.url, token, body, connections, seconds))
    return Goal(
        "G12",
        "single-Job POST, 16 connections",
        rate / floor,
        "x floor",
        0.25,
        0.5,
        False,
        f"{rate:,.0f}/s; commits {floor:,.0f}/s",
    )


async def _post_loop(url: str, token: str, body: bytes, connections: int, seconds: float) -> float:
    """Requests per second over raw keep-alive connections: the HTTP client must not be what is measured."""
    address = urlsplit(url)
    head = (
        f"POST /api/jobs HTTP/1.1\r\nHost: {address.netloc}\r\nAuthorization: Bearer {token}\r\n"
        f"Balsam-Wire: 1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()
    stop_at = time.perf_counter() + seconds

    async def one() -> int:
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        count = 0
        while time.perf_counter() < stop_at:
            writer.write(head + body)
            answer = (await reader.readuntil(b"\r\n\r\n")).lower()
            if not answer.startswith(b"http/1.1 201"):
                raise RuntimeError(answer.decode())
            length = int(answer.partition(b"content-length:")[2].split(b"\r\n")[0])
            await reader.readexactly(length)
            count += 1
        writer.close()
        return count

    return sum(await asyncio.gather(*(one() for _ in range(connections)))) / seconds
