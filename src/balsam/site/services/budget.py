"""Node-hours: what the Site's allocations used, what is promised to those that wait or run, and what a budget leaves.

Worked out anew from the agent's records each time, so that no crash and no restart can lose or double any of it. An
allocation that has ended counts from its real start to its real end, at most its wall time whatever the clocks say;
one that has not counts as if it ran to its end.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from balsam.domain.roles import CAMPAIGN_TAG
from balsam.site.ledger import Entry, Phase
from balsam.site.settings import BudgetSettings


@dataclass(slots=True)
class NodeHours:
    """What a budget was asked for."""

    used: float = 0.0
    promised: float = 0.0


class Budget:
    """The section `budget` of settings.yml. `records`: all BatchJobs that the Site took on, ended ones too."""

    def __init__(self, settings: BudgetSettings, records: Callable[[], Iterable[Entry]]) -> None:
        self._settings = settings
        self._records = records

    def refusal(
        self, num_nodes: int, wall_time_min: int, filter_tags: Mapping[str, str], besides: int | None = None
    ) -> str:
        """Why an allocation can't be paid for, with the numbers; empty when it can. `besides`: its own record."""
        asked = num_nodes * wall_time_min / 60
        for name, most, campaign in self._budgets():
            if campaign is not None and filter_tags.get(CAMPAIGN_TAG) != campaign:
                continue
            so_far = self._count(campaign, besides)
            if so_far.used + so_far.promised + asked > most + 1e-9:
                return (
                    f"{asked:.2f} node-hours are asked for, and of the {most:g} of {name} {so_far.used:.2f} are used "
                    f"and {so_far.promised:.2f} promised to allocations that wait or run"
                )
        return ""

    def facts(self) -> dict[str, Any]:
        """What people are shown; nothing where there is no budget."""
        shown: dict[str, Any] = {}
        for _, most, campaign in self._budgets():
            so_far = self._count(campaign, None)
            fact = {"used": round(so_far.used, 2), "promised": round(so_far.promised, 2), "max_node_hours": most}
            shown[CAMPAIGN_TAG + f"={campaign}" if campaign is not None else "site"] = fact
        return {"node_hours": shown} if shown else {}

    def _budgets(self) -> Iterable[tuple[str, float, str | None]]:
        if self._settings.max_node_hours is not None:
            yield "budget.max_node_hours of this Site", self._settings.max_node_hours, None
        for campaign, most in self._settings.campaigns.items():
            yield f"budget.campaigns.{campaign} of this Site", most, campaign

    def _count(self, campaign: str | None, besides: int | None) -> NodeHours:
        total = NodeHours()
        for entry in self._records():
            if entry.batch_job_id == besides or campaign not in (None, entry.filter_tags.get(CAMPAIGN_TAG)):
                continue
            if entry.phase in (Phase.INTENT, Phase.SUBMITTED):
                total.promised += entry.num_nodes * entry.wall_time_min / 60
            else:
                total.used += entry.num_nodes * _ran_min(entry) / 60
        return total


def _ran_min(entry: Entry) -> float:
    if entry.start_time is None or entry.end_time is None:
        return 0.0
    ran = datetime.fromisoformat(entry.end_time) - datetime.fromisoformat(entry.start_time)
    return min(max(0.0, ran.total_seconds() / 60), float(entry.wall_time_min))
