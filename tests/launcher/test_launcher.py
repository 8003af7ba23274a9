"""The whole launcher - guardian, loop, courier, real processes - against a fake service over real HTTP."""

import os
import signal
import sys
import time

import psutil
import pytest

from balsam.client.outbox import Outbox, outbox_path, read_outbox
from tests.launcher.conftest import ZOO, wait_until
from tests.launcher.fake_service import NOW, FakeService, FakeSession
from tests.launcher.pilot import Pilot

pytestmark = pytest.mark.slow
PYTHON = f"{sys.executable} -S -E"


@pytest.mark.parametrize("mode", ["mpi", "serial"])
def test_runs_jobs_and_ends_when_idle(pilot: Pilot, service: FakeService, mode: str) -> None:
    service.add_app("echo {{ word }} and 'more'")
    ids = service.add_jobs(20, parameters={"word": 'it\'s $(id) "x"\n*'}, node_packing_count=4)
    pilot.start(mode, idle_ttl_sec=0.5)
    assert pilot.wait() == 0, pilot.said()
    for job_id in ids:
        assert service.events(job_id) == ["started", "run_done"]
        assert pilot.output(job_id) == 'it\'s $(id) "x"\n* and more\n'
    assert service.sessions[1].closed == {"lost": False, "reason": "idle"}
    assert service.sessions[1].body["label"]
    assert list(pilot.directory.glob("*.outbox")) == []
    assert pilot.tag.alive() == []


def test_shell_templates_go_through_bash(pilot: Pilot, service: FakeService) -> None:
    service.add_app("echo {{ word }} > a && cat a | tr x y; exit 3")
    (job_id,) = service.add_jobs(1, parameters={"word": "x; rm -rf / 'x"})
    pilot.start()
    pilot.until_all("run_error")
    assert pilot.output(job_id) == "y; rm -rf / 'y\n"
    record = service.records[-1]
    assert (record["return_code"], record["message"]) == (3, "exit code 3\ny; rm -rf / 'y")


def test_environment_of_a_job_has_its_marks_and_no_secret(pilot: Pilot, service: FakeService) -> None:
    service.add_app("env")
    (job_id,) = service.add_jobs(1, threads_per_rank=2)
    pilot.start()
    pilot.until_all("run_done")
    lines = dict(line.split("=", 1) for line in pilot.output(job_id).splitlines() if "=" in line)
    wanted = {"BALSAM_JOB_ID": "1", "BALSAM_ATTEMPT": "1", "OMP_NUM_THREADS": "2", "PWD": str(pilot.data / "job1")}
    assert {name: lines[name] for name in wanted} == wanted
    assert not {name for name in lines if "FDS" in name}
    assert "secret-of-the-user" not in pilot.output(job_id)
    assert "blsm_" not in pilot.output(job_id)


def test_several_ranks_run_as_plain_processes(pilot: Pilot, service: FakeService) -> None:
    service.add_app("echo rank $BALSAM_RANK of $BALSAM_SIZE")
    (job_id,) = service.add_jobs(1, ranks_per_node=3)
    pilot.start()
    pilot.until_all("run_done")
    assert sorted(pilot.output(job_id).splitlines()) == [f"rank {rank} of 3" for rank in range(3)]


# What srun of a real Slurm 22.05 with task/cgroup wrote, and its exit code.
SRUN_OUT_OF_MEMORY = """\
slurmstepd-n1: error: Detected 1 oom-kill event(s) in StepId=4.1. Some of your processes may have been killed.
srun: error: n1: {}: Out Of Memory
srun: launch/slurm: _step_signal: Terminating StepId=4.1
slurmstepd-n1: error: *** STEP 4.1 ON n1 CANCELLED AT 2026-11-27T05:25:18 ***
"""


