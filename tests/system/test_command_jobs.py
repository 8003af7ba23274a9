"""`balsam job`, `app` and `queue` with all their selectors, against a running site."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

from tests.system.live_site import BALSAM, LiveSite, eventually, live_site
from tests.system.test_command import JOBS, as_json, balsam

pytestmark = pytest.mark.slow
_NUMBERS = count()
UNTIL = """
from balsam.api import ApplicationDefinition

class Until(ApplicationDefinition):
    site = "local"
    command_template = "until [ -e {{ path }} ]; do sleep 0.1; done"

Until.sync()
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveSite]:
    with live_site(tmp_path_factory.mktemp("command")) as live:
        live.run(JOBS + "\nSay.sync(); Sleep.sync()")
        yield live


def say(site: LiveSite, kind: str, *more: str) -> int:
    """A new Job that waits: the allocations of these tests take Jobs with other tags only."""
    words = ("-a", "Say", "-w", f"{kind}/{next(_NUMBERS)}", "-tag", f"kind={kind}", "-p", "text=hi", *more)
    return int(as_json(site.environment, "job", "create", *words)["id"])


def said(site: LiveSite, line: str, *words: str, code: int = 0) -> Any:
    """The JSON value of a command that is written as one line."""
    return as_json(site.environment, *line.split(), *words, code=code)


def ls(site: LiveSite, *words: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = as_json(site.environment, "job", "ls", *words)
    return found


def run(site: LiveSite, *words: str) -> subprocess.CompletedProcess[str]:
    """A command whose stdout and stderr are looked at."""
    return subprocess.run([str(BALSAM), *words], env=site.environment, capture_output=True, text=True, timeout=60)


def test_create_with_every_option(site: LiveSite) -> None:
    parent = say(site, "parent")
    words = "-w all/1 -a Say -tag a=b --tag c=d -p text=hi -n 2 -rpn 3 -tpr 2 -tpc 2 -g 0.5 -lp x=y -t 7 -y"
    more = ("-pid", str(parent), "--priority", "5", "--max-attempts", "4", "--site", "local")
    made = as_json(site.environment, "job", "create", *words.split(), *more)
    wanted = {"num_nodes": 2, "ranks_per_node": 3, "threads_per_rank": 2, "threads_per_core": 2, "gpus_per_rank": 0.5}
    wanted |= {"launch_params": {"x": "y"}, "wall_time_min": 7, "priority": 5, "max_attempts": 4, "workdir": "all/1"}
    wanted |= {"tags": {"a": "b", "c": "d"}, "parent_ids": [parent], "state": "AWAITING_PARENTS", "app_name": "Say"}
    assert {name: made[name] for name in wanted} == wanted
    packed = said(site, "job create -w x -a 1 -npc 8 --param-json", 'text="hi"')
    assert (packed["node_packing_count"], packed["parameters"]) == (8, {"text": "hi"})


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        ("-w x -a Sya", 2, "there is no App 'Sya' at Site local; did you mean 'Say'?"),
        ("-w x -a Say", 1, "text"),
        ("-w ../x -a Say -p text=a", 1, "workdir"),
        ("-w x -a Say -s in=client", 2, "SLOT=ALIAS:/ABSOLUTE/PATH"),
        ("-w x -a Say --param-json text=hi", 2, "a text needs quotes"),
        ("-w x -a Say --site nowhere", 2, "no Site 'nowhere'; there are: local"),
        ("-w x -a Say -p text", 2, "KEY=VALUE"),
        ("-w x -a Say -n 0", 2, "--num-nodes"),
        ("-w x -a Say -p text=a -pid 999999", 1, "999999"),
    ],
)
def test_create_says_what_is_wrong(site: LiveSite, words: str, code: int, why: str) -> None:
    assert why in as_json(site.environment, "job", "create", *words.split(), code=code)["error"]["message"]


