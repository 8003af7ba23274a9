"""The product page's code against a live service, and what the page promises of each call."""

from __future__ import annotations

import json
import os
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.system.live_site import LiveSite, eventually, finished, live_site

# The three code blocks of the page, to the letter.
BLOCK_1 = """
from libensemble.executors.balsam_executors import BalsamExecutor
exctr = BalsamExecutor()
"""
BLOCK_2 = """
from libensemble.executors.balsam_executors import BalsamExecutor
from balsam.api import ApplicationDefinition

class HelloApp(ApplicationDefinition):
    site = "my-balsam-site"
    command_template = "/path/to/hello.app {{ my_name }}"

exctr = BalsamExecutor()
exctr.register_app(HelloApp, app_name="hello")

exctr.submit_allocation(
    site_id=999, # corresponds to "my-balsam-site", found via ``balsam site ls``
    num_nodes=4, # Total number of nodes requested for *all jobs*
    wall_time_min=30,
    queue="debug-queue",
    project="my-project",
)
"""
BLOCK_3 = """
args = {"my_name": "World"}

task = exctr.submit(
    app_name="hello",
    app_args=args,
    num_procs=4,
    num_nodes=1,
    procs_per_node=4,
)
"""

# For scripts that need an allocation and an App of one parameter: `work(command_template, **options)` submits.
PRELUDE = """
import json, logging, os, sys, time
from pathlib import Path
from balsam.api import ApplicationDefinition
from libensemble.executors.balsam_executor import BalsamExecutor
from libensemble.executors.executor import ExecutorException, TimeoutExpired

SITE_ID, SITE, DATA = {id}, "{name}", Path("{data}")
exctr = BalsamExecutor()

def app(name, template):
    found = type(name, (ApplicationDefinition,), dict(site=SITE, command_template=template))
    exctr.register_app(found, app_name=name)

def allocation(**options):
    options = dict(site_id=SITE_ID, num_nodes=1, wall_time_min=10) | options
    return exctr.submit_allocation(**options)
"""


def page_queue(settings: dict[str, Any]) -> None:
    """A site that has the page's queue and project, and an optional parameter."""
    scheduler = settings.setdefault("scheduler", {})
    scheduler["allowed_queues"] = {
        "local": {"max_nodes": 1, "max_walltime": 60},
        "debug-queue": {"max_nodes": 4, "max_walltime": 60},
    }
    scheduler["allowed_projects"] = ["local", "my-project"]
    scheduler["optional_batch_job_params"] = {"shout": "no"}


pytestmark = pytest.mark.timeout(240)  # a service and a site, on machines that are slow or busy


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveSite]:
    with live_site(tmp_path_factory.mktemp("page") / "home", page_queue) as running:
        yield running


def script(site: LiveSite, body: str) -> str:
    return PRELUDE.format(id=site.id, name=site.name, data=site.path / "data") + textwrap.dedent(body)


def test_the_page_s_blocks_as_written(site: LiveSite, tmp_path: Path) -> None:
    program = tmp_path / "hello.app"
    program.write_text('#!/bin/sh\necho "Hello, $1"\n')
    program.chmod(0o755)
    blocks = BLOCK_1 + BLOCK_2 + BLOCK_3
    for on_page, here in (("my-balsam-site", site.name), ("999", str(site.id)), ("/path/to/hello.app", str(program))):
        blocks = blocks.replace(on_page, here)
    said = json.loads(
        site.run(
            blocks
            + textwrap.dedent("""
            task.wait(timeout=60)
            task.poll()
            import json
            print(json.dumps([task.state, task.errcode, task.success, task.read_stdout(), task.runtime, task.total_time,
                              task.workdir, task.workdir_exists(), task.stdout_exists()]))
            assert exctr.revoke_allocation(exctr.allocations[0], timeout=60) is True
            """)
        ).splitlines()[-1]
    )
    state, errcode, success, output, runtime, total_time, workdir, *there = said
    assert (state, errcode, success, there) == ("FINISHED", 0, True, [True, True])
    assert output == "Hello, World\n" * 4
    assert 0 < runtime < total_time < 60
    assert (site.path / "data" / workdir / "job.out").read_text() == output