@pytest.mark.parametrize(
    ("said", "failure"),
    [
        (SRUN_OUT_OF_MEMORY.format("task 0"), "out_of_memory"),
        (SRUN_OUT_OF_MEMORY.format("tasks 0-1,3"), "out_of_memory"),
        ("srun: error: n1: task 0: Exited with exit code 1\n", "exit_code"),
        ("my program says: Out Of Memory\n", "exit_code"),
    ],
)
def test_ranks_that_srun_says_were_killed_for_want_of_memory(
    pilot: Pilot, service: FakeService, monkeypatch: pytest.MonkeyPatch, said: str, failure: str
) -> None:
    """It ends with 1 then, not as a program that was killed."""
    srun = pilot.root / "srun"
    srun.write_text(f"#!/bin/sh\ncat >&2 <<'END'\n{said}END\nexit 1\n")
    srun.chmod(0o755)
    monkeypatch.setenv("SLURM_JOB_ID", "4")
    monkeypatch.setenv("BALSAM_PMI", "none")
    service.add_app("true")
    service.add_jobs(1, ranks_per_node=2)
    pilot.start(mpirun=f"srun:{srun}")
    pilot.until_all("run_error")
    assert (service.records[-1]["failure"], service.records[-1]["return_code"]) == (failure, 1)


@pytest.mark.parametrize(
    ("template", "code", "text"),
    [
        ("no_such_program {{ x }}", 127, "command not found"),
        ("/etc/passwd {{ x }}", 126, "Permission denied"),
        ("kill -SEGV $$ {{ x }}", 139, "killed by SIGSEGV"),
    ],
)
def test_what_cannot_run_is_an_error_with_a_reason(
    pilot: Pilot, service: FakeService, template: str, code: int, text: str
) -> None:
    service.add_app(template)
    (job_id,) = service.add_jobs(1, parameters={"x": "99999999"})
    pilot.start()
    pilot.until_all("run_error")
    assert service.events(job_id) == ["started", "run_error"]
    assert service.records[-1]["return_code"] == code
    assert text in service.records[-1]["message"]


def test_refused_apps_do_not_run(pilot: Pilot, service: FakeService) -> None:
    """S15: a hash that is not that of the definition, and an App that is not approved."""
    service.add_app("touch ran", 1, content_hash="0" * 64)
    service.add_app("touch ran", 2)
    service.add_app("touch {{ ran }}", 3)
    for app_id in (1, 2, 3):
        service.add_jobs(1, app_id, parameters={"ran": "ran"})
    pilot.start(pinned_apps=[service.apps[3]["content_hash"]])
    wait_until(lambda: service.states() == ["run_error", "run_error", "run_done"], 20)
    messages = {record["job_id"]: record.get("message", "") for record in service.records}
    assert "another definition" in messages[1]
    assert "balsam app approve App2" in messages[2]
    assert [path.parent.name for path in pilot.data.glob("*/ran")] == ["job3"]


def test_work_directory_stays_in_the_data_directory(pilot: Pilot, service: FakeService) -> None:
    """S15: links in the data directory lead nowhere; a service that lies can't name a place outside."""
    service.add_app("touch ran")
    outside = pilot.root / "outside"
    outside.mkdir()
    pilot.data.mkdir()
    (pilot.data / "link").symlink_to(outside)
    (pilot.data / "file").touch()
    for workdir in ("../outside/a", str(outside / "b"), "link/c", "link", "file/d"):
        service.add_jobs(1, workdir=workdir)
    service.add_jobs(1, workdir="deep/er/e")
    pilot.start(idle_ttl_sec=0.5)
    assert pilot.wait() == 0
    assert service.states() == ["run_error"] * 5 + ["run_done"]
    assert list(outside.iterdir()) == []
    assert (pilot.data / "deep/er/e/ran").exists()


def test_earlier_output_is_kept(pilot: Pilot, service: FakeService) -> None:
    service.add_app("echo now")
    service.add_jobs(1)
    (pilot.data / "job1").mkdir(parents=True)
    (pilot.data / "job1" / "job.out").write_text("earlier\n")
    (pilot.data / "job1" / "job.out.1").write_text("earliest\n")
    pilot.start()
    pilot.until_all("run_done")
    assert [pilot.output(1, name) for name in ("job.out", "job.out.1", "job.out.2")] == [
        "now\n",
        "earliest\n",
        "earlier\n",
    ]


def test_cancel_kills_the_whole_job_and_is_told_when_gone(pilot: Pilot, service: FakeService) -> None:
    """S9, F18: TERM, KILL after the grace, daemons too; only then it is told."""
    service.add_app(f"bash -c '{PYTHON} {ZOO}/daemon.py {pilot.tag.seconds}; exec bash {ZOO}/ignores_term.sh 99999'")
    (job_id,) = service.add_jobs(1)
    pilot.start()
    wait_until(lambda: pilot.output(job_id).count("ready") == 2, 20)
    started = time.monotonic()
    service.request_cancel(job_id)
    wait_until(lambda: service.events(job_id) == ["started", "killed"], 20)
    assert time.monotonic() - started >= 0.5
    assert [p for p in pilot.tag.alive() if "zoo" in " ".join(p.cmdline())] == []


