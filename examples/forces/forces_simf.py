"""The simulator function: one run of the forces program at the Site, watched while it runs, its energies home."""

import time
from pathlib import Path
from typing import Any

import numpy as np
from libensemble.message_numbers import (
    MAN_KILL_SIGNALS,
    TASK_FAILED,
    WORKER_DONE,
    WORKER_KILL,
    WORKER_KILL_ON_ERR,
    WORKER_KILL_ON_TIMEOUT,
)

STAT = "forces.stat"
LOOK_SEC = 0.5


def run_forces(H: np.ndarray, persis_info: dict, sim_specs: dict, libE_info: dict) -> tuple[np.ndarray, dict, int]:
    """Submit the App, wait for it, and give back the last energy; NaN for a run that was killed or failed."""
    user, executor = sim_specs["user"], libE_info["executor"]
    row, particles = int(libE_info["H_rows"][0]), int(H["x"][0][0])
    home = Path(user["home"]) / f"forces{row:03d}.stat"
    task = executor.submit(
        app_name="forces",
        app_args={
            "sim_particles": str(particles),
            "sim_timesteps": str(user["timesteps"]),
            "seed": str(user["seed"] + row),
            "kill_rate": str(user["kill_rate"]),
        },
        num_procs=user["ranks"],
        num_nodes=user["nodes_each"],
        max_tasks_per_node=1,
        transfers={"result": f"client:{home}"},
        workdir=f"{user['run']}/sim{row}_worker{executor.workerID}",
        tags={"example": "forces", "run": user["run"]},
    )
    status = watch(task, executor, user["timeout_sec"])
    out = np.zeros(1, dtype=sim_specs["out"])
    out["energy"] = np.loadtxt(home)[-1] if status == WORKER_DONE else np.nan
    out["job_id"] = task.process.id
    return out, persis_info, status


def watch(task: Any, executor: Any, timeout_sec: float) -> int:
    """Until the task ends. Kills it when its output says that it is bad, when the manager says so, or when it takes too
    long; when it is FINISHED its results are home."""
    while not task.finished:
        if executor.manager_poll() in MAN_KILL_SIGNALS:
            task.kill()
            return WORKER_KILL
        if task.runtime > timeout_sec:
            task.kill()
            return WORKER_KILL_ON_TIMEOUT
        if task.running() and is_bad(task):
            task.kill()
            return WORKER_KILL_ON_ERR
        time.sleep(LOOK_SEC)
        task.poll()
    return WORKER_DONE if task.state == "FINISHED" else TASK_FAILED


def is_bad(task: Any) -> bool:
    """Whether the last line of the output, as it is at the Site now, says so."""
    if not task.file_exists_in_workdir(STAT):
        return False
    return bool(task.read_file_in_workdir(STAT).endswith("kill\n"))
