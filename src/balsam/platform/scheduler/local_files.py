"""What the local scheduler keeps on disk for each allocation, and the shell that runs its batch script.

Only `local` uses this. For an allocation NAME the directory holds NAME.json (the intent, later what was decided),
NAME.started (made once, by the shell that won), NAME.exit (its script's exit code) and NAME.output. NAME.json is
replaced whole and synced before anything it announces is done.
"""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path

from balsam.platform.processes import ProcessId, look
from balsam.platform.scheduler.base import SchedulerJob, SchedulerState

# $1 script, $2 shell for it, $3 path stem. `set -C` makes creation exclusive: of any number of shells started for one
# name, by whichever agent, one runs the script (S11). The no-op trap keeps this shell alive through the SIGTERM that
# the group gets, so that the exit code is recorded; children get the default disposition back.
BATCH_SHELL = r"""
trap : TERM
started=-
if [ -r /proc/$$/stat ]; then
    read -r line < /proc/$$/stat
    line=${line##*) }
    started=$(set -- $line; echo "${20}")
fi
( umask 077; set -C; echo "$$ $started" > "$3.started" ) 2> /dev/null || exit 0
"$2" "$1"
code=$?
( umask 077; echo "$code" > "$3.exit.tmp" ) && mv -f "$3.exit.tmp" "$3.exit"
exit "$code"
"""


@dataclass(slots=True)
class Record:
    """One allocation. Times with `_mono` are seconds of the monotonic clock within boot `boot_id`.

    `mark` is in the environment of all its processes and of no other's: names are unique within a Site only, and two
    Sites of one user, of two services, may share a machine.
    """

    scheduler_id: str
    name: str
    script: str
    host: str
    boot_id: str
    queue: str
    project: str
    num_nodes: int
    wall_time_min: int
    start_time: str
    start_mono: float
    stop_cause: str = ""
    kill_mono: float | None = None
    end_state: str = ""
    end_reason: str = ""
    end_time: str = ""
    exit_code: int | None = None
    mark: str = ""

    @property
    def is_over(self) -> bool:
        return bool(self.end_state)

    @property
    def wall_time_end_mono(self) -> float:
        return self.start_mono + self.wall_time_min * 60.0

    def as_job(self, state: SchedulerState, reason: str) -> SchedulerJob:
        """The scheduler's view of it: the given state and reason, the record's facts."""
        start = datetime.fromisoformat(self.start_time)
        return SchedulerJob(
            scheduler_id=self.scheduler_id,
            name=self.name,
            state=state,
            reason=reason,
            exit_code=self.exit_code,
            queue=self.queue,
            project=self.project,
            num_nodes=self.num_nodes,
            wall_time_min=self.wall_time_min,
            submit_time=start,
            start_time=start,
            end_time=datetime.fromisoformat(self.end_time) if self.end_time else None,
        )


class UnreadableRecord(Exception):
    """NAME.json is there and can't be understood."""


class RecordDir:
    """The files of all allocations in one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def stem(self, name: str) -> Path:
        """Path of the allocation's files without their ending."""
        return self.directory / name

    def load_all(self) -> Iterator[Record | UnreadableRecord]:
        """Every record; what can't be read comes as the error, its first argument being the name."""
        if not self.directory.is_dir():
            return
        for path in sorted(self.directory.glob("*.json")):
            try:
                yield self._load(path)
            except UnreadableRecord as error:
                yield error

    def save(self, record: Record) -> None:
        """Replace NAME.json durably; OSError (disk full) leaves the old one."""
        self.directory.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=self.directory, prefix=f".{record.name}.", suffix=".tmp")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                json.dump(asdict(record), stream)
                stream.flush()
                os.fsync(stream.fileno())
            Path(temporary).replace(self.stem(record.name).with_name(f"{record.name}.json"))
        except OSError:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()
            raise
        self._sync_directory()

    def claim(self, name: str) -> ProcessId | None:
        """The shell that won the right to run the script; None when none did, pid 0 when it died while claiming."""
        path = self.directory / f"{name}.started"
        try:
            words = path.read_text().split()
        except FileNotFoundError:
            return None
        if len(words) != 2 or not words[0].isdigit():
            return ProcessId(0, 0)
        pid = int(words[0])
        if words[1].isdigit():
            return ProcessId(pid, int(words[1]))
        info = look(pid)
        created_before_claim = info is not None and info.id.start / 100 <= path.stat().st_mtime + 1
        return info.id if info is not None and created_before_claim else ProcessId(pid, 0)

    def exit_code(self, name: str) -> int | None:
        """The script's exit code; None when its shell could not record one."""
        try:
            return int((self.directory / f"{name}.exit").read_text())
        except (FileNotFoundError, ValueError):
            return None

    def _load(self, path: Path) -> Record:
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            known = {field.name for field in fields(Record)}
            return Record(**{key: value for key, value in found.items() if key in known})
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise UnreadableRecord(path.stem, str(error)) from error

    def _sync_directory(self) -> None:
        handle = os.open(self.directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
