"""Fake bsub, bjobs, bkill and bqueues of LSF 10.1, after public documentation and outputs shown in public.

Written without an LSF at hand: what they print is what those say, not what was seen.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

from engine import Engine, Job, die

QUEUES = ("normal", "debug")


def bsub(engine: Engine, words: list[str]) -> int:
    parser = argparse.ArgumentParser("bsub", allow_abbrev=False)
    for option in ("-J", "-q", "-P", "-W", "-o", "-cwd"):
        parser.add_argument(option, required=True)
    parser.add_argument("-rn", action="store_true", required=True)
    parser.add_argument("-nnodes", type=int)
    parser.add_argument("-n", type=int)
    parser.add_argument("-R")
    asked = parser.parse_args(words)
    if asked.q not in QUEUES:
        return die(f"{asked.q}: No such queue. Job not submitted.", 255)
    tile = int(asked.R.removeprefix("span[ptile=").removesuffix("]")) if asked.R else 1
    number = engine.submit(
        sys.stdin.read(),
        name=asked.J,
        queue=asked.q,
        project=asked.P,
        output=asked.o,
        nodes=asked.nnodes or asked.n // tile,
        slots=asked.n or asked.nnodes,
        minutes=int(asked.W),
    )
    print(f"Job <{number}> is submitted to queue <{asked.q}>.")
    return 0


def bjobs(engine: Engine, words: list[str]) -> int:
    parser = argparse.ArgumentParser("bjobs", allow_abbrev=False)
    for option in ("-a", "-json", "-hms"):
        parser.add_argument(option, action="store_true")
    parser.add_argument("-o", required=True)
    parser.add_argument("-J")
    parser.add_argument("ids", nargs="*", type=int)
    asked = parser.parse_args(words)
    records = []
    for number in asked.ids or [job["number"] for job in engine.jobs()]:
        job = engine.job(number)
        if job is None:
            records.append({"JOBID": str(number), "ERROR": f"Job <{number}> is not found"})
        elif asked.J in (None, job["name"]) and (asked.a or job["state"] != "over"):
            every = _record(job)
            records.append({name.upper(): every[name.upper()] for name in asked.o.split()})
    print(json.dumps({"COMMAND": "bjobs", "JOBS": len(records), "RECORDS": records}, indent=2))
    if not records:
        print("No job found", file=sys.stderr)
    return 0


def _record(job: Job) -> dict[str, str]:
    code = job.get("code", 0)
    stat = {"queued": "PEND", "starting": "PEND", "running": "RUN"}.get(job["state"], "EXIT")
    if stat == "EXIT" and code == 0 and not job.get("cancelled"):
        stat = "DONE"
    return {
        "JOBID": str(job["number"]),
        "STAT": stat,
        "JOB_NAME": job["name"],
        "QUEUE": job["queue"],
        "PROJ_NAME": job["project"],
        "SUBMIT_TIME": _clock(job["submit"]),
        "START_TIME": _clock(job.get("start")),
        "FINISH_TIME": _clock(job.get("end")) + (" L" if stat == "DONE" else ""),
        "EXIT_CODE": str(code if code >= 0 else 128 - code) if stat == "EXIT" and code else "",
        "EXIT_REASON": "TERM_OWNER: job killed by owner" if job.get("cancelled") else "",
        "PEND_REASON": "Not enough hosts to meet the job's spanning requirement;" if stat == "PEND" else "",
        "EXEC_HOST": ":".join(f"node{number}" for number in range(1, job["nodes"] + 1)) if "start" in job else "",
        "RUNTIMELIMIT": f"{job['minutes'] // 60:02}:{job['minutes'] % 60:02}:00",
        "SLOTS": str(job["slots"]),
    }


def _clock(at: float | None) -> str:
    return time.strftime("%b %d %H:%M", time.localtime(at)) if at else ""


def bkill(engine: Engine, words: list[str]) -> int:
    (one,) = words
    done = engine.cancel(int(one))
    if done == "unknown":
        return die(f"Job <{one}>: No matching job found", 255)
    if done == "over":
        return die(f"Job <{one}>: Job has already finished", 255)
    print(f"Job <{one}> is being terminated")
    return 0


def bqueues(engine: Engine, words: list[str]) -> int:
    assert words == ["-json", "-o", "queue_name status"]
    records = [{"QUEUE_NAME": "normal", "STATUS": "Open:Active"}, {"QUEUE_NAME": "debug", "STATUS": "Closed:Inact_Adm"}]
    print(json.dumps({"COMMAND": "bqueues", "QUEUES": 2, "RECORDS": records}))
    return 0


if __name__ == "__main__":
    command = {"bsub": bsub, "bjobs": bjobs, "bkill": bkill, "bqueues": bqueues}[sys.argv[1]]
    sys.exit(command(Engine(Path(os.environ["FAKE_BATCH"])), sys.argv[2:]))
