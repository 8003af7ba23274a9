"""settings.yml of a Site: every key, its default and its check.

The keys are Balsam 0.7's where they mean the same. What the Site allows is decided here and nowhere else (S15): queues,
projects, options, Apps. `settings_file` reads the file and turns every fault into a sentence with its line.
"""

import logging as log_records
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from balsam.domain.job_order import JobOrder
from balsam.domain.transfers import CLIENT
from balsam.transfer.locations import GLOBUS, location_problem

Short = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f]*$")]
Value = Annotated[str, StringConstraints(max_length=256, pattern=r"^[^\x00-\x1f\x7f]*$")]
Uuid = Annotated[str, StringConstraints(pattern=r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$")]
Positive = Annotated[int, Field(ge=1)]
PositiveSec = Annotated[float, Field(gt=0)]
# Sections whose service `null` switches off, as in Balsam 0.7; one that is left out has its defaults.
OFF_BY_NULL = ("processing", "transfers", "file_cleaner", "queue_maintainer", "elastic_queue")


class Section(BaseModel):
    """A section of settings.yml. Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class LoggingSettings(Section):
    """`logging`: the agent's log file, log/agent.log."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = "INFO"
    format: str = "%(asctime)s.%(msecs)03d | %(process)d | %(levelname)s | %(name)s:%(lineno)s] %(message)s"
    datefmt: str = "%Y-%m-%d %H:%M:%S"
    max_bytes: Positive = 10_000_000
    backup_count: Annotated[int, Field(ge=0, le=1000)] = 5

    @field_validator("level", mode="before")
    @classmethod
    def _upper(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @field_validator("format")
    @classmethod
    def _works(cls, value: str) -> str:
        try:
            log_records.Formatter(value)
        except ValueError as error:
            raise ValueError(f"is no format for a log line: {error}") from error
        return value


class LauncherSettings(Section):
    """`launcher`: what the launchers of this Site are told."""

    idle_ttl_sec: PositiveSec = 60.0
    error_tail_num_lines: Annotated[int, Field(ge=0, le=1000)] = 10
    max_concurrent_mpiruns: Positive = 1000
    mpirun_allows_node_packing: bool = True
    mpirun_binds_cpus: bool = False
    sort_by: JobOrder | None = None
    compute_node: Short | None = None  # None: that of the scheduler
    mpi_app_launcher: Short | None = None  # Balsam's name of the top-level key `mpirun`
    kill_grace_sec: PositiveSec = 10.0
    checkpoint_signal: Literal["SIGUSR1", "SIGUSR2", "none"] = "none"
    checkpoint_lead_sec: PositiveSec = 120.0  # before SIGTERM, which comes up to 120 s before the end
    max_failed_starts_per_node: Annotated[int, Field(ge=0, le=1000)] = 3  # 0: no node is set aside


class QueueSettings(Section):
    """Limits of one queue; `max_walltime` in minutes, `max_queued_jobs` 0 for no limit."""

    max_nodes: Positive = 1
    max_walltime: Positive = 60
    max_queued_jobs: Annotated[int, Field(ge=0)] = 0


class SchedulerSettings(Section):
    """`scheduler`: which batch scheduler, and what may be asked of it through this Site."""

    scheduler_class: Short = "local"
    scheduler_options: dict[Short, bool | int | float | str] = {}
    sync_period: PositiveSec = 10.0
    allowed_queues: dict[Short, QueueSettings] = {"local": QueueSettings(max_nodes=1, max_walltime=1440)}
    allowed_projects: list[Short] = ["local"]
    optional_batch_job_params: dict[Short, Value] = {}
    job_template_path: str = "job-template.sh"

    @field_validator("optional_batch_job_params", mode="before")
    @classmethod
    def _as_text(cls, value: object) -> object:
        # YAML reads `shout: no` as a boolean; Balsam's own sample file has this very line.
        words = {True: "yes", False: "no"}
        if not isinstance(value, dict):
            return value
        return {
            key: words[item] if isinstance(item, bool) else str(item) if isinstance(item, int | float) else item
            for key, item in value.items()
        }


class AppsSettings(Section):
    """`apps`: what this Site runs (S15). `owner`: every App its owner synced; `pinned`: only approved ones.

    `python` false: no Python code of an App is loaded here, whoever approved it.
    """

    accept: Literal["owner", "pinned"] = "owner"
    python: bool = True


class ProcessingSettings(Section):
    """`processing`: the hooks of Apps, run by the agent; `prefetch_depth`: the most Jobs that it holds for them."""

    num_workers: Annotated[int, Field(ge=1, le=1000)] = 5
    prefetch_depth: Positive = 1000
    hook_time_limit_sec: PositiveSec = 600.0


class FileCleanerSettings(Section):
    """`file_cleaner`: removes what Apps name in `cleanup_files` from the workdirs of Jobs that have finished."""

    cleanup_batch_size: Annotated[int, Field(ge=1, le=10_000)] = 180
    service_period: PositiveSec = 30.0


class NodeSettings(Section):
    """`node`: what one node has, where detection is wrong or shall be limited. None: detect."""

    cpus: Positive | None = None
    gpus: Annotated[int, Field(ge=0)] | list[Short] | None = None


class TransferSettings(Section):
    """`transfers`: which locations Jobs may name (S15), and how files are moved. `client`: the machine that submits."""

    client: bool = True
    transfer_locations: dict[Short, str] = {}
    max_concurrent_transfers: Positive = 5
    transfer_batch_size: Annotated[int, Field(ge=1, le=1000)] = 100
    num_items_query_limit: Annotated[int, Field(ge=1, le=10_000)] = 2000
    service_period: PositiveSec = 30.0
    retry_for_min: Annotated[float, Field(ge=0)] = 60.0
    globus_endpoint_id: Uuid | None = None
    globus_endpoint_site_path: Annotated[str, StringConstraints(pattern=r"^/[^\x00-\x1f\x7f]*$")] | None = None
    globus_client_id: Uuid | None = None

    @model_validator(mode="after")
    def _both_ends(self) -> "TransferSettings":
        needing = [alias for alias, url in self.transfer_locations.items() if urlsplit(url).scheme == GLOBUS]
        if needing and self.globus_endpoint_id is None:
            raise ValueError(f"needs globus_endpoint_id, the collection that this Site is on, for {needing[0]!r}")
        return self

    @field_validator("transfer_locations")
    @classmethod
    def _can_be_used(cls, value: dict[str, str]) -> dict[str, str]:
        for alias, url in value.items():
            if alias == CLIENT:
                raise ValueError(f"has {CLIENT!r}, which is the machine that submits; choose another name")
            if why := location_problem(url):
                raise ValueError(f"has {alias!r}: {why}")
        return value

    @property
    def offered(self) -> dict[str, str]:
        """All locations by alias, as the service is told of them."""
        return ({CLIENT: f"{CLIENT}:"} if self.client else {}) | self.transfer_locations


NodeHours = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class BudgetSettings(Section):
    """`budget`: what the Site's allocations may use together, and those with the filter tag `campaign=NAME`."""

    max_node_hours: NodeHours | None = None
    campaigns: dict[Short, NodeHours] = {}


class QueueMaintainerSettings(Section):
    """`queue_maintainer`: keeps so many allocations waiting or running, whether anything waits for them or not."""

    submit_period: PositiveSec = 60.0
    submit_project: Short
    submit_queue: Short
    job_mode: Literal["mpi", "serial"] = "mpi"
    num_queued_jobs: Positive = 5
    num_nodes: Positive = 1
    wall_time_min: Positive = 1


class ElasticQueueSettings(Section):
    """`elastic_queue`: asks for allocations for what waits. None: as much as the queue allows."""

    service_period: PositiveSec = 60.0
    submit_project: Short
    submit_queue: Short
    job_mode: Literal["mpi", "serial"] = "mpi"
    min_wall_time_min: Positive = 35
    max_wall_time_min: Positive | None = None
    wall_time_pad_min: Annotated[int, Field(ge=0)] = 5
    min_num_nodes: Positive = 1
    max_num_nodes: Positive | None = None
    max_queue_wait_time_min: Positive = 10
    max_queued_jobs: Positive = 20
    use_backfill: bool = True


class Settings(Section):
    """All of settings.yml.

    >>> Settings().scheduler.allowed_queues["local"].max_walltime
    1440
    """

    logging: LoggingSettings = LoggingSettings()
    filter_tags: dict[Short, Value] = {}
    launcher: LauncherSettings = LauncherSettings()
    scheduler: SchedulerSettings = SchedulerSettings()
    apps: AppsSettings = AppsSettings()
    node: NodeSettings = NodeSettings()
    mpirun: Short | None = None
    processing: ProcessingSettings | None = ProcessingSettings()
    transfers: TransferSettings | None = TransferSettings()
    file_cleaner: FileCleanerSettings | None = FileCleanerSettings()
    budget: BudgetSettings = BudgetSettings()
    queue_maintainer: QueueMaintainerSettings | None = None
    elastic_queue: ElasticQueueSettings | None = None

    @model_validator(mode="after")
    def _one_mpirun(self) -> "Settings":
        if self.mpirun and self.launcher.mpi_app_launcher:
            raise ValueError("mpirun and launcher.mpi_app_launcher are two names of one setting; keep one of them")
        return self

    @property
    def mpirun_name(self) -> str:
        """The mpirun back end to use: a registered name, or `auto` to detect it."""
        return self.mpirun or self.launcher.mpi_app_launcher or "auto"


# Keys of Balsam 0.7 that mean nothing here; kept as words so that an old file gets an answer and not a guess.
GONE = {
    "launcher.delay_sec": "this launcher does not poll",
    "launcher.local_app_launcher": "serial Jobs are always started directly",
    "launcher.serial_mode_prefetch_per_rank": "the launcher holds as many Jobs in reserve as its pace asks for",
    "launcher.serial_mode_startup_params": "serial mode starts its workers by itself",
    "logging.buffer_num_records": "log lines are written at once",
    "logging.flush_period": "log lines are written at once",
}
