"""Finding back ends by name: schedulers, mpiruns and node types, ours and those that other packages bring.

Used by the agent, the launcher and `balsam doctor`. A package adds a back end with an entry point in the group
(`balsam.schedulers`, `balsam.mpiruns`, `balsam.nodes`); ours are registered the same way and stand here too, so that a
source tree works before it is installed. A back end is imported when it is asked for and not earlier: one that is
broken is no trouble to those who use another.
"""

import difflib
from collections.abc import Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

_LEGACY_CLASSES = {
    "LocalProcessScheduler": "local",
    "SlurmScheduler": "slurm",
    "PBSScheduler": "pbs",
    "LsfScheduler": "lsf",
    "MPICHRun": "mpich",
    "OpenMPIRun": "openmpi",
    "LocalAppRun": "plain",
    "AuroraRun": "pals",
    "PerlmutterRun": "srun",
    "PolarisRun": "pals",
    "SlurmRun": "srun",
    "DefaultNode": "local",
}


class UnknownBackEnd(LookupError):
    """No back end has this name; the text names the nearest one."""


class BackEndBroken(ImportError):
    """The back end is registered but can't be used: its import failed, or two packages claim its name."""


class BackEnds:
    """The back ends of one group.

    `builtin` maps names to `module:attribute`; `found` overrides what the installed packages declare (tests).

    >>> SCHEDULERS.load("local").__name__
    'LocalScheduler'
    """

    def __init__(self, group: str, builtin: Mapping[str, str], found: Iterable[EntryPoint] | None = None) -> None:
        self.group = group
        self.builtin = builtin
        self._found = found
        self._targets: dict[str, dict[str, str]] | None = None

    def names(self) -> list[str]:
        """Names that can be asked for, sorted; those of broken back ends too."""
        return sorted(self._claims())

    def plain_name(self, name: str) -> str:
        """The name without the class path that Balsam 0.7 had.

        >>> SCHEDULERS.plain_name("balsam.platform.scheduler.SlurmScheduler")
        'slurm'
        """
        return _LEGACY_CLASSES.get(name.rpartition(".")[2], name)

    def load(self, name: str) -> Any:
        """The object registered as `name`; class paths of Balsam 0.7 settings (`...app_run.MPICHRun`) are understood.

        Raises UnknownBackEnd, or BackEndBroken with the reason.
        """
        wanted = self.plain_name(name)
        claims = self._claims().get(wanted)
        if claims is None:
            near = difflib.get_close_matches(wanted, self.names(), n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(self.names())}"
            raise UnknownBackEnd(f"{self.group} has no {name!r}; {hint}")
        if len(claims) > 1:
            rivals = " and ".join(f"{target} (from {source})" for target, source in sorted(claims.items()))
            raise BackEndBroken(f"{self.group}: {wanted!r} is claimed by {rivals}; uninstall one of them")
        ((target, source),) = claims.items()
        try:
            return EntryPoint(wanted, target, self.group).load()
        except (ImportError, AttributeError) as error:
            raise BackEndBroken(f"{self.group}: {wanted!r} ({target}, from {source}) fails: {error}") from error

    def _claims(self) -> dict[str, dict[str, str]]:
        """Name -> {target: who declares it}; one target declared twice is one claim."""
        if self._targets is None:
            claims = {name: {target: "balsam"} for name, target in self.builtin.items()}
            for entry in entry_points(group=self.group) if self._found is None else self._found:
                source = entry.dist.name if entry.dist else "an unnamed package"
                claims.setdefault(entry.name, {}).setdefault(entry.value, source)
            self._targets = claims
        return self._targets


SCHEDULERS = BackEnds(
    "balsam.schedulers",
    {
        "flux": "balsam.platform.scheduler.flux:Flux",
        "gridengine": "balsam.platform.scheduler.grid_engine:GridEngine",
        "local": "balsam.platform.scheduler.local:LocalScheduler",
        "lsf": "balsam.platform.scheduler.lsf:Lsf",
        "pbs": "balsam.platform.scheduler.pbs:Pbs",
        "slurm": "balsam.platform.scheduler.slurm:Slurm",
    },
)
MPIRUNS = BackEnds(
    "balsam.mpiruns",
    {
        "flux": "balsam.platform.mpirun.flux:FluxRun",
        "mpich": "balsam.platform.mpirun.mpich:Mpich",
        "intelmpi": "balsam.platform.mpirun.mpich:IntelMpi",
        "jsrun": "balsam.platform.mpirun.jsrun:Jsrun",
        "openmpi": "balsam.platform.mpirun.openmpi:OpenMpi",
        "pals": "balsam.platform.mpirun.pals:Pals",
        "plain": "balsam.platform.mpirun.plain:Plain",
        "srun": "balsam.platform.mpirun.srun:Srun",
    },
)
NODES = BackEnds(
    "balsam.nodes",
    {
        "flux": "balsam.platform.node.flux:FluxNodes",
        "gridengine": "balsam.platform.node.grid_engine:GridEngineNodes",
        "local": "balsam.platform.node.local:LocalNodes",
        "lsf": "balsam.platform.node.lsf:LsfNodes",
        "pbs": "balsam.platform.node.pbs:PbsNodes",
        "slurm": "balsam.platform.node.slurm:SlurmNodes",
    },
)