def test_ls_by_every_selector(site: LiveSite) -> None:
    first, second = say(site, "sel", "--tag", "n=1"), say(site, "sel", "--tag", "n=2")

    def found(words: str) -> list[int]:
        return [job["id"] for job in ls(site, *words.split())]

    both = [second, first]
    assert found("--tag kind=sel") == found(f"--id {first}-{second}") == found(f"{first},{second}") == both
    assert found("--tag kind=sel -t n=1") == found(f"-i {first} --site local") == [first]
    assert found("-w sel/ -a Say -s preprocessed --since 10min --site all") == both
    assert (
        found("-w sel/ --app Sleep") == found("-w sel/ -ns PREPROCESSED") == found("-w sel/ --since 2036-01-01") == []
    )
    assert found("-w sel/ -n 1") == [second]
    listed = run(site, "job", "list", "-w", "sel/", "-n", "1", "-v")
    assert listed.stderr == "1 of 2 Jobs; more with --limit\n"
    titles = (
        "ID Site App Workdir State Tags Changed Nodes Ranks Minutes Attempt Exit Failure BatchJob Created Started Ended"
    )
    assert listed.stdout.splitlines()[0].split() == [*titles.split(), "Parameters"]
    assert listed.stdout.splitlines()[1].split()[:7:2] == [str(second), "Say", "PREPROCESSED", "n=2"]


def test_the_site_you_stand_in_is_implied(site: LiveSite) -> None:
    say(site, "here")
    assert as_json(site.environment, "job", "ls", "--tag", "kind=here", "--site", "this", code=2)["exit_code"] == 2
    inside = as_json(site.environment, "job", "ls", "--tag", "kind=here", "--site", "this", cwd=site.path / "data")
    assert len(inside) == 1
    named = {**site.environment, "BALSAM_SITE_PATH": str(site.path)}
    assert as_json(named, "job", "ls", "--tag", "kind=here", "--site", "this") == inside


def test_retry_needs_to_be_told_which_and_leaves_what_did_not_end(site: LiveSite) -> None:
    ids = [say(site, "again") for _ in range(3)]
    assert as_json(site.environment, "job", "retry", code=2)["exit_code"] == 2
    assert as_json(site.environment, "job", "cancel", str(ids[0]), "-y") == {"cancelled": 1, "refused": {}}
    mixed = as_json(site.environment, "job", "retry", f"{ids[0]}-{ids[2]}", "9999999", code=3)
    assert mixed["retried"] == 1 and set(mixed["refused"]) == {str(ids[1]), str(ids[2]), "9999999"}
    assert {job["state"] for job in ls(site, "-t", "kind=again")} == {"RESTART_READY", "PREPROCESSED"}
    assert as_json(site.environment, "job", "retry", "-t", "kind=again") == {"retried": 0, "refused": {}}
    assert "Cancelled 3 Jobs" in balsam(site.environment, "job", "cancel", "-t", "kind=again", put="y\n")
    assert "Retried 3 Jobs" in balsam(site.environment, "job", "retry", "-t", "kind=again", put="y\n")


def test_a_state_of_balsam_0_7_runs_jobs_again(site: LiveSite) -> None:
    job = str(say(site, "legacy"))
    balsam(site.environment, "job", "cancel", job, "-y")
    assert as_json(site.environment, "job", "modify", "-i", job, "-s", "RESTART_READY") == {"retried": 1, "refused": {}}
    refused = as_json(site.environment, "job", "modify", "-i", job, "-s", "JOB_FINISHED", code=2)["error"]["message"]
    assert "job retry" in refused and "job cancel" in refused


def test_modify_changes_fields_of_what_is_selected(site: LiveSite) -> None:
    first, second = say(site, "mod"), say(site, "mod")
    changes = "--set-tag a=b --unset-tag kind -p text=new -n 3 --priority 7 --wall-time-min 9"
    assert said(site, f"job modify {first} {changes}") == {"modified": 1, "refused": {}}
    (job,) = ls(site, str(first))
    assert (job["tags"], job["parameters"], job["num_nodes"]) == ({"a": "b"}, {"text": "new"}, 3)
    assert (job["priority"], job["wall_time_min"]) == (7, 9)
    assert ls(site, str(second))[0]["tags"] == {"kind": "mod"}
    asked = as_json(site.environment, "job", "modify", "-t", "kind=mod", "--data-json", "x=[1]", code=2)
    assert "Change 1 Job?" in asked["error"]["message"] and "--yes" in asked["error"]["message"]
    as_json(site.environment, "job", "modify", "-t", "kind=mod", "--data-json", "x=[1]", "-y")
    assert ls(site, str(second))[0]["data"] == {"x": [1]}
    assert "what to change" in as_json(site.environment, "job", "modify", str(second), code=2)["error"]["message"]
    bad = as_json(site.environment, "job", "modify", str(second), "--unset-param", "text", code=1)
    assert "text" in bad["error"]["message"]


