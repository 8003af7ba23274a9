"""docs/job-states.md shows the edge table of `domain/states.py`, row by row.

`python tests/docs/test_job_states.py --write` puts the present table into the page.
"""

import sys
from pathlib import Path

from balsam.domain.failure import Failure
from balsam.domain.states import BATCH_JOB_MOVES, EDGES, BatchJobState, JobState, Lease

PAGE = Path(__file__).parents[2] / "docs" / "job-states.md"
WRITE = "run: python tests/docs/test_job_states.py --write"
JOBS = ("<!-- job edges: begin -->", "<!-- job edges: end -->")
FAILURES = ("<!-- failures: begin -->", "<!-- failures: end -->")
BATCH_JOBS = ("<!-- batch job moves: begin -->", "<!-- batch job moves: end -->")
_LEASES = {Lease.NONE: "-", Lease.PROCESSING: "processing", Lease.RUN: "session + token", Lease.TOKEN: "token"}


def job_table() -> str:
    rows = ["| from | event | to | who | must hold |", "|---|---|---|---|---|"]
    places = {state: place for place, state in enumerate(JobState)}
    for edge in sorted(EDGES.values(), key=lambda edge: (places[edge.source], places[edge.target], edge.event)):
        who = ", ".join(sorted(edge.actors))
        rows.append(f"| {edge.source} | {edge.event} | {edge.target} | {who} | {_LEASES[edge.lease]} |")
    return "\n".join(rows)


def batch_job_table() -> str:
    rows = ["| from | to |", "|---|---|"]
    for state in BatchJobState:
        targets = [target for target in BatchJobState if (state, target) in BATCH_JOB_MOVES]
        if targets:
            rows.append(f"| {state} | {', '.join(targets)} |")
    return "\n".join(rows)


def between(text: str, marks: tuple[str, str]) -> str:
    return text.split(marks[0])[1].split(marks[1])[0].strip()


def test_job_table_is_the_edge_table() -> None:
    assert between(PAGE.read_text(), JOBS) == job_table(), WRITE


def test_batch_job_table_is_the_move_table() -> None:
    assert between(PAGE.read_text(), BATCH_JOBS) == batch_job_table(), WRITE


def test_every_state_is_explained() -> None:
    text = PAGE.read_text()
    missing = [state for state in JobState if f"**{state}**" not in text]
    assert not missing


def test_every_failure_class_is_explained() -> None:
    rows = between(PAGE.read_text(), FAILURES).splitlines()[2:]
    assert [row.split("|")[1].strip() for row in rows] == [str(failure) for failure in Failure]


if __name__ == "__main__" and "--write" in sys.argv:
    page = PAGE.read_text()
    for marks, table in ((JOBS, job_table()), (BATCH_JOBS, batch_job_table())):
        before, rest = page.split(marks[0])
        page = before + marks[0] + "\n" + table + "\n" + marks[1] + rest.split(marks[1])[1]
    PAGE.write_text(page)
