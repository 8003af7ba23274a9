"""What every scheduler adapter over command lines has to pass beside `scheduler_conformance`: commands that hang, lie,
speak another language, or do the work and say that they failed. Needs pytest.

Subclass `CommandConformance` and give it a `harness` fixture that yields a `CommandHarness`; around real commands or
fake ones, the suite is the same.
"""
# ruff: noqa: S101 -- tests that are shipped

import time
from collections.abc import Callable, Iterator

import pytest

from balsam.platform.scheduler.base import (
    Scheduler,
    SchedulerState,
    SchedulerUnavailable,
    SubmitInDoubt,
    SubmitRefused,
    SubmitRequest,
)
from balsam.testing.scheduler_bench import (
    CommandHarness,
    count_runs,
    look,
    wait_for,
    wait_over,
    wait_state,
    write_script,
)

LONG = "echo run >> runs; exec sleep 600"


class CommandConformance:
    """The suite. `harness.faults` makes the commands misbehave for the length of a block."""

    @pytest.fixture
    def harness(self) -> Iterator[CommandHarness]:
        """Override: yield the harness of the adapter under test."""
        raise NotImplementedError("give this class a `harness` fixture")

    @pytest.mark.parametrize("mode", ["done-fail", "done-hang", "done-silent"])
    def test_s11_a_submission_that_was_taken_and_not_admitted_is_found(
        self, harness: CommandHarness, mode: str
    ) -> None:
        scheduler = harness.make()
        script = write_script(harness, "taken", LONG)
        with harness.faults.fault(mode, harness.dialect.submit, text=harness.dialect.outage):
            scheduler_id = scheduler.submit(script, f"{harness.prefix}taken", harness.request())
        assert scheduler.submit(script, f"{harness.prefix}taken", harness.request()) == scheduler_id
        wait_state(harness, scheduler, scheduler_id, SchedulerState.RUNNING)
        wait_for(harness, (harness.directory / "runs").exists)
        assert count_runs(harness) == 1
        _end(harness, scheduler, scheduler_id)

    @pytest.mark.parametrize("mode", ["hang", "fail", "empty"])
    def test_s11_a_submission_whose_fate_is_not_known_is_a_doubt(self, harness: CommandHarness, mode: str) -> None:
        scheduler = harness.make()
        script = write_script(harness, "doubt", "true")
        with (
            harness.faults.fault(mode, harness.dialect.submit, text=harness.dialect.outage),
            pytest.raises(SubmitInDoubt) as doubt,
        ):
            scheduler.submit(script, f"{harness.prefix}doubt", harness.request())
        assert str(doubt.value).strip()
        assert scheduler.doubt_sec > 0
        assert scheduler.find(f"{harness.prefix}doubt") is None
        wait_over(harness, scheduler, scheduler.submit(script, f"{harness.prefix}doubt", harness.request()))

    def test_s11_without_a_search_nothing_is_submitted(self, harness: CommandHarness) -> None:
        scheduler = harness.make()
        script = write_script(harness, "blind", "touch ran")
        with (
            harness.faults.fault("fail", *harness.dialect.questions, text=harness.dialect.outage),
            pytest.raises(SchedulerUnavailable),
        ):
            scheduler.submit(script, f"{harness.prefix}blind", harness.request())
        assert harness.dialect.submit not in [program for program, _ in harness.faults.calls()]

    def test_unreachable_for_a_while_changes_nothing(self, harness: CommandHarness) -> None:
        scheduler = harness.make()
        scheduler_id = scheduler.submit(write_script(harness, "away", LONG), f"{harness.prefix}away", harness.request())
        wait_state(harness, scheduler, scheduler_id, SchedulerState.RUNNING)
        with harness.faults.fault("fail", text=harness.dialect.outage):
            for question in (
                scheduler.jobs,
                lambda: scheduler.history([scheduler_id]),
                lambda: scheduler.find(f"{harness.prefix}away"),
                lambda: scheduler.cancel(scheduler_id),
            ):
                with pytest.raises(SchedulerUnavailable):
                    question()
            for extra in (
                scheduler.queues,
                scheduler.backfill_windows,
                lambda: scheduler.time_left_sec(scheduler_id),
            ):
                _unavailable_or_silent(extra)
        assert look(scheduler, scheduler_id).state is SchedulerState.RUNNING
        _end(harness, scheduler, scheduler_id)

    def test_a_command_that_hangs_is_ended(self, harness: CommandHarness) -> None:
        scheduler = harness.make()
        began = time.monotonic()
        with (
            harness.faults.fault("hang", *harness.dialect.questions),
            pytest.raises(SchedulerUnavailable, match="within"),
        ):
            scheduler.jobs()
        assert time.monotonic() - began < 30

    def test_a_command_that_is_missing_is_named(self, harness: CommandHarness) -> None:
        scheduler = harness.make()
        for wrapper in harness.faults.bin.iterdir():
            wrapper.chmod(0)
            wrapper.unlink()
        with pytest.raises(SchedulerUnavailable):
            scheduler.jobs()

    def test_s12_a_listing_without_it_is_no_end_and_it_comes_back(self, harness: CommandHarness) -> None:
        scheduler = harness.make()
        scheduler_id = scheduler.submit(write_script(harness, "back", LONG), f"{harness.prefix}back", harness.request())
        wait_state(harness, scheduler, scheduler_id, SchedulerState.RUNNING)
        with harness.faults.fault("empty", harness.dialect.listing):
            try:
                assert scheduler_id not in scheduler.jobs()
                assert not look(scheduler, scheduler_id).state.is_over
            except SchedulerUnavailable:
                pass  # its listings are never empty
        assert look(scheduler, scheduler_id).state is SchedulerState.RUNNING
        _end(harness, scheduler, scheduler_id)

    def test_s12_a_listing_cut_off_anywhere_tells_no_end(self, harness: CommandHarness) -> None:
        scheduler = harness.make()
        scheduler_id = scheduler.submit(write_script(harness, "cut", LONG), f"{harness.prefix}cut", harness.request())
        wait_state(harness, scheduler, scheduler_id, SchedulerState.RUNNING)
        with harness.faults.fault("cut", harness.dialect.listing, text="100000000"):
            scheduler.jobs()
        size = len(harness.faults.last_output(harness.dialect.listing))
        assert size > 20
        for length in sorted({*range(1, size, max(1, size // 25)), size - 1, size - 2}):
            with harness.faults.fault("cut", harness.dialect.listing, text=str(length)):
                try:
                    job = scheduler.jobs().get(scheduler_id)
                except SchedulerUnavailable:
                    continue
            assert job is None or job.state in (SchedulerState.RUNNING, SchedulerState.UNKNOWN), length
        _end(harness, scheduler, scheduler_id)

    def test_a_state_that_nobody_knows_is_unknown_and_named(self, harness: CommandHarness) -> None:
        scheduler = harness.make()
        scheduler_id = scheduler.submit(write_script(harness, "moon", LONG), f"{harness.prefix}moon", harness.request())
        wait_state(harness, scheduler, scheduler_id, SchedulerState.RUNNING)
        with harness.faults.fault("edit", harness.dialect.listing, text=harness.dialect.unknown_state):
            job = scheduler.jobs()[scheduler_id]
        assert job.state is SchedulerState.UNKNOWN
        assert job.reason
        _end(harness, scheduler, scheduler_id)

    def test_a_reason_with_blanks_arrives_whole(self, harness: CommandHarness) -> None:
        request = harness.waiting_request()
        assert request is not None
        scheduler = harness.make()
        scheduler_id = scheduler.submit(write_script(harness, "blank", "true"), f"{harness.prefix}blank", request)
        wait_for(harness, lambda: look(scheduler, scheduler_id).reason != "")
        with harness.faults.fault("edit", harness.dialect.listing, text=harness.dialect.blank_reason):
            job = scheduler.jobs()[scheduler_id]
        assert job.state is SchedulerState.QUEUED
        assert "Nodes required are down, drained or reserved" in job.reason
        _end(harness, scheduler, scheduler_id)

    def test_an_id_that_was_given_out_again_has_another_name(self, harness: CommandHarness) -> None:
        scheduler = harness.make()
        scheduler_id = scheduler.submit(
            write_script(harness, "again", LONG), f"{harness.prefix}again", harness.request()
        )
        wait_state(harness, scheduler, scheduler_id, SchedulerState.RUNNING)
        with harness.faults.fault("edit", harness.dialect.listing, text=harness.dialect.renamed):
            job = scheduler.jobs().get(scheduler_id)
        assert job is None or job.name != f"{harness.prefix}again"
        _end(harness, scheduler, scheduler_id)

    def test_one_listing_serves_any_number_of_allocations(self, harness: CommandHarness) -> None:
        scheduler = harness.make()
        script = write_script(harness, "few", "sleep 600")
        ids = [scheduler.submit(script, f"{harness.prefix}few-{number}", harness.request()) for number in range(4)]
        before = len(harness.faults.calls())
        assert set(ids) <= set(scheduler.jobs())
        assert len(harness.faults.calls()) - before <= harness.dialect.listing_calls
        for scheduler_id in ids:
            _end(harness, scheduler, scheduler_id)

    def test_language_of_the_user_is_kept_from_questions_and_left_to_scripts(
        self, harness: CommandHarness, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
        monkeypatch.setenv("LANGUAGE", "de")
        monkeypatch.setenv("TZ", "Asia/Tokyo")
        scheduler = harness.make()
        began = time.time()
        scheduler_id = scheduler.submit(
            write_script(harness, "tongue", "echo ${LC_ALL-unset} > tongue"),
            f"{harness.prefix}tongue",
            harness.request(),
        )
        job = wait_over(harness, scheduler, scheduler_id)
        assert job.start_time is not None
        assert abs(job.start_time.timestamp() - began) < 600
        wait_for(harness, (harness.directory / "tongue").exists)
        assert (harness.directory / "tongue").read_text() != "C\n"
        asked = {tongue for program, tongue in harness.faults.calls() if program != harness.dialect.submit}
        assert asked == {"C"}

    @pytest.mark.parametrize("value", ["", "-x", "two\nlines", "nul\0", "\x1b[1m"])
    def test_values_that_could_be_more_than_a_word_are_refused(self, harness: CommandHarness, value: str) -> None:
        scheduler = harness.make()
        script = write_script(harness, "word", "true")
        asked = harness.request()
        for request in (
            SubmitRequest(asked.num_nodes, asked.wall_time_min, value, asked.project),
            SubmitRequest(asked.num_nodes, asked.wall_time_min, asked.queue, value),
        ):
            with pytest.raises(SubmitRefused):
                scheduler.submit(script, f"{harness.prefix}word", request)
        with pytest.raises(SubmitRefused):
            scheduler.submit(script, value, asked)
        for request in (SubmitRequest(0, 1), SubmitRequest(1, 0)):
            with pytest.raises(SubmitRefused, match="at least 1"):
                scheduler.submit(script, f"{harness.prefix}word", request)
        assert harness.faults.calls() == []

    @pytest.mark.parametrize("scheduler_id", ["", "-a", "--help", "1 2", "1;rm", "../1", "x" * 300])
    def test_ids_that_are_none_reach_no_command(self, harness: CommandHarness, scheduler_id: str) -> None:
        """An id may come from a record that somebody else wrote."""
        scheduler = harness.make()
        scheduler.cancel(scheduler_id)
        assert scheduler.history([scheduler_id]) == {}
        assert scheduler.time_left_sec(scheduler_id) is None
        assert harness.faults.calls() == []


def _unavailable_or_silent(question: Callable[[], object]) -> None:
    """No answer is fine, nothing to tell is fine; a made-up one is not."""
    try:
        answer = question()
    except SchedulerUnavailable as error:
        assert str(error).strip()
    else:
        assert not answer


def _end(harness: CommandHarness, scheduler: Scheduler, scheduler_id: str) -> None:
    scheduler.cancel(scheduler_id)
    wait_over(harness, scheduler, scheduler_id)
