"""Whether the kernel killed something for want of memory: the counter of the control group that the launcher is in.

Asked by `children.py` when a Job ended by SIGKILL that was not ours. Reads cgroup v2 (`memory.events`) and v1
(`memory.oom_control`). Ranks that srun started may be in other groups: of them srun's own words tell
(`srun.OUT_OF_MEMORY`). The counter does not say whose process it was: a kill is put to the first Job that ends that way
after it, and to no second one. Where there is no such counter, nothing is ever said.
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

CGROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")
_SLURM_JOB = "job_"


class MemoryKills:
    """The kills so far, and those that were put to a Job."""

    def __init__(self, own_groups: Path = OWN_GROUPS, cgroups: Path = CGROUPS) -> None:
        self._counter = next(_counters(own_groups, cgroups), None)
        self._claimed = self._count()

    def claim(self) -> bool:
        """Whether something was killed that no Job was told of; it is told of now."""
        count = self._count()
        if count <= self._claimed:
            return False
        self._claimed += 1
        return True

    def _count(self) -> int:
        if self._counter is None:
            return 0
        try:
            lines = self._counter.read_text().splitlines()
        except OSError:
            return 0
        return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


def _counters(own_groups: Path, cgroups: Path) -> Iterator[Path]:
    try:
        lines = own_groups.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, name = line.split(":", 2)
        path = PurePosixPath(name)
        if controllers == "memory":  # v1 counts a kill in the killed one's own group only
            found = cgroups / "memory" / path.relative_to("/") / "memory.oom_control"
        elif not controllers:
            found = cgroups / _widened(path).relative_to("/") / "memory.events"
        else:
            continue
        if found.is_file():
            yield found


def _widened(group: PurePosixPath) -> PurePosixPath:
    """Of a Slurm job the whole of it: its steps have groups of their own, and what is killed there counts above."""
    for wider in (group, *group.parents):
        if wider.name.startswith(_SLURM_JOB):
            return wider
    return group
