"""Names that a moved Site had before, kept as links as long as allocations need them.

Batch scripts, launchers and commands know absolute names. `site.move` leaves a link and writes down which BatchJobs
need it; the agent removes it when the last of them has ended.
"""

import json
import logging
from collections.abc import Collection
from pathlib import Path

from balsam.site.directory import SiteDirectory, write_json

log = logging.getLogger(__name__)

FILE = "former-paths.json"


def former_paths(site: SiteDirectory) -> dict[str, list[int]]:
    """Each former name, and the BatchJobs that need it; the oldest first."""
    try:
        content = json.loads((site.root / FILE).read_text(encoding="utf-8"))
        return {str(path): [int(number) for number in ids] for path, ids in content.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        log.error("%s can't be understood: %s; remove it together with links to %s", site.root / FILE, error, site.root)
        return {}


def note_former_path(site: SiteDirectory, path: Path, batch_job_ids: Collection[int]) -> None:
    """A link at `path` is about to stand for the Site. Raises OSError."""
    write_json(site.root / FILE, {**former_paths(site), str(path): sorted(batch_job_ids)})


def remove_former_paths(site: SiteDirectory, open_ids: Collection[int]) -> None:
    """Remove the links that no open BatchJob needs; what is no link to this Site is somebody else's and stays.

    `site` is the directory by the name that the caller uses: that one is needed.
    """
    known = former_paths(site)
    needed: dict[str, list[int]] = {}
    for name, ids in known.items():
        still = sorted(set(ids) & set(open_ids))
        link = Path(name)
        if still or link == site.root:  # an agent that has not followed yet works through the link
            needed[name] = still
            continue
        try:
            if link.is_symlink() and link.resolve() == site.root.resolve():
                link.unlink()
                log.info("%s, where this Site was before, is not needed any more", link)
        except OSError as error:
            log.error("%s can't be removed: %s", link, error)
            needed[name] = []
    if needed != known:
        write_json(site.root / FILE, needed)
