"""The file cleaner: removes what Apps name in `cleanup_files` from the workdirs of Jobs that have finished.

A thread of the agent with its own period. Only files in the Job's own workdir are ever removed, found without
following a link; directories stay. A Job's flag `pending_file_cleanup` is cleared when all of it is done, so an
interruption costs a second look and nothing else.
"""

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from balsam.domain.app import AppSpec
from balsam.domain.envelope import BadEnvelope
from balsam.domain.globs import BadPattern, Glob
from balsam.domain.states import JobState
from balsam.site.service import ServiceAway, ServiceLink
from balsam.transfer.descent import Refused, open_workdir
from balsam.wire.apps import AppFilter, AppsPage, AppView
from balsam.wire.jobs import JobPatch, JobQuery, JobsChanged, JobsPage, JobsPatch, JobView

log = logging.getLogger(__name__)

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class NotCleaned(Exception):
    """Files of a Job can't be removed; the text says why."""


class CleanupService(Protocol):
    """The service as the cleaner sees it. Every method may raise ServiceAway."""

    def to_clean(self, after: int, limit: int) -> list[JobView]:
        """Finished Jobs of the Site whose files are to be removed, by id."""
        ...

    def apps(self, ids: Collection[int]) -> list[AppView]:
        """Definitions of Apps."""
        ...

    def cleaned(self, job_ids: Collection[int]) -> None:
        """Their files are removed."""
        ...


class CleanupLink:
    """`CleanupService` over HTTP."""

    def __init__(self, link: ServiceLink) -> None:
        self._link = link

    def to_clean(self, after: int, limit: int) -> list[JobView]:
        query = JobQuery(
            site_id=[self._link.site_id],
            state=[JobState.JOB_FINISHED],
            pending_file_cleanup=True,
            after=after,
            limit=limit,
        )
        send = self._link.transport.request
        return self._link.call(lambda: send("GET", "/jobs", query=query, reply=JobsPage)).results

    def apps(self, ids: Collection[int]) -> list[AppView]:
        query = AppFilter(id=sorted(ids))
        send = self._link.transport.request
        return self._link.call(lambda: send("GET", "/apps", query=query, reply=AppsPage)).results

    def cleaned(self, job_ids: Collection[int]) -> None:
        patch = JobPatch(pending_file_cleanup=False)
        body = JobsPatch(patches=dict.fromkeys(job_ids, patch))
        send = self._link.transport.request
        self._link.call(lambda: send("PATCH", "/jobs", body=body, reply=JobsChanged))


class FileCleaner:
    """Removes files of finished Jobs every `period_sec`; asks for `batch_size` of them at a time.

    `approved`: hashes of the Apps that may run here, None when all may (S15): others remove nothing either.
    """

    def __init__(
        self,
        data: Path,
        service: CleanupService,
        approved: Callable[[], Collection[str] | None],
        batch_size: int,
        period_sec: float,
    ) -> None:
        self._data = data
        self._service = service
        self._approved = approved
        self._batch_size = batch_size
        self._period_sec = period_sec
        self._stopping = threading.Event()
        self._told: set[int] = set()  # Jobs whose trouble was logged

    def start(self) -> None:
        threading.Thread(target=self._run, name="balsam-cleaner", daemon=True).start()

    def close(self) -> None:
        """No more passes. One that is under way is left to end with the process."""
        self._stopping.set()

    def run_once(self) -> int:
        """One pass over all Jobs that wait for it; how many are done. Raises ServiceAway."""
        after, done = 0, 0
        while not self._stopping.is_set():
            jobs = self._service.to_clean(after, self._batch_size)
            cleaned = list(self._cleaned(jobs)) if jobs else []
            if cleaned:
                self._service.cleaned(cleaned)
            done += len(cleaned)
            if len(jobs) < self._batch_size:
                break
            after = jobs[-1].id
        return done

    def _run(self) -> None:
        while not self._stopping.wait(self._period_sec):
            try:
                self.run_once()
            except ServiceAway:
                continue
            except Exception:
                log.exception("a pass of the file cleaner failed; the next one tries again")

    def _cleaned(self, jobs: list[JobView]) -> Iterator[int]:
        apps = {app.id: app for app in self._service.apps({job.app_id for job in jobs})}
        for job in jobs:
            try:
                count = self._clean(job, apps.get(job.app_id))
            except NotCleaned as error:
                if job.id not in self._told:
                    self._told.add(job.id)
                    log.warning("files of Job %d in %s are not removed: %s", job.id, job.workdir, error)
                continue
            self._told.discard(job.id)
            log.debug("%d files of Job %d in %s are removed", count, job.id, job.workdir)
            yield job.id

    def _clean(self, job: JobView, view: AppView | None) -> int:
        if view is None:
            raise NotCleaned(f"App {job.app_id} is not known")
        globs = self._globs(view)
        if not globs:
            return 0
        try:
            with open_workdir(self._data, job.workdir) as workdir:
                return remove_matches(workdir, globs)
        except FileNotFoundError:
            return 0  # it has no workdir (any more)
        except (OSError, Refused) as error:
            raise NotCleaned(str(error)) from error

    def _globs(self, view: AppView) -> list[Glob]:
        try:
            spec = AppSpec.from_view(view.model_dump(mode="json"))
            globs = [Glob.parse(pattern) for pattern in spec.cleanup_files]
        except (BadEnvelope, BadPattern) as error:
            raise NotCleaned(f"App {view.name}: {error}") from error
        approved = self._approved()
        if spec.content_hash != view.content_hash or (approved is not None and spec.content_hash not in approved):
            raise NotCleaned(f"this definition of App {view.name} is not approved at this Site")
        return globs


def remove_matches(workdir: int, globs: Sequence[Glob]) -> int:
    """Remove the files below an opened directory that match; links are files, never ways. How many. Raises OSError."""
    count = 0
    todo: list[tuple[str, ...]] = [()]
    while todo:
        place = todo.pop()
        try:
            directory = _descend(workdir, place)
        except (FileNotFoundError, NotADirectoryError):
            continue  # gone or replaced meanwhile
        try:
            with os.scandir(directory) as found:
                entries = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in found]
            for name, is_directory in entries:
                path = (*place, name)
                if is_directory:
                    todo += [path] if any(glob.may_lie_below(path) for glob in globs) else []
                elif any(glob.matches(path) for glob in globs):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(name, dir_fd=directory)
                    count += 1
        finally:
            os.close(directory)
    return count


def _descend(workdir: int, place: Sequence[str]) -> int:
    here = os.dup(workdir)
    for name in place:
        try:
            deeper = os.open(name, _DIRECTORY, dir_fd=here)
        finally:
            os.close(here)
        here = deeper
    return here
