"""Giving a Site another directory or another name, also under an agent and allocations that run.

Whatever was started from the old directory knows it by its absolute name. As long as any of it lives, the old name
stays as a link: directory and link change places in one step where the file system can do that. The service's record
follows; when it can't, the directory goes back. Sessions and Jobs know the Site by its number and notice nothing.
"""

import contextlib
import ctypes
import errno
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from balsam.site.directory import SiteDirectory, SiteError, write_json
from balsam.site.former_paths import FILE as FORMER_PATHS
from balsam.site.former_paths import former_paths, note_former_path
from balsam.site.ledger import Ledger
from balsam.site.lock import AgentStatus
from balsam.site.reload import ANSWER_SEC, ask_to_reload, running_agent, wait_for_answer
from balsam.site.reload import FILE as REQUEST
from balsam.site.service import ServiceAway, ServiceLink
from balsam.wire.sites import SitePatch

_RENAME_EXCHANGE = 2
_AT_FDCWD = -100
_NO_EXCHANGE = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


@dataclass(frozen=True, slots=True)
class MovedSite:
    """Where a Site is now. `link`: its old name leads there as long as allocations need it.

    `agent`: how the running agent is; `trouble` says why it has not moved yet, when it has not.
    """

    path: Path
    link: bool
    agent: AgentStatus | None
    trouble: str = ""


def move_site(source: Path, target: Path, *, force: bool = False, timeout_sec: float = ANSWER_SEC) -> MovedSite:
    """Move the Site in the directory `source` to `target`, which must not exist.

    `force`: also where processes could miss the directory for a moment, as the file system can't exchange two names.
    Raises SiteError, having changed nothing, when it can't be moved or the service can't be told.
    """
    site = site_at(source)
    agent = running_agent(site)
    refuse_supervised(agent, site)
    if target.expanduser().absolute() == site.root:  # an earlier run was interrupted after the directory had moved
        return _complete(site, agent, timeout_sec)
    new = _free_place(site, target)
    with _service(site) as service:
        ledger = Ledger(site.qsubmit, service.site_id)
        live = [entry.batch_job_id for entry in ledger]
        move = _Move(site.root, new)
        if not move.same_file_system:
            _refuse_far_move(site, agent, live)
        needs_link = bool(live or agent) and move.same_file_system
        ledger.keep_prefix()
        if needs_link:
            note_former_path(site, site.root, live)
        try:
            move.carry_out(link=needs_link, force=force or not live)
        except BaseException:
            _forget_former_path(site)
            raise
        try:
            _tell_service(service, new)
        except BaseException as error:
            move.take_back()
            _forget_former_path(site)
            raise _unheard(error, site) from error
    move.finish()
    return _tell_agent(SiteDirectory(new), agent, needs_link, timeout_sec)


def _complete(site: SiteDirectory, agent: AgentStatus | None, timeout_sec: float) -> MovedSite:
    with _service(site) as service:
        try:
            _tell_service(service, site.root)
        except ServiceAway as error:
            raise _unheard(error, site) from error
    return _tell_agent(site, agent, bool(former_paths(site)), timeout_sec)


def _tell_service(service: ServiceLink, root: Path) -> None:
    service.update_site(SitePatch(path=str(root), hostname=socket.gethostname()))


def rename_site(path: Path, name: str) -> str:
    """Give the Site another name at the service and here; returns the old one.

    The agent and all that runs know the Site by its number and go on. Raises SiteError, and Conflict or
    ValidationFailed for a name that can't be had.
    """
    site = site_at(path)
    identity = site.identity()
    with _service(site) as service:
        try:
            service.rename_site(name)
        except ServiceAway as error:
            raise SiteError(f"the Site keeps its name {identity.name!r}: {error}") from error
        try:
            write_json(site.marker, asdict(replace(identity, name=name)))
        except OSError as error:
            with contextlib.suppress(ServiceAway):
                service.rename_site(identity.name)
            raise SiteError(f"the Site keeps its name {identity.name!r}; {site.marker}: {error.strerror}") from error
    return identity.name


def site_at(path: Path) -> SiteDirectory:
    """The Site whose directory this is, not only one around it. Raises SiteError."""
    site = SiteDirectory(path.expanduser().resolve())
    site.identity()
    return site


def _free_place(site: SiteDirectory, target: Path) -> Path:
    new = target.expanduser().absolute()
    if new.is_symlink() and new.resolve() == site.root:
        raise SiteError(f"{new} is a former name of this Site, which what runs still uses; take another name for now")
    new = new.parent.resolve() / new.name
    if new.exists() or new.is_symlink():
        raise SiteError(f"{new} exists already; name a path that does not")
    if not new.parent.is_dir():
        raise SiteError(f"{new.parent} is no directory; make it first")
    if new.is_relative_to(site.root):
        raise SiteError(f"{new} is inside of {site.root}")
    return new