def test_cancel_of_a_waiting_job_gives_it_back(pilot: Pilot, service: FakeService) -> None:
    service.add_app("sleep {{ seconds }}")
    service.add_jobs(1, parameters={"seconds": "0.3"}, node_packing_count=1)
    pilot.start()
    wait_until(lambda: service.events(1) == ["started"], 20)
    service.request_cancel(1)
    wait_until(lambda: service.events(1) == ["started", "killed"], 20)


def test_sigterm_drains(pilot: Pilot, service: FakeService) -> None:
    """L3: running Jobs end as RUN_TIMEOUT, waiting ones are given back, the Session is closed."""
    service.add_app(f"sleep {pilot.tag.seconds}")
    service.add_jobs(4, node_packing_count=2)
    pid = pilot.start()
    wait_until(lambda: sum("started" in service.events(job_id) for job_id in service.jobs) == 2, 20)
    os.kill(pid, signal.SIGTERM)
    assert pilot.wait() == 0, pilot.said()
    assert [service.events(job_id) for job_id in (1, 2)] == [["started", "run_timeout"]] * 2
    assert all(service.events(job_id) in ([], ["released"]) for job_id in (3, 4))
    assert service.sessions[1].closed == {"lost": False, "reason": "drained"}
    assert pilot.tag.alive() == []


def test_a_batch_system_that_signals_everything_at_once_cuts_jobs_off(pilot: Pilot, service: FakeService) -> None:
    """Whichever hears of it first: the Job that died of the allocation's signal was not wrong, it runs again."""
    service.add_app(f"exec sleep {pilot.tag.seconds}")
    service.add_jobs(1)
    pid = pilot.start()
    wait_until(lambda: service.events(1) == ["started"], 20)
    (job,) = [process for process in pilot.tag.alive() if process.name() == "sleep"]
    job.terminate()
    time.sleep(0.02)  # the launcher has seen the end of the Job before it hears of its own
    os.kill(pid, signal.SIGTERM)
    assert pilot.wait() == 0, pilot.said()
    assert service.events(1) == ["started", "run_timeout"]


def test_wall_time_drains_before_the_end(pilot: Pilot, service: FakeService) -> None:
    """F17, L3: reported before the allocation ends; a Job that ignores SIGTERM is killed in time."""
    service.add_app(f"bash {ZOO}/ignores_term.sh {pilot.tag.seconds}")
    service.add_jobs(1)
    started = time.monotonic()
    pilot.start("mpi", 0.2, kill_grace_sec=10.0)
    assert pilot.wait() == 0, pilot.said()
    assert time.monotonic() - started > 10
    assert "draining: the wall time is near" in pilot.said()
    assert "the wall time is over" not in pilot.said(), "the guardian did not have to end it"
    assert service.events(1) == ["started", "run_timeout"]
    assert pilot.tag.alive() == []


def test_jobs_are_asked_for_a_checkpoint_before_they_are_told_to_end(pilot: Pilot, service: FakeService) -> None:
    """The Site's signal, an App's own and none; ranks as plain processes; a shell between us and the program."""
    saves = f"exec python3 {ZOO}/saves.py {pilot.tag.seconds}"
    service.add_app(f"true; (exec bash -c '{saves}')")
    service.add_app(saves, 2, environment_variables={"BALSAM_CHECKPOINT_SIGNAL": "SIGUSR2"})
    service.add_app(f"exec sleep {pilot.tag.seconds}", 3, environment_variables={"BALSAM_CHECKPOINT_SIGNAL": "none"})
    service.add_app(f"exec sleep {pilot.tag.seconds}", 4)
    service.add_app("true", 5, environment_variables={"BALSAM_CHECKPOINT_SIGNAL": "SIGKILL"})
    for app_id in range(1, 6):
        service.add_jobs(1, app_id, node_packing_count=8)
    service.add_jobs(1, 2, node_packing_count=8, ranks_per_node=2)
    pid = pilot.start("mpi", 0.25, node_cpus=8, kill_grace_sec=3.0, checkpoint_signal="SIGUSR1")
    wait_until(lambda: pilot.output(6).count("up") == 2, 9)
    wait_until(lambda: [pilot.output(job_id).count("saved") for job_id in (1, 2, 6)] == [1, 1, 2], 20)
    os.kill(pid, signal.SIGTERM)
    assert pilot.wait() == 0, pilot.said()
    assert pilot.output(1) == "up SIGUSR1\nsaved\nterm\n"
    assert pilot.output(2) == "up SIGUSR2\nsaved\nterm\n"
    assert sorted(pilot.output(6).split()) == sorted(["up", "SIGUSR2", "saved", "term"] * 2)
    for job_id in (1, 2, 3, 4, 6):
        assert service.events(job_id) == ["started", "run_timeout"], job_id
    said = {record["job_id"]: record["message"] for record in service.records if record["event"] == "run_timeout"}
    assert said[4].endswith("asked for a checkpoint, and ended with exit code 138")
    assert said[3] == said[1] == "got SIGTERM"
    refused = next(record for record in service.records if record["job_id"] == 5 and record["event"] == "run_error")
    assert "it must be SIGUSR1, SIGUSR2 or none" in refused["message"]


