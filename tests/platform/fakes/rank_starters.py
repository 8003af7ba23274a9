"""Fake `flux run`, `jsrun` and mpiexec of PALS, after the public documentation that the adapters name.

Written without one at hand. Each refuses what that documentation doesn't have, and starts every rank as a process of
this machine, which is told its host in FAKE_HOST, its cores in FAKE_CPUS, and its rank and GPUs as the real one does.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

LINE = re.compile(
    r"rank: (\d+): \{ hostname: (\S+); cpu: \{([\d,-]+)\}(?: ; gpu: \{([\d,]+)\})? ; mem: \* \}", re.ASCII
)
HEADS = {"cpu_index_using: logical"} | {
    f"{name}: allow" for name in ("overlapping_rs", "oversubscribe_cpu", "oversubscribe_gpu", "oversubscribe_mem")
}


class Rank(NamedTuple):
    host: str
    env: dict[str, str]


def parser(name: str) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(name, allow_abbrev=False)
    made.add_argument("command", nargs=argparse.REMAINDER)
    return made


def pals(words: list[str]) -> tuple[list[Rank], list[str]]:
    options = parser("mpiexec")
    options.add_argument("--envall", action="store_true", required=True)
    for name in ("--hosts", "--cpu-bind"):
        options.add_argument(name, required=True)
    for name in ("--gpu-bind", "--mem-bind", "--depth"):
        options.add_argument(name)
    options.add_argument("-n", type=int, required=True)
    options.add_argument("--ppn", type=int, required=True)
    asked = options.parse_args(words)
    hosts = asked.hosts.split(",")
    if asked.n != asked.ppn * len(hosts) or ":" in asked.command:
        sys.exit("mpiexec: fake: the numbers don't fit, or a second program is named")
    cpus, gpus = listed(asked.cpu_bind), listed(asked.gpu_bind)
    ranks = []
    for rank in range(asked.n):
        local = rank % asked.ppn
        env = {
            "PALS_RANKID": str(rank),
            "PALS_LOCAL_RANKID": str(local),
            "PMI_RANK": str(rank),
            "PMI_SIZE": str(asked.n),
        }
        env |= {"FAKE_CPUS": cpus[local]} if cpus else {}
        env |= {"ZE_AFFINITY_MASK": gpus[local]} if gpus else {}
        ranks.append(Rank(hosts[rank // asked.ppn], env))
    return ranks, asked.command


def listed(binding: str | None) -> list[str]:
    return binding.removeprefix("list:").split(":") if binding and binding.startswith("list:") else []


def flux(words: list[str]) -> tuple[list[Rank], list[str]]:
    if words[0] != "run":
        sys.exit("flux: fake: `run` only")
    options = parser("flux run")
    for name in ("--nodes", "--cores", "--tasks-per-node"):
        options.add_argument(name, type=int, required=True)
    options.add_argument("--requires", required=True)
    options.add_argument("-o", action="append", dest="shell")
    asked = options.parse_args(words[1:])
    hosts = asked.requires.removeprefix("host:").split(",")
    if len(hosts) != asked.nodes or asked.cores < asked.nodes:
        sys.exit("flux-run: ERROR: unsatisfiable request")
    shell = dict(option.partition("=")[::2] for option in asked.shell)
    if not shell.keys() <= {"cpu-affinity", "gpu-affinity", "exit-on-error", "mpi", "pmi"}:
        sys.exit("flux-run: fake: unknown shell option")
    cpus, gpus = mapped(shell["cpu-affinity"]), mapped(shell["gpu-affinity"])
    ranks = []
    for rank in range(asked.nodes * asked.tasks_per_node):
        local = rank % asked.tasks_per_node
        env = {"FLUX_TASK_RANK": str(rank), "FLUX_TASK_LOCAL_ID": str(local), "FLUX_JOB_NNODES": str(asked.nodes)}
        env |= {"FAKE_CPUS": cpus[local]} if cpus else {}
        env |= {"CUDA_VISIBLE_DEVICES": gpus[local]} if gpus else {}
        ranks.append(Rank(hosts[rank // asked.tasks_per_node], env))
    return ranks, asked.command


def mapped(affinity: str) -> list[str]:
    return affinity.removeprefix("map:").split(";") if affinity.startswith("map:") else []


def jsrun(words: list[str]) -> tuple[list[Rank], list[str]]:
    options = parser("jsrun")
    options.add_argument("--erf_input", required=True)
    options.add_argument("--exit_on_error", choices=("0", "1"), required=True)
    options.add_argument("--smpiargs")
    options.add_argument("--launch_distribution")
    asked = options.parse_args(words)
    return list(ranks_of(Path(asked.erf_input).read_text().splitlines())), asked.command


def ranks_of(lines: list[str]) -> Iterator[Rank]:
    body = [line for line in lines if line not in HEADS]
    for number, line in enumerate(body):
        match = LINE.fullmatch(line)
        if match is None or int(match[1]) != number:
            sys.exit(f"jsrun: fake: not a line of an ERF: {line!r}")
        env = {"JSM_NAMESPACE_RANK": match[1], "JSM_NAMESPACE_SIZE": str(len(body)), "FAKE_CPUS": match[3]}
        yield Rank(match[2], env | ({"CUDA_VISIBLE_DEVICES": match[4]} if match[4] else {}))


def main() -> int:
    ranks, command = {"mpiexec": pals, "flux": flux, "jsrun": jsrun}[sys.argv[1]](sys.argv[2:])
    started = [subprocess.Popen(command, env={**os.environ, **rank.env, "FAKE_HOST": rank.host}) for rank in ranks]
    return max(process.wait() for process in started)


if __name__ == "__main__":
    sys.exit(main())
