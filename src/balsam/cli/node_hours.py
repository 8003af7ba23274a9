"""Node-hours of Sites that have a budget, in words: for `balsam site ls -v` and `balsam queue ls`."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from balsam.api import Site

_NUMBERS = ("used", "promised", "max_node_hours")


def node_hours(site: "Site") -> Iterator[str]:
    """One sentence for each budget of the Site, as its agent told of it last; what is no budget is passed over."""
    budgets = (site.scaling or {}).get("node_hours")
    for name, told in budgets.items() if isinstance(budgets, dict) else ():
        known = [told.get(key) for key in _NUMBERS] if isinstance(told, dict) else []
        numbers = [value for value in known if isinstance(value, (int, float))]
        if len(numbers) < len(_NUMBERS):  # the Site may be somebody else's, whose agent may tell anything
            continue
        used, promised, most = numbers
        whose = f"Site {site.name}" if name == "site" else f"{name} at Site {site.name}"
        yield f"node-hours of {whose}: {used:g} used, {promised:g} promised, of {most:g}"
