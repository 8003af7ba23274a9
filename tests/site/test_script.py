"""job-template.sh: rendered strictly, and closed to what a lying service could put into it (S15)."""

from __future__ import annotations

import shlex
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balsam.domain.states import BatchJobState, JobMode
from balsam.launcher.main import parse_arguments
from balsam.platform.machines import job_template_text, machine_names, settings_text
from balsam.site.services.limits import refusal
from balsam.site.services.script import JobTemplate, ScriptError, script_values
from balsam.site.settings import SchedulerSettings, Settings
from balsam.site.settings_file import load_settings
from balsam.wire.batch_jobs import BatchJobPartition, BatchJobView

# Balsam 0.7's own way to pass tags: unquoted.
OLD_STYLE = (
    "{{ launcher_cmd }} {% for k, v in filter_tags.items() %} --tag {{ k }}={{ v }} {% endfor %}{{ optional_params }}"
)


def batch_job(**fields: object) -> BatchJobView:
    known: dict[str, object] = {
        "id": 1, "site_id": 1, "num_nodes": 1, "wall_time_min": 10, "job_mode": JobMode.MPI, "queue": "local",
        "project": "local", "optional_params": {}, "filter_tags": {}, "partitions": None, "scheduler_id": None,
        "state": BatchJobState.PENDING_SUBMISSION, "status_info": {}, "created_at": datetime.now(UTC),
        "start_time": None, "end_time": None,
    }  # fmt: skip
    return BatchJobView.model_construct(**(known | fields))


@pytest.mark.parametrize("machine", machine_names())
def test_shipped_templates_render(machine: str, tmp_path: Path) -> None:
    template = JobTemplate(Path("t"), job_template_text(machine))
    (tmp_path / "settings.yml").write_text(settings_text(machine))
    defaults = load_settings(tmp_path / "settings.yml").scheduler.optional_batch_job_params
    text = template.render(script_values(batch_job(filter_tags={"a": "b"}), Path("/site"), "launch", defaults))
    assert "launch -j mpi -t 10" in text
    subprocess.run(["bash", "-n"], input=text.encode(), check=True)


@pytest.mark.parametrize(("given", "rendered"), [({}, "no 3"), ({"shout": "yes"}, "yes 3"), ({"shout": ""}, " 3")])
def test_optional_params_have_the_site_s_defaults(given: dict[str, str], rendered: str) -> None:
    template = JobTemplate(Path("t"), "{{ optional_params.shout }} {{ optional_params.count }}")
    defaults = {"shout": "no", "count": "3"}
    job = batch_job(optional_params=given)
    assert template.render(script_values(job, Path("/site"), "launch", defaults)) == rendered
    assert refusal(job, Settings(scheduler=SchedulerSettings(optional_batch_job_params=defaults)), 0) is None


@pytest.mark.parametrize("bad", ["a\nb", "a\rb", "a\0b", "a\x1bb", "a\x7f", "a\u2028b", "a\x85b", "x\n#SBATCH --uid=0"])
@pytest.mark.parametrize("field", ["queue", "project"])
def test_control_characters_never_reach_a_script_t11(bad: str, field: str) -> None:
    template = JobTemplate(Path("t"), "{{ queue }}{{ project }}")
    with pytest.raises(ScriptError, match="no line breaks or control characters"):
        template.render(script_values(batch_job(**{field: bad}), Path("/site"), "launch", {}))
    with pytest.raises(ScriptError):
        template.render(script_values(batch_job(filter_tags={"k": bad}), Path("/site"), "launch", {}))
    with pytest.raises(ScriptError):
        template.render(script_values(batch_job(optional_params={bad: "v"}), Path("/site"), "launch", {}))


@given(key=st.text(max_size=8), value=st.text(max_size=12))
def test_a_tag_that_passes_the_limits_is_one_word_in_any_template_s15(key: str, value: str) -> None:
    settings = Settings(scheduler=SchedulerSettings(optional_batch_job_params={"p": ""}))
    job = batch_job(filter_tags={key: value}, optional_params={"p": value})
    if refusal(job, settings, 0) is not None:
        return
    for text in (OLD_STYLE, OLD_STYLE.replace("{{ k }}={{ v }}", "'{{ k }}={{ v }}'"), job_template_text("local")):
        rendered = JobTemplate(Path("t"), text).render(script_values(job, Path("/site"), "launch", {}))
        line = next(line for line in rendered.splitlines() if "launch" in line and not line.startswith("#"))
        assert {f"{key}={value}", f"--tag={key}={value}"} & set(shlex.split(line.partition("{")[0]))
        assert not set('$`"\\;&|<>()') & set(line.partition("{")[0])


@given(key=st.text("a=:-b", max_size=4), value=st.text("a=:-b", max_size=4), own=st.text("a=:-b", max_size=4))
def test_what_the_limits_let_pass_reaches_the_launcher_as_it_was(key: str, value: str, own: str) -> None:
    parts = [
        BatchJobPartition(job_mode="mpi", num_nodes=1, filter_tags={key: own}),
        BatchJobPartition(job_mode="serial", num_nodes=2),
    ]
    job = batch_job(filter_tags={key: value}, partitions=parts, num_nodes=3)
    if refusal(job, Settings(scheduler=SchedulerSettings(allowed_queues={"local": {"max_nodes": 3}})), 0) is not None:
        return
    for text in (job_template_text("local"), OLD_STYLE.replace("optional_params", "partitions") + " -j mpi -t 1"):
        rendered = JobTemplate(Path("t"), text).render(script_values(job, Path("/site"), "launch --config /c", {}))
        line = next(line for line in rendered.splitlines() if "launch" in line and not line.startswith("#"))
        slices = parse_arguments(shlex.split(line.partition("launch ")[2])).slices
        assert [(part.serial, part.num_nodes, part.filter_tags) for part in slices] == [
            (False, 1, {key: own}),
            (True, 2, {key: value}),
        ]


@pytest.mark.parametrize(
    ("tags", "own", "words"),
    [
        ({"set": "a"}, {"set": "b"}, "set=a only"),  # a partition must not get around the Site's rule (S15)
        ({"set": "a"}, {"x": "b:c"}, "give the tag to the whole BatchJob"),
        ({"set": "a", "x=y": "c"}, {}, "'=' in its name"),
        ({"set": "a", "-x": "c"}, {}, "begins with '-'"),
        ({}, {"set": "a"}, "set=a only"),
        ({"set": "a"}, {"set": "a"}, ""),
        ({"set": "a", "x": "b:c"}, {"y": "d"}, ""),
    ],
)
def test_tags_that_the_site_refuses_s15(tags: dict[str, str], own: dict[str, str], words: str) -> None:
    job = batch_job(filter_tags=tags, partitions=[BatchJobPartition(job_mode="mpi", num_nodes=1, filter_tags=own)])
    why = refusal(job, Settings(filter_tags={"set": "a"}), 0)
    assert words in (why or "") and bool(why) == bool(words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{{ nothing }}", "'nothing' is undefined"),
        ("{{ queue }", "line 1"),
        ("a\n{% if %}", "line 2"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ num_nodes / 0 }}", "division"),
        ("{{ filter_tags.update({'a': 1}) }}", "unsafe"),
    ],
)
def test_a_fault_in_the_template_is_named(text: str, words: str) -> None:
    with pytest.raises(ScriptError) as caught:
        JobTemplate(Path("/site/job-template.sh"), text).render(script_values(batch_job(), Path("/site"), "launch", {}))
    assert words in str(caught.value)
    assert "/site/job-template.sh" in str(caught.value)
