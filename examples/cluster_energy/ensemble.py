"""The two user functions of the ensemble, as libEnsemble calls them on its workers, and the progress line.

The generator looks for good settings of the search (hop size, temperature): first it spreads points over their ranges,
then it draws around the best settings so far. The simulator runs the program once at the site and reads its output.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
from libensemble.executors.executor import TimeoutExpired
from libensemble.message_numbers import TASK_FAILED, WORKER_DONE, WORKER_KILL_ON_TIMEOUT
from program import OUTPUT, Result, parse_output

PROGRESS = "progress.txt"


def choose_settings(H: np.ndarray, persis_info: dict, gen_specs: dict, libE_info: dict) -> tuple[np.ndarray, dict]:
    """Generator: a batch of (hop size, temperature). The numbers depend on the results alone, not on who was first."""
    user = gen_specs["user"]
    low, high, batch = np.array(user["low"]), np.array(user["high"]), user["batch"]
    rng = np.random.default_rng([user["seed"], len(H)])
    grid = (np.argsort(rng.random((2, batch)), axis=1).T + rng.random((batch, 2))) / batch
    if len(H):
        best = H["x"][np.nanargmin(H["mean_energy"])]
        reach = (high - low) / 4
        low, high = np.maximum(low, best - reach), np.minimum(high, best + reach)
    out = np.zeros(batch, dtype=gen_specs["out"])
    out["x"] = low + grid * (high - low)
    return out, persis_info


def run_cluster(H: np.ndarray, persis_info: dict, sim_specs: dict, libE_info: dict) -> tuple[np.ndarray, dict, int]:
    """Simulator: one run of the program at the site, through the executor."""
    user, sim_id = sim_specs["user"], int(libE_info["H_rows"][0])
    hop_size, temperature = (float(value) for value in H["x"][0])
    out = np.full(1, np.nan, dtype=sim_specs["out"])
    task = libE_info["executor"].submit(
        app_name="cluster",
        app_args={
            "atoms": user["atoms"],
            "seed": user["seed"] + sim_id,
            "hop_size": hop_size,
            "temperature": temperature,
            "hops": user["hops"],
        },
        num_procs=1,
        max_tasks_per_node=user["tasks_per_node"],
        workdir=f"{user['run']}/sim{sim_id:03d}",
        tags={"ensemble": user["run"]},
    )
    try:
        task.wait(timeout=user["timeout_sec"])
    except TimeoutExpired:
        task.kill()
        report(user, sim_id, f"stopped after {user['timeout_sec']} s", np.nan)
        return out, persis_info, WORKER_KILL_ON_TIMEOUT
    if task.state != "FINISHED":
        report(user, sim_id, f"{task.state}: {task.read_stdout()[-200:].strip()}", np.nan)
        return out, persis_info, TASK_FAILED
    keep(out, parse_output(task.read_file_in_workdir(OUTPUT)), task)
    report(user, sim_id, f"{task.runtime:.2f} s at the site", float(out["energy"][0]))
    return out, persis_info, WORKER_DONE


def keep(out: np.ndarray, result: Result, task: Any) -> None:
    """Put a result into the row of H."""
    out["energy"] = result.energy
    out["mean_energy"] = result.best_by_hop.mean()
    out["best_hop"] = result.best_hop
    out["best_by_hop"] = result.best_by_hop
    out["geometry"] = result.geometry
    out["job_id"] = task.process.id
    out["runtime_sec"] = task.runtime


def report(user: dict, sim_id: int, remark: str, energy: float) -> None:
    """One progress line. The workers are processes of their own, so they count together in a file of short lines."""
    path = Path(user["out"]) / PROGRESS
    with path.open("a") as file:
        file.write(f"{sim_id} {energy}\n")
    energies = [float(line.split()[1]) for line in path.read_text().splitlines()]
    done, total = len(energies), user["sims"]
    bar = "#" * (20 * done // total)
    found = [value for value in energies if value == value]
    best = f"best {min(found):.6f}" if found else "none yet"
    print(f"[{bar:<20}] {done:2d}/{total}  sim {sim_id:2d}: {energy:12.6f}  {best}  ({remark})", flush=True)


def fresh_progress(out: Path) -> None:
    """Forget the progress of an earlier run."""
    if (out / PROGRESS).exists():
        os.unlink(out / PROGRESS)