def test_rm_counts_asks_and_names_what_is_left(site: LiveSite) -> None:
    parent = say(site, "rm")
    child = say(site, "rm", "-pid", str(parent))
    done = run(site, "job", "rm", str(parent), "--yes")
    assert done.returncode == 3 and done.stdout == "Removed 0 Jobs.\n"
    assert done.stderr == f"  Job {parent} is left: Job {child} waits for it; cancel or delete that one first\n"
    nobody = run(site, "job", "rm", "-t", "kind=rm")
    assert nobody.returncode == 2 and "Delete 2 Jobs? There is nobody to ask" in nobody.stderr
    assert nobody.stderr.splitlines()[1].startswith("Usage:")  # the question has a line of its own
    assert balsam(site.environment, "job", "rm", "-t", "kind=rm", put="y\n") == "Removed 2 Jobs.\n"
    assert ls(site, "-t", "kind=rm") == []


def test_events_and_explain_of_many(site: LiveSite) -> None:
    first, second = say(site, "ev"), say(site, "ev")
    one = as_json(site.environment, "job", "events", str(first))
    assert [event["to_state"] for event in one] == ["READY", "STAGED_IN", "PREPROCESSED"]
    assert [event["seq"] for event in one] == [1, 2, 3]
    chosen = said(site, "job events -t kind=ev -a Say -w ev/ --to-state READY --since 10min")
    assert {event["job_id"] for event in chosen} == {first, second} and len(chosen) == 2
    assert len(said(site, "job events -t kind=ev -s PREPROCESSED -n 4")) == 4
    assert said(site, "job events -t kind=ev -s FAILED") == []
    assert as_json(site.environment, "job", "explain", str(first))["id"] == first
    assert [why["id"] for why in as_json(site.environment, "job", "explain", "-t", "kind=ev")] == [second, first]
    assert "No Jobs match" in run(site, "job", "explain", "-t", "kind=nothing").stderr
    unknown = run(site, "job", "explain", "--app", "Sya")
    assert unknown.returncode == 2 and "no App 'Sya'; did you mean 'Say'?" in unknown.stderr


def test_logs_of_many_go_on_when_one_has_none(site: LiveSite) -> None:
    ran, waits = say(site, "logs", "-tag", "run=yes"), say(site, "logs")
    made = said(site, "queue submit -n 1 -t 5 -j mpi -tag run=yes")
    eventually(lambda: ls(site, str(ran))[0]["state"] == "JOB_FINISHED", "the Job did not finish", 60)
    logs = as_json(site.environment, "job", "logs", "-t", "kind=logs", code=3)
    assert logs[0]["id"] == waits and "job.out" in logs[0]["error"]
    assert logs[1] == {"id": ran, "file": "job.out", "text": "hi"}
    done = run(site, "job", "logs", f"{ran},{waits}")
    assert done.returncode == 3 and done.stdout == f"==> Job {ran}, job.out <==\nhi\n"
    assert as_json(site.environment, "queue", "rm", str(made["id"])) == {"ended": 1, "refused": {}}


