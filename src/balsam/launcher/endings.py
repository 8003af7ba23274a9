"""What is said of the end of a Job: exit code, words for people, and for Python Jobs what `run()` returned or raised.

Called by `children.py`; pure. A Job that was told to end has nothing to explain.
"""

import signal
from collections.abc import Callable

from balsam.launcher.call_files import Left
from balsam.launcher.machine_messages import Exited, StartFailed
from balsam.launcher.process import EXIT_SIGNAL_BASE, ExitStatus
from balsam.worker.protocol import EXIT_NO_CHANNEL, Answer

FAILED = 1
_NO_ANSWER = "run() ended its process instead of returning or raising"
_NO_CHANNEL = "run() closed the descriptor through which its result is told"


def answered(job_id: int, answer: Answer) -> Exited:
    """A worker carried the call out."""
    return Exited(job_id, answer["code"], "", str(answer.get("message", "")), answer.get("result"))


def not_prepared(job_id: int, answer: Answer) -> StartFailed:
    """A method that says how the Job is started raised."""
    return StartFailed(job_id, answer["code"] or FAILED, str(answer.get("message", "")), answer.get("result"))


def ended_worker(job_id: int, status: ExitStatus, killed: bool, tail: Callable[[], str]) -> Exited:
    """A worker ended before it answered."""
    if killed:
        return Exited(job_id, status.code or FAILED, _signal_of(status))
    why = _NO_CHANNEL if status.code == EXIT_NO_CHANNEL else _NO_ANSWER
    return Exited(job_id, status.code or FAILED, _signal_of(status), _lines(why, status.describe(), tail()))


def ended_command(
    job_id: int, status: ExitStatus, left: Left | None, killed: bool, python_exe: str | None, tail: Callable[[], str]
) -> Exited:
    """A command ended; `left` is there when it ran ranks of a Python Job."""
    if killed:
        return Exited(job_id, status.code, _signal_of(status))
    if left is None:
        message = _lines(status.describe(), tail()) if status.code else ""
        return Exited(job_id, status.code, _signal_of(status), message)
    if left.error is not None:
        return Exited(job_id, status.code or FAILED, _signal_of(status), str(left.error.get("message", "")), _of(left))
    if status.code == 0 and left.answer is not None:
        return Exited(job_id, 0, result=left.answer.get("result"))
    why = _NO_ANSWER
    if not left.was_seen:
        program = python_exe or "the Site's Python"
        why = f"{program} did not get to run(); it needs openbalsam: {program} -m pip install openbalsam"
    elif left.answer is not None:
        why = "a rank failed after rank 0 had returned"
    return Exited(job_id, status.code or FAILED, _signal_of(status), _lines(why, status.describe(), tail()))


def was_killed(status: ExitStatus, spreads: bool) -> bool:
    """By SIGKILL, itself or what a shell or an mpirun ran for it; some mpirun give the bare number of the signal."""
    if status.code == 0:
        return False
    killed = {EXIT_SIGNAL_BASE + signal.SIGKILL} | ({int(signal.SIGKILL)} if spreads else set())
    return status.signal == signal.SIGKILL or status.code in killed


def _of(left: Left) -> Answer | None:
    return None if left.error is None else left.error.get("result")


def _signal_of(status: ExitStatus) -> str:
    return "" if status.signal is None else status.describe().removeprefix("killed by ")


def _lines(*texts: str) -> str:
    return "\n".join(text for text in texts if text)
