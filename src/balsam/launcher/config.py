"""What a launcher is told: `launcher.json`, written by the Site's agent beside the batch script, mode 0600.

The agent makes a `LauncherConfig` and writes `to_json()`; `python -m balsam.launcher --config FILE` reads it. Job mode,
wall time, tags and partitions are not in here: they come on the command line of the batch script.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from balsam.domain.lease import LeaseKind
from balsam.launcher.checkpoint import NONE, WANTED, is_checkpoint_signal

MAX_SIZE_BYTES = 4 * 1024 * 1024


class LauncherConfigError(ValueError):
    """launcher.json, or the launcher's command line, can't be used; the text says why."""


@dataclass(frozen=True, slots=True)
class LauncherConfig:
    """All settings of a launcher. Paths are absolute; `directory` is the BatchJob's own, where outboxes are kept.

    `num_nodes`: a machine without a batch system deals its cores out to so many nodes. `scheduler`: the batch system
    that can tell how long the allocation still has; None: nobody is asked.
    `node_cpus`, `node_gpus` override detection. `pinned_apps`: hashes of the only Apps that may run (S15);
    None runs what the Site's owner synced. `python_apps` False: no Python code of Apps is loaded.
    `job_credentials_path`: what code of Jobs may use the service with; None: nothing.
    """

    site_id: int
    site_path: str
    data_path: str
    directory: str
    credentials_path: str
    batch_job_id: int | None = None
    lease_kind: LeaseKind = LeaseKind.ALLOCATION
    num_nodes: int = 1
    scheduler: str | None = None
    compute_node: str = "local"
    node_cpus: int | None = None
    node_gpus: int | list[str] | None = None
    mpirun: str = "auto"
    mpirun_allows_node_packing: bool = True
    mpirun_binds_cpus: bool = False
    max_concurrent_mpiruns: int = 1000
    sort_by: str = "fifo"
    idle_ttl_sec: float = 60.0
    max_failed_starts_per_node: int = 3
    kill_grace_sec: float = 10.0
    checkpoint_signal: str = NONE
    checkpoint_lead_sec: float = 120.0
    error_tail_num_lines: int = 10
    pinned_apps: list[str] | None = None
    python_apps: bool = True
    job_credentials_path: str | None = None

    def to_json(self) -> str:
        """The content of launcher.json."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> LauncherConfig:
        """Read and check. Raises LauncherConfigError, which names the field."""
        try:
            data = json.loads(text)
        except ValueError as error:
            raise LauncherConfigError(f"not JSON: {error}") from None
        if not isinstance(data, dict):
            raise LauncherConfigError("must be a JSON object")
        types = {field.name: str(field.type) for field in fields(cls)}
        if unknown := sorted(set(data) - set(types)):
            raise LauncherConfigError(f"unknown field {unknown[0]!r}; agent and launcher are of different versions")
        for name, value in data.items():
            _check(name, types[name], value)
        try:
            if "lease_kind" in data:
                data["lease_kind"] = LeaseKind(data["lease_kind"])
            config = cls(**data)
        except (TypeError, ValueError) as error:
            raise LauncherConfigError(str(error).replace("LauncherConfig.__init__()", "launcher.json")) from None
        for name in ("site_path", "data_path", "directory", "credentials_path"):
            if not getattr(config, name).startswith("/"):
                raise LauncherConfigError(f"{name} must be an absolute path")
        if not is_checkpoint_signal(config.checkpoint_signal):
            raise LauncherConfigError(f"checkpoint_signal is {config.checkpoint_signal!r}; {WANTED}")
        return config

    @classmethod
    def read(cls, path: Path) -> LauncherConfig:
        """Read a file. Raises LauncherConfigError."""
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise LauncherConfigError(f"{path} can't be read: {error}") from error
        try:
            return cls.from_json(text)
        except LauncherConfigError as error:
            raise LauncherConfigError(f"{path}: {error}") from None


def _check(name: str, wanted: str, value: Any) -> None:
    kinds: dict[str, tuple[type, ...]] = {
        "int": (int,),
        "float": (int, float),
        "str": (str,),
        "bool": (bool,),
        "list[str]": (list,),
        "None": (type(None),),
        "LeaseKind": (str,),
    }
    able = tuple(kind for part in wanted.split(" | ") for kind in kinds[part])
    if not isinstance(value, able) or (isinstance(value, bool) and bool not in able):
        raise LauncherConfigError(f"{name} is {value!r}; it must be {wanted}")
    if isinstance(value, list) and not all(isinstance(item, str) for item in value):
        raise LauncherConfigError(f"{name} must be a list of texts")
    if isinstance(value, int | float) and not isinstance(value, bool) and value < 0:
        raise LauncherConfigError(f"{name} is {value!r}; it must not be negative")
