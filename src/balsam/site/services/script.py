"""job-template.sh: read it, check it, render it for one BatchJob.

The template is the Site's own file; the values come from the service and are not trusted: a value with a newline, NUL
or other control character never reaches a script, in which it could become a directive or command of its own (S15).
"""

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from balsam.domain.partitions import PartitionRequest, write_partition
from balsam.wire.batch_jobs import BatchJobView

MAX_SIZE_BYTES = 256 * 1024


class ScriptError(ValueError):
    """The batch script can't be made; the text names the template, the line and the fault."""


class JobTemplate:
    """A Site's job-template.sh.

    >>> JobTemplate(Path("job-template.sh"), "#!/bin/bash\\n{{ launcher_cmd }} -t {{ wall_time_min - 2 }}")
    ... # doctest: +ELLIPSIS
    <...JobTemplate object at ...>
    """

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        environment = ImmutableSandboxedEnvironment(
            undefined=StrictUndefined, keep_trailing_newline=True, trim_blocks=True, lstrip_blocks=True
        )
        try:
            self._template = environment.from_string(text)
        except TemplateSyntaxError as error:
            raise ScriptError(f"{path}, line {error.lineno}: {error.message}") from error

    @classmethod
    def read(cls, path: Path) -> "JobTemplate":
        """Raises ScriptError when the file can't be read or is no template."""
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ScriptError(f"{path} can't be read: {error.strerror}") from error
        if len(data) > MAX_SIZE_BYTES:
            raise ScriptError(f"{path} has {len(data)} bytes; at most {MAX_SIZE_BYTES} are read")
        try:
            return cls(path, data.decode())
        except UnicodeDecodeError as error:
            raise ScriptError(f"{path} is not UTF-8: byte {error.start} is {data[error.start]:#04x}") from error

    def render(self, values: Mapping[str, Any]) -> str:
        """The script. Raises ScriptError for a value with control characters and for a name that has no value."""
        _refuse_control_characters(values)
        try:
            return self._template.render(values)
        except (TemplateError, TypeError, ValueError, KeyError, ArithmeticError) as error:
            raise ScriptError(f"{self.path} can't be rendered: {error}") from error


def script_values(
    job: BatchJobView, site_path: Path, launcher_cmd: str, default_params: Mapping[str, str]
) -> dict[str, Any]:
    """What a template may use; Balsam's names. `default_params`: optional_batch_job_params of settings.yml."""
    return {
        "project": job.project,
        "queue": job.queue,
        "num_nodes": job.num_nodes,
        "wall_time_min": job.wall_time_min,
        "job_mode": job.job_mode.value,
        "filter_tags": dict(job.filter_tags),
        "partitions": partition_words(job),
        "optional_params": {**default_params, **job.optional_params},
        "balsam_site_path": str(site_path),
        "balsam_bin": str(Path(sys.executable).parent),
        "pg_bin": "",
        "launcher_cmd": launcher_cmd,
    }


def partition_words(job: BatchJobView) -> str:
    """The partitions as the launcher takes them: `-p mpi:2:KEY=VALUE -p serial:1`. Raises ScriptError."""
    asked = [PartitionRequest(part.job_mode, part.num_nodes, part.filter_tags) for part in job.partitions or ()]
    try:
        return " ".join(f"-p {shlex.quote(write_partition(part))}" for part in asked)
    except ValueError as error:
        raise ScriptError(str(error)) from error


def _refuse_control_characters(value: object, where: str = "") -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            _refuse_control_characters(key, where)
            _refuse_control_characters(item, f"{where}.{key}" if where else str(key))
    elif isinstance(value, str) and any(ord(char) < 32 or ord(char) in (0x7F, 0x85, 0x2028, 0x2029) for char in value):
        raise ScriptError(f"{where} is {value!r}: a batch script takes no line breaks or control characters")
