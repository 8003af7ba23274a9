"""libEnsemble runs over a live service: each kind of comms, kills by the manager, the demo, faults in its middle."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from balsam.api import BatchJobState, Client, JobState
from balsam.config import ClientSettings
from tests.system.live_site import PARTS, LiveSite, eventually, finished, live_site

EXAMPLES = Path(__file__).parents[2] / "examples"
SMALL = ["--sims", "8", "--atoms", "10", "--hops", "300"]

ENSEMBLE = """
import sys
import numpy as np
from libensemble import Ensemble
from libensemble.executors.balsam_executors import BalsamExecutor
from libensemble.gen_funcs.sampling import uniform_random_sample
from libensemble.specs import ExitCriteria, GenSpecs, LibeSpecs, SimSpecs
from balsam.api import ApplicationDefinition


class Square(ApplicationDefinition):
    site = "{name}"
    command_template = "echo $(({{{{ x }}}} * {{{{ x }}}}))"


def sim_f(H, persis_info, sim_specs, libE_info):
    x = int(H["x"][0][0])
    executor = libE_info["executor"]
    task = executor.submit(app_name="square", app_args={{"x": x}}, max_tasks_per_node=2)
    task.wait(timeout=60)
    out = np.zeros(1, dtype=sim_specs["out"])
    out["f"], out["worker"] = float(task.read_stdout()), executor.workerID
    return out, persis_info


def main():
    executor = BalsamExecutor()
    executor.register_app(Square, app_name="square")
    ensemble = Ensemble(
        parse_args={parse_args},
        executor=executor,
        sim_specs=SimSpecs(sim_f=sim_f, inputs=["x"], outputs=[("f", float), ("worker", int)]),
        gen_specs=GenSpecs(
            gen_f=uniform_random_sample,
            outputs=[("x", float, (1,))],
            user={{"gen_batch_size": 8, "lb": np.array([1]), "ub": np.array([100])}},
        ),
        exit_criteria=ExitCriteria(sim_max=8),
        {libe_specs}
    )
    ensemble.add_random_streams()
    is_manager = ensemble.is_manager or "threads" in {libe_specs!r}  # which libEnsemble does not say for threads
    if is_manager:
        allocation = executor.submit_allocation(site_id={id}, num_nodes=1, wall_time_min=10)
    H, _, flag = ensemble.run()
    if is_manager:
        executor.revoke_allocation(allocation)
        done = H[H["sim_ended"]]
        assert flag == 0 and len(done) >= 8, (flag, len(done))
        assert all(row["f"] == int(row["x"][0]) ** 2 for row in done), done
        print("workers", sorted(set(int(w) for w in done["worker"])))


if __name__ == "__main__":
    main()
"""


pytestmark = pytest.mark.timeout(400)  # whole runs of a service and a site, on machines that are slow or busy


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveSite]:
    with live_site(tmp_path_factory.mktemp("ensemble") / "home") as running:
        yield running


def ensemble_script(site: LiveSite, libe_specs: str = "", parse_args: bool = False, prelude: str = "") -> str:
    return prelude + ENSEMBLE.format(name=site.name, id=site.id, libe_specs=libe_specs, parse_args=parse_args)


@pytest.mark.parametrize("start", ["fork", "spawn", "forkserver"])
def test_comms_local(site: LiveSite, start: str) -> None:
    specs = 'libE_specs=LibeSpecs(nworkers=2, comms="local"),'
    prelude = f"import multiprocessing\nif __name__ == '__main__':\n    multiprocessing.set_start_method({start!r})\n"
    said = site.run(ensemble_script(site, specs, prelude=prelude), timeout=120, name=f"local_{start}.py")
    assert "workers [1, 2]" in said
    assert "[1]  " in (lines := submissions_logged(site)) and "[2]  " in lines


def submissions_logged(site: LiveSite) -> str:
    """The lines of libEnsemble's own log that tell of submissions; each begins with the worker's number."""
    lines = (site.home / "scripts" / "ensemble.log").read_text().splitlines(keepends=True)
    return "".join(line for line in lines if "balsam_executor (INFO): Submitted task" in line)


def test_comms_threads(site: LiveSite) -> None:
    said = site.run(ensemble_script(site, 'libE_specs=LibeSpecs(nworkers=2, comms="threads"),'), name="threads.py")
    assert "workers [" in said


ENDLESS = """
import numpy as np
from libensemble import Ensemble
from libensemble.executors.balsam_executors import BalsamExecutor
from libensemble.gen_funcs.sampling import uniform_random_sample
from libensemble.specs import ExitCriteria, GenSpecs, LibeSpecs, SimSpecs
from balsam.api import ApplicationDefinition