def test_a_wait_that_ends_before_the_task_knows_how_far_it_is(site: LiveSite) -> None:
    """Who only waits, and never polls, learns that it runs and for how long."""
    said = site.run(
        script(
            site,
            """
            batch = allocation()
            app("Waited", "echo $$ > pid; exec sleep {{ seconds }}")
            tasks = [exctr.submit(app_name="Waited", app_args={"seconds": 600}, max_tasks_per_node=2) for _ in "ab"]
            while not all((DATA / task.workdir / "pid").exists() for task in tasks): time.sleep(0.05)
            time.sleep(1)
            for attempt in range(2):
                try:
                    tasks[0].wait(timeout=1)
                except TimeoutExpired:
                    pass
            job_ended = tasks[1].process.wait(timeout=1)
            print(json.dumps([tasks[0].state, tasks[0].runtime, job_ended, str(tasks[1].process.state)]))
            for task in tasks:
                task.kill()
            """,
        )
    )
    state, runtime, job_ended, job_state = json.loads(said.splitlines()[-1])
    assert (state, job_ended, job_state) == ("RUNNING", False, "RUNNING")
    assert runtime >= 1


def test_kill_stops_a_running_task_and_frees_its_node(site: LiveSite) -> None:
    said = site.run(
        script(
            site,
            """
            batch = allocation()
            app("Sleeper", "echo $$ > pid; exec sleep {{ seconds }}")
            task = exctr.submit(app_name="Sleeper", app_args={"seconds": 600}, wait_on_start=True)
            assert task.running(), task.state
            while not task.file_exists_in_workdir("pid"): time.sleep(0.05)
            begin = time.time()
            task.kill()
            pid = int((DATA / task.workdir / "pid").read_text())
            print(json.dumps([task.state, task.finished, task.cancelled(), str(task.process.state), time.time() - begin,
                              pid, Path(f"/proc/{pid}").exists()]))
            after = exctr.submit(app_name="Sleeper", app_args={"seconds": 0})
            after.wait(timeout=30)
            print(after.state)
            exctr.revoke_allocation(batch)
            """,
        )
    ).splitlines()
    state, is_finished, cancelled, job_state, seconds, _pid, alive = json.loads(said[0])
    assert (state, is_finished, cancelled, job_state, alive) == ("USER_KILLED", True, True, "CANCELLED", False)
    assert seconds < 20
    assert said[1] == "FINISHED"


def test_kill_reaches_what_forked_and_ignores_sigterm(site: LiveSite) -> None:
    stubborn = "trap '' TERM; (trap '' TERM; setsid sleep 601 & sleep 602 & wait) & echo {{ word }} > up; wait"
    site.run(
        script(
            site,
            f"""
            batch = allocation()
            app("Stubborn", {stubborn!r})
            task = exctr.submit(app_name="Stubborn", app_args={{"word": "up"}})
            while not task.file_exists_in_workdir("up"): time.sleep(0.05)
            task.kill(wait_time=40)
            assert task.state == "USER_KILLED" and str(task.process.state) == "CANCELLED", task.process.state
            exctr.revoke_allocation(batch)
            """,
        )
    )
    commands = [process.info["cmdline"] for process in psutil.process_iter(["cmdline"])]
    assert [command for command in commands if command in (["sleep", "601"], ["sleep", "602"])] == []


def test_kill_of_a_task_that_waits(site: LiveSite) -> None:
    site.run(
        script(
            site,
            """
            app("Never", "echo {{ word }}")
            task = exctr.submit(app_name="Never", app_args={"word": "x"}, tags={"nobody": "runs this"})
            assert not task.running() and task.state == "WAITING"
            task.kill()
            assert task.state == "USER_KILLED" and task.runtime == 0
            """,
        )
    )


def test_wait_times_out_in_time_and_polling_is_no_storm(site: LiveSite) -> None:
    said = site.run(
        script(
            site,
            """
            batch = allocation()
            app("Sleeper", "sleep {{ seconds }}")
            task = exctr.submit(app_name="Sleeper", app_args={"seconds": 4}, wait_on_start=True)
            begin = time.time()
            try:
                task.wait(timeout=0.5)
            except TimeoutExpired as error:
                assert 0.5 <= time.time() - begin < 1.5 and error.timeout == 0.5
            else:
                raise AssertionError("no timeout")
            polls, begin = 0, time.time()
            while time.time() - begin < 2:
                task.poll()
                polls += 1
            assert task.state == "RUNNING" and 1 < task.runtime < 10, (task.state, task.runtime)
            task.wait(timeout=30)
            assert task.state == "FINISHED" and 3.5 < task.runtime < 8, task.runtime
            exctr.revoke_allocation(batch)
            print(polls)
            """,
        )
    )
    assert int(said) > 2000, "a poll takes a request each time"