def test_queue_by_id_state_tag_and_scheduler_id(site: LiveSite) -> None:
    made = said(site, "queue submit -n 1 -t 5 -j serial -tag k=v")
    number = str(made["id"])
    eventually(lambda: queue(site, number)[0]["state"] == "running", "the allocation did not start")
    scheduler_id = queue(site, "-t", "k=v", "-s", "running")[0]["scheduler_id"]
    assert [one["id"] for one in queue(site, "--scheduler_id", scheduler_id)] == [made["id"]]
    assert queue(site, "-t", "k=w") == queue(site, "--since", "2036-01-01") == []
    wrong = as_json(site.environment, "queue", "term", "nothing", code=2)["error"]["message"]
    assert "'nothing'" in wrong and "balsam queue ls" in wrong
    assert as_json(site.environment, "queue", "term", scheduler_id) == {"ended": 1, "refused": {}}
    eventually(lambda: queue(site, "-t", "k=v") == [], "the allocation did not end")
    again = as_json(site.environment, "queue", "rm", number, "999999", code=3)
    assert again == {"ended": 0, "refused": {"999999": "there is no such BatchJob, or it is not yours",
                                             number: "it is finished already"}}  # fmt: skip
    assert queue(site, "-h", "-n", "1")[0]["id"] == made["id"]
    assert "Requested" in balsam(site.environment, "queue", "ls", "-h", "-v")
    assert "which BatchJobs" in as_json(site.environment, "queue", "rm", code=2)["error"]["message"]


def test_drain_lets_the_jobs_end_and_takes_no_more(site: LiveSite) -> None:
    """It ends with its last Job, long before it would for having nothing to do."""
    made = said(site, "queue submit -n 1 -t 5 -j serial -tag kind=drain")
    number = str(made["id"])
    site.run(UNTIL)
    first = said(site, f"job create -a Until -w drain/first -tag kind=drain -p path={site.home}/go")["id"]
    eventually(lambda: ls(site, str(first))[0]["state"] == "RUNNING", "the Job did not start")
    assert as_json(site.environment, "queue", "drain", number, "999999", code=3) == {
        "draining": 1,
        "refused": {"999999": "there is no such BatchJob, or it is not yours"},
    }
    assert "draining: takes no more Jobs" in balsam(site.environment, "queue", "ls", number)
    second = say(site, "drain")
    assert "is draining" in balsam(site.environment, "job", "explain", str(second))
    (site.home / "go").touch()
    eventually(lambda: queue(site, number)[0]["state"] == "finished", "the allocation did not end", 45)
    assert ls(site, str(first))[0]["state"] in ("RUN_DONE", "POSTPROCESSED", "JOB_FINISHED")
    assert ls(site, str(second))[0]["state"] == "PREPROCESSED"
    waits = said(site, "queue submit -n 1 -t 5 -j serial -tag kind=nobody")
    eventually(lambda: queue(site, str(waits["id"]))[0]["state"] == "running", "the allocation did not start")
    balsam(site.environment, "queue", "drain", "-t", "kind=nobody", "--yes")
    eventually(lambda: queue(site, str(waits["id"]))[0]["state"] == "finished", "an idle one did not end", 45)
    why = as_json(site.environment, "queue", "drain", number, code=3)["refused"][number]
    assert why == "it is finished already"
    balsam(site.environment, "job", "rm", "-t", "kind=drain", "--yes")


