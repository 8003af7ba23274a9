"""settings.yml: what is understood, and what each fault is answered with."""

from __future__ import annotations

from pathlib import Path

import pytest

from balsam.launcher.config import LauncherConfig
from balsam.platform.machines import machine_names, settings_text
from balsam.site.directory import SiteDirectory
from balsam.site.launcher_config import launcher_config_maker
from balsam.site.settings import LauncherSettings, Settings
from balsam.site.settings_file import SettingsError, load_settings
from tests.site.test_script import batch_job


def load(tmp_path: Path, text: str) -> Settings:
    path = tmp_path / "settings.yml"
    path.write_text(text)
    return load_settings(path)


@pytest.mark.parametrize("machine", machine_names())
def test_shipped_settings_are_valid(tmp_path: Path, machine: str) -> None:
    assert load(tmp_path, settings_text(machine)).scheduler.allowed_queues


ELASTIC = "elastic_queue:\n  submit_project: local\n  submit_queue: local\n"


@pytest.mark.parametrize("text", ["", "# nothing\n", "scheduler:\n", "launcher: {}\nelastic_queue: null\n"])
def test_what_is_left_out_has_its_default(tmp_path: Path, text: str) -> None:
    assert load(tmp_path, text) == Settings()


def test_keys_of_balsam_07_mean_what_they_meant(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        """
logging: {level: debug}
filter_tags: {project: a}
launcher:
  idle_ttl_sec: 30
  error_tail_num_lines: 5
  max_concurrent_mpiruns: 990
  compute_node: balsam.platform.compute_node.DefaultNode
  mpi_app_launcher: balsam.platform.app_run.MPICHRun
  mpirun_allows_node_packing: true
  sort_by: long_large_first
scheduler:
  scheduler_class: balsam.platform.scheduler.LocalProcessScheduler
  sync_period: 20
  allowed_queues: {debug: {max_nodes: 2, max_walltime: 60, max_queued_jobs: 3}}
  allowed_projects: [a, b]
  optional_batch_job_params: {shout: no, count: 3}
  job_template_path: mine.sh
processing: null
transfers: null
file_cleaner: null
queue_maintainer: null
elastic_queue: null
""",
    )
    assert settings.logging.level == "DEBUG"
    assert settings.transfers is None
    assert settings.mpirun_name.endswith("MPICHRun")
    assert settings.scheduler.optional_batch_job_params == {"shout": "no", "count": "3"}
    assert settings.scheduler.allowed_queues["debug"].max_queued_jobs == 3


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("schedular: {}\n", 1, "unknown key schedular; did you mean scheduler?"),
        ("\nlauncher:\n  idle_ttl: 3\n", 3, "unknown key launcher.idle_ttl; did you mean idle_ttl_sec?"),
        ("idle_ttl_sec: 3\n", 1, "did you mean launcher.idle_ttl_sec?"),
        ("zzz: 3\n", 1, "known here: apps, budget, elastic_queue"),
        ("launcher:\n  idle_ttl_sec: soon\n", 2, "launcher.idle_ttl_sec is 'soon'; it must be a valid number"),
        ("launcher: {idle_ttl_sec: 0}\n", 1, "launcher.idle_ttl_sec is 0; it must be greater than 0"),
        ("launcher: 3\n", 1, "launcher is 3"),
        ("launcher: {delay_sec: 1}\n", 1, "launcher.delay_sec is no setting any more (this launcher does not poll)"),
        (
            "launcher: {serial_mode_prefetch_per_rank: 64}\n",
            1,
            "launcher.serial_mode_prefetch_per_rank is no setting any more",
        ),
        (
            "logging:\n  level: warn\n",
            2,
            "'WARN'; it must be 'DEBUG', 'INFO', 'WARNING', 'ERROR' or 'CRITICAL'; did you mean 'WARNING'?",
        ),
        ("logging:\n  level: xyz\n", 2, "'ERROR' or 'CRITICAL'\n"),
        ("logging:\n  format: '%(nothing'\n", 2, "is no format for a log line"),
        ("scheduler:\n  scheduler_class: slurmm\n", 2, "has no 'slurmm'"),
        (
            "scheduler:\n  scheduler_class: slurm\n  scheduler_options:\n    queue_iss: qos\n",
            4,
            "unknown key scheduler.scheduler_options.queue_iss; did you mean queue_is?",
        ),
        ("scheduler:\n  allowed_queues:\n    debug:\n      max_node: 3\n", 4, "did you mean max_nodes?"),
        ("scheduler:\n  allowed_queues:\n    debug:\n      max_nodes: 0\n", 4, "greater than or equal to 1"),
        ("scheduler:\n  allowed_projects: a\n", 2, "scheduler.allowed_projects is 'a'"),
        ('scheduler:\n  optional_batch_job_params: {a: "b\\nc"}\n', 2, "scheduler.optional_batch_job_params.a"),
        ("elastic_queue:\n  submit_queue: local\n", 1, "elastic_queue.submit_project is missing"),
        (ELASTIC + "  min_num_node: 3\n", 4, "did you mean min_num_nodes?"),
        (ELASTIC.replace("queue: local", "queue: lokal"), 3, "allowed_queues; did you mean 'local'?"),
        (ELASTIC.replace("project: local", "project: other"), 2, "scheduler.allowed_projects; known there: local"),
        (ELASTIC + "  max_num_nodes: 2\n", 4, "max_num_nodes is more than queue 'local' allows in scheduler"),
        (ELASTIC + "  min_num_nodes: 2\n", 4, "min_num_nodes is more than queue 'local' allows in scheduler"),
        (ELASTIC + "  max_wall_time_min: 30\n", 4, "max_wall_time_min is less than min_wall_time_min, which is 35"),
        (ELASTIC + "  wall_time_pad_min: 35\n", 4, "must be less than min_wall_time_min, 35"),
        ("budget: {max_node_hours: 0}\n", 1, "budget.max_node_hours is 0"),
        ("budget:\n  campaigns: {climate: lots}\n", 2, "budget.campaigns.climate is 'lots'"),
        ("queue_maintainer: {submit_project: local, submit_queue: local, num_nodes: 2}\n", 1, "num_nodes is more than"),
        ("processing:\n  num_workers: 0\n", 2, "processing.num_workers is 0"),
        ("processing:\n  num_worker: 1\n", 2, "did you mean num_workers?"),
        ("hook_time_limit_sec: 5\n", 1, "did you mean processing.hook_time_limit_sec?"),
        ("file_cleaner: {service_period: 0}\n", 1, "file_cleaner.service_period is 0"),
        ("apps: {accept: pined}\n", 1, "is 'pined'; it must be 'owner' or 'pinned'; did you mean 'pinned'?"),
        ("launcher: {sort_by: lifo}\n", 1, "is 'lifo'; it must be 'fifo', 'long_large_first' or 'smallest_first'"),
        ("apps: {python: maybe}\n", 1, "apps.python is 'maybe'"),
        ("transfers:\n  transfer_locations: {theta: globus://1234}\n", 2, "the form globus://UUID"),
        ("transfers:\n  transfer_locations: {x: /scratch}\n", 2, "must be a URL whose scheme is one of: file"),
        ("transfers:\n  transfer_locations: {x: 'file://host/x'}\n", 2, "the form file:///absolute/path"),
        ("transfers:\n  transfer_locations: {x: 'file:///x?link=soft'}\n", 2, "takes one option, ?link=hard"),
        ("transfers:\n  transfer_locations: {client: 'file:///x'}\n", 2, "choose another name"),
        ("transfers:\n  globus_endpoint_id: theta\n", 2, "transfers.globus_endpoint_id is 'theta'"),
        (
            "transfers:\n  transfer_locations: {x: globus://5a1c1c4e-6d0f-4c55-9f7e-0d5e6a1b2c3d/}\n",
            1,
            "needs globus_endpoint_id",
        ),
        ("transfers: {max_concurrent_transfers: 0}\n", 1, "greater than or equal to 1"),
        ("node: {cpus: -1}\n", 1, "node.cpus is -1"),
        ("mpirun: mpichh\n", 1, "did you mean 'mpich'?"),
        ("mpirun: mpich\nlauncher:\n  mpi_app_launcher: mpich\n", 1, "two names of one setting"),
        ("launcher: {}\nlauncher: {}\n", 2, "launcher is set a second time"),
        ("launcher:\n  idle_ttl_sec: 1\n idle: 2\n", 3, "not valid YAML"),
        ("- a\n", 1, "must be `key: value` lines, not a list"),
        ("a: &x [*x]\n", 1, "unknown key a"),
    ],
)
def test_a_fault_is_named_with_line_and_remedy(tmp_path: Path, text: str, line: int, words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, text)
    assert f"line {line}: " in str(caught.value)
    assert words in f"{caught.value}\n"
    assert str(tmp_path / "settings.yml") in str(caught.value)


