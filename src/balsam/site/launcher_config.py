"""What this Site's settings mean for a launcher: the content of launcher.json."""

from collections.abc import Callable
from pathlib import Path

from balsam.launcher.config import LauncherConfig
from balsam.platform.registry import NODES, SCHEDULERS
from balsam.site.approvals import approved_apps
from balsam.site.directory import SiteDirectory
from balsam.site.services.submission import CREDENTIALS, JOB_CREDENTIALS
from balsam.site.settings import Settings
from balsam.wire.batch_jobs import BatchJobView


def launcher_config_maker(site: SiteDirectory, settings: Settings, site_id: int) -> Callable[[BatchJobView, Path], str]:
    """A function (BatchJob, its directory) -> JSON text. The approved Apps are read anew for each allocation."""
    launcher = settings.launcher
    scheduler = SCHEDULERS.plain_name(settings.scheduler.scheduler_class)
    pretends = scheduler == "local"
    node_type = launcher.compute_node or (scheduler if scheduler in NODES.names() else "local")

    def make(job: BatchJobView, directory: Path) -> str:
        pinned = list(approved_apps(site)) if settings.apps.accept == "pinned" else None
        return LauncherConfig(
            site_id=site_id,
            site_path=str(site.root),
            data_path=str(site.data),
            directory=str(directory),
            credentials_path=str(directory / CREDENTIALS),
            job_credentials_path=str(directory / JOB_CREDENTIALS),
            batch_job_id=job.id,
            num_nodes=job.num_nodes if pretends else 1,
            scheduler=None if pretends else scheduler,
            compute_node=node_type,
            node_cpus=settings.node.cpus,
            node_gpus=settings.node.gpus,
            mpirun=settings.mpirun_name,
            mpirun_allows_node_packing=launcher.mpirun_allows_node_packing,
            mpirun_binds_cpus=launcher.mpirun_binds_cpus,
            max_concurrent_mpiruns=launcher.max_concurrent_mpiruns,
            sort_by=launcher.sort_by or "fifo",
            idle_ttl_sec=launcher.idle_ttl_sec,
            max_failed_starts_per_node=launcher.max_failed_starts_per_node,
            kill_grace_sec=launcher.kill_grace_sec,
            checkpoint_signal=launcher.checkpoint_signal,
            checkpoint_lead_sec=launcher.checkpoint_lead_sec,
            error_tail_num_lines=launcher.error_tail_num_lines,
            pinned_apps=pinned,
            python_apps=settings.apps.python,
        ).to_json()

    return make