def test_job_longer_than_what_is_left_is_not_started(pilot: Pilot, service: FakeService) -> None:
    service.add_app("true")
    service.add_jobs(1, wall_time_min=3)
    pilot.start("mpi", 2)
    wait_until(lambda: service.events(1)[:1] == ["released"], 20)
    assert "started" not in service.events(1)


def test_closing_batch_job_drains(pilot: Pilot, service: FakeService) -> None:
    service.add_app(f"sleep {pilot.tag.seconds}")
    service.add_jobs(1)
    pilot.start()
    wait_until(lambda: service.events(1) == ["started"], 20)
    service.push(1, "closing", {})
    assert pilot.wait() == 0
    assert service.events(1) == ["started", "run_timeout"]


def test_launcher_killed_its_jobs_die_and_run_again(pilot: Pilot, service: FakeService) -> None:
    """F5, S6: what it had reported is delivered by the next one, then the Job runs again."""
    service.add_app(f"bash -c 'echo run $BALSAM_ATTEMPT; sleep {pilot.tag.seconds}'")
    service.add_app("true", 2)
    service.add_jobs(1, node_packing_count=2)
    service.add_jobs(1, 2, node_packing_count=2)
    pilot.start()
    wait_until(lambda: service.events(1) == ["started"] and service.states()[1] == "run_done", 20)
    wait_until(lambda: "run 1" in pilot.output(1))
    old = [p.pid for p in pilot.tag.alive() if "sleep" in p.name()]
    pilot.loops()[0].kill()
    wait_until(lambda: service.events(1) == ["started", "lease_ended", "started"], 20)
    assert not [pid for pid in old if psutil.pid_exists(pid)]
    assert service.sessions[1].closed == {"lost": True, "reason": "its launcher died"}
    assert pilot.output(1, "job.out.1") == "run 1\n"
    assert service.events(2) == ["started", "run_done"]


def test_courier_killed_nothing_is_lost(pilot: Pilot, service: FakeService) -> None:
    """What it had been given and could not deliver is given to the next one, under the same Session."""
    service.add_app("sleep {{ seconds }}")
    service.add_jobs(1, parameters={"seconds": "1"}, node_packing_count=4)
    pilot.start()
    wait_until(pilot.couriers, 20)
    pilot.couriers()[0].kill()  # it waits for the loop, which is not there yet
    wait_until(lambda: service.events(1) == ["started"], 20)
    sessions = len(service.sessions)
    service.stop()
    (path,) = pilot.directory.glob("*.outbox")
    wait_until(lambda: len(read_outbox(path).records) == 2, 20)
    pilot.couriers()[0].kill()
    service.start()
    pilot.until_all("run_done")
    service.add_jobs(1, parameters={"seconds": "0"})
    pilot.until_all("run_done")
    assert len(service.sessions) == sessions


def test_service_away_results_wait_and_arrive_in_order(pilot: Pilot, service: FakeService) -> None:
    """F7, F8, L2: nothing is killed, nothing lost, delivered within a few seconds of its return."""
    service.add_app("sleep {{ seconds }}")
    service.add_jobs(3, parameters={"seconds": "1"}, node_packing_count=4)
    pilot.start()
    wait_until(lambda: all(service.events(job_id) == ["started"] for job_id in (1, 2, 3)), 20)
    service.stop()
    (path,) = pilot.directory.glob("*.outbox")
    wait_until(lambda: len(read_outbox(path).records) == 6, 20)
    time.sleep(1)
    service.start()
    pilot.until_all("run_done", 15)
    assert len(service.sessions) == 1
    wait_until(lambda: "is back" in pilot.said())  # it has the records before its answer has arrived
    assert pilot.said().count("can't be reached") == 1