def test_all_faults_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, "launcher: {idle_ttl_sec: 0, sort: a}\nnode: {cpus: x}\ntransfers: {a: 1}\n")
    assert str(caught.value).count("line ") == 4


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (None, "can't be read: No such file"),
        (b"\xff", "not UTF-8: byte 0 is 0xff"),
        (b"a" * 1_100_000, "at most 1048576"),
    ],
)
def test_a_file_that_can_not_be_read_says_why(tmp_path: Path, data: bytes | None, words: str) -> None:
    path = tmp_path / "settings.yml"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(SettingsError, match=r"settings\.yml") as caught:
        load_settings(path)
    assert words in str(caught.value)


@pytest.mark.parametrize("text", ["processing: null\nfile_cleaner: null\n", "processing:\nfile_cleaner:\n"])
def test_null_switches_a_service_off_and_leaving_it_out_does_not(tmp_path: Path, text: str) -> None:
    path = tmp_path / "settings.yml"
    path.write_text(text)
    assert (load_settings(path).processing, load_settings(path).file_cleaner) == (None, None)
    path.write_text("processing: {num_workers: 3}\n")
    found = load_settings(path)
    assert found.processing is not None and found.file_cleaner is not None
    assert (found.processing.num_workers, found.processing.hook_time_limit_sec) == (3, 600.0)
    assert (found.file_cleaner.cleanup_batch_size, found.file_cleaner.service_period) == (180, 30.0)


@pytest.mark.parametrize("binds", [False, True])
def test_whether_ranks_are_bound_reaches_the_launcher(binds: bool, tmp_path: Path) -> None:
    settings = Settings(launcher=LauncherSettings(mpirun_binds_cpus=binds))
    text = launcher_config_maker(SiteDirectory(tmp_path), settings, 1)(batch_job(), tmp_path / "qsubmit")
    assert LauncherConfig.from_json(text).mpirun_binds_cpus is binds
