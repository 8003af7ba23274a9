"""Fake `flux batch`, `jobs`, `cancel` and `queue list`, after the public manual pages of flux-core.

Written without a Flux at hand: what they print is what those say, not what was seen.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path
from typing import Any

from engine import Engine, Job, die

ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
QUEUES = {"batch": ("1d", "inf"), "debug": ("30m", "2")}
BASE = 1 << 40  # real ids are that large
FIELDS = re.compile(r"\{([a-z_.0-9]+)\}")


def batch(engine: Engine, words: list[str]) -> int:
    parser = argparse.ArgumentParser("flux batch", allow_abbrev=False)
    for option in ("--job-name", "--time-limit", "--queue", "--output", "--cwd"):
        parser.add_argument(option, required=True)
    parser.add_argument("--nodes", type=int, required=True)
    parser.add_argument("--setattr", required=True)
    parser.add_argument("--exclusive", action="store_true")
    parser.add_argument("script")
    asked = parser.parse_args(words)
    if asked.queue not in QUEUES:
        return die(f"flux-batch: ERROR: [Errno 22] Invalid queue {asked.queue} specified")
    number = engine.submit(
        Path(asked.script).read_text(),
        name=asked.job_name,
        queue=asked.queue,
        project=asked.setattr.removeprefix("bank="),
        nodes=asked.nodes,
        output=asked.output,
        minutes=int(asked.time_limit.removesuffix("m")),
    )
    print(_f58(BASE + number))
    return 0


def _f58(number: int) -> str:
    digits = ""
    while number:
        number, digit = divmod(number, 58)
        digits = ALPHABET[digit] + digits
    return f"ƒ{digits}"


def jobs(engine: Engine, words: list[str]) -> int:
    parser = argparse.ArgumentParser("flux jobs", allow_abbrev=False)
    parser.add_argument("-a", action="store_true")
    parser.add_argument("-n", action="store_true", required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--format", required=True)
    parser.add_argument("--name")
    parser.add_argument("ids", nargs="*", type=int)
    asked = parser.parse_args(words)
    code = 0
    found = []
    for number in asked.ids or [BASE + job["number"] for job in engine.jobs()]:
        job = engine.job(number - BASE)
        if job is None:
            code = die(f"flux-jobs: ERROR: JobID {number} unknown")
        elif asked.name in (None, job["name"]) and (asked.a or asked.ids or job["state"] != "over"):
            found.append(job)
    for job in found[: asked.count]:
        print(_filled(asked.format, _fields(job)))
    return code


def _filled(form: str, facts: dict[str, Any]) -> str:
    return FIELDS.sub(lambda found: str(facts[found[1]]), form)


def _fields(job: Job) -> dict[str, Any]:
    code = job.get("code")
    status = {"queued": "SCHED", "starting": "SCHED", "running": "RUN"}.get(job["state"], "")
    if not status:
        status = "CANCELED" if job.get("cancelled") else "COMPLETED" if code == 0 else "FAILED"
    if code is None and status == "CANCELED":
        code = -128
    exception = ("cancel", "") if job.get("cancelled") else ("", "")
    start, end = job.get("start", 0.0), job.get("end", 0.0)
    names = "node1" if job["nodes"] == 1 else f"node[1-{job['nodes']}]"
    return {
        "id.dec": BASE + job["number"],
        "status": status,
        "name": job["name"],
        "queue": job["queue"],
        "bank": job["project"],
        "nnodes": job["nodes"],
        "duration": job["minutes"] * 60.0,
        "t_submit": job["submit"],
        "t_run": start,
        "t_cleanup": end,
        "expiration": start + job["minutes"] * 60 if start else 0.0,
        "nodelist": names if start else "",
        "returncode": "" if code is None else code,
        "exception.type": exception[0],
        "exception.note": exception[1],
        "annotations.sched.reason_pending": "insufficient resources" if status == "SCHED" else "",
    }


def cancel(engine: Engine, words: list[str]) -> int:
    (one,) = words
    done = engine.cancel(int(one) - BASE)
    if done == "unknown":
        return die(f"flux-cancel: ERROR: {one}: No such file or directory")
    return die(f"flux-cancel: ERROR: {one}: job is inactive") if done == "over" else 0


def queue(engine: Engine, words: list[str]) -> int:
    assert words[:3] == ["list", "-n", "--format"]
    for name, (limit, nodes) in QUEUES.items():
        facts = {"queue": name, "enabled.ascii": "y", "limits.timelimit": limit, "limits.max.nnodes": nodes}
        print(_filled(words[3], facts))
    return 0


if __name__ == "__main__":
    command = {"batch": batch, "jobs": jobs, "cancel": cancel, "queue": queue}[sys.argv[2]]
    sys.exit(command(Engine(Path(os.environ["FAKE_BATCH"])), sys.argv[3:]))
