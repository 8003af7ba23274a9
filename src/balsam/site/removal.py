"""Taking a Site's directory away, after the service has forgotten the Site."""

import os
import shutil

from balsam.site.directory import SiteDirectory, SiteError
from balsam.site.former_paths import remove_former_paths
from balsam.site.ledger import Ledger, Phase


def open_allocations(site: SiteDirectory) -> list[int]:
    """BatchJobs of which the scheduler may still have something, by this directory's own records."""
    ledger = Ledger(site.qsubmit, site.identity().id)
    return sorted(entry.batch_job_id for entry in ledger if entry.phase in (Phase.INTENT, Phase.SUBMITTED))


def forget_directory(site: SiteDirectory, *, keep_files: bool) -> None:
    """Remove the directory, or what makes it a Site and its token. Raises SiteError; to be called again then."""
    remove_former_paths(site, ())
    try:
        if keep_files:
            for path in (site.credentials, site.agent_status, site.marker):  # the marker last: then it is no Site
                path.unlink(missing_ok=True)
            return
        # In one step, so that nobody takes what is half removed for a Site.
        doomed = site.root.with_name(f".{site.root.name}.removed-{os.getpid()}")
        site.root.rename(doomed)
        shutil.rmtree(doomed)
    except OSError as error:
        raise SiteError(f"files of {site.root} are left: {error}") from error