def test_exit_codes_and_errors(site: LiveSite) -> None:
    site.run(
        script(
            site,
            """
            batch = allocation()
            app("Fails", "echo to stdout; echo to stderr >&2; exit {{ code }}")
            task = exctr.submit(app_name="Fails", app_args={"code": 3})
            assert task.exception(timeout=30) == 3
            assert (task.state, task.success) == ("FAILED", False)
            assert "to stdout" in task.read_stdout() and "to stderr" in task.read_stderr()
            try:
                task.read_file_in_workdir("absent.txt")
            except ValueError as error:
                assert "absent.txt not found" in str(error)
            else:
                raise AssertionError("no error")
            assert not task.file_exists_in_workdir("absent.txt")
            exctr.revoke_allocation(batch)
            """,
        )
    )


NASTY = ['it\'s "quoted"', "two\nlines", "$(touch pwned) `touch pwned` $HOME", "ünïcödé ☃", "", "-n", "*; rm -rf ."]


def test_a_parameter_arrives_as_exactly_one_argument(site: LiveSite) -> None:
    said = site.run(
        script(
            site,
            f"""
            batch = allocation(job_mode="serial")
            program = "'import json, sys; print(json.dumps(sys.argv[1:]))'"
            app("Echo", sys.executable + " -c " + program + " {{{{ word }}}}")
            tasks = [exctr.submit(app_name="Echo", app_args={{"word": word}}) for word in {NASTY!r}]
            for task in tasks:
                task.wait(timeout=60)
            print(json.dumps([json.loads(task.read_stdout()) for task in tasks]))
            assert not any((DATA / task.workdir / "pwned").exists() for task in tasks)
            exctr.revoke_allocation(batch)
            """,
        )
    )
    assert json.loads(said) == [[word] for word in NASTY]


def test_tags_and_filter_tags_choose_the_allocation(site: LiveSite) -> None:
    site.run(
        script(
            site,
            """
            app("Tagged", "echo {{ word }}")
            batch = allocation(filter_tags={"group": "one"})
            other = exctr.submit(app_name="Tagged", app_args={"word": "x"}, tags={"group": "two"})
            mine = exctr.submit(app_name="Tagged", app_args={"word": "x"}, tags={"group": "one", "more": "yes"})
            mine.wait(timeout=30)
            time.sleep(1)
            other.process.refresh_from_db()  # a first poll tells only what is known already
            assert (mine.done(), str(other.process.state)) == (True, "PREPROCESSED")
            other.kill()
            assert exctr.revoke_allocation(batch)
            """,
        )
    )


def test_partitions_run_both_modes(site: LiveSite) -> None:
    site.run(
        script(
            site,
            """
            app("Split", "echo {{ word }} $BALSAM_JOB_MODE")
            def split(**tags):
                return exctr.submit(app_name="Split", app_args={"word": tags["part"]}, tags=tags)
            foreign = [split(part="a"), split(part="b", run="two"), split(part="c", run="one")]
            parts = [{"job_mode": "mpi", "num_nodes": 1, "filter_tags": {"part": "a"}},
                     {"job_mode": "serial", "num_nodes": 1, "filter_tags": {"part": "b"}}]
            batch = allocation(num_nodes=2, queue="debug-queue", project="my-project", partitions=parts,
                               filter_tags={"run": "one"})
            tasks = [split(part=part, run="one") for part in "abab"]
            for task in tasks:
                task.wait(timeout=60)
            assert [task.read_stdout() for task in tasks] == ["a mpi\\n", "b serial\\n"] * 2
            time.sleep(1)
            for task in foreign:
                task.process.refresh_from_db()  # a first poll tells only what is known already
            assert [str(task.process.state) for task in foreign] == ["PREPROCESSED"] * 3
            for task in foreign:
                task.kill()
            exctr.revoke_allocation(batch)
            """,
        )
    )