class Endless(ApplicationDefinition):
    site = "{name}"
    command_template = "sleep {{{{ seconds }}}}"


def sim_f(H, persis_info, sim_specs, libE_info):
    task = libE_info["executor"].submit(app_name="endless", app_args={{"seconds": 1000}}, wait_on_start=True)
    print("runs", flush=True)
    task.wait()
    return np.zeros(1, dtype=sim_specs["out"]), persis_info


if __name__ == "__main__":
    with BalsamExecutor() as executor:
        executor.register_app(Endless, app_name="endless")
        executor.submit_allocation(site_id={id}, num_nodes=1, wall_time_min=10)
        ensemble = Ensemble(
            libE_specs=LibeSpecs(nworkers=1, comms="{comms}"),
            executor=executor,
            sim_specs=SimSpecs(sim_f=sim_f, inputs=["x"], outputs=[("f", float)]),
            gen_specs=GenSpecs(
                gen_f=uniform_random_sample,
                outputs=[("x", float, (1,))],
                user={{"gen_batch_size": 2, "lb": np.array([1]), "ub": np.array([2])}},
            ),
            exit_criteria=ExitCriteria(sim_max=2),
        )
        ensemble.add_random_streams()
        ensemble.run()
"""


@pytest.mark.parametrize("comms", ["local", "threads"])
def test_ctrl_c_that_reaches_the_manager_alone_ends_the_tasks_and_the_script(site: LiveSite, comms: str) -> None:
    """libEnsemble waits for simulations that run; a worker that is a thread hears of no signal."""
    script = site.begin(ENDLESS.format(name=site.name, id=site.id, comms=comms), name=f"endless_{comms}.py")
    try:
        assert script.stdout is not None and script.stdout.readline() == "runs\n"
        script.send_signal(signal.SIGINT)
        _, said = script.communicate(timeout=30)
    finally:
        if script.poll() is None:
            os.killpg(script.pid, signal.SIGKILL)
            script.communicate()
    assert script.returncode == -signal.SIGINT and said.count("Traceback") == 1, said
    with Client(ClientSettings.load({"BALSAM_HOME": str(site.home)})) as client:
        [job] = client.Job.objects.filter(workdir__startswith="libe_workflow/libe_task_endless").order_by("-id")[:1]
        assert job.state is JobState.CANCELLED
        live = [BatchJobState.QUEUED, BatchJobState.RUNNING]
        assert not client.BatchJob.objects.filter(state=live).exists()


def test_comms_tcp(site: LiveSite) -> None:
    """Each worker is a process of its own that makes its own executor."""
    code = ensemble_script(site, parse_args=True)
    said = site.run(code, timeout=120, name="tcp.py", arguments=["--comms", "tcp", "--nworkers", "2"])
    assert "workers [1, 2]" in said


def test_a_task_goes_on_in_a_spawned_process(site: LiveSite) -> None:
    site.run(
        f"""
        import multiprocessing
        from libensemble.executors.balsam_executors import BalsamExecutor
        from balsam.api import ApplicationDefinition

        def app():
            class Slow(ApplicationDefinition):
                site = "{site.name}"
                command_template = "sleep {{{{ seconds }}}}; echo slept"
            return Slow

        def finish(task, executor, answers):
            task.wait(timeout=60)
            again = executor.submit(app_name="slow", app_args={{"seconds": 0}})
            again.wait(timeout=60)
            answers.put([task.state, task.read_stdout(), again.state])

        if __name__ == "__main__":
            executor = BalsamExecutor()
            executor.register_app(app(), app_name="slow")
            batch = executor.submit_allocation(site_id={site.id}, num_nodes=1, wall_time_min=10)
            task = executor.submit(app_name="slow", app_args={{"seconds": 2}})
            context = multiprocessing.get_context("spawn")
            answers = context.Queue()
            child = context.Process(target=finish, args=(task, executor, answers))
            child.start()
            assert answers.get(timeout=80) == ["FINISHED", "slept\\n", "FINISHED"]
            child.join()
            assert task.done() or task.wait(timeout=5) is None
            executor.revoke_allocation(batch)
        """,
        name="spawned.py",
    )


def test_the_manager_s_kill_reaches_the_site(site: LiveSite) -> None:
    """The documented loop: the worker polls, hears of the cancel and kills its task."""
    site.run(
        f"""
        import time
        import numpy as np
        from libensemble.comms.comms import QComm
        from libensemble.executors.balsam_executors import BalsamExecutor
        from libensemble.message_numbers import MAN_SIGNAL_KILL, STOP_TAG
        from balsam.api import ApplicationDefinition
        import queue

        class Long(ApplicationDefinition):
            site = "{site.name}"
            command_template = "echo started; echo Error; sleep {{{{ seconds }}}}"

        executor = BalsamExecutor()
        executor.register_app(Long, app_name="long")
        batch = executor.submit_allocation(site_id={site.id}, num_nodes=1, wall_time_min=10)
        inbox, outbox = queue.Queue(), queue.Queue()
        executor.set_worker_info(QComm(inbox, outbox, None), 1)

        task = executor.submit(app_name="long", app_args={{"seconds": 300}}, max_tasks_per_node=2)
        while not (task.stdout_exists() and "Error" in task.read_stdout()):
            assert not executor.manager_kill_received()
            time.sleep(0.1)
        inbox.put((STOP_TAG, MAN_SIGNAL_KILL))
        assert executor.polling_loop(task, poll_manager=True) == MAN_SIGNAL_KILL
        assert task.state == "USER_KILLED" and str(task.process.state) == "CANCELLED"

        slow = executor.submit(app_name="long", app_args={{"seconds": 300}}, max_tasks_per_node=2)
        executor.set_worker_info(QComm(queue.Queue(), outbox, None), 1)
        executor.polling_loop(slow, timeout=2)
        assert slow.state == "USER_KILLED" and 2 < slow.runtime < 20, (slow.state, slow.runtime)
        executor.revoke_allocation(batch)
        """,
        name="manager_kill.py",
    )


LONG_ENSEMBLE = """
import sys
import numpy as np
from libensemble import Ensemble
from libensemble.executors.balsam_executors import BalsamExecutor
from libensemble.gen_funcs.sampling import uniform_random_sample
from libensemble.specs import ExitCriteria, GenSpecs, LibeSpecs, SimSpecs
from balsam.api import ApplicationDefinition


