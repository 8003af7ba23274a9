"""Messages about results: what `run()` of a Python App returned or raised, or why there is nothing of it."""

from typing import Annotated, Any

from pydantic import Field, StringConstraints

from balsam.domain.states import JobState
from balsam.wire.base import Id, JsonDict, Message

MAX_RESULTS = 1000
# As it is stored: an envelope (domain.envelope.MAX_PAYLOAD_BYTES) is a third larger in its text form, and a traceback
# may stand beside it.
MAX_STORED_BYTES = 1024 * 1024


class RunError(Message):
    """What `run()` raised. `exception` is the exception itself in an envelope, where it can be pickled."""

    type: Annotated[str, StringConstraints(max_length=512)]
    message: Annotated[str, StringConstraints(max_length=8192)] = ""
    traceback: Annotated[str, StringConstraints(max_length=131_072)] = ""
    exception: JsonDict | None = None


class JobResult(Message):
    """`value` is JSON, or an envelope, which the service never opens; it does not count when there is an `error`."""

    value: Any = None
    error: RunError | None = None


class ResultView(Message):
    """The result of a Job's last attempt, once that has ended; None: it has none, or returned None.

    `message` says why a Job failed that left no error of its own.
    """

    job_id: int
    state: JobState
    attempt: int
    return_code: int | None
    result: JobResult | None = None
    message: str = ""


class ResultsQuery(Message):
    """Of which Jobs."""

    id: Annotated[list[Id], Field(max_length=MAX_RESULTS)]


class ResultsPage(Message):
    """Results in the order asked for, as many as go into one answer and at least one: ask again for those after the
    last of them. Jobs that do not exist are left out.
    """

    results: list[ResultView]
