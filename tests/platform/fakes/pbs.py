"""Fake qsub, qstat, qselect and qdel of PBS Pro and OpenPBS, after their public documentation and sources.

Written without a PBS at hand: what they print is what those say, not what was seen.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from pathlib import Path

from engine import Engine, Job, die

QUEUES = {"workq": "24:00:00", "debug": "00:30:00"}
SERVER = "fake-pbs"
UNKNOWN_JOB = 153


def qsub(engine: Engine, words: list[str]) -> int:
    parser = argparse.ArgumentParser("qsub", allow_abbrev=False)
    for option in ("-N", "-q", "-A", "-o", "-j", "-r"):
        parser.add_argument(option, required=True)
    parser.add_argument("-l", action="append", required=True)
    parser.add_argument("script")
    asked = parser.parse_args(words)
    resources = dict(one.split("=", 1) for one in asked.l)
    if asked.q not in QUEUES:
        return die("qsub: Unknown queue", 170)
    hours, minutes, _ = map(int, resources["walltime"].split(":"))
    number = engine.submit(
        Path(asked.script).read_text(),
        name=asked.N,
        queue=asked.q,
        project=asked.A,
        output=asked.o,
        nodes=int(resources["select"].partition(":")[0]),
        minutes=hours * 60 + minutes,
    )
    print(f"{number}.{SERVER}")
    return 0


def qselect(engine: Engine, words: list[str]) -> int:
    parser = argparse.ArgumentParser("qselect", allow_abbrev=False)
    parser.add_argument("-u", required=True)
    parser.add_argument("-N")
    parser.add_argument("-x", action="store_true")
    asked = parser.parse_args(words)
    for job in engine.jobs():
        if (asked.x or job["state"] != "over") and asked.N in (None, job["name"]):
            print(f"{job['number']}.{SERVER}")
    return 0


def qstat(engine: Engine, words: list[str]) -> int:
    parser = argparse.ArgumentParser("qstat", allow_abbrev=False)
    parser.add_argument("-F", choices=["dsv"], required=True)
    for option in ("-f", "-x", "-Q"):
        parser.add_argument(option, action="store_true")
    parser.add_argument("ids", nargs="*")
    asked = parser.parse_args(words)
    if asked.Q:
        for name, limit in QUEUES.items():
            print(f"Queue: {name}|queue_type=Execution|enabled=True|started=True|resources_max.walltime={limit}")
        return 0
    code = 0
    for one in asked.ids:
        job = engine.job(int(one.partition(".")[0]))
        if job is None:
            code = die(f"qstat: Unknown Job Id {one}", UNKNOWN_JOB)
        elif job["state"] == "over" and not asked.x:
            code = die(f"qstat: {one} Job has finished, use -x or -H to obtain historical job information", 35)
        else:
            print("|".join([f"Job Id: {job['number']}.{SERVER}", *_attributes(job)]))
    return code


def _attributes(job: Job) -> list[str]:
    state = {"queued": "Q", "starting": "Q", "running": "R", "over": "F"}[job["state"]]
    pairs = {
        "Job_Name": job["name"],
        "Job_Owner": "ada@login1",
        "job_state": state,
        "queue": job["queue"],
        "ctime": time.ctime(job["submit"]),
        "mtime": time.ctime(job.get("end") or job["submit"]),
        "Resource_List.nodect": job["nodes"],
        "Resource_List.walltime": f"{job['minutes'] // 60:02}:{job['minutes'] % 60:02}:00",
        "Account_Name": job["project"],
        "Variable_List": r"PBS_O_HOME=/home/ada,ODD=a\|b\nc",
    }
    if state == "Q":
        pairs["comment"] = "Not Running: Insufficient amount of resource: ncpus"
    if "start" in job:
        pairs["stime"] = time.ctime(job["start"])
        pairs["exec_host"] = "+".join(f"node{number}/0*8" for number in range(1, job["nodes"] + 1))
    if state == "F":
        pairs["substate"] = 91 if job.get("cancelled") else 92
        if "code" in job:
            pairs["Exit_status"] = job["code"] if job["code"] >= 0 else 256 - job["code"]
    return [f"{name}={value}" for name, value in pairs.items()]


def qdel(engine: Engine, words: list[str]) -> int:
    (one,) = words
    if not re.fullmatch(r"\d+(\..*)?", one):
        return die(f"qdel: illegally formed job identifier: {one}", 1)
    done = engine.cancel(int(one.partition(".")[0]))
    if done == "unknown":
        return die(f"qdel: Unknown Job Id {one}.{SERVER}", UNKNOWN_JOB)
    return die(f"qdel: Job has finished {one}.{SERVER}", 35) if done == "over" else 0


if __name__ == "__main__":
    command = {"qsub": qsub, "qselect": qselect, "qstat": qstat, "qdel": qdel}[sys.argv[1]]
    sys.exit(command(Engine(Path(os.environ["FAKE_BATCH"])), sys.argv[2:]))
