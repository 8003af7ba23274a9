"""Shipped machine data: settings that the Site reads, and a job template that renders to a right shell script."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from balsam.platform.machines import UnknownMachine, job_template_text, machine_names, settings_text
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
    later = {"processing", "file_cleaner", "queue_maintainer", "elastic_queue"}
    assert set(Settings.model_fields) - later <= set(shown)


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


def test_unknown_machine_gets_the_nearest() -> None:
    with pytest.raises(UnknownMachine, match="did you mean 'local'"):
        settings_text("locl")
    with pytest.raises(UnknownMachine, match="known: local"):
        job_template_text("../../../etc/passwd")
