"""Which GPUs this machine has, and how a Job is told which are its own.

Used by node types and, for `environment`, by the launcher when it starts a Job.
"""

import csv
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

_TIMEOUT_SEC = 20.0


class GpuVendor(StrEnum):
    """Who made the GPU, which decides the variable that programs obey."""

    NVIDIA = "nvidia"
    AMD = "amd"
    INTEL = "intel"


_VARIABLES = {
    GpuVendor.NVIDIA: "CUDA_VISIBLE_DEVICES",
    GpuVendor.AMD: "ROCR_VISIBLE_DEVICES",
    GpuVendor.INTEL: "ZE_AFFINITY_MASK",
}
VARIABLES = frozenset(_VARIABLES.values())
# A number, a tile of one at Intel, or a name that a vendor gave: GPU-8f3a..., MIG-8f3a....
_ID = re.compile(r"\d+(\.\d+)?|[A-Za-z]+-[\w/-]+")
_LISTINGS = {
    GpuVendor.NVIDIA: ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"],
    GpuVendor.AMD: ["rocm-smi", "--showid", "--csv"],
    GpuVendor.INTEL: ["xpu-smi", "discovery", "--dump", "1"],
}


@dataclass(frozen=True, slots=True)
class Gpus:
    """Usable GPUs and how that is known. Ids are as the vendor's variable takes them: numbers or UUIDs."""

    ids: tuple[str, ...]
    vendor: GpuVendor | None
    reason: str


def environment(vendor: GpuVendor | None, gpu_ids: Sequence[str]) -> dict[str, str]:
    """Variables that give a Job these GPUs of its node, each once; nothing for a Job without GPUs.

    >>> environment(GpuVendor.AMD, ["0", "0", "1"])
    {'ROCR_VISIBLE_DEVICES': '0,1'}
    """
    if vendor is None or not gpu_ids:
        return {}
    variables = {_VARIABLES[vendor]: ",".join(dict.fromkeys(gpu_ids))}
    if vendor is GpuVendor.NVIDIA:
        # nvidia-smi counts in this order; CUDA's own default is "fastest first".
        variables["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    return variables


def find(wanted: int | Sequence[str] | None, environ: Mapping[str, str]) -> Gpus:
    """The GPUs to use: what the setting says, else what the batch system allows, else what the machine lists."""
    if wanted is not None:
        ids, reason = _set(wanted, environ)
        vendor = _vendor_here(environ) or (GpuVendor.NVIDIA if ids else None)
        return Gpus(ids, vendor if ids else None, reason)
    for vendor, variable in _VARIABLES.items():
        if variable in environ:
            ids = _visible(environ[variable])
            return Gpus(ids, vendor if ids else None, f"{len(ids)} GPUs by {variable}={environ[variable]}")
    for vendor, command in _LISTINGS.items():
        listed = _list(vendor, command, environ)
        if listed:
            return Gpus(listed, vendor, f"{len(listed)} GPUs listed by {command[0]}")
    return Gpus((), None, "no GPUs: none is listed by nvidia-smi, rocm-smi or xpu-smi")


def _set(wanted: int | Sequence[str], environ: Mapping[str, str]) -> tuple[tuple[str, ...], str]:
    """What the setting says. A number is one of the GPUs that the batch system gave, where it says which: others of the
    node may be somebody else's.
    """
    if not isinstance(wanted, int):
        return tuple(wanted), f"{len(wanted)} GPUs by setting node.gpus"
    for variable in _VARIABLES.values():
        allowed = _visible(environ.get(variable, ""))
        if allowed:
            ids = allowed[:wanted]
            return ids, f"{len(ids)} GPUs by setting node.gpus: {wanted}, of {variable}={environ[variable]}"
    return tuple(str(number) for number in range(wanted)), f"{wanted} GPUs by setting node.gpus"


def _visible(value: str) -> tuple[str, ...]:
    """CUDA's reading: the list ends at the first word that is no id, such as -1 or Slurm's NoDevFiles."""
    ids: list[str] = []
    for word in value.split(","):
        if not _ID.fullmatch(word.strip()):
            break
        ids.append(word.strip())
    return tuple(ids)


def _vendor_here(environ: Mapping[str, str]) -> GpuVendor | None:
    for vendor, variable in _VARIABLES.items():
        if variable in environ:
            return vendor
    for vendor, command in _LISTINGS.items():
        if shutil.which(command[0], path=environ.get("PATH")):
            return vendor
    return None


def _list(vendor: GpuVendor, command: list[str], environ: Mapping[str, str]) -> tuple[str, ...]:
    program = shutil.which(command[0], path=environ.get("PATH"))
    if program is None:
        return ()
    try:
        answer = subprocess.run(
            [program, *command[1:]],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT_SEC,
            check=False,
            env=dict(environ),
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    if answer.returncode != 0:
        return ()
    return _ids(vendor, answer.stdout.decode(errors="replace"))


def _ids(vendor: GpuVendor, text: str) -> tuple[str, ...]:
    """First column of the listing: `0`, `card0,...` or `0,"..."`, after a header at AMD and Intel."""
    ids: list[str] = []
    for row in csv.reader(text.splitlines()):
        first = re.fullmatch(r"card(\d+)" if vendor is GpuVendor.AMD else r"(\d+)", row[0].strip()) if row else None
        if first:
            ids.append(first[1])
    return tuple(ids)