def refuse_supervised(agent: AgentStatus | None, site: SiteDirectory) -> None:
    """Raises SiteError when a supervisor would start the agent again behind our back."""
    if agent is not None and agent.supervised:
        raise SiteError(
            f"`balsam up` runs the agent of {site.root} (process {agent.pid} on {agent.hostname}); stop it with Ctrl-C "
            "first"
        )


def _refuse_far_move(site: SiteDirectory, agent: AgentStatus | None, live: list[int]) -> None:
    """To another file system the files are copied, which must not change meanwhile."""
    if live:
        ids = ", ".join(map(str, live))
        raise SiteError(
            f"the new place is on another file system, and allocations work in {site.root} (BatchJobs {ids}); wait for "
            f"their end, or end them: balsam queue rm {ids.replace(',', '')}"
        )
    if agent is not None:
        raise SiteError(
            f"the new place is on another file system; stop the agent (process {agent.pid} on {agent.hostname}) while "
            f"the files are copied: balsam site stop {site.root}"
        )


@contextmanager
def _service(site: SiteDirectory) -> Iterator[ServiceLink]:
    """The service, with the Site's own token, found to answer. Raises SiteError."""
    link = ServiceLink.connect(site, site.identity().id)
    try:
        try:
            link.sessions()
        except ServiceAway as error:
            raise SiteError(f"nothing was changed, as the service could not be told: {error}") from error
        yield link
    finally:
        link.close()


def _unheard(error: BaseException, site: SiteDirectory) -> BaseException:
    if isinstance(error, ServiceAway):
        return SiteError(f"{site.root} stays where it is, as the service was not told: {error}")
    return error


def _forget_former_path(site: SiteDirectory) -> None:
    known = former_paths(site)
    if known.pop(str(site.root), None) is not None:
        write_json(site.root / FORMER_PATHS, known)


def _tell_agent(site: SiteDirectory, agent: AgentStatus | None, link: bool, timeout_sec: float) -> MovedSite:
    if agent is None:
        return MovedSite(site.root, link, None)
    try:
        return MovedSite(site.root, link, wait_for_answer(site, ask_to_reload(site, site.root), timeout_sec))
    except (SiteError, OSError) as error:
        # It works on through the link, and obeys when it looks the next time.
        return MovedSite(site.root, link, agent, str(error))


class _Move:
    """A directory on its way, and back again."""

    def __init__(self, old: Path, new: Path) -> None:
        self._old = old
        self._new = new
        self._how = ""
        self.same_file_system = old.stat().st_dev == new.parent.stat().st_dev

    def carry_out(self, *, link: bool, force: bool) -> None:
        """Move the directory; with `link` leave one at the old name. Raises SiteError."""
        try:
            if not self.same_file_system:
                self._copy()
            elif not link:
                self._old.rename(self._new)
                self._how = "renamed"
            elif self._exchange_with_link():
                self._how = "exchanged"
            elif force:
                self._old.rename(self._new)
                self._how = "linked"
                self._old.symlink_to(self._new)
            else:
                raise SiteError(
                    f"this file system can't exchange two names in one step, so that what runs in {self._old} could "
                    "miss it for a moment; wait for the end of its allocations, or take the risk with --force"
                )
        except (OSError, shutil.Error) as error:
            if self._how:
                self.take_back()
            raise SiteError(f"{self._old} stays where it is; it can't be moved to {self._new}: {error}") from error

    def take_back(self) -> None:
        """Undo `carry_out`."""
        if self._how == "copied":
            shutil.rmtree(self._new)
        elif self._how == "exchanged":
            _exchange(self._old, self._new)
            self._new.unlink()
        else:
            if self._how == "linked":
                self._old.unlink(missing_ok=True)
            self._new.rename(self._old)

    def finish(self) -> None:
        """The move counts: remove what was copied."""
        if self._how == "copied":
            SiteDirectory(self._old).marker.unlink()  # first: what is half removed must not be taken for the Site
            shutil.rmtree(self._old)

    def _exchange_with_link(self) -> bool:
        """Whether directory and link have changed places, at once for everybody who looks."""
        self._new.symlink_to(self._new)
        try:
            _exchange(self._old, self._new)
        except OSError as error:
            self._new.unlink()
            if error.errno in _NO_EXCHANGE:
                return False
            raise
        return True

    def _copy(self) -> None:
        unfinished = self._new.with_name(f".{self._new.name}.moving")
        try:
            shutil.copytree(self._old, unfinished, symlinks=True)
            (unfinished / REQUEST).unlink(missing_ok=True)
            unfinished.rename(self._new)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
        self._how = "copied"


def _exchange(first: Path, second: Path) -> None:
    """renameat2 with RENAME_EXCHANGE. Raises OSError, with one of _NO_EXCHANGE where it can't be done."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if call(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(first))
