"""What the Grid Engine adapter makes of Grid Engine's words; the adapter against a real one is in tests/cluster."""

from datetime import UTC, datetime

import pytest

from balsam.platform.scheduler.base import SchedulerState, SchedulerUnavailable
from balsam.platform.scheduler.grid_engine_records import Slots, accounted, listed, queue_limits, reasons, state_of

S = SchedulerState
SLOTS = Slots("mpi", 16)
RUNNING = """\
<job_info><queue_info><job_list state="running">
  <JB_job_number>17</JB_job_number><JB_name>balsam-1</JB_name><state>r</state>
  <JAT_start_time>2026-11-26T07:58:15</JAT_start_time><queue_name>all.q@n1</queue_name><slots>{slots}</slots>
  <full_job_name>balsam-1</full_job_name>{pe}
  <hard_request name="h_rt" resource_contribution="0.000000">600</hard_request>
</job_list></queue_info><job_info/></job_info>"""
BLOCK = """\
==============================================================
qname        all.q
jobname      balsam-1
jobnumber    17
project      NONE
qsub_time    Thu Nov 26 07:58:15 2026
start_time   {start}
end_time     Thu Nov 26 07:58:46 2026
granted_pe   mpi
slots        32
failed       {failed}
exit_status  {status}
"""


def block(failed: str = "0", status: str = "0", start: str = "Thu Nov 26 07:58:16 2026", more: str = "") -> str:
    return BLOCK.format(failed=failed, status=status, start=start) + more


@pytest.mark.parametrize(
    ("letters", "state"),
    [
        ("qw", S.QUEUED),
        ("hqw", S.QUEUED),
        ("Eqw", S.QUEUED),
        ("dEqw", S.QUEUED),
        ("t", S.RUNNING),
        ("r", S.RUNNING),
        ("Rr", S.RUNNING),
        ("dr", S.RUNNING),
        ("S", S.RUNNING),
        ("", S.UNKNOWN),
        ("d", S.UNKNOWN),
        ("running", S.UNKNOWN),
        ("Z", S.UNKNOWN),
    ],
)
def test_states(letters: str, state: SchedulerState) -> None:
    assert state_of(letters) is state


@pytest.mark.parametrize(("slots", "pe", "nodes"), [("1", "", 1), ("32", "mpi", 2), ("5", "mpi", 1), ("32", "smp", 1)])
def test_slots_become_nodes(slots: str, pe: str, nodes: int) -> None:
    text = RUNNING.format(slots=slots, pe=f'<requested_pe name="{pe}">{slots}</requested_pe>' if pe else "")
    job = listed(text, SLOTS)["17"]
    assert (job.num_nodes, job.wall_time_min, job.queue) == (nodes, 10, "all.q")
    assert job.start_time == datetime(2026, 11, 26, 7, 58, 15, tzinfo=UTC)
    assert job.node_names == (("n1",) if nodes == 1 else ())


@pytest.mark.parametrize(
    ("text", "state", "code", "reason"),
    [
        (block(), S.FINISHED, 0, ""),
        (block(status="7"), S.FAILED, 7, "exit code 7"),
        (
            block(failed="100 : assumedly after job", status="137                  (Killed)"),
            *(S.FAILED, 137, "failed 100 : assumedly after job, exit code 137"),
        ),
        (
            block(failed="37  : qmaster enforced h_rt, h_cpu, or h_vmem limit"),
            *(S.FAILED, None, "failed 37  : qmaster enforced h_rt, h_cpu, or h_vmem limit, exit code 0"),
        ),
        (block(failed="21 : in recognizing job", start="-/-"), S.FAILED, None, None),
        (block(status="137", failed="100", more="deleted_by   ada@n1\n"), S.CANCELLED, 137, "deleted by ada@n1"),
        (block(failed="?"), S.UNKNOWN, None, None),
    ],
)
def test_ends_that_accounting_tells(text: str, state: SchedulerState, code: int | None, reason: str | None) -> None:
    job = accounted(text, SLOTS)["17"]
    assert (job.state, job.exit_code, job.num_nodes, job.project) == (state, code, 2, "")
    assert reason is None or job.reason == reason
    assert (job.start_time is None) == ("-/-" in text)


def test_times_of_other_versions() -> None:
    assert accounted(block(start="11/26/2026 07:58:16.250"), SLOTS)["17"].start_time == datetime(
        2026, 11, 26, 7, 58, 16, 250000, tzinfo=UTC
    )


def test_a_later_block_counts_and_half_an_answer_does_not() -> None:
    assert accounted(block(status="1") + block(), SLOTS)["17"].state is S.FINISHED
    with pytest.raises(SchedulerUnavailable, match="cut off"):
        accounted(block()[:-4], SLOTS)
    with pytest.raises(SchedulerUnavailable, match="cut off"):
        listed(RUNNING[:-9], SLOTS)


def test_reasons_are_those_of_the_job() -> None:
    said = "<element>{}<MES_message>{}</MES_message></element>"
    of = "<MES_job_number_list><element><ULNG_value>{}</ULNG_value></element></MES_job_number_list>"
    text = (
        "<detailed_job_info><djob_info><element><JB_job_number>8</JB_job_number><JB_ja_tasks><ulong_sublist>"
        "<QIM_message>can't open\n output file</QIM_message></ulong_sublist></JB_ja_tasks></element></djob_info>"
        f"<messages><element><SME_message_list>{said.format(of.format(9), 'only offers 0 slots')}"
        f"{said.format(of.format(8), 'Job is in error state')}</SME_message_list></element></messages>"
        "</detailed_job_info>"
    )
    assert reasons(text) == {"8": "can't open output file; Job is in error state", "9": "only offers 0 slots"}


def test_limits_of_queues() -> None:
    text = (
        "qname   all.q\nslots   8\nh_rt    24:00:00\n\nqname free.q\nh_rt INFINITY\n"
        "qname   mixed.q\nh_rt    1:00:00,[@big=48:30:00], \\\n        [n7=2:00:00]\n"
    )
    limits = {name: one.max_wall_time_min for name, one in queue_limits(text).items()}
    assert limits == {"all.q": 1440, "free.q": None, "mixed.q": 2910}