def test_large_results_of_a_dead_launcher_are_delivered_in_several_bodies(pilot: Pilot, service: FakeService) -> None:
    service.add_app("true")
    service.add_jobs(30)
    outbox = Outbox(outbox_path(pilot.directory, 77), 77, {"partition": 0})
    with service.lock:
        service.sessions[77] = FakeSession(77, {})
        for job in service.jobs.values():
            job.state, job.session, job.token = "running", 77, 1
    record = {"token": 1, "event": "run_done", "at": NOW, "return_code": 0, "result": {"value": "x" * 600_000}}
    outbox.append([{"job_id": job_id, **record} for job_id in service.jobs])
    outbox.close()
    pilot.start(idle_ttl_sec=0.2)
    assert pilot.wait() == 0, pilot.said()
    assert set(service.states()) == {"run_done"}
    assert service.requests["report"] == 3
    assert max(service.body_sizes) < 9_000_000


def test_a_record_that_the_service_refuses_still_tells_the_end(pilot: Pilot, service: FakeService) -> None:
    """Whatever a Job managed to have said of itself: it must not look as if it ran for ever."""
    service.refuses = "job.out"
    service.add_app("bash -c 'echo see job.out; exit 3'")
    service.add_app("true", 2)
    service.add_jobs(1)
    service.add_jobs(1, 2)
    pilot.start(idle_ttl_sec=0.5)
    assert pilot.wait() == 0, pilot.said()
    assert service.states() == ["run_error", "run_done"]
    assert "the service refused what was told" in service.records[-3]["message"]


def test_service_away_at_the_end_leaves_the_outbox(pilot: Pilot, service: FakeService) -> None:
    """L3: the agent finds every result in the file."""
    service.add_app(f"sleep {pilot.tag.seconds}")
    service.add_jobs(1)
    pid = pilot.start("mpi", 1, kill_grace_sec=0.5)
    wait_until(lambda: service.events(1) == ["started"], 20)
    service.stop()
    os.kill(pid, signal.SIGTERM)
    assert pilot.wait(40) == 0
    (path,) = pilot.directory.glob("*.outbox")
    contents = read_outbox(path)
    assert [record["event"] for record in contents.records] == ["started", "run_timeout"]
    assert (contents.session_id, contents.torn) == (1, False)


@pytest.mark.parametrize("hard", [64, 4096])
def test_more_jobs_than_files_may_be_open(pilot: Pilot, service: FakeService, hard: int) -> None:
    """The limit is raised where the system lets us; else what does not start now starts later."""
    service.add_app("sleep 2")
    service.add_jobs(100, node_packing_count=100)
    pid = pilot.start("serial", 60, node_cpus=100, idle_ttl_sec=1)
    psutil.Process(pid).rlimit(psutil.RLIMIT_NOFILE, (64, hard))
    wait_until(lambda: service.states().count("running") >= 40, 30)
    if hard > 1000:
        wait_until(lambda: service.states().count("running") == 100, 5)
    assert pilot.wait(60) == 0, pilot.said()
    assert set(service.states()) == {"run_done"}
    assert all(service.events(job_id) == ["started", "run_done"] for job_id in service.jobs)
    assert "starting the launcher again" not in pilot.said()


def test_a_goodbye_to_a_service_that_is_away_takes_time_and_no_core(pilot: Pilot, service: FakeService) -> None:
    """Also when a Job has just ended by itself, for whose daemons would be looked in a moment."""
    service.add_app("sleep 1")
    service.add_jobs(1)
    pilot.start("mpi", 60, idle_ttl_sec=0.1)
    wait_until(lambda: service.events(1) == ["started"], 20)
    service.stop()
    wait_until(lambda: "ending: nothing to run" in pilot.said(), 20)
    (loop,) = pilot.loops()
    time.sleep(1.5)
    before = loop.cpu_times().user
    time.sleep(2.0)
    assert loop.cpu_times().user - before < 0.3
    service.start()
    assert pilot.wait() == 0


