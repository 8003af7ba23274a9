"""Nodes of an allocation as a batch system names them, with what each has.

Used by the node types of batch systems. The launcher can look at its own machine only: what it finds there (cores that
may be used, GPUs and their vendor) holds for the other nodes too, unless the batch system or settings.yml says how many
cores a node has. Machines whose nodes differ need one Site, or one partition of the batch system, for each kind.
"""

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from balsam.platform.node.base import NodeInfo, NodeOptions
from balsam.platform.node.local import LocalNodes

_TIMEOUT_SEC = 30.0


class NodesUnknown(ValueError):
    """The batch system does not say, or not in words that are understood, which nodes the allocation has."""


@dataclass(frozen=True, slots=True)
class Host:
    """A node by the name that an mpirun takes. `cpus` None: the batch system does not say."""

    name: str
    cpus: int | None = None


def allocated_nodes(
    hosts: Sequence[Host], options: NodeOptions, environ: Mapping[str, str], own_name: str = ""
) -> list[NodeInfo]:
    """A NodeInfo for each host, that of this machine first; `own_name` is its name where it is known.

    Raises NodesUnknown when there is no host.
    """
    if not hosts:
        raise NodesUnknown("the batch system names no node of this allocation")
    own_name = own_name or os.uname().nodename
    (found,) = LocalNodes().nodes(options, {**environ, "BALSAM_NUM_NODES": "1"})
    made = [_node(host, found, options, _is_here(host.name, own_name)) for host in hosts]
    if len(made) > 1 or not made[0].is_here:
        note = f"{len(made)} nodes: {_shortened([host.name for host in hosts])}; what this machine has holds for all"
        made = [_with_note(node, note) for node in made]
    return sorted(made, key=lambda node: not node.is_here)


def ask(words: Sequence[str], environ: Mapping[str, str]) -> str:
    """What a command of the batch system prints. Raises NodesUnknown."""
    try:
        answer = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIMEOUT_SEC, check=False, env=dict(environ)
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NodesUnknown(f"{' '.join(words)} does not tell the nodes of the allocation: {error}") from error
    if answer.returncode != 0:
        said = answer.stderr.decode(errors="replace").strip()[-300:]
        raise NodesUnknown(f"{' '.join(words)} ended with {answer.returncode}: {said}")
    return answer.stdout.decode(errors="replace")


def _node(host: Host, found: NodeInfo, options: NodeOptions, is_here: bool) -> NodeInfo:
    cpu_ids = found.cpu_ids
    if options.cpus is None and host.cpus is not None and host.cpus != len(cpu_ids):
        # Fewer than this process may use: which ones is not told. More: the numbers of a whole node.
        cpu_ids = cpu_ids[: host.cpus] if host.cpus < len(cpu_ids) else tuple(range(host.cpus))
    return NodeInfo(host.name, cpu_ids, found.gpu_ids, found.memory_bytes, found.gpu_vendor, found.notes, is_here)


def _with_note(node: NodeInfo, note: str) -> NodeInfo:
    return NodeInfo(
        node.name, node.cpu_ids, node.gpu_ids, node.memory_bytes, node.gpu_vendor, (*node.notes, note), node.is_here
    )


def _is_here(name: str, own_name: str) -> bool:
    """Names may come with or without a domain."""
    return name.partition(".")[0] == own_name.partition(".")[0]


def _shortened(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 8 else f"{', '.join(names[:4])} ... {names[-1]}"
