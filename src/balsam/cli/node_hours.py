"""Node-hours of Sites that have a budget, in words: for `balsam site ls -v` and `balsam queue ls`."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from balsam.api import Site


def node_hours(site: "Site") -> Iterator[str]:
    """One sentence for each budget of the Site, as its agent told of it last."""
    for name, told in (site.scaling or {}).get("node_hours", {}).items():
        whose = f"Site {site.name}" if name == "site" else f"{name} at Site {site.name}"
        spent = f"{told['used']:g} used, {told['promised']:g} promised"
        yield f"node-hours of {whose}: {spent}, of {told['max_node_hours']:g}"
