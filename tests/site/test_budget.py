"""Node-hours: counted from records, whatever crashes and whatever the clocks say; refused with the numbers."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from balsam.domain.states import BatchJobState
from balsam.platform.scheduler.base import SchedulerState
from balsam.site.ledger import Entry, Phase
from balsam.site.services.budget import Budget
from balsam.site.settings import BudgetSettings
from balsam.testing.clock import START
from tests.site.bench import Bench


def entry(number: int, phase: Phase, minutes: float | None = None, campaign: str = "", num_nodes: int = 2) -> Entry:
    """Two nodes for an hour; it ran for so long."""
    made = Entry(number, f"b-{number}", START.isoformat(), "local", phase, num_nodes=num_nodes, wall_time_min=60)
    made.filter_tags = {"campaign": campaign} if campaign else {}
    if minutes is not None:
        made.start_time = START.isoformat()
        made.end_time = (START + timedelta(minutes=minutes)).isoformat()
    return made


@pytest.mark.parametrize(
    ("record", "used", "promised"),
    [
        (entry(1, Phase.INTENT), 0, 2),
        (entry(1, Phase.SUBMITTED), 0, 2),
        (entry(1, Phase.ENDED, 15), 0.5, 0),
        (entry(1, Phase.DELIVERED, 30), 1, 0),
        (entry(1, Phase.DELIVERED), 0, 0),  # it never started
        (entry(1, Phase.DELIVERED, 26 * 60), 2, 0),  # a clock that jumped
        (entry(1, Phase.DELIVERED, -30), 0, 0),
    ],
)
def test_what_a_record_counts_for(record: Entry, used: float, promised: float) -> None:
    facts = Budget(BudgetSettings(max_node_hours=9), lambda: [record]).facts()
    assert facts == {"node_hours": {"site": {"used": used, "promised": promised, "max_node_hours": 9}}}


def test_a_campaign_has_a_budget_of_its_own() -> None:
    records = [
        entry(1, Phase.DELIVERED, 60, "climate"),
        entry(2, Phase.SUBMITTED),
        entry(3, Phase.SUBMITTED, None, "x"),
    ]
    budget = Budget(BudgetSettings(max_node_hours=8, campaigns={"climate": 3}), lambda: records)
    assert budget.refusal(1, 60, {"campaign": "climate"}) == ""
    said = budget.refusal(2, 60, {"campaign": "climate"})
    assert "2.00 node-hours are asked for" in said and "of the 3 of budget.campaigns.climate" in said
    assert "2.00 are used and 0.00 promised" in said
    assert "of the 8 of budget.max_node_hours of this Site 2.00 are used and 4.00 promised" in budget.refusal(3, 60, {})
    assert budget.refusal(1, 60, {}) == "", "a campaign's budget was asked for an allocation without its tag"
    assert budget.refusal(3, 60, {}, besides=2) == ""
    assert Budget(BudgetSettings(), lambda: records).refusal(999, 999, {}) == ""
    assert Budget(BudgetSettings(), lambda: records).facts() == {}


@pytest.mark.slow
def test_what_is_over_the_budget_is_submit_failed_with_the_numbers_after_a_restart_too(bench: Bench) -> None:
    bench.settings = bench.settings.model_copy(update={"budget": BudgetSettings(max_node_hours=1.5)})
    bench.restart()
    first = bench.service.add_batch_job(wall_time_min=60)
    second = bench.service.add_batch_job(wall_time_min=60)
    bench.go()
    assert (bench.state(first), bench.state(second)) == (BatchJobState.QUEUED, BatchJobState.SUBMIT_FAILED)
    assert "1.00 node-hours are asked for" in str(bench.view(second).status_info["error"])
    (number,) = bench.scheduler.known
    known, now = bench.scheduler.known[number], bench.clock.now()
    bench.scheduler.known[number] = replace(known, state=SchedulerState.RUNNING, start_time=now)
    bench.go()
    bench.clock.advance(1200)
    ended = replace(known, state=SchedulerState.FINISHED, start_time=now, end_time=bench.clock.now())
    bench.scheduler.known[number] = ended
    bench.go()
    bench.go()
    assert bench.is_closed(first)
    for _ in range(2):  # also when all that is known was read from disk
        facts = Budget(bench.settings.budget, bench.ledger.all_records).facts()["node_hours"]["site"]
        assert facts == {"used": 0.33, "promised": 0, "max_node_hours": 1.5}
        bench.restart()
    third = bench.service.add_batch_job(wall_time_min=60)
    bench.go()
    assert bench.state(third) is BatchJobState.QUEUED, "what was given back is not there again"
