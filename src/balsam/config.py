"""Settings of clients and Sites under the names that scripts know.

`from balsam.config import ClientSettings, SiteConfig`. What belongs to a Site is loaded when it is used: a script that
runs elsewhere needs nothing of it.
"""

import logging
import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from balsam.client.credentials import balsam_home
from balsam.client.settings import ClientSettings

if TYPE_CHECKING:
    from balsam.client.client import Client
    from balsam.site.settings import Settings
    from balsam.site.settings_file import SettingsError as InvalidSettings

__all__ = ["ClientSettings", "InvalidSettings", "Settings", "SiteConfig", "balsam_home"]


class SiteConfig:
    """The Site directory you work in: its paths, its settings, and a client of its service.

    `site_path`: default is what BALSAM_SITE_PATH names, else the Site that contains the working directory. In such a
    directory `balsam.api.site_config` is one of these, elsewhere None.

    >>> config = SiteConfig(site_directory)
    >>> config.site_id == site.id, config.data_path == site_directory / "data"
    (True, True)
    >>> list(config.settings.scheduler.allowed_queues)
    ['local']

    Raises SiteError when there is no Site; reading `settings` raises InvalidSettings with every fault of settings.yml.
    """

    def __init__(self, site_path: str | Path | None = None, settings: "Settings | None" = None) -> None:
        from balsam.site.directory import require_site

        self._directory = require_site(None if site_path is None else Path(site_path))
        identity = self._directory.identity()
        self.site_id = identity.id
        self.name = identity.name
        if settings is not None:
            self.__dict__["settings"] = settings

    @property
    def site_path(self) -> Path:
        """The Site's directory."""
        return self._directory.root

    @property
    def data_path(self) -> Path:
        """Work directories of Jobs are in here: `job.resolve_workdir(site_config.data_path)`."""
        return self._directory.data

    @property
    def log_path(self) -> Path:
        """Log files of the agent."""
        return self._directory.log

    @property
    def job_path(self) -> Path:
        """Batch scripts and what belongs to each allocation."""
        return self._directory.qsubmit

    @cached_property
    def settings(self) -> "Settings":
        """What settings.yml says, with the defaults of the rest."""
        from balsam.site.settings_file import load_settings

        return load_settings(self._directory.settings)

    @cached_property
    def client(self) -> "Client":
        """A client of your own service settings: `SiteConfig().client.Job.objects.all()`."""
        return ClientSettings.load().build_client()

    @staticmethod
    def resolve_site_path(site_path: str | Path | None = None) -> tuple[Path, int]:
        """The directory of the Site and its id. Raises SiteError when there is none.

        >>> SiteConfig.resolve_site_path(site_directory) == (site_directory, site.id)
        True
        """
        found = SiteConfig(site_path)
        return found.site_path, found.site_id

    def enable_logging(self, basename: str, filename: str | None = None) -> Path:
        """Write what balsam's loggers say to `filename` (default: BASENAME_PID.log) in the Site's log directory.

        >>> SiteConfig(site_directory).enable_logging("script").parent.name
        'log'
        """
        path = self.log_path / (filename or f"{basename}_{os.getpid()}.log")
        its = self.settings.logging
        handler = logging.FileHandler(path)
        handler.setFormatter(logging.Formatter(its.format, its.datefmt))
        logger = logging.getLogger("balsam")
        logger.addHandler(handler)
        logger.setLevel(its.level)
        return path

    def __repr__(self) -> str:
        return f"SiteConfig(site_id={self.site_id}, name={self.name!r}, site_path={str(self.site_path)!r})"


def current_site_config() -> SiteConfig | None:
    """The Site you work in, None when you are in none. Raises SiteError when BALSAM_SITE_PATH names no Site."""
    from balsam.site.directory import find_site

    site = find_site()
    return None if site is None else SiteConfig(site.root)


def __getattr__(name: str) -> object:
    if name == "Settings":
        from balsam.site.settings import Settings

        return Settings
    if name == "InvalidSettings":
        from balsam.site.settings_file import SettingsError

        return SettingsError
    raise AttributeError(f"module 'balsam.config' has no attribute {name!r}")
