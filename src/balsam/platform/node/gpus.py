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
from pathlib import Path

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
# Obeyed by what stands on AMD's lowest layer, HIP and OpenCL: they count the GPUs that ROCR_VISIBLE_DEVICES left them.
_ABOVE_ROCR = frozenset({"CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL"})
VARIABLES = frozenset(_VARIABLES.values()) | _ABOVE_ROCR
# What the vendor's driver puts there. Intel's has none that tells a GPU for computing from one for a screen.
_DEVICES = {GpuVendor.NVIDIA: "dev/nvidiactl", GpuVendor.AMD: "dev/kfd"}
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


def environment(
    vendor: GpuVendor | None, gpu_ids: Sequence[str], given: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Variables that give a Job these GPUs of its node, each once; nothing for a Job without GPUs.

    `given` is the environment of the allocation. Slurm sets the variables of all vendors when nobody told it whose GPUs
    it has: the Job's are then said in each of them.

    >>> environment(GpuVendor.AMD, ["2", "2", "3"], {"CUDA_VISIBLE_DEVICES": "0,1,2,3"})
    {'ROCR_VISIBLE_DEVICES': '2,3', 'CUDA_VISIBLE_DEVICES': '0,1'}
    """
    if vendor is None or not gpu_ids:
        return {}
    own = list(dict.fromkeys(gpu_ids))
    variables = {_VARIABLES[vendor]: ",".join(own)}
    if vendor is GpuVendor.NVIDIA:
        # nvidia-smi counts in this order; CUDA's own default is "fastest first".
        variables["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    return variables | _in_others(vendor, own, given or {})


def _in_others(vendor: GpuVendor, own: Sequence[str], given: Mapping[str, str]) -> dict[str, str]:
    """The same GPUs in the other variables: those at the same places, or counted anew where AMD's layers count so."""
    all_own = _visible(given.get(_VARIABLES[vendor], ""))
    made: dict[str, str] = {}
    for name in sorted(VARIABLES & given.keys() - {_VARIABLES[vendor]}):
        if vendor is GpuVendor.AMD and name in _ABOVE_ROCR:
            made[name] = ",".join(str(number) for number in range(len(own)))
            continue
        there = _visible(given[name])
        if len(there) == len(all_own) and set(own) <= set(all_own):
            made[name] = ",".join(there[all_own.index(gpu)] for gpu in own)
    return made


def find(wanted: int | Sequence[str] | None, environ: Mapping[str, str], root: Path = Path("/")) -> Gpus:
    """The GPUs to use: what the setting says, else what the batch system allows, else what the machine lists."""
    vendor = _vendor(environ, root)
    if wanted is not None:
        ids, reason = _set(wanted, environ, vendor)
        return Gpus(ids, (vendor or GpuVendor.NVIDIA) if ids else None, reason)
    if vendor is not None and _VARIABLES[vendor] in environ:
        variable = _VARIABLES[vendor]
        ids = _visible(environ[variable])
        return Gpus(ids, vendor if ids else None, f"{len(ids)} GPUs by {variable}={environ[variable]}")
    for lister, command in _LISTINGS.items():
        listed = _list(lister, command, environ)
        if listed:
            return Gpus(listed, lister, f"{len(listed)} GPUs listed by {command[0]}")
    return Gpus((), None, "no GPUs: none is listed by nvidia-smi, rocm-smi or xpu-smi")


def _set(
    wanted: int | Sequence[str], environ: Mapping[str, str], vendor: GpuVendor | None
) -> tuple[tuple[str, ...], str]:
    """What the setting says. A number is one of the GPUs that the batch system gave, where it says which: others of the
    node may be somebody else's.
    """
    if not isinstance(wanted, int):
        return tuple(wanted), f"{len(wanted)} GPUs by setting node.gpus"
    variable = "" if vendor is None else _VARIABLES[vendor]
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


def _vendor(environ: Mapping[str, str], root: Path) -> GpuVendor | None:
    """Whose GPUs these are: of the vendors that the batch system names, if it does, the one who is seen here."""
    named = [vendor for vendor, variable in _VARIABLES.items() if variable in environ]
    if len(named) == 1:
        return named[0]
    candidates = named or list(GpuVendor)
    for vendor in candidates:
        if vendor in _DEVICES and (root / _DEVICES[vendor]).exists():
            return vendor
    for vendor in candidates:
        if shutil.which(_LISTINGS[vendor][0], path=environ.get("PATH")):
            return vendor
    return next((vendor for vendor in named if _visible(environ[_VARIABLES[vendor]])), named[0] if named else None)


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