def test_optional_params_reach_the_batch_script_with_the_site_s_defaults(site: LiveSite) -> None:
    template = site.path / "job-template.sh"
    before = template.read_text()
    template.write_text(before.replace("\nexec ", "\nexport SHOUT='{{ optional_params.shout }}'\nexec ", 1))
    site.kill("agent")  # the next one reads the template anew
    try:
        said = site.run(
            script(
                site,
                """
                app("Shout", "echo $SHOUT {{ word }}")
                for params in ({}, {"shout": "yes"}):
                    batch = allocation(optional_params=params)
                    task = exctr.submit(app_name="Shout", app_args={"word": "heard"})
                    task.wait(timeout=60)
                    print(task.read_stdout(), end="")
                    assert exctr.revoke_allocation(batch)
                """,
            )
        )
    finally:
        template.write_text(before)
    assert said.splitlines() == ["no heard", "yes heard"]


def test_max_tasks_per_node_lets_tasks_share_a_node(site: LiveSite) -> None:
    said = site.run(
        script(
            site,
            """
            batch = allocation()
            app("Spell", "date +%s.%N; sleep {{ seconds }}; date +%s.%N")
            for share in (1, 2):
                tasks = [exctr.submit(app_name="Spell", app_args={"seconds": 1}, max_tasks_per_node=share)
                         for _ in range(4)]
                for task in tasks:
                    task.wait(timeout=60)
                spells = [[float(t) for t in task.read_stdout().split()] for task in tasks]
                print(max(sum(a <= start < b for a, b in spells) for start, _ in spells))
            exctr.revoke_allocation(batch)
            """,
        )
    )
    assert said.split()[0] == "1"
    assert said.split()[1] in ("1", "2")  # as far as the machine has cores
    if (os.cpu_count() or 1) >= 2:
        assert said.split()[1] == "2"


def test_ranks_know_their_place_also_when_there_are_more_than_cores(site: LiveSite) -> None:
    ranks = (os.cpu_count() or 1) + 3
    said = site.run(
        script(
            site,
            f"""
            batch = allocation()
            app("Count", "echo {{{{ word }}}}")
            task = exctr.submit(app_name="Count", app_args={{"word": "rank"}}, num_procs={ranks})
            task.wait(timeout=60)
            print(task.read_stdout().split().count("rank"))
            exctr.revoke_allocation(batch)
            """,
        )
    )
    assert int(said) == ranks


def test_wait_on_start_and_timeouts_without_an_allocation(site: LiveSite) -> None:
    site.run(
        script(
            site,
            """
            app("Never", "echo {{ word }}")
            begin = time.time()
            task = exctr.submit(app_name="Never", app_args={"word": "x"}, wait_on_start=1, tags={"nobody": "at all"})
            assert 1 <= time.time() - begin < 3 and task.state == "WAITING"
            task.cancel()
            assert task.cancelled()
            """,
        )
    )


def test_revoke_while_queued_running_and_offline(site: LiveSite) -> None:
    site.run(
        script(
            site,
            """
            app("Long", "sleep {{ seconds }}")
            assert exctr.revoke_allocation(allocation()) is True     # at once
            batch = allocation()
            task = exctr.submit(app_name="Long", app_args={"seconds": 600}, wait_on_start=True)
            assert exctr.revoke_allocation(batch) is True            # with a task running in it
            assert batch.state == "finished"
            task.poll()
            assert not task.finished, task.process.state             # restarts in the next allocation
            task.kill()
            """,
        )
    )
    agent = eventually(lambda: site.pids("agent"), "no agent")[0]
    os.kill(agent, 19)  # SIGSTOP: the site does not answer, and is not restarted
    try:
        said = site.run(
            script(
                site,
                """
                logging.basicConfig(level=logging.WARNING, stream=sys.stdout)
                begin = time.time()
                print(exctr.revoke_allocation(allocation(), timeout=1), time.time() - begin < 5)
                """,
            )
        )
    finally:
        os.kill(agent, 18)
    assert "False True" in said
    assert "within 1 seconds" in said


