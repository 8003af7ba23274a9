"""The forces workflow of examples/forces: libEnsemble here and its simulations at a Site, or all of it at the Site."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from tests.system.live_site import LiveSite, eventually, finished, live_site
from tests.testbed.delaying_proxy import DelayingProxy

EXAMPLE = Path(__file__).parents[2] / "examples" / "forces"
sys.path.insert(0, str(EXAMPLE))
import forces  # noqa: E402

pytestmark = pytest.mark.timeout(300)
SEED, STEPS = 1, 10


def two_nodes(settings: dict[str, Any]) -> None:
    """Room for libEnsemble on a node of its own beside its simulations."""
    scheduler = settings.setdefault("scheduler", {})
    scheduler["allowed_queues"] = {"local": {"max_nodes": 2, "max_walltime": 60}}
    settings["node"] = {"cpus": 4}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveSite]:
    """With the MPI of this environment, its compiler included, if there is one."""
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        patch.setenv("PATH", f"{sys.prefix}/bin:{os.environ['PATH']}")
        running = stack.enter_context(live_site(tmp_path_factory.mktemp("forces") / "home", two_nodes))
        run(running, running.home, "define_apps.py")
        yield running


def begin(site: LiveSite, here: Path, script: str, *words: str, **environment: str) -> subprocess.Popen[str]:
    """One of the example's scripts, as somebody at this machine would start it."""
    return subprocess.Popen(
        [sys.executable, "-X", "faulthandler", str(EXAMPLE / script), "--site", site.name, *words],
        env={**site.environment, **environment},
        cwd=here,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run(site: LiveSite, here: Path, script: str, *words: str) -> str:
    return finished(begin(site, here, script, *words), 200)


SMALL = ("--sims", "16", "--particles", "60", "--ranks", "2")
FEW = ("--sims", "6", *SMALL[2:])


def check(energies: Path, history: np.ndarray) -> None:
    """Each energy of H is the last one of its file, and each file is what the program gives for its arguments."""
    for row in history:
        lines = (energies / f"forces{row['sim_id']:03d}.stat").read_text().split()
        random = forces.Random(SEED + int(row["sim_id"]))
        random.unit()  # whether it is a bad run
        expected = [f"{energy:.17g}" for energy in forces.energies(int(row["x"][0]), STEPS, random)]
        assert lines == expected, row
        assert row["energy"] == float(lines[-1])


def no_allocation_is_left(site: LiveSite) -> bool:
    said = site.run(
        "from balsam.api import BatchJob\nprint(*(batch.state.value for batch in BatchJob.objects.all()))",
        name="allocations.py",
    )
    return set(said.split()) in ({"finished"}, {"finished", "submit_failed"})


def test_sixteen_results_come_home(site: LiveSite, tmp_path: Path) -> None:
    """Scenario A."""
    said = run(site, tmp_path, "run_libe_forces.py", *SMALL, "--comms", "local", "--nworkers", "2")
    assert "16 of 16 simulations gave an energy" in said
    home = tmp_path / "forces_results"
    history = np.load(home / "H.npy")
    assert sorted(history["sim_id"]) == list(range(16))
    check(home, history)
    assert no_allocation_is_left(site)


def test_libensemble_itself_is_a_job_of_the_allocation(site: LiveSite, tmp_path: Path) -> None:
    """Scenario B, on two nodes: one for libEnsemble, one for its simulations."""
    said = run(site, tmp_path, "submit_libe_forces_remotely.py", *FEW, "--workers", "2", "--nodes", "2")
    assert "6 of 6 energy files are in" in said
    home = tmp_path / "forces_results"
    history = np.load(home / "H.npy")
    assert sorted(history["sim_id"]) == list(range(6))
    check(home, history)
    assert no_allocation_is_left(site)


def test_bad_runs_are_killed_by_what_they_write(site: LiveSite, tmp_path: Path) -> None:
    """A bad run never ends by itself, so that the nodes of those that are killed are free for the next."""
    bad = ("--kill-rate", "0.5", "--timeout-sec", "120")
    said = run(site, tmp_path, "run_libe_forces.py", *FEW, *bad, "--comms", "local", "--nworkers", "2")
    home = tmp_path / "forces_results"
    history = np.load(home / "H.npy")
    is_bad = [forces.Random(SEED + int(row)).unit() < 0.5 for row in history["sim_id"]]
    assert 0 < sum(is_bad) < 6
    assert f"{6 - sum(is_bad)} of 6 simulations gave an energy, {sum(is_bad)} were killed" in said
    assert list(np.isnan(history["energy"])) == is_bad
    check(home, history[~np.array(is_bad)])
    states = site.run(
        f"from balsam.api import Job\nprint(*(str(Job.objects.get(id=n).state) for n in {history['job_id'].tolist()}))",
        name="states.py",
    )
    assert states.split() == ["CANCELLED" if bad else "JOB_FINISHED" for bad in is_bad]
    running = [str(process.info["cmdline"]) for process in psutil.process_iter(["cmdline"])]
    assert [words for words in running if "forces.x" in words and str(site.home) in words] == []


def test_a_long_line_and_a_service_that_is_killed_change_nothing(site: LiveSite, tmp_path: Path) -> None:
    """Scenario A with 300 ms to the service and back; in the middle the service dies, and another one goes on."""
    token = json.loads((site.home / "service.json").read_text())["token"]
    port = int(str(site.ready["url"]).rpartition(":")[2])
    words = (*FEW, "--comms", "local", "--nworkers", "2")
    home = tmp_path / "forces_results"
    with DelayingProxy(port, one_way_sec=0.15) as line:
        reached = {"BALSAM_URL": f"http://127.0.0.1:{line.port}", "BALSAM_TOKEN": token}
        ensemble = begin(site, tmp_path, "run_libe_forces.py", *words, **reached)
        eventually(lambda: len(list(home.glob("forces*.stat"))) >= 2, "no energies come home", 120)
        site.kill("service")
        said = finished(ensemble, 200)
    assert "6 of 6 simulations gave an energy" in said
    check(home, np.load(home / "H.npy"))
    assert no_allocation_is_left(site)


def test_an_allocation_is_revoked_while_its_site_is_away(site: LiveSite) -> None:
    """Before it is submitted, and while it runs: the wish is kept, and obeyed once the agent is back."""
    said = site.run(
        f"""
        import os, signal, time
        from libensemble.executors.balsam_executors import BalsamExecutor
        from balsam.api import BatchJob

        AGENT = {site.pids("agent")}

        def tell(number):
            for pid in AGENT:
                os.kill(pid, number)

        def reach(batch, *states):
            deadline = time.monotonic() + 60
            while str(batch.state) not in states:
                assert time.monotonic() < deadline, batch
                time.sleep(0.1)
                batch.refresh_from_db()

        executor = BalsamExecutor()
        running = executor.submit_allocation(site_id={site.id}, num_nodes=1, wall_time_min=10)
        reach(running, "running")
        tell(signal.SIGSTOP)
        try:
            waiting = executor.submit_allocation(site_id={site.id}, num_nodes=1, wall_time_min=10)
            print([executor.revoke_allocation(batch, timeout=1) for batch in (running, waiting)])
        finally:
            tell(signal.SIGCONT)
        for batch in (running, waiting):
            reach(batch, "finished", "submit_failed")
        print(running.start_time is None, waiting.start_time is None)
        """,
        name="revoked.py",
    )
    assert said.splitlines() == ["[False, False]", "False True"]
