"""`self.job` inside of a hook: a Job of `balsam.api` whose state can be set, and what came of it in the end.

Made by hook_runner.py when a hook starts, from what the service knows then. The state that a hook sets is its verdict;
it travels with the Job's other changes, all of them in one step (see `domain/verdict.py`).
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from balsam.client.client import Client
from balsam.client.fields import Field, Write
from balsam.client.models.job import Job, iso_time
from balsam.client.values import checked, json_copy
from balsam.domain.states import JobState
from balsam.wire.jobs import JobPatch

MOST_VERDICT = 64
# Of these, single keys are changed, so that nothing is lost that somebody else sets while the hook runs.
_MERGED = {"data": "merge_data", "tags": "merge_tags", "parameters": "merge_parameters"}


class _Verdict(Field[JobState]):
    """The state: what the hook set, before that the Job's own."""

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is not None and instance._verdict:
            return instance._verdict
        return super().__get__(instance, owner or type(instance))

    def __set__(self, instance: Any, value: Any) -> None:
        text = str(getattr(value, "value", value))
        if not text or len(text) > MOST_VERDICT:
            raise ValueError(f"{value!r} is no state of a Job; there are: {', '.join(JobState)}")
        instance._verdict = JobState(text) if text in set(JobState) else text


class HookJob(Job):
    """The Job that a hook is about.

    `state_data`: a dict that goes into the EventLog with the step that the hook takes; `state_timestamp`: the time of
    that step, for people.
    """

    state = _Verdict(None, write=Write.NEVER)
    _verdict: "JobState | str" = ""
    _state_data: dict[str, Any] | None = None
    _state_timestamp: str | None = None

    @property
    def state_data(self) -> dict[str, Any]:
        """What the event of this step keeps."""
        if self._state_data is None:
            self._state_data = {}
        return self._state_data

    @state_data.setter
    def state_data(self, data: Mapping[str, Any] | None) -> None:
        self._state_data = dict(data or {})

    @property
    def state_timestamp(self) -> str | None:
        """When the step was taken, where the hook knows better than its own end tells."""
        return self._state_timestamp

    @state_timestamp.setter
    def state_timestamp(self, time: datetime | str) -> None:
        self._state_timestamp = iso_time(time)

    def outcome(self) -> dict[str, Any]:
        """What the hook wants of its Job, as JSON: verdict, changes, data, at. Raises ValidationFailed."""
        changes = {name: value for name, value in self._changes().items() if name != "state"}
        for name, merge in _MERGED.items():
            if (
                name in changes
                and (keys := _changed_keys((self._row or {}).get(name) or {}, changes[name])) is not None
            ):
                del changes[name]
                changes[merge] = keys
        checked(JobPatch, "self.job", changes)
        told: dict[str, Any] = {"verdict": str(self._verdict), "changes": changes}
        if self._state_data:
            told["data"] = json_copy(self._state_data, "state_data")
        if self._state_timestamp is not None:
            told["at"] = self._state_timestamp
        return told


# It stands for the same row as any other instance of Job.
HookJob._base = Job
HookJob.DoesNotExist = Job.DoesNotExist
HookJob.MultipleObjectsReturned = Job.MultipleObjectsReturned


def read_job(client: Client, job_id: int) -> HookJob:
    """The Job as the service knows it now. Raises `Job.DoesNotExist`, and what the service answers."""
    kind: type[HookJob] = client.bound(HookJob)
    return kind._from_row(kind._manager()._read(job_id))


def _changed_keys(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any] | None:
    """The keys that differ, those that are gone as None; None when that can't say it: a value is None itself."""
    changed: dict[str, Any] = {key: value for key, value in after.items() if key not in before or before[key] != value}
    if None in changed.values():
        return None
    return {**changed, **dict.fromkeys(before.keys() - after.keys())}
