"""The environment of a Job: the launcher's own without secrets and rank numbers, the App's, and what we promise.

Promised: BALSAM_JOB_ID, BALSAM_ATTEMPT, OMP_NUM_THREADS, BALSAM_CHECKPOINT_SIGNAL where there is one, and for Jobs
with GPUs, the same on each of their nodes, the variable by which their vendor's programs know which are theirs, also in
the variables of other vendors that the batch system set.
BALSAM_CLIENT_PATH names a file by which code of a Job may use `balsam.api` within its Site, until the allocation ends.
Every process of a Job is recognised by these marks (S9).
"""

from collections.abc import Mapping, Sequence

from balsam.domain.packing import Placement
from balsam.launcher.checkpoint import CHECKPOINT_ENV, NONE
from balsam.launcher.guardian_link import LINK_ENV
from balsam.launcher.machine_messages import LaunchJob
from balsam.launcher.proctable import ALLOCATION_ENV
from balsam.launcher.sweep import ATTEMPT_ENV, JOB_ENV
from balsam.platform.mpirun.base import without_rank_variables
from balsam.platform.node.gpus import GpuVendor
from balsam.platform.node.gpus import environment as gpu_environment

CLIENT_PATH = "BALSAM_CLIENT_PATH"
# What would let a Job act as its owner at the service, or hold the launcher's pipes for its own.
_SECRET = frozenset({"BALSAM_TOKEN", "BALSAM_URL", CLIENT_PATH, LINK_ENV})
_LAUNCHER_ONLY = frozenset({"BALSAM_ALLOCATION_END", CHECKPOINT_ENV})


class JobEnvironment:
    """Makes environments; `vendors` of the nodes' GPUs by node index."""

    def __init__(
        self,
        environ: Mapping[str, str],
        allocation: str,
        vendors: Sequence[GpuVendor | None],
        serial: bool,
        credentials_path: str | None = None,
        checkpoint_signal: str = NONE,
    ) -> None:
        dropped = _SECRET | _LAUNCHER_ONLY
        self._base = {name: value for name, value in without_rank_variables(environ).items() if name not in dropped} | {
            ALLOCATION_ENV: allocation,
            "BALSAM_JOB_MODE": "serial" if serial else "mpi",
        }
        self._checkpoint = {} if checkpoint_signal == NONE else {CHECKPOINT_ENV: checkpoint_signal}
        if credentials_path is not None:
            self._base[CLIENT_PATH] = credentials_path
        self._vendors = vendors
        self.shell_hooks = has_shell_hooks(self._base)

    @property
    def base(self) -> Mapping[str, str]:
        """What every Job gets."""
        return self._base

    def of_job(self, job: LaunchJob, placement: Placement, app: Mapping[str, str]) -> dict[str, str]:
        """What this Job gets in addition; its own marks win over everything."""
        threads = str(job.resources.threads_per_rank)
        marks = {JOB_ENV: str(job.id), ATTEMPT_ENV: str(job.attempt)}
        own = {"OMP_NUM_THREADS": threads, **self._checkpoint, **app, **marks}
        gpus = [gpu_environment(self._vendors[share.node], share.gpu_ids, self._base) for share in placement.shares]
        # One environment for all nodes: where they differ, nothing true can be said.
        if all(other == gpus[0] for other in gpus):
            own |= gpus[0]
        return own


def has_shell_hooks(environ: Mapping[str, str]) -> bool:
    """Whether bash would run something of the environment's own, so that leaving it out would make a difference."""
    return any(name == "BASH_ENV" or name.startswith("BASH_FUNC_") for name in environ)