def test_lease_that_ends_kills_everything_and_a_new_session_is_opened(pilot: Pilot, service: FakeService) -> None:
    """S6, one-way: 409 on any call ends the holder, whatever the service would say later."""
    service.lease = {"ttl_sec": 300.0, "renew_sec": 0.2, "margin_sec": 60.0}
    service.add_app(f"sleep {pilot.tag.seconds}")
    service.add_jobs(1)
    pilot.start(lease_kind="heartbeat")
    wait_until(lambda: service.events(1) == ["started"], 20)
    old = [p.pid for p in pilot.tag.alive() if "sleep" in p.name()]
    with service.lock:
        service.sessions[1].ended = True
        service.take_back(1)
    wait_until(lambda: service.events(1) == ["started", "lease_ended", "started"], 20)
    assert not [pid for pid in old if psutil.pid_exists(pid)]
    assert len(service.sessions) == 2


def test_an_allocation_that_is_over_for_the_batch_system_ends_though_it_lives_on(
    pilot: Pilot, service: FakeService
) -> None:
    """S6: its node was cut off and given away. That is final: neither doubted nor left for a renewal to hear."""
    service.add_app(f"sleep {pilot.tag.seconds}")
    service.add_jobs(1)
    pilot.start()
    wait_until(lambda: service.events(1) == ["started"], 20)
    service.end_allocation()
    pilot.wait()
    assert "BatchJob 1 has ended" in pilot.said()
    assert pilot.tag.alive() == []
    assert len(service.sessions) == 1


def test_frozen_launcher_loses_its_lease(pilot: Pilot, service: FakeService) -> None:
    """F6, S6: stopped past its lease, it is killed with its ranks; the Job is not run twice at once."""
    service.lease = {"ttl_sec": 2.5, "renew_sec": 0.3, "margin_sec": 1.0}
    service.add_app(f"sleep {pilot.tag.seconds}")
    service.add_jobs(1)
    pilot.start(lease_kind="heartbeat")
    wait_until(lambda: service.events(1) == ["started"], 20)
    old = [p.pid for p in pilot.tag.alive() if "sleep" in p.name()]
    loop = pilot.loops()[0]
    loop.suspend()
    frozen_at = time.monotonic()
    wait_until(lambda: not [pid for pid in old if psutil.pid_exists(pid)], 10)
    assert time.monotonic() - frozen_at < 2.5
    wait_until(lambda: service.events(1) == ["started", "lease_ended", "started"], 20)
    assert not loop.is_running() or loop.status() == psutil.STATUS_ZOMBIE


def test_guardian_killed_everything_ends_and_results_stay(pilot: Pilot, service: FakeService) -> None:
    service.add_app(f"sleep {pilot.tag.seconds}")
    service.add_jobs(1)
    pid = pilot.start()
    wait_until(lambda: service.events(1) == ["started"], 20)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: pilot.tag.alive() == [], 10)
    pilot.wait()
    (path,) = pilot.directory.glob("*.outbox")
    assert [record["event"] for record in read_outbox(path).records] == ["started"]


def test_refused_session_ends_without_restarts(pilot: Pilot, service: FakeService) -> None:
    service.refuse_sessions = "the BatchJob has ended"
    pilot.start()
    assert pilot.wait() == 78
    assert "the BatchJob has ended" in pilot.said()
    assert service.requests["open"] == 1


def test_partitions_have_launchers_of_their_own(pilot: Pilot, service: FakeService) -> None:
    service.add_app("true")
    service.add_jobs(8, node_packing_count=2)
    pilot.start("mpi", 60, "-p", "mpi:1:kind=a", "-p", "serial:1:kind=b", num_nodes=2, idle_ttl_sec=0.5)
    assert pilot.wait() == 0, pilot.said()
    assert len(service.sessions) == 2
    assert set(service.states()) == {"run_done"}


def test_bad_command_lines(pilot: Pilot) -> None:
    for words in (["-p", "mpi:5"], ["-p", "gpu:1"], ["--tag", "nothing"], ["--tag=a=b", "--tag=a=c"], ["--unknown"]):
        pilot.start("mpi", 60, *words)
        assert pilot.wait() == 78
    pilot.start("mpi", 0)
    assert pilot.wait() == 78
    assert "5 nodes, and the allocation has 1" in pilot.said()
