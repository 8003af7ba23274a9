"""What is said between a worker and those who start it: calls and answers as JSON, in frames over a socket or in files.

A call: `do` is "run" or "prepare", `app` {name, envelope} with the first call of a worker, `job` the facts of the Job,
`env` what it gets in its environment. An answer: `code` as the exit code of a command, `result` (a
`wire.results.JobResult`), `message` for people, `prepared` (of "prepare"), `stays`: the worker can take another call.
A frame is a length of four bytes and as much JSON; with a call come descriptors: work directory, output, and the JSON
itself when it is long.
"""

import json
import os
import socket
import struct
from collections.abc import Sequence
from itertools import starmap
from typing import Any

PROTOCOL = 1
EXIT_NO_CHANNEL = 70  # the answer could not be sent
# Beside a call that is a file: what rank 0 answered, the first error of any rank, a sign that some rank read the call.
ANSWER, ERROR, SEEN = ".answer", ".error", ".seen"
_LENGTH = struct.Struct("!I")
HEADER_BYTES = _LENGTH.size
# Fits into a fresh socket's buffer: whoever starts workers must never wait for one.
MOST_INLINE_BYTES = 32_768
MOST_ANSWER_BYTES = 4 * 1024 * 1024
_CALL_DESCRIPTORS = 3

Call = dict[str, Any]
Answer = dict[str, Any]


class Closed(Exception):
    """The other end is gone."""


def encode(message: Call | Answer) -> bytes:
    """The JSON of a message."""
    return json.dumps(message, separators=(",", ":")).encode()


def send_call(sock: socket.socket, call: Call, workdir: int, output: int) -> None:
    """Send a call to an idle worker, without ever waiting. Raises OSError."""
    text = encode(call)
    if len(text) <= MOST_INLINE_BYTES:
        _send(sock, _LENGTH.pack(len(text)) + text, (workdir, output))
        return
    memory = os.memfd_create("balsam-call", os.MFD_CLOEXEC)
    try:
        with os.fdopen(memory, "wb", closefd=False) as file:
            file.write(text)
        _send(sock, _LENGTH.pack(len(text)), (workdir, output, memory))
    finally:
        os.close(memory)


def _send(sock: socket.socket, data: bytes, descriptors: Sequence[int]) -> None:
    if socket.send_fds(sock, [data], descriptors) != len(data):
        raise OSError("the worker does not read")


def receive_call(sock: socket.socket) -> tuple[Call, int, int]:
    """Wait for a call; it, and the descriptors of work directory and output, which the caller closes. Raises Closed."""
    header, descriptors, _, _ = socket.recv_fds(sock, HEADER_BYTES, _CALL_DESCRIPTORS)
    if len(header) < HEADER_BYTES:
        raise Closed
    (length,) = _LENGTH.unpack(header)
    workdir, output, *memory = descriptors
    if memory:
        text = os.pread(memory[0], length, 0)
        os.close(memory[0])
    else:
        text = _receive(sock, length)
    call: Call = json.loads(text)
    return call, workdir, output


def _receive(sock: socket.socket, length: int) -> bytes:
    text = bytearray()
    while len(text) < length:
        piece = sock.recv(length - len(text))
        if not piece:
            raise Closed
        text += piece
    return bytes(text)


def send_answer(sock: socket.socket, answer: Answer) -> None:
    """Send an answer; waits until it is on its way. Raises OSError."""
    text = encode(answer)
    sock.sendall(_LENGTH.pack(len(text)) + text)


def take_answer(data: bytearray) -> Answer | None:
    """Cut an answer off what arrived; None when it is not complete. Raises ValueError for what is none."""
    if len(data) < HEADER_BYTES:
        return None
    (length,) = _LENGTH.unpack_from(data)
    if length > MOST_ANSWER_BYTES:
        raise ValueError(f"an answer of {length} bytes")
    if len(data) < HEADER_BYTES + length:
        return None
    text = bytes(data[HEADER_BYTES : HEADER_BYTES + length])
    del data[: HEADER_BYTES + length]
    return checked_answer(text)


def clean(text: str, most: int) -> str:
    """Text that every reader of JSON takes, its middle left out when it is long."""
    if len(text) > most:
        half = most // 2 - 3
        text = f"{text[:half]}\n...\n{text[-half:]}"
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


def checked_answer(text: bytes) -> Answer:
    """An answer out of its JSON, which code of the Job may have written. Raises ValueError."""
    try:
        answer = json.loads(text)
    except RecursionError:
        raise ValueError("an answer that is nested too deeply") from None
    if not isinstance(answer, dict) or type(answer.get("code")) is not int or not 0 <= answer["code"] < 256:
        raise ValueError("no answer of a worker")
    result = answer.get("result")
    if result is not None and not (isinstance(result, dict) and result.keys() <= {"value", "error"}):
        raise ValueError("a result that is none")
    prepared = answer.get("prepared", {})
    if not isinstance(prepared, dict) or not all(starmap(_can_be_prepared, prepared.items())):
        raise ValueError("methods that returned what they can't")
    return answer


def _can_be_prepared(method: str, value: object) -> bool:
    if method != "get_environ_vars":
        return _is_text(value)
    return isinstance(value, dict) and all(map(_is_text, (*value, *value.values())))


def _is_text(value: object) -> bool:
    return isinstance(value, str) and "\0" not in value
