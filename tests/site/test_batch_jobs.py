"""One pass after another over BatchJobs: submissions, deletions, results of dead launchers, disks that fill."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from balsam.client.outbox import Outbox, outbox_path
from balsam.domain.states import BatchJobState
from balsam.launcher.config import LauncherConfig
from balsam.platform.scheduler.base import QueueLimits, SchedulerState
from balsam.site import directory as site_directory
from balsam.site import ledger as ledger_module
from balsam.site.services import delivery as delivery_module
from balsam.site.services.allocations import CANCEL_AGAIN_SEC
from balsam.site.services.submission import LIMITS_SEC
from balsam.wire.batch_jobs import BatchJobPartition
from tests.site.bench import Bench
from tests.site.fake_service import FakeService

S = BatchJobState


def test_the_life_of_a_batch_job(bench: Bench) -> None:
    number = bench.service.add_batch_job(num_nodes=1, wall_time_min=30)
    bench.go()
    assert (bench.state(), bench.scheduler.submissions) == (S.QUEUED, [bench.name()])
    bench.scheduler.become("100", SchedulerState.RUNNING, start_time=bench.clock.now())
    bench.go(listing=False)
    assert bench.state() is S.RUNNING
    bench.clock.advance(60)
    bench.scheduler.become("100", SchedulerState.FINISHED, start_time=bench.clock.now(), exit_code=0)
    bench.go(listing=False)
    view = bench.service.batch_jobs[number]
    assert (view.state, view.end_time, view.scheduler_id) == (S.FINISHED, bench.clock.now(), "100")
    assert bench.is_closed()


def test_what_the_launcher_is_given(bench: Bench) -> None:
    bench.service.add_batch_job(
        filter_tags={"kind": "a"},
        num_nodes=1,
        partitions=[BatchJobPartition(job_mode="mpi", num_nodes=1, filter_tags={"x": "y"})],
    )
    bench.go()
    directory = bench.site.qsubmit / "balsam-1-1"
    config = LauncherConfig.read(directory / "launcher.json")
    assert (config.site_id, config.batch_job_id, config.data_path) == (1, 1, str(bench.site.data))
    script = (directory / "script.sh").read_text()
    assert f"-m balsam.launcher --config {directory}/launcher.json -j serial -t 10" in script
    assert "--tag='kind=a' -p mpi:1:x=y" in script
    credentials = directory / "credentials.json"
    assert json.loads(credentials.read_text()) == {"url": bench.service.url, "token": "blsm_launcher_1"}
    of_jobs = Path(config.job_credentials_path or "")
    assert json.loads(of_jobs.read_text()) == {"url": bench.service.url, "token": "blsm_job_1"}
    for path in directory.iterdir():
        assert path.stat().st_mode & 0o077 == 0, path
    assert "blsm" not in script


def test_a_submission_that_worked_and_was_called_failed_is_found_s11(bench: Bench) -> None:
    bench.service.add_batch_job()
    bench.scheduler.dies_after_submit = True
    bench.go()
    assert bench.state() is S.PENDING_SUBMISSION
    assert "timed out" in bench.service.batch_jobs[1].status_info["error"]
    for _ in range(3):
        bench.go()
    assert bench.scheduler.submissions == [bench.name()]
    assert bench.state() is S.QUEUED
    assert "error" not in bench.service.batch_jobs[1].status_info


def test_a_lost_record_does_not_submit_twice_s11(bench: Bench) -> None:
    bench.service.add_batch_job()
    bench.service.away = True
    bench.go()
    bench.service.away = False
    bench.go()
    (bench.site.qsubmit / "balsam-1-1" / "batch_job.json").write_text("{torn")
    bench.service.batch_jobs[1] = bench.service.batch_jobs[1].model_copy(update={"state": S.PENDING_SUBMISSION})
    bench.restart()
    bench.go()
    assert bench.scheduler.submissions == [bench.name()]
    assert bench.state() is S.QUEUED


def test_a_refusal_of_the_scheduler_is_final_and_in_its_own_words(bench: Bench) -> None:
    bench.service.add_batch_job()
    bench.scheduler.refuse = "sbatch: error: Batch job submission failed: Invalid account"
    bench.go()
    view = bench.service.batch_jobs[1]
    assert view.state is S.SUBMIT_FAILED
    assert "Invalid account" in view.status_info["error"]
    assert view.status_info["submit_script"].endswith("balsam-1-1/script.sh")
    bench.scheduler.refuse = ""
    bench.go()
    assert bench.scheduler.submissions == []
    assert bench.is_closed()


def test_an_unavailable_scheduler_is_asked_again(bench: Bench) -> None:
    bench.service.add_batch_job()
    bench.scheduler.unavailable = True
    bench.go()
    bench.go()
    assert bench.state() is S.PENDING_SUBMISSION
    assert len(bench.service.reports) == 1  # the same trouble is told once
    bench.scheduler.unavailable = False
    bench.go()
    assert bench.state() is S.QUEUED


def test_an_unavailable_scheduler_is_asked_once_in_a_pass(bench: Bench) -> None:
    """Each question to one that hangs takes a minute, in which nothing else is done for any BatchJob."""
    ends = [bench.service.add_batch_job() for _ in range(3)]
    bench.go()
    for number in ends:
        bench.service.set_state(number, S.PENDING_DELETION)
    waits = [bench.service.add_batch_job() for _ in range(5)]
    bench.scheduler.unavailable = True
    for _ in range(3):
        bench.scheduler.asked = 0
        bench.go(polling=False)
        assert bench.scheduler.asked <= 2, "once for a request, once for what is followed"
    assert {bench.told(number) for number in waits} == {
        "the scheduler does not answer: squeue: Unable to contact slurm controller"
    }
    bench.scheduler.unavailable = False
    bench.go()
    assert [bench.state(number) for number in waits] == [S.QUEUED] * 5
    assert sorted(bench.scheduler.cancelled) == ["100", "101", "102"]


def test_one_that_the_scheduler_has_no_answer_to_does_not_keep_the_others_waiting(bench: Bench) -> None:
    numbers = [bench.service.add_batch_job() for _ in range(3)]
    bench.scheduler.silent_about = bench.name(numbers[0])
    bench.go()
    assert [bench.state(number) for number in numbers] == [S.PENDING_SUBMISSION] * 3
    bench.go()
    assert [bench.state(number) for number in numbers] == [S.PENDING_SUBMISSION, S.QUEUED, S.QUEUED]
    assert "sacct: timed out" in bench.told(numbers[0])


def test_deletion_is_asked_again_and_reported_when_it_is_gone(bench: Bench) -> None:
    bench.service.add_batch_job()
    bench.go()
    bench.service.set_state(1, S.PENDING_DELETION)
    for _ in range(3):
        bench.go()
    assert bench.scheduler.cancelled == ["100"]
    bench.clock.advance(CANCEL_AGAIN_SEC)
    bench.go()
    assert bench.scheduler.cancelled == ["100", "100"]
    assert bench.state() is S.PENDING_DELETION
    bench.scheduler.become("100", SchedulerState.FINISHED)
    bench.go()
    assert bench.state() is S.FINISHED


def test_deletion_between_submission_and_its_record_s11(bench: Bench) -> None:
    bench.service.add_batch_job()
    bench.scheduler.dies_after_submit = True
    bench.go()
    bench.service.set_state(1, S.PENDING_DELETION)
    bench.restart()
    bench.go()
    assert bench.scheduler.cancelled == ["100"]
    assert bench.state() is S.PENDING_DELETION


def test_deletion_that_meets_a_refused_submission_ends_as_finished(bench: Bench) -> None:
    bench.service.add_batch_job(queue="nowhere")
    refused = bench.service.patch

    def meet(patches: dict) -> dict:
        bench.service.set_state(1, S.PENDING_DELETION)
        bench.service.patch = refused
        return refused(patches)

    bench.service.patch = meet
    bench.go()
    bench.go()
    assert bench.state() is S.FINISHED
    assert "nowhere" in bench.service.batch_jobs[1].status_info["error"]
    assert bench.is_closed()


def test_max_queued_jobs_counts_what_waits_and_runs(bench: Bench) -> None:
    allow(bench, max_queued_jobs=2)
    for _ in range(3):
        bench.service.add_batch_job()
    bench.go()
    assert [bench.state(n) for n in (1, 2, 3)] == [S.QUEUED, S.QUEUED, S.SUBMIT_FAILED]
    assert "allows 2 BatchJobs at a time" in bench.service.batch_jobs[3].status_info["error"]


def test_filter_tags_of_the_site_must_be_met(bench: Bench) -> None:
    bench.settings = bench.settings.model_copy(update={"filter_tags": {"project": "a"}})
    bench.restart()
    bench.service.add_batch_job(filter_tags={"project": "a", "more": "b"})
    bench.service.add_batch_job()
    bench.go()
    assert (bench.state(1), bench.state(2)) == (S.QUEUED, S.SUBMIT_FAILED)


def test_a_template_that_can_not_be_rendered_fails_the_batch_job_with_its_place(bench: Bench) -> None:
    (bench.site.root / "job-template.sh").write_text("#!/bin/bash\n{{ launcher_cmdd }}\n")
    bench.restart()
    bench.service.add_batch_job()
    bench.go()
    assert bench.state() is S.SUBMIT_FAILED
    assert "'launcher_cmdd' is undefined" in bench.service.batch_jobs[1].status_info["error"]


def test_the_service_restored_from_a_backup_does_not_adopt_anothers_allocation(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.service.add_batch_job()
    bench.go()
    bench.service.batch_jobs.clear()
    bench.service.add_batch_job()
    bench.go()
    assert bench.state() is S.PENDING_SUBMISSION
    assert "is another one than that in" in caplog.text
    assert len(bench.scheduler.submissions) == 1


def full_disk(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device", "/site")


def test_a_full_disk_stops_submissions_not_the_agent_f10(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.service.add_batch_job()
    with monkeypatch.context() as patched:
        patched.setattr(ledger_module, "write_json", full_disk)
        bench.go()
        assert bench.state() is S.PENDING_SUBMISSION
        assert "No space left" in bench.service.batch_jobs[1].status_info["error"]
        assert bench.scheduler.submissions == []
    bench.go()
    assert (bench.state(), bench.scheduler.submissions) == (S.QUEUED, [bench.name()])


def test_a_disk_full_after_the_submission_loses_nothing_f10(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.service.add_batch_job()
    submit = bench.scheduler.submit

    def submit_and_fill(*arguments: object) -> str:
        monkeypatch.setattr(ledger_module, "write_json", full_disk)
        return submit(*arguments)

    monkeypatch.setattr(bench.scheduler, "submit", submit_and_fill)
    bench.go()
    bench.scheduler.become("100", SchedulerState.RUNNING)
    bench.go()
    assert bench.state() is S.RUNNING
    assert bench.record()["phase"] == "intent"
    monkeypatch.setattr(ledger_module, "write_json", site_directory.write_json)
    bench.go()
    assert bench.record()["phase"] == "submitted"
    assert bench.scheduler.submissions == [bench.name()]


def leave_results(bench: Bench, session_id: int, count: int) -> Path:
    """An outbox as a launcher leaves it when it is killed."""
    path = outbox_path(bench.site.qsubmit / "balsam-1-1", session_id)
    outbox = Outbox(path, session_id)
    record = {"job_id": 7, "token": 1, "event": "run_done", "at": "2030-01-01T00:00:00Z", "return_code": 0}
    outbox.append([record] * count)
    outbox.sync()
    outbox.close()
    return path


def test_results_of_a_dead_launcher_come_before_finished_l3(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery_module, "MAX_REPORT", 10)
    bench.service.add_batch_job()
    bench.go()
    first, second = leave_results(bench, 5, 75), leave_results(bench, 6, 3)
    bench.scheduler.become("100", SchedulerState.FINISHED)
    bench.service.away = True
    bench.go()
    bench.restart()
    bench.service.away = False
    bench.go()
    assert bench.state() is S.QUEUED  # five slices are in, the agent looks after others in between
    while bench.state() is not S.FINISHED:
        bench.go()
    told = [(session, record["seq"]) for session, records in bench.service.delivered for record in records]
    assert told == [(5, seq) for seq in range(1, 76)] + [(6, seq) for seq in range(1, 4)]
    assert not first.exists() and not second.exists()


def test_large_results_are_delivered_in_bodies_that_the_service_takes(bench: Bench) -> None:
    bench.service.add_batch_job()
    bench.go()
    outbox = Outbox(outbox_path(bench.site.qsubmit / "balsam-1-1", 5), 5)
    record = {"job_id": 7, "token": 1, "event": "run_done", "at": "2030-01-01T00:00:00Z", "return_code": 0}
    outbox.append([{**record, "result": {"value": "x" * 500_000}}] * 40)
    outbox.close()
    bench.scheduler.become("100", SchedulerState.FINISHED)
    while bench.state() is not S.FINISHED:
        bench.go()
    sizes = [len(json.dumps(records)) for _, records in bench.service.delivered]
    assert len(sizes) == 3
    assert max(sizes) < 9_000_000


def test_a_torn_outbox_gives_what_is_whole_f9(bench: Bench) -> None:
    bench.service.add_batch_job()
    bench.go()
    path = leave_results(bench, 5, 3)
    path.write_bytes(path.read_bytes()[:-5])
    bench.scheduler.become("100", SchedulerState.FINISHED)
    bench.go()
    assert bench.state() is S.FINISHED
    assert [record["seq"] for record in bench.service.delivered[0][1]] == [1, 2]


@pytest.mark.parametrize("content", [b"", b"garbage\n", b"\0" * 100])
def test_an_outbox_that_can_not_be_read_does_not_hold_up_the_end(bench: Bench, content: bytes) -> None:
    bench.service.add_batch_job()
    bench.go()
    (bench.site.qsubmit / "balsam-1-1" / "session-5.outbox").write_bytes(content)
    bench.scheduler.become("100", SchedulerState.FINISHED)
    bench.go()
    assert bench.state() is S.FINISHED


def test_the_local_service_on_another_port_is_found_and_told_to_launchers(
    bench: Bench, tmp_path: Path, service: FakeService
) -> None:
    followed = tmp_path / "service.json"
    followed.write_text(json.dumps({"url": service.url, "token": "t"}))
    followed.chmod(0o600)
    bench.service.add_batch_job()
    bench.go()
    old = json.loads(bench.site.credentials.read_text())
    bench.site.credentials.write_text(json.dumps(old | {"url": "http://127.0.0.1:9", "follow": str(followed)}))
    bench.restart()
    assert bench.link.url == service.url
    assert json.loads(bench.site.credentials.read_text())["url"] == service.url
    bench.batch_jobs._submission.move_service("http://127.0.0.1:10")
    for name, token in (("credentials.json", "blsm_launcher_1"), ("job-credentials.json", "blsm_job_1")):
        written = json.loads((bench.site.qsubmit / "balsam-1-1" / name).read_text())
        assert written == {"url": "http://127.0.0.1:10", "token": token}


def test_a_cut_off_submission_is_not_repeated_while_it_may_be_taken_s11(bench: Bench) -> None:
    bench.service.add_batch_job()
    bench.scheduler.cut_off = True
    bench.go()
    assert bench.told() == "sbatch did not answer within 60 s"
    bench.scheduler.cut_off = False
    bench.clock.advance(bench.scheduler.doubt_sec - 1)
    bench.go()
    assert bench.scheduler.submissions == []
    assert f"looked for under the name {bench.name()}" in bench.told()
    bench.scheduler.take(bench.name())
    bench.go()
    assert (bench.state(), bench.view().scheduler_id, len(bench.scheduler.submissions)) == (S.QUEUED, "100", 1)
    assert bench.told() == ""


@pytest.mark.parametrize("listed", [True, False])
def test_a_launcher_that_is_quicker_than_the_search_for_its_submission_s11(bench: Bench, listed: bool) -> None:
    """It runs already, so nothing is submitted again, and it is followed by its name."""
    bench.service.add_batch_job()
    bench.scheduler.cut_off = True
    bench.go()
    bench.scheduler.cut_off = False
    bench.service.set_state(1, S.RUNNING)
    if not listed:
        bench.go()
        bench.clock.advance(bench.scheduler.doubt_sec)
        bench.go()
        assert (bench.state(), bench.scheduler.submissions) == (S.UNKNOWN, [])
    number = bench.scheduler.take(bench.name())
    bench.scheduler.become(number, SchedulerState.RUNNING, start_time=bench.clock.now())
    bench.go()
    assert (bench.state(), bench.view().scheduler_id, len(bench.scheduler.submissions)) == (S.RUNNING, number, 1)
    assert bench.told() == ""


def test_after_the_doubt_it_is_submitted_again(bench: Bench) -> None:
    bench.service.add_batch_job()
    bench.scheduler.cut_off = True
    bench.go()
    bench.scheduler.cut_off = False
    bench.clock.advance(bench.scheduler.doubt_sec)
    bench.go()
    assert (bench.state(), len(bench.scheduler.submissions)) == (S.QUEUED, 1)


def test_an_agent_that_died_may_have_left_a_submission_under_way_s11(bench: Bench) -> None:
    bench.service.add_batch_job()
    bench.scheduler.cut_off = True
    bench.go()
    bench.scheduler.cut_off = False
    bench.restart()
    bench.go()
    assert bench.scheduler.submissions == []
    bench.clock.advance(bench.scheduler.doubt_sec)
    bench.go()
    assert len(bench.scheduler.submissions) == 1


def test_deletion_in_doubt_ends_nothing_before_it_is_settled_s11(bench: Bench) -> None:
    bench.service.add_batch_job()
    bench.scheduler.cut_off = True
    bench.go()
    bench.service.set_state(1, S.PENDING_DELETION)
    bench.go()
    assert bench.state() is S.PENDING_DELETION
    bench.scheduler.take(bench.name())
    bench.go()
    assert bench.scheduler.cancelled == ["100"]
    bench.scheduler.become("100", SchedulerState.CANCELLED)
    bench.go()
    assert bench.state() is S.FINISHED


def test_a_lying_service_can_not_have_another_job_of_the_user_ended(bench: Bench) -> None:
    """S15: it may claim that any id of the user's is a BatchJob's."""
    bench.scheduler.take("thesis")
    bench.service.add_batch_job()
    claimed = {"state": S.PENDING_DELETION, "scheduler_id": "100"}
    bench.service.batch_jobs[1] = bench.view().model_copy(update=claimed)
    for _ in range(3):
        bench.go()
    assert bench.scheduler.cancelled == []
    claimed = {"state": S.RUNNING, "scheduler_id": "100"}
    bench.service.add_batch_job()
    bench.service.batch_jobs[2] = bench.view(2).model_copy(update=claimed)
    bench.go()
    bench.service.set_state(2, S.PENDING_DELETION)
    bench.go()
    assert bench.scheduler.cancelled == []


def test_names_are_no_other_sites_and_no_earlier_services(bench: Bench) -> None:
    bench.service.add_batch_job()
    first = bench.name()
    bench.service.batch_jobs.clear()
    bench.service.add_batch_job()
    other = ledger_module.Ledger(bench.site.root / "elsewhere", 1).allocation_name(bench.view())
    assert len({first, bench.name(), other}) == 3
    assert bench.name().startswith(bench.ledger.allocation_prefix)
    assert not other.startswith(bench.ledger.allocation_prefix)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"num_nodes": 5}, "5 nodes are more than the 4 that the scheduler's queue 'local' allows"),
        ({"wall_time_min": 31}, "31 minutes are more than the 30 that the scheduler's queue 'local' allows"),
    ],
)
def test_limits_of_the_schedulers_queue_are_named(bench: Bench, asked: dict[str, int], said: str) -> None:
    allow(bench, max_nodes=100)
    bench.scheduler.limits = {"local": QueueLimits(max_nodes=4, max_wall_time_min=30)}
    bench.service.add_batch_job(**asked)
    bench.service.add_batch_job(num_nodes=4, wall_time_min=30)
    bench.go()
    assert (bench.state(1), bench.state(2)) == (S.SUBMIT_FAILED, S.QUEUED)
    assert bench.told(1) == said
    assert bench.scheduler.limits_asked == 1
    bench.clock.advance(LIMITS_SEC)
    bench.service.add_batch_job(num_nodes=4)
    bench.go()
    assert bench.scheduler.limits_asked == 2


def test_a_refusal_does_not_leave_alone_what_was_submitted_before_s11(bench: Bench) -> None:
    """The record is lost and the limits have changed: what the scheduler has is taken on, not forgotten."""
    bench.service.add_batch_job()
    bench.scheduler.take(bench.name())
    bench.scheduler.limits = {"local": QueueLimits(max_wall_time_min=1)}
    bench.go()
    assert (bench.state(), bench.view().scheduler_id) == (S.QUEUED, "100")


def allow(bench: Bench, **limits: int) -> None:
    """Other limits of the Site's own."""
    queue = bench.settings.scheduler.allowed_queues["local"].model_copy(update=limits)
    scheduler = bench.settings.scheduler.model_copy(update={"allowed_queues": {"local": queue}})
    bench.settings = bench.settings.model_copy(update={"scheduler": scheduler})
    bench.restart()