def queue(site: LiveSite, *words: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = as_json(site.environment, "queue", "list", *words)
    return found


def test_app_rm_takes_its_jobs_and_asks(site: LiveSite) -> None:
    site.run(JOBS + "\nclass Gone(Say): pass\nGone.sync(); Gone.submit('gone/1', text='x', tags={'kind': 'gone'})")
    assert [app["name"] for app in as_json(site.environment, "app", "ls", "Gone", "-s", "local")] == ["Gone"]
    assert "Remove App Gone of local and 1 Job?" in run(site, "app", "rm", "Gone").stderr
    refused = as_json(site.environment, "app", "rm", "-n", "Gnoe", code=2)["error"]["message"]
    assert "there is no App 'Gnoe' at Site local; did you mean 'Gone'?" in refused
    several = run(site, "app", "ls", "Gnoe", "Say", "nothing-like-it")
    assert "there is no App 'Gnoe' at Site local; did you mean 'Gone'?" in several.stderr
    there = several.stderr.partition("'nothing-like-it' at Site local; there are: ")[2]
    assert {"Gone", "Say"} <= set(there.partition("\n")[0].split(", "))
    assert several.stdout.count("Say") and "Gone" not in several.stdout
    assert balsam(site.environment, "app", "rm", "-n", "Gone", put="y\n") == "Removed 1 App.\n"
    assert as_json(site.environment, "app", "ls", "Gone") == ls(site, "-t", "kind=gone") == []
    assert as_json(site.environment, "app", "rm", "--all", "Say", code=2)["exit_code"] == 2


@pytest.mark.parametrize(
    "line", ["job ls --since 1h --tag kind=light", "job ls --by-state", "queue ls --history", "site ls", "app ls"]
)
def test_lists_are_shown_without_the_messages(site: LiveSite, line: str) -> None:
    """To import pydantic takes longer than all the rest of such a command."""
    if line.startswith("queue"):
        asked = as_json(site.environment, "queue", "submit", "-n", "1", "-t", "5", "--tag", "kind=none")
        balsam(site.environment, "queue", "rm", str(asked["id"]), "--yes")
    code = "import atexit, sys; atexit.register(lambda: print('pydantic' in sys.modules)); "
    code += f"sys.argv = ['balsam', *{line.split()!r}]; from balsam.cli.main import main; main()"
    assert site.run(code).splitlines()[-1] == "False"


def test_from_an_app_to_its_results_without_python(site: LiveSite) -> None:
    refuses_odd = ("app", "create", "Odd", "test $(( {{ n }} % 2 )) = 0 && cp in.txt $PLACE/{{ word }}")
    words = (*refuses_odd, "--default", "word=even", "--env", "PLACE=.", "--output", "all=./", "--input", "in=in.txt")
    made = as_json(site.environment, *words, "--description", "Even only.")
    slots = {
        name: (slot["direction"], slot["local_path"], slot["recursive"]) for name, slot in made["transfers"].items()
    }
    assert slots == {"all": ("out", ".", True), "in": ("in", "in.txt", False)}
    assert made["description"] == "Even only." and made["environment_variables"] == {"PLACE": "."}
    told = balsam(site.environment, *words, "--description", "Even only.")
    assert "balsam job create -a Odd -w Odd/1 -p n=..." in told, "the same once more is no fault"
    refused = run(site, "app", "create", "Odd", "true")
    assert (refused.returncode, "--replace puts this one" in refused.stderr) == (2, True)
    balsam(site.environment, "app", "create", "Odd", "test $(( {{ n }} % 2 )) = 0 && echo {{ n }}", "--replace")
    assert "must be a Python identifier" in run(site, "app", "create", "no-name", "true").stderr

    shared = run(site, "job", "create", "-a", "Odd", "-w", "odd", "--each", "n=1-4")
    assert (shared.returncode, "as in odd/{n}" in shared.stderr) == (2, True)
    series = ("job", "create", "-a", "Odd", "-w", "odd/{n}", "--each", "n=1-20", "-npc", "8", "--tag", "kind=odd")
    assert "20 Jobs created: " in balsam(site.environment, *series)
    timed_out = as_json(site.environment, "job", "wait", "-t", "kind=odd", "--timeout", "0.1", code=1)
    assert (timed_out["states"], len(timed_out["not_done"])) == ({"PREPROCESSED": 20}, 20)
    balsam(site.environment, *["queue", "submit", "-n", "1", "-t", "5", "-j", "mpi", "--tag", "kind=odd"])
    waited = as_json(site.environment, "job", "wait", "-t", "kind=odd", "--timeout", "60", code=3)
    assert (waited["states"], len(waited["bad"])) == ({"FAILED": 10, "JOB_FINISHED": 10}, 10)
    assert balsam(site.environment, "job", "wait", "-w", "odd/12") == "1 Job: 1 JOB_FINISHED\n"
    assert "\n12\n" in balsam(site.environment, "job", "logs", "-w", "odd/12")
    assert run(site, "job", "wait", "-w", "no/such").stderr == "balsam: no Jobs match\n"
    assert run(site, "job", "wait").returncode == 2
