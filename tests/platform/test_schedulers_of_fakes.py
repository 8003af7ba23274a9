"""The adapters for PBS, LSF and Flux against fake commands: both conformance suites. No real one was ever at hand.

What is in `fakes` was written from public documentation. It shows that an adapter keeps its promises if its scheduler
behaves as documented, and not that it does.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from balsam.platform.registry import SCHEDULERS
from balsam.platform.scheduler.base import (
    QueueLimits,
    Scheduler,
    SchedulerConfig,
    SchedulerState,
    SubmitRefused,
    SubmitRequest,
    no_crash,
)
from balsam.testing.command_faults import CommandFaults
from balsam.testing.scheduler_bench import Dialect, wait_over, wait_state, write_script
from balsam.testing.scheduler_conformance import SchedulerConformance
from balsam.testing.scheduler_conformance_commands import CommandConformance
from tests.platform.fake_commands import write_program

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

FAKES = Path(__file__).parent / "fakes"
BLANK = "Nodes required are down, drained or reserved"
COMMANDS = {
    "pbs": ("qsub", "qselect", "qstat", "qdel"),
    "lsf": ("bsub", "bjobs", "bkill", "bqueues"),
    "flux": ("flux",),
}
QUEUES = {"pbs": "workq", "lsf": "normal", "flux": "batch"}
DIALECTS = {
    "pbs": Dialect(
        submit="qsub",
        listing="qstat",
        outage="Connection refused\nqsub: cannot connect to server fake-pbs (errno=15010)",
        unknown_state=r"s/\|job_state=R\|/|job_state=Y|/",
        blank_reason=rf"s/\|comment=[^|]*/|comment={BLANK}/",
        renamed="s/balsam-/hamlet-/",
        listing_calls=2,
        search="qselect",
    ),
    "lsf": Dialect(
        submit="bsub",
        listing="bjobs",
        outage="LSF is down. Please wait ...",
        unknown_state='s/"STAT": "RUN"/"STAT": "UNKWN"/',
        blank_reason=rf's/"PEND_REASON": "[^"]+"/"PEND_REASON": "{BLANK};"/',
        renamed="s/balsam-/hamlet-/",
    ),
    "flux": Dialect(
        submit="flux-batch",
        listing="flux-jobs",
        outage="flux-jobs: ERROR: Unable to connect to Flux: broker socket /run/flux/local was not found",
        unknown_state=r"s/\x1fRUN\x1f/\x1fMOONLIT\x1f/",
        blank_reason=rf"s/insufficient resources/{BLANK}/",
        renamed="s/balsam-/hamlet-/",
    ),
}


class FakeHarness:
    """One fake batch system in a directory of its own, its commands first on PATH."""

    timeout_sec = 30.0
    look_again_sec = 0.05

    def __init__(self, kind: str, directory: Path) -> None:
        self.kind = kind
        self.dialect = DIALECTS[kind]
        self.directory = directory / "work"
        self.directory.mkdir()
        self.records = directory / "records"
        self.prefix = f"balsam-{uuid.uuid4().hex[:6]}-"
        start = shlex.join([sys.executable, "-S", "-E", str(FAKES / f"{kind}.py")])
        set_up = f"export FAKE_BATCH={shlex.quote(str(self.records))} PYTHONIOENCODING=utf-8"
        real = {
            name: write_program(directory / "fakes", name, f'{set_up}\nexec {start} {name} "$@"')
            for name in COMMANDS[kind]
        }
        self.faults = CommandFaults(directory / "faults", real, with_verbs=("flux",))

    def make(self, crash_point: Callable[[str], None] = no_crash, **options: object) -> Scheduler:
        settings = {"command_timeout_sec": 3, **options}
        config = SchedulerConfig(self.directory, settings, crash_point=crash_point, name_prefix=self.prefix)
        scheduler: Scheduler = SCHEDULERS.load(self.kind)(config)
        return scheduler

    def request(self) -> SubmitRequest:
        return SubmitRequest(num_nodes=1, wall_time_min=10, queue=QUEUES[self.kind], project="proj1")

    def refused_request(self) -> SubmitRequest:
        return SubmitRequest(num_nodes=1, wall_time_min=10, queue="nowhere", project="proj1")

    def waiting_request(self) -> SubmitRequest:
        return SubmitRequest(num_nodes=9, wall_time_min=10, queue=QUEUES[self.kind], project="proj1")

    def vanish(self, scheduler_id: str, name: str) -> None:
        self._kill(lambda job: job["name"] == name, "leader")

    def close(self) -> None:
        self._kill(lambda job: job["state"] != "over", "leader", "runner")

    def _kill(self, chosen: Callable[[dict[str, object]], bool], *keys: str) -> None:
        for path in self.records.glob("*.json"):
            job = json.loads(path.read_text())
            for key in keys if chosen(job) else ():
                with suppress(ProcessLookupError, KeyError):
                    os.killpg(job[key], signal.SIGKILL)


def harness_of(kind: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHarness]:
    harness = FakeHarness(kind, directory)
    monkeypatch.setenv("PATH", f"{harness.faults.bin}:{os.environ['PATH']}")
    yield harness
    harness.close()


@pytest.fixture(params=sorted(COMMANDS))
def harness(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHarness]:
    yield from harness_of(request.param, tmp_path, monkeypatch)


class TestConformance(SchedulerConformance):
    @pytest.fixture
    def harness(self, harness: FakeHarness) -> FakeHarness:
        return harness


class TestCommandConformance(CommandConformance):
    @pytest.fixture
    def harness(self, harness: FakeHarness) -> FakeHarness:
        return harness


def test_facts_of_a_running_allocation(harness: FakeHarness) -> None:
    scheduler = harness.make()
    request = SubmitRequest(num_nodes=3, wall_time_min=90, queue=QUEUES[harness.kind], project="proj1")
    number = scheduler.submit(write_script(harness, "facts", "exec sleep 600"), f"{harness.prefix}facts", request)
    job = wait_state(harness, scheduler, number, SchedulerState.RUNNING)
    assert (job.num_nodes, job.wall_time_min, job.project) == (3, 90, "proj1")
    assert job.node_names == ("node1", "node2", "node3")
    left = scheduler.time_left_sec(number)
    assert left is not None and 85 * 60 < left <= 90 * 60


def test_cancelled_by_wish_is_told_from_failed(harness: FakeHarness) -> None:
    scheduler = harness.make()
    number = scheduler.submit(
        write_script(harness, "wish", "exec sleep 600"), f"{harness.prefix}wish", harness.request()
    )
    wait_state(harness, scheduler, number, SchedulerState.RUNNING)
    scheduler.cancel(number)
    job = wait_over(harness, scheduler, number)
    assert (job.state, job.exit_code) == (SchedulerState.CANCELLED, None)
    assert job.reason and job.end_time is not None


def test_queues(harness: FakeHarness) -> None:
    expected = {
        "pbs": {"workq": QueueLimits(None, 1440), "debug": QueueLimits(None, 30)},
        "lsf": {"normal": QueueLimits(), "debug": QueueLimits(is_open=False)},
        "flux": {"batch": QueueLimits(None, 1440), "debug": QueueLimits(2, 30)},
    }
    assert harness.make().queues() == expected[harness.kind]


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("pbs", {"select": "ncpus=64:ngpus=4"}, ["-l", "select=3:ncpus=64:ngpus=4"]),
        ("lsf", {"nodes_are": "nnodes"}, ["-nnodes", "3"]),
        ("lsf", {"slots_per_node": 42}, ["-n", "126", "-R", "span[ptile=42]"]),
        ("flux", {}, ["--nodes=3", "--exclusive"]),
    ],
)
def test_how_nodes_are_asked_for(tmp_path: Path, kind: str, options: dict[str, object], words: list[str]) -> None:
    harness = FakeHarness(kind, tmp_path)
    request = SubmitRequest(num_nodes=3, wall_time_min=90, queue="q", project="p")
    rendered = harness.make(**options).render(tmp_path / "script.sh", "balsam-1", request)
    assert " ".join(words) in " ".join(rendered)


def test_a_colon_in_the_sites_directory_is_refused_for_pbs(tmp_path: Path) -> None:
    (tmp_path / "a:b").mkdir()
    harness = FakeHarness("pbs", tmp_path / "a:b")
    with pytest.raises(SubmitRefused, match="has a ':'"):
        harness.make().render(tmp_path / "script.sh", "balsam-1", harness.request())


def test_a_select_that_is_more_than_a_chunk_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be like ncpus=64:ngpus=4"):
        FakeHarness("pbs", tmp_path).make(select="ncpus=1 -W block=true")
