"""One line of the report: what was measured, the floor beside it, and what the goal asks for."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Goal:
    """`value` in `unit`, bounded by `must` and `aim` from above when `lower_is_better`. `note` holds the floor."""

    name: str
    what: str
    value: float
    unit: str
    must: float
    aim: float
    lower_is_better: bool
    note: str = ""

    def reaches(self, bound: float) -> bool:
        return self.value <= bound if self.lower_is_better else self.value >= bound

    @property
    def verdict(self) -> str:
        if self.reaches(self.aim):
            return "aim"
        return "must" if self.reaches(self.must) else "MISSED"


def report(goals: list[Goal]) -> str:
    """A table of all goals."""
    rows = [("goal", "what", "value", "must", "aim", "reached", "floor and detail")]
    for goal in goals:
        sign = "<=" if goal.lower_is_better else ">="
        bounds = (f"{sign} {goal.must:g}", f"{sign} {goal.aim:g}")
        rows.append((goal.name, goal.what, f"{goal.value:,.3g} {goal.unit}", *bounds, goal.verdict, goal.note))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