@pytest.mark.parametrize(
    ("code", "named"),
    [
        ('allocation(site_id=424242)', ["424242"]),
        ('allocation(num_nodes=0)', ["num_nodes"]),
        ('allocation(wall_time_min=-1)', ["wall_time_min"]),
        ('allocation(job_mode="quantum")', ["job_mode"]),
        ('app("A", "echo {{ x }}"); exctr.submit(app_name="A", app_args={"x": 1}, gpus_per_rank=-1)', ["gpus"]),
        ('app("A", "echo {{ x }}"); exctr.submit(app_name="A", app_args={"y": 1})', ["missing: x", "unknown: y"]),
        ('app("A", "echo {{ x }}"); exctr.submit(app_name="A", app_args={"x": 1}, workdir="a/../../b")', ["'..'"]),
        ('SITE = "nowhere"; app("A", "echo {{ x }}"); exctr.submit(app_name="A", app_args={"x": 1})', ["nowhere"]),
    ],
)  # fmt: skip
def test_bad_input_is_refused_with_its_name(site: LiveSite, code: str, named: list[str]) -> None:
    said = site.run(
        script(site, "")
        + f"try:\n    {code}\nexcept Exception as error:\n    print(error)\nelse:\n    print('accepted')\n"
    )
    assert [text for text in named if text not in said] == [], said


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ('queue="no-such-queue"', ["no-such-queue", "debug-queue"]),
        ('project="no-such-project"', ["no-such-project", "my-project"]),
        ("num_nodes=3", ["3", "1"]),
        ('optional_params={"volume": "11"}', ["volume"]),
    ],
)
def test_an_allocation_that_the_site_does_not_allow_says_why(site: LiveSite, options: str, named: list[str]) -> None:
    said = site.run(
        script(
            site,
            f"""
            try:
                batch = allocation({options})
                for _ in range(300):
                    batch.refresh_from_db()
                    if batch.state == "submit_failed": break
                    time.sleep(0.1)
                print(batch.state, batch.status_info)
            except Exception as error:
                print("refused", error)
            """,
        )
    )
    assert "submit_failed" in said or "refused" in said
    assert [text for text in named if text not in said] == [], said


def test_the_service_may_die_while_a_script_waits(site: LiveSite) -> None:
    running = site.begin(
        script(
            site,
            """
            logging.basicConfig(level=logging.WARNING)
            batch = allocation()
            app("Sleeper", "sleep {{ seconds }}; echo done")
            task = exctr.submit(app_name="Sleeper", app_args={"seconds": 3}, wait_on_start=True)
            Path("started").write_text("")
            begin = time.time()
            try:
                task.wait(timeout=1)
            except TimeoutExpired:
                assert time.time() - begin < 3, time.time() - begin
            task.wait(timeout=60)
            print(task.state, task.read_stdout())
            exctr.revoke_allocation(batch)
            """,
        ),
        name="waits.py",
    )
    mark = site.home / "scripts" / "started"
    try:
        eventually(mark.exists, "the task did not start")
        site.kill("service")
        assert finished(running, 90).split() == ["FINISHED", "done"]
    finally:
        mark.unlink(missing_ok=True)


def test_submitting_while_the_service_is_down_waits_for_it(site: LiveSite) -> None:
    begin = time.monotonic()
    running = site.begin(
        script(
            site,
            """
            logging.basicConfig(level=logging.WARNING)
            batch = allocation()
            app("Late", "echo {{ word }}")
            exctr.submit(app_name="Late", app_args={"word": "first"}).wait(timeout=60)
            Path("ready").write_text("")
            while not Path("go").exists(): time.sleep(0.01)
            task = exctr.submit(app_name="Late", app_args={"word": "late"})
            task.wait(timeout=60)
            print(task.read_stdout().strip())
            exctr.revoke_allocation(batch)
            """,
        ),
        name="late.py",
    )
    ready, go = site.home / "scripts" / "ready", site.home / "scripts" / "go"
    try:
        eventually(ready.exists, "the first task did not end", 60)
        site.kill("service")
        go.write_text("")
        assert finished(running, 90) == "late\n"
    finally:
        ready.unlink(missing_ok=True)
        go.unlink(missing_ok=True)
    assert time.monotonic() - begin < 90


def test_the_hello_example_runs(site: LiveSite) -> None:
    code = (Path(__file__).parents[2] / "examples" / "hello.py").read_text()
    said = site.run(code, name="hello.py")
    assert said.count("Hello, World") >= 4
    assert "FINISHED" in said
