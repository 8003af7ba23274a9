"""The launcher's command line, as the batch script calls it: finds the nodes, cuts partitions, becomes the guardian.

`python -m balsam.launcher --config launcher.json -j mpi|serial -t MINUTES [--tag=K=V]... [-p MODE:NODES[:K=V]...]...`
Each partition takes the Jobs that have the tags of `--tag` and its own; its own value of a tag stands. With one
partition this process turns into its guardian (exec); with several it starts a guardian for each, passes signals on
and waits for all of them.
"""

import argparse
import contextlib
import json
import logging
import os
import signal
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from balsam.client.credentials import write_secret_file
from balsam.client.errors import CredentialsError
from balsam.domain.partitions import parse_partition, parse_tags
from balsam.domain.states import JobMode
from balsam.launcher import guardian
from balsam.launcher.config import LauncherConfig, LauncherConfigError
from balsam.launcher.partition import Partition, PartitionNode
from balsam.launcher.time_left import wall_time_sec
from balsam.platform.node.base import NodeOptions
from balsam.platform.node.local import NUM_NODES
from balsam.platform.registry import NODES

log = logging.getLogger("balsam.launcher")


@dataclass(frozen=True, slots=True)
class Slice:
    """A partition with all its tags. `num_nodes` None: all."""

    serial: bool
    num_nodes: int | None
    filter_tags: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class CommandLine:
    """What the batch script said."""

    config_path: Path
    wall_time_sec: float
    slices: tuple[Slice, ...]


def parse_arguments(argv: Sequence[str]) -> CommandLine:
    """Raises LauncherConfigError."""
    parser = _Parser(prog="balsam.launcher", allow_abbrev=False)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("-j", "--job-mode", choices=[mode.value for mode in JobMode], required=True)
    parser.add_argument("-t", "--wall-time-min", type=float, required=True)
    parser.add_argument("--tag", action="append", default=[])
    parser.add_argument("-p", "--part", action="append", default=[])
    given = parser.parse_args(argv)
    if not 0 < given.wall_time_min < float("inf"):
        raise LauncherConfigError(f"-t {given.wall_time_min:g}: the wall time must be more than 0 minutes")
    try:
        slices = _slices(JobMode(given.job_mode), parse_tags(given.tag), given.part)
    except ValueError as error:
        raise LauncherConfigError(str(error)) from None
    return CommandLine(given.config, given.wall_time_min * 60, slices)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise LauncherConfigError(f"{message}; it is called as: {self.format_usage().strip()}")


def _slices(job_mode: JobMode, tags: Mapping[str, str], parts: Sequence[str]) -> tuple[Slice, ...]:
    if not parts:
        return (Slice(job_mode is JobMode.SERIAL, None, tags),)
    asked = [parse_partition(text) for text in parts]
    return tuple(Slice(part.job_mode is JobMode.SERIAL, part.num_nodes, {**tags, **part.filter_tags}) for part in asked)


def make_partitions(line: CommandLine, config: LauncherConfig, environ: Mapping[str, str]) -> list[Partition]:
    """Deal the nodes of the allocation out to the partitions, in order. Raises LauncherConfigError."""
    node_type = NODES.load(config.compute_node)()
    environ = {NUM_NODES: str(config.num_nodes), **environ}
    found = node_type.nodes(NodeOptions(config.node_cpus, config.node_gpus), environ)
    for note in dict.fromkeys(note for info in found for note in info.notes):
        log.info("%s", note)
    nodes = [PartitionNode(info.name, info.cpu_ids, info.gpu_ids, info.gpu_vendor, info.is_here) for info in found]
    wanted = sum(part.num_nodes or len(nodes) for part in line.slices)
    if wanted > len(nodes):
        raise LauncherConfigError(f"the partitions take {wanted} nodes, and the allocation has {len(nodes)}")
    seconds = wall_time_sec(line.wall_time_sec, config, node_type.scheduler_id(environ))
    partitions = []
    for index, part in enumerate(line.slices):
        count = part.num_nodes or len(nodes)
        mine, nodes = nodes[:count], nodes[count:]
        partitions.append(
            Partition(
                config=config,
                index=index,
                serial=part.serial,
                nodes=tuple(mine),
                wall_time_sec=seconds,
                filter_tags=part.filter_tags,
            )
        )
    return partitions


def write_guardian_files(partition: Partition) -> list[str]:
    """The files of one partition's guardian and launcher; returns the words that start the guardian."""
    directory = Path(partition.config.directory)
    partition_path = directory / f"partition-{partition.index}.json"
    write_secret_file(partition_path, partition.to_json())
    margin = partition.margin_sec
    guardian_config = {
        "argv": [sys.executable, "-m", "balsam.launcher.entry", str(partition_path)],
        # Of this start alone: an earlier allocation of the same BatchJob may still be dying on this machine.
        "allocation": f"{directory.name}.{partition.index}.{uuid.uuid4().hex}",
        "wall_time_sec": partition.wall_time_sec,
        # The launcher begins to drain by itself a little earlier.
        "kill_margin_sec": margin * 0.8,
        "hard_margin_sec": margin * 0.1,
        "kill_grace_sec": partition.config.kill_grace_sec + 25.0,
    }
    guardian_path = directory / f"guardian-{partition.index}.json"
    write_secret_file(guardian_path, json.dumps(guardian_config))
    return [sys.executable, "-S", "-E", guardian.__file__, str(guardian_path)]


def watch_guardians(commands: list[list[str]]) -> int:
    """Start a guardian for each partition, pass signals on, wait; returns the worst status."""
    # Blocked for good and waited for: a handler would not run when a signal comes on the way into a wait.
    waited_for = (*guardian.STOP_SIGNALS, signal.SIGCHLD)
    signal.pthread_sigmask(signal.SIG_BLOCK, waited_for)
    pids = {os.posix_spawn(argv[0], argv, os.environ, setsid=True, setsigmask=()) for argv in commands}
    worst = 0
    while pids:
        number = signal.sigwait(waited_for)
        if number == signal.SIGCHLD:
            for pid, status in _ended_children():
                if pid in pids:
                    pids.discard(pid)
                    code = os.waitstatus_to_exitcode(status)
                    worst = max(worst, code if code >= 0 else 128 - code)
        elif signal.getsignal(number) is not signal.SIG_IGN:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
    return worst


def _ended_children() -> Iterator[tuple[int, int]]:
    """Pid and status of every child that has ended; signals of several arrive as one."""
    with contextlib.suppress(ChildProcessError):  # the last one
        while (ended := os.waitpid(-1, os.WNOHANG))[0] != 0:
            yield ended


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns only with several partitions, or when something is wrong."""
    logging.basicConfig(format="%(asctime)s %(name)s[%(process)d]: %(message)s", level=logging.INFO)
    try:
        line = parse_arguments(sys.argv[1:] if argv is None else argv)
        config = LauncherConfig.read(line.config_path)
        partitions = make_partitions(line, config, os.environ)
        commands = [write_guardian_files(partition) for partition in partitions]
    except (LauncherConfigError, CredentialsError, LookupError, ImportError, OSError, ValueError) as error:
        log.error("%s", error)
        return guardian.EXIT_CONFIG
    if len(commands) == 1:
        os.execv(commands[0][0], commands[0])  # noqa: S606 - no shell is wanted
    return watch_guardians(commands)
