"""What the launcher and the processes on its other nodes say to each other, as JSON: lists of messages.

Down, by their `do`: start {job (`LaunchJob.packed`), share, oversubscribed, app?} | signal {job_id, kill, in_sec} |
checkpoint {job_id} | lease {at, for_sec} | end. Up, by their `is`: one of the inputs of the machine, by class name with
its fields, without those that are as always | renew {at}. `app` is there when this node was not sent that definition
yet. Times never cross: each side counts on its own clock. The hub adds `up` and `down {reason}` of a node.
"""

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from balsam.domain.packing import NodeShare, Placement
from balsam.launcher.machine_messages import (
    CheckpointAsked,
    Drain,
    Exited,
    Gone,
    LaunchJob,
    Preparing,
    Signal,
    Start,
    StartDelayed,
    Started,
    StartFailed,
)

PROTOCOL = 1
Told = Preparing | Started | CheckpointAsked | StartFailed | StartDelayed | Exited | Gone | Drain
_KINDS = (Preparing, Started, CheckpointAsked, StartFailed, StartDelayed, Exited, Gone, Drain)
_SAID: dict[str, type[Told]] = {kind.__name__: kind for kind in _KINDS}
_FIELDS = {kind: tuple((field.name, field.default) for field in fields(kind)) for kind in _KINDS}
_encoder = json.JSONEncoder(separators=(",", ":"), default=dict)

Message = Mapping[str, Any]


class BadMessage(ValueError):
    """The other side said what this one does not understand."""


def encode(messages: list[Message]) -> bytes:
    """The JSON of some messages, in one line."""
    return _encoder.encode(messages).encode()


def decode(data: bytes) -> list[dict[str, Any]]:
    """What `encode` made. Raises BadMessage."""
    try:
        messages = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadMessage(f"no JSON: {data[:100]!r}") from error
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise BadMessage(f"no list of messages: {data[:100]!r}")
    return messages


def of_start(order: Start, app: Message | None) -> Message:
    """A Job of one node is to be started there."""
    (share,) = order.placement.shares
    message = {
        "do": "start",
        "job": order.job.packed(),
        "share": [share.node, share.cpu_ids, share.gpu_ids],
        "oversubscribed": order.placement.oversubscribed,
    }
    return message if app is None else {**message, "app": app}


def start_of(message: Message) -> Start:
    """What `of_start` was given."""
    job = LaunchJob.unpacked(message["job"])
    node, cpu_ids, gpu_ids = message["share"]
    share = NodeShare(node, tuple(cpu_ids), tuple(gpu_ids))
    return Start(job, Placement((share,), job.resources, message["oversubscribed"]))


def of_signal(order: Signal, now: float) -> Message:
    """A Job is to end."""
    return {"do": "signal", "job_id": order.job_id, "kill": order.kill, "in_sec": order.kill_at - now}


def signal_of(message: Message, now: float) -> Signal:
    """What `of_signal` was given, on the clock of here."""
    return Signal(message["job_id"], message["kill"], now + message["in_sec"])


def of_input(said: Told) -> Message:
    """Something happened to a Job. What is as always is left out."""
    message: dict[str, Any] = {"is": type(said).__name__}
    for name, usual in _FIELDS[type(said)]:
        value = getattr(said, name)
        if value != usual:
            message[name] = value
    return message


def input_of(message: Message) -> Told:
    """What `of_input` was given. Raises BadMessage."""
    told = dict(message)
    kind = _SAID.get(told.pop("is", ""))
    try:
        if kind is not None:
            return kind(**told)
    except TypeError:
        pass
    raise BadMessage(f"a node says {str(message)[:200]}")
