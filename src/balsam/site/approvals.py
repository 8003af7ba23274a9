"""Apps that were approved on this Site, by the hash of their definition (S15): `apps.accept: pinned` runs only those.

The file is the Site's own; nothing that the service says changes it.
"""

import json

from balsam.site.directory import SiteDirectory, SiteError, write_json

FILE = "approved-apps.json"


def approved_apps(site: SiteDirectory) -> dict[str, str]:
    """Hash -> name of each approved App. Raises SiteError when the file can't be understood."""
    path = site.root / FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise SiteError(f"{path} can't be read ({error}); approve the Apps again after removing it") from error
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content.values()):
        raise SiteError(f"{path} must map hashes to names; approve the Apps again after removing it")
    return content


def approve_app(site: SiteDirectory, content_hash: str, name: str) -> None:
    """Let this definition run on the Site, in allocations that are submitted from now on."""
    write_json(site.root / FILE, {**approved_apps(site), content_hash: name})
