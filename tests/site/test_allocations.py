"""What the agent makes of a scheduler's word, of its silence, and of words that contradict each other (F15, F16)."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from balsam.domain.states import BatchJobState
from balsam.platform.scheduler.base import SchedulerJob, SchedulerState
from balsam.site.services.allocations import GAP_SEC, HOPELESS_SEC, MISSES, MISSING_SEC, SILENT_SEC
from balsam.site.services.last_words import last_words
from balsam.site.settings import QueueSettings
from tests.site.bench import Bench

S = BatchJobState


def running(bench: Bench) -> None:
    """BatchJob 1 runs as allocation 100."""
    bench.service.add_batch_job()
    bench.go()
    bench.scheduler.become("100", SchedulerState.RUNNING, start_time=bench.clock.now())
    bench.go()
    assert bench.state() is S.RUNNING


def test_a_requeued_allocation_is_queued_again_f16(bench: Bench) -> None:
    bench.service.add_batch_job()
    bench.go()
    for state in (SchedulerState.RUNNING, SchedulerState.QUEUED, SchedulerState.RUNNING):
        bench.scheduler.become("100", state)
        bench.go()
    assert [state for _, state in bench.service.reports] == [S.QUEUED, S.RUNNING, S.QUEUED, S.RUNNING]


def test_a_launcher_that_the_service_has_heard_of_is_believed_until_the_scheduler_speaks_f16(bench: Bench) -> None:
    """Its Session made the BatchJob running: the scheduler is asked at once, and nothing is told but its own word."""
    bench.service.add_batch_job()
    bench.go()
    bench.scheduler.unavailable = True
    bench.service.set_state(1, S.RUNNING)
    bench.go(polling=False)
    bench.scheduler.unavailable = False
    bench.scheduler.become("100", SchedulerState.RUNNING, start_time=bench.clock.now())
    bench.go()
    assert (bench.state(), bench.view().start_time) == (S.RUNNING, bench.clock.now())
    bench.scheduler.become("100", SchedulerState.QUEUED)
    bench.go()
    bench.service.set_state(1, S.RUNNING)  # the launcher of its first life came up late
    bench.go(polling=False)
    assert [state for _, state in bench.service.reports] == [S.QUEUED, S.RUNNING, S.QUEUED, S.QUEUED]


def test_absence_from_listings_is_no_evidence_until_it_lasted_s12(bench: Bench) -> None:
    running(bench)
    bench.scheduler.unlisted.add("100")
    for _ in range(MISSES + 2):
        bench.go()
    assert bench.state() is S.RUNNING  # often enough, not long enough
    bench.scheduler.unlisted.clear()
    bench.clock.advance(MISSING_SEC)
    bench.go()
    bench.scheduler.unlisted.add("100")
    bench.go()
    bench.clock.advance(MISSING_SEC)
    bench.go()
    # long enough, not often enough: being seen in between starts it anew
    assert bench.state() is S.UNKNOWN
    bench.scheduler.unavailable = True
    for _ in range(MISSES):
        bench.go()
    assert bench.state() is S.UNKNOWN  # listings that failed do not count
    bench.scheduler.unavailable = False
    bench.go()
    assert bench.state() is S.FINISHED
    assert "has not listed it" in bench.told()


def test_missing_then_back_is_as_if_nothing_had_been(bench: Bench) -> None:
    running(bench)
    bench.scheduler.unlisted.add("100")
    bench.clock.advance(SILENT_SEC)
    bench.go()
    assert bench.state() is S.UNKNOWN
    assert "does not list it; last heard of at 00:00:00 UTC" in bench.told()
    bench.scheduler.unlisted.clear()
    bench.go()
    assert (bench.state(), bench.told()) == (S.RUNNING, "")
    assert "unknown_since" not in bench.view().status_info


def test_accounting_ends_it_at_once(bench: Bench) -> None:
    bench.service.add_batch_job()
    bench.go()
    bench.scheduler.unlisted.add("100")
    bench.scheduler.accounting = True
    bench.scheduler.become("100", SchedulerState.FAILED, reason="NODE_FAIL", exit_code=1)
    bench.go()
    view = bench.view()
    assert (view.state, view.status_info["error"], view.status_info["exit_code"]) == (S.FINISHED, "NODE_FAIL", 1)


def test_why_a_batch_script_failed_is_told_in_its_own_last_words(bench: Bench) -> None:
    """To who can't see the Site's files; an exit code alone says nothing."""
    bench.service.add_batch_job()
    bench.go()
    output = bench.site.qsubmit / f"{bench.name()}.output"
    output.write_text("loading\n\n\x1b[31mmodule: no such module 'cuda'\n")
    bench.scheduler.become("100", SchedulerState.FAILED, reason="FAILED: exit code 3", exit_code=3)
    bench.go()
    assert bench.view().status_info["output"] == str(output)
    assert bench.told() == ("FAILED: exit code 3; its output ends with: loading | [31mmodule: no such module 'cuda'")


@pytest.mark.parametrize(
    ("state", "code"), [(SchedulerState.FAILED, None), (SchedulerState.CANCELLED, 143), (SchedulerState.FINISHED, 0)]
)
def test_an_end_that_was_not_the_scripts_fault_has_no_last_words(
    bench: Bench, state: SchedulerState, code: int | None
) -> None:
    bench.service.add_batch_job()
    bench.go()
    (bench.site.qsubmit / f"{bench.name()}.output").write_text("launcher is process 77\n")
    bench.scheduler.become("100", state, reason="NODE_FAIL", exit_code=code)
    bench.go()
    assert bench.view().state is S.FINISHED
    assert "output_tail" not in bench.view().status_info


def test_what_is_no_plain_output_has_no_last_words(tmp_path: Path) -> None:
    assert last_words(tmp_path / "absent") == last_words(tmp_path) == {}
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("/etc/passwd")
    (tmp_path / "empty").write_text("\n\n")
    assert last_words(tmp_path / "fifo") == last_words(tmp_path / "link") == last_words(tmp_path / "empty") == {}
    (tmp_path / "long").write_text("x" * 100_000 + "".join(f"\nline {n}" for n in range(9)))
    assert last_words(tmp_path / "long")["output_tail"].split("\n") == [f"line {n}" for n in range(4, 9)]


def test_accounting_that_holds_it_for_alive_proves_nothing(bench: Bench) -> None:
    """A database that has not heard of the end says `running` for ever; the listing knows better."""
    running(bench)
    bench.scheduler.unlisted.add("100")
    bench.scheduler.accounting = True
    for _ in range(MISSES):
        bench.clock.advance(MISSING_SEC / 2)
        bench.go()
    assert bench.state() is S.FINISHED


def test_without_accounting_an_absence_is_not_counted_s12(bench: Bench) -> None:
    running(bench)
    bench.scheduler.unlisted.add("100")
    bench.scheduler.accounting_unavailable = True
    for _ in range(2 * MISSES):
        bench.clock.advance(MISSING_SEC)
        bench.go()
    assert bench.state() is S.UNKNOWN
    assert "accounting does not answer: sacct: Unable to connect" in bench.told()
    bench.scheduler.accounting_unavailable = False
    bench.scheduler.accounting = True
    bench.scheduler.become("100", SchedulerState.FINISHED, exit_code=0)
    bench.go()
    assert bench.state() is S.FINISHED


def test_accounting_that_is_away_does_not_hide_what_is_listed(bench: Bench) -> None:
    running(bench)
    bench.service.add_batch_job()
    bench.go()
    bench.scheduler.unlisted.add("100")
    bench.scheduler.accounting_unavailable = True
    bench.scheduler.become("101", SchedulerState.RUNNING)
    bench.go()
    assert bench.state(2) is S.RUNNING


def test_a_silent_scheduler_makes_it_unknown_with_since_when_and_why(bench: Bench) -> None:
    running(bench)
    bench.scheduler.unavailable = True
    bench.clock.advance(SILENT_SEC - 1)
    bench.go()
    assert (bench.state(), bench.told()) == (S.RUNNING, "")
    bench.clock.advance(1)
    bench.go()
    bench.clock.advance(600)
    bench.go()
    view = bench.view()
    assert (view.state, view.end_time) == (S.UNKNOWN, None)
    assert view.status_info["unknown_since"] == "2030-01-01T00:01:00+00:00"
    assert "Unable to contact slurm controller" in bench.told()
    assert [state for _, state in bench.service.reports].count(S.UNKNOWN) == 1
    bench.scheduler.unavailable = False
    bench.go()
    assert (bench.state(), bench.told()) == (S.RUNNING, "")


def test_what_the_scheduler_calls_unknown_is_neither_alive_nor_over_s12(bench: Bench) -> None:
    running(bench)
    bench.scheduler.become("100", SchedulerState.UNKNOWN, reason="node does not answer")
    for _ in range(10):
        bench.clock.advance(600)
        bench.go()
    assert (bench.state(), bench.told()) == (S.UNKNOWN, "node does not answer")


def test_an_unknown_allocation_can_be_deleted(bench: Bench) -> None:
    running(bench)
    bench.scheduler.become("100", SchedulerState.UNKNOWN)
    bench.go()
    bench.service.set_state(1, S.PENDING_DELETION)
    bench.go()
    assert bench.scheduler.cancelled == ["100"]
    bench.scheduler.become("100", SchedulerState.CANCELLED)
    bench.go()
    assert bench.state() is S.FINISHED


def test_an_id_that_was_given_out_again_is_somebody_elses(bench: Bench) -> None:
    running(bench)
    bench.scheduler.known["100"] = SchedulerJob("100", "another-job", SchedulerState.RUNNING)
    bench.scheduler.accounting = True
    for _ in range(MISSES):
        bench.clock.advance(MISSING_SEC / 2)
        bench.go()
    assert bench.state() is S.FINISHED
    assert bench.scheduler.cancelled == []


def test_a_submission_that_was_taken_twice_has_its_second_ended_s11(bench: Bench) -> None:
    running(bench)
    bench.scheduler.take(bench.name())
    bench.go()
    assert bench.scheduler.cancelled == ["101"]
    assert (bench.state(), bench.view().scheduler_id) == (S.RUNNING, "100")


def test_an_allocation_without_a_known_id_is_followed_by_its_name(bench: Bench) -> None:
    running(bench)
    (bench.site.qsubmit / "balsam-1-1" / "batch_job.json").unlink()
    bench.scheduler.unavailable = True
    bench.restart()
    bench.go()
    bench.scheduler.unavailable = False
    bench.go()
    bench.scheduler.become("100", SchedulerState.FINISHED)
    bench.go()
    assert bench.state() is S.FINISHED


def test_a_reason_goes_when_it_does_not_hold_any_more(bench: Bench) -> None:
    bench.service.add_batch_job()
    bench.go()
    start = bench.clock.now() + timedelta(hours=2)
    bench.scheduler.become("100", SchedulerState.QUEUED, reason="Priority", expected_start=start)
    bench.go()
    assert (bench.told(), bench.view().status_info["expected_start"]) == ("Priority", start.isoformat())
    reports = len(bench.service.reports)
    bench.scheduler.become(
        "100", SchedulerState.QUEUED, reason="Priority", expected_start=start + timedelta(seconds=200)
    )
    bench.go()
    assert len(bench.service.reports) == reports  # such guesses move with every look
    bench.scheduler.become("100", SchedulerState.RUNNING, start_time=start)
    bench.go()
    assert bench.told() == ""
    assert "expected_start" not in bench.view().status_info


def test_what_would_wait_for_ever_is_ended_and_says_why(bench: Bench) -> None:
    bench.service.add_batch_job()
    bench.go()
    bench.scheduler.become("100", SchedulerState.QUEUED, reason="PartitionTimeLimit", is_hopeless=True)
    bench.go()
    assert bench.scheduler.cancelled == []  # administrators change limits while one looks
    bench.clock.advance(HOPELESS_SEC)
    bench.go()
    assert bench.scheduler.cancelled == ["100"]
    bench.scheduler.become("100", SchedulerState.CANCELLED, reason="CANCELLED by sci")
    bench.go()
    assert bench.state() is S.FINISHED
    assert "would let it wait for ever (PartitionTimeLimit)" in bench.told()


def test_a_hopeless_reason_that_passes_ends_nothing(bench: Bench) -> None:
    bench.service.add_batch_job()
    bench.go()
    for hopeless in (True, False, True):
        bench.scheduler.become("100", SchedulerState.QUEUED, reason="x", is_hopeless=hopeless)
        bench.go()
        bench.clock.advance(HOPELESS_SEC - 1)
    bench.go()
    assert bench.scheduler.cancelled == []


def of_three_nodes(bench: Bench) -> None:
    """BatchJob 1 is allocation 100."""
    queues = {"local": QueueSettings(max_nodes=3)}
    scheduler = bench.settings.scheduler.model_copy(update={"allowed_queues": queues})
    bench.settings = bench.settings.model_copy(update={"scheduler": scheduler})
    bench.restart()
    bench.service.add_batch_job(num_nodes=3)
    bench.go()


def test_an_allocation_without_its_launchers_node_is_ended_and_says_why(bench: Bench) -> None:
    """S12: its other nodes are no evidence that anybody works there."""
    of_three_nodes(bench)
    bench.scheduler.become("100", SchedulerState.RUNNING, node_names=("n1", "n2", "n3"), script_node="n1")
    bench.go()
    bench.scheduler.become("100", SchedulerState.RUNNING, node_names=("n1", "n3"), script_node="n1")
    bench.go()
    assert (bench.state(), bench.told(), bench.scheduler.cancelled) == (S.RUNNING, "", [])
    bench.scheduler.become("100", SchedulerState.RUNNING, node_names=("n3",), script_node="n1")
    bench.go()
    bench.go()
    assert (bench.state(), bench.scheduler.cancelled) == (S.RUNNING, ["100"]), "the scheduler says when it is over"
    bench.scheduler.become("100", SchedulerState.CANCELLED, reason="CANCELLED by sci")
    bench.go()
    assert bench.state() is S.FINISHED
    assert bench.told().startswith("NODE_FAIL: n1")


@pytest.mark.parametrize(
    "facts",
    [
        {"node_names": ("n1", "n2", "n3"), "script_node": "frontend"},
        {"node_names": (), "script_node": "n1"},
        {"node_names": ("n2",), "script_node": ""},
    ],
)
def test_a_scheduler_that_does_not_tell_the_launchers_node_ends_nothing(bench: Bench, facts: dict[str, Any]) -> None:
    of_three_nodes(bench)
    bench.scheduler.become("100", SchedulerState.RUNNING, **facts)
    bench.go()
    assert (bench.state(), bench.told(), bench.scheduler.cancelled) == (S.RUNNING, "", [])


def test_who_cancelled_it_is_shown(bench: Bench) -> None:
    running(bench)
    bench.scheduler.become("100", SchedulerState.CANCELLED, reason="CANCELLED by root")
    bench.go()
    assert (bench.state(), bench.told()) == (S.FINISHED, "CANCELLED by root")


def test_one_listing_serves_all_allocations(bench: Bench) -> None:
    for _ in range(20):
        bench.service.add_batch_job()
    bench.go()
    bench.scheduler.listings = 0
    bench.go(listing=False)
    assert bench.scheduler.listings == 1


@pytest.mark.parametrize("is_polled", [True, False])
def test_a_scheduler_that_has_to_be_polled_is_left_alone_between_two_questions(bench: Bench, is_polled: bool) -> None:
    bench.allocations.is_polled = is_polled
    for _ in range(5):
        bench.service.add_batch_job()
        bench.go(polling=False)
    assert bench.scheduler.listings == (1 if is_polled else 5)
    assert bench.batch_jobs.has_unfinished_business is is_polled
    bench.clock.advance(GAP_SEC)
    bench.go(listing=False, polling=False)
    assert bench.scheduler.listings == (2 if is_polled else 5)