class Endless(ApplicationDefinition):
    site = "{name}"
    command_template = "exec sleep {{{{ seconds }}}}"


def sim_f(H, persis_info, sim_specs, libE_info):
    task = libE_info["executor"].submit(
        app_name="endless", app_args={{"seconds": 604}}, max_tasks_per_node=2, tags={{"run": "interrupted"}}
    )
    task.wait()
    return np.zeros(1, dtype=sim_specs["out"]), persis_info


if __name__ == "__main__":
    with BalsamExecutor() as executor:
        executor.register_app(Endless, app_name="endless")
        executor.submit_allocation(site_id={id}, num_nodes=1, wall_time_min=10)
        ensemble = Ensemble(
            executor=executor,
            libE_specs=LibeSpecs(nworkers=3, comms=sys.argv[1]),
            sim_specs=SimSpecs(sim_f=sim_f, inputs=["x"], outputs=[("f", float)]),
            gen_specs=GenSpecs(
                gen_f=uniform_random_sample,
                outputs=[("x", float, (1,))],
                user={{"gen_batch_size": 4, "lb": np.array([1]), "ub": np.array([100])}},
            ),
            exit_criteria=ExitCriteria(sim_max=4),
        )
        ensemble.add_random_streams()
        ensemble.run()
"""


def test_an_interrupted_ensemble_leaves_no_task_and_no_allocation(site: LiveSite) -> None:
    """Ctrl-C reaches manager and workers; two tasks run then and one waits for room."""
    script = site.begin(LONG_ENSEMBLE.format(name=site.name, id=site.id), "interrupted.py", ["local"])
    client = Client(ClientSettings.load({"BALSAM_HOME": str(site.home)}))
    jobs = client.Job.objects.filter(tags={"run": "interrupted"})
    eventually(lambda: jobs.count() == 3 and jobs.filter(state="RUNNING").count() == 2, "they do not run", 60)
    os.killpg(script.pid, signal.SIGINT)
    _, said = script.communicate(timeout=90)
    assert script.returncode != 0 and "KeyboardInterrupt" in said
    assert jobs.count_by("state") == {JobState.CANCELLED: 3}, said
    assert client.BatchJob.objects.order_by("-id").first().state is BatchJobState.FINISHED
    assert [
        one.info["cmdline"] for one in psutil.process_iter(["cmdline"]) if one.info["cmdline"] == ["sleep", "604"]
    ] == []


@pytest.fixture(scope="module")
def demo_result(tmp_path_factory: pytest.TempPathFactory) -> tuple[np.ndarray, str, Path]:
    """An undisturbed demo: H, what it said, its project copy."""
    return run_demo(tmp_path_factory.mktemp("demo"))


def start_demo(directory: Path) -> tuple[subprocess.Popen[str], Path]:
    """The demo in a copy of the examples, so that its output is not the developer's."""
    shutil.copytree(EXAMPLES, directory / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    environment = {name: value for name, value in os.environ.items() if name != "BALSAM_HOME"}
    demo = subprocess.Popen(
        [sys.executable, str(directory / "examples" / "demo.py"), *SMALL],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    return demo, directory / "demo-output"


def run_demo(directory: Path, disturb: Callable[[LiveSite], object] | None = None) -> tuple[np.ndarray, str, Path]:
    demo, output = start_demo(directory)
    try:
        if disturb is not None:
            progress = output / "out" / "progress.txt"
            eventually(lambda: progress.exists() and progress.read_text().count("\n") >= 2, "no simulation ended", 90)
            disturb(LiveSite(output / "home"))
        said = finished(demo, 240)
    finally:
        if demo.poll() is None:
            demo.terminate()
            demo.communicate(timeout=90)
    return np.load(output / "out" / "H.npy"), said, output


def test_the_demo_ends_with_table_and_picture(demo_result: tuple[np.ndarray, str, Path]) -> None:
    history, said, output = demo_result
    assert len(history) == 8
    assert np.isfinite(history["energy"]).all()
    assert history["energy"].min() == pytest.approx(-28.422532, abs=1e-5)  # lowest known for ten atoms
    assert (output / "out" / "clusters.png").read_bytes().startswith(b"\x89PNG")
    assert "8/8" in said
    assert "found at hop" in said
    jobs = list((output / "home").rglob("cluster.out"))
    assert len(jobs) == 8
    assert all(path.with_name("cluster.in").exists() for path in jobs)


@pytest.mark.parametrize("part", ["service", "agent", "launcher", "courier"])
def test_a_part_that_is_killed_during_the_demo_changes_nothing(
    demo_result: tuple[np.ndarray, str, Path], tmp_path: Path, part: str
) -> None:
    killed: list[int] = []
    history, _, _ = run_demo(tmp_path, lambda home: killed.append(home.kill(part)))
    undisturbed = demo_result[0]
    assert len(killed) == 1
    for name in ("sim_id", "x", "energy", "mean_energy", "best_hop", "best_by_hop", "geometry"):
        np.testing.assert_array_equal(history[name], undisturbed[name], err_msg=name)


def test_interrupting_the_demo_leaves_nothing_behind(tmp_path: Path) -> None:
    demo, output = start_demo(tmp_path)
    progress = output / "out" / "progress.txt"
    eventually(lambda: progress.exists() and progress.read_text(), "no simulation ended", 90)
    demo.terminate()
    said, _ = demo.communicate(timeout=120)
    assert demo.returncode == 1
    assert "Interrupted" in said
    home = LiveSite(output / "home")
    deadline = time.monotonic() + 5
    while (left := [pid for part in PARTS for pid in home.pids(part)]) and (time.monotonic() < deadline):
        time.sleep(0.1)
    assert left == []
    home.start()
    try:
        states = Client(ClientSettings.load({"BALSAM_HOME": str(home.home)})).Job.objects.count_by("state")
    finally:
        assert home.stop() == 0
    assert set(states) <= {JobState.JOB_FINISHED, JobState.CANCELLED}, "they would run again in the next demo"
