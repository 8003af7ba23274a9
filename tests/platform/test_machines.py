"""Shipped machine data: settings that the Site reads, and a job template that renders to a right shell script."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from balsam.platform.machines import UnknownMachine, job_template_text, machine_names, settings_text
from balsam.platform.machines.likely import likely_machine
from balsam.platform.node.base import NodeOptions
from balsam.platform.node.gpus import GpuVendor
from balsam.platform.node.local import LocalNodes
from balsam.platform.registry import SCHEDULERS
from balsam.platform.scheduler.base import SchedulerConfig, SubmitRequest
from balsam.site.services.script import JobTemplate
from balsam.site.settings import Settings
from balsam.site.settings_file import load_settings

VALUES: dict[str, Any] = {
    "project": "local",
    "queue": "local",
    "num_nodes": 1,
    "wall_time_min": 30,
    "job_mode": "mpi",
    "filter_tags": {},
    "partitions": "",
    "optional_params": {},
    "balsam_site_path": "/site",
    "balsam_bin": "/bin",
    "pg_bin": "",
    "launcher_cmd": "/bin/echo launcher",
}


def render(machine: str, **values: Any) -> str:
    return JobTemplate(Path("job-template.sh"), job_template_text(machine)).render({**VALUES, **values})


@pytest.mark.parametrize("machine", machine_names())
def test_settings_are_what_the_site_accepts(machine: str, tmp_path: Path) -> None:
    path = tmp_path / "settings.yml"
    path.write_text(settings_text(machine))
    assert load_settings(path).scheduler.allowed_queues


@pytest.mark.parametrize("machine", machine_names())
def test_settings_show_every_section(machine: str) -> None:
    shown = yaml.safe_load(settings_text(machine))
    assert set(Settings.model_fields) <= set(shown)


def test_local_needs_no_change_for_the_default_queue_and_project(tmp_path: Path) -> None:
    path = tmp_path / "settings.yml"
    path.write_text(settings_text("local"))
    settings = load_settings(path)
    assert (list(settings.scheduler.allowed_queues), settings.scheduler.allowed_projects) == (["local"], ["local"])
    assert settings.mpirun_name == "auto"


def test_local_template_starts_the_launcher_in_place_of_the_script() -> None:
    assert render("local").splitlines()[-1] == "exec /bin/echo launcher -j mpi -t 30 "
    with_partitions = render("local", partitions="-p mpi:1 -p serial:1:k=v", job_mode="serial")
    assert with_partitions.splitlines()[-1] == "exec /bin/echo launcher -j serial -t 30 -p mpi:1 -p serial:1:k=v"


def test_tags_arrive_as_one_word_each_s15(tmp_path: Path) -> None:
    tags = {"a": "plain", "b": "two words", "c": "it's; $(touch evil) `touch evil`", "d": "{{ 7 * 7 }}", "e": "é\\"}
    script = tmp_path / "script.sh"
    script.write_text(render("local", filter_tags=tags, launcher_cmd="/usr/bin/printf '%s\\n'"))
    done = subprocess.run(["bash", str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=30, check=True)
    words = done.stdout.splitlines()
    assert words == ["-j", "mpi", "-t", "30", *(f"--tag={k}={v}" for k, v in tags.items())]
    assert [path.name for path in tmp_path.iterdir()] == ["script.sh"]


OTHERS = [name for name in machine_names() if name != "local"]
PARAMS = {"filesystems": "home:eagle", "qos": "debug"}


def settings_of(machine: str, tmp_path: Path) -> Settings:
    path = tmp_path / "settings.yml"
    path.write_text(settings_text(machine))
    return load_settings(path)


@pytest.mark.parametrize("machine", OTHERS)
def test_its_scheduler_takes_its_options_and_the_default_parameters(machine: str, tmp_path: Path) -> None:
    scheduler = settings_of(machine, tmp_path).scheduler
    adapter = SCHEDULERS.load(scheduler.scheduler_class)(SchedulerConfig(tmp_path, scheduler.scheduler_options))
    for queue in scheduler.allowed_queues:
        words = adapter.render(tmp_path / "script.sh", "balsam-1", SubmitRequest(1, 30, queue, "proj1"))
        assert any(queue in word for word in words)
    lines = render(machine, optional_params=dict(scheduler.optional_batch_job_params)).splitlines()
    assert lines[0].startswith("#!/bin/bash")
    assert lines[-1] == "exec /bin/echo launcher -j mpi -t 30 "


@pytest.mark.parametrize("machine", OTHERS)
def test_who_it_was_made_for_is_asked_for_projects_and_told_what_was_not_tried(machine: str, tmp_path: Path) -> None:
    text = settings_text(machine)
    assert settings_of(machine, tmp_path).scheduler.allowed_projects == []
    if not machine.startswith("generic-"):
        assert "not run on the machine itself" in text.split("\n\n")[0]
    assert "without a batch system" not in text


@pytest.mark.parametrize("machine", OTHERS)
def test_a_template_is_right_shell_with_directives_first_s15(machine: str, tmp_path: Path) -> None:
    """Directives count only above the first command, and odd values make no second line."""
    tags = {"a": "two words", "b": "it's; $(touch evil) `touch evil`"}
    text = render(machine, optional_params=PARAMS, filter_tags=tags, launcher_cmd="/usr/bin/printf '%s\\n'")
    script = tmp_path / "script.sh"
    script.write_text(text)
    lines = text.splitlines()
    directives = [number for number, line in enumerate(lines) if line.startswith(("#SBATCH ", "#PBS "))]
    commands = [number for number, line in enumerate(lines) if line and not line.startswith("#")]
    assert directives and max(directives) < min(commands)
    done = subprocess.run(["bash", str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.splitlines()[-2:] == [f"--tag={key}={value}" for key, value in tags.items()]
    assert [path.name for path in tmp_path.iterdir()] == ["script.sh"]


@pytest.mark.parametrize(
    ("machine", "cpus", "gpus", "vendor"),
    [
        ("polaris", 32, 4, GpuVendor.NVIDIA),
        ("aurora", 102, 6, GpuVendor.INTEL),
        ("frontier", 56, 8, GpuVendor.AMD),
        ("perlmutter-gpu", 64, 4, GpuVendor.NVIDIA),
        ("perlmutter-cpu", 128, 0, None),
    ],
)
def test_what_a_node_has_reaches_the_launcher(
    machine: str, cpus: int, gpus: int, vendor: GpuVendor | None, tmp_path: Path
) -> None:
    node = settings_of(machine, tmp_path).node
    exports = [line.removeprefix("export ") for line in render(machine, optional_params=PARAMS).splitlines()]
    environ = dict(line.split("=", 1) for line in exports if "_DEVICES=" in line or "_MASK=" in line)
    (found,) = LocalNodes().nodes(NodeOptions(node.cpus, node.gpus), environ)
    assert (len(found.cpu_ids), len(found.gpu_ids), found.gpu_vendor) == (cpus, gpus, vendor)


@pytest.mark.parametrize(
    ("machine", "mpirun"),
    [
        ("aurora", "pals"),
        ("polaris", "pals"),
        ("frontier", "srun"),
        ("perlmutter-cpu", "srun"),
        ("perlmutter-gpu", "srun"),
        ("generic-slurm", "auto"),
        ("generic-pbs", "auto"),
    ],
)
def test_what_starts_the_ranks_there(machine: str, mpirun: str, tmp_path: Path) -> None:
    assert settings_of(machine, tmp_path).mpirun_name == mpirun


def test_unknown_machine_gets_the_nearest() -> None:
    with pytest.raises(UnknownMachine, match="did you mean 'local'"):
        settings_text("locl")
    with pytest.raises(UnknownMachine, match="known: aurora"):
        job_template_text("../../../etc/passwd")


@pytest.mark.parametrize(
    ("hostname", "environ", "commands", "machine"),
    [
        ("laptop", {}, set(), "local"),
        ("laptop", {"NERSC_HOST": "cori"}, set(), "local"),
        ("login1", {}, {"sbatch"}, "generic-slurm"),
        ("login1", {}, {"qsub", "pbsnodes"}, "generic-pbs"),
        ("login1", {}, {"qsub"}, "local"),  # Grid Engine has it too
        ("login05", {"NERSC_HOST": "perlmutter"}, {"sbatch"}, "perlmutter-cpu"),
        ("login05", {"LMOD_SYSTEM_NAME": "frontier"}, {"sbatch"}, "frontier"),
        ("polaris-login-02.hsn.cm.polaris.alcf.anl.gov", {}, {"pbsnodes"}, "polaris"),
        ("aurora-uan-0010", {}, {"pbsnodes"}, "aurora"),
    ],
)
def test_the_likely_machine(hostname: str, environ: dict[str, str], commands: set[str], machine: str) -> None:
    assert likely_machine(hostname, environ, commands.__contains__) == machine
