"""What the guardian is told, as JSON: its fields, and reading them. Standard library only, as the guardian itself.

Promises: what can't be used is refused before anything is started, with what is wrong and what to do.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, NamedTuple


class Config(NamedTuple):
    """What the guardian is told. `wall_time_sec` counts from its start; margins count back from that end.

    `per_node`: one of several with the same configuration, each on a node of its own, where others may have been before
    it. `stdin`: what each launcher reads there; the text is on no disk. `max_restarts` launchers are started after the
    first in a row of those that die before they are `steady_sec` old; an older one begins the row anew.
    """

    argv: list[str]
    allocation: str
    per_node: bool = False
    stdin: str = ""
    env: dict[str, str] | None = None
    wall_time_sec: float | None = None
    kill_margin_sec: float = 120.0
    hard_margin_sec: float = 10.0
    kill_grace_sec: float = 45.0
    max_restarts: int = 3
    steady_sec: float = 600.0


class ConfigError(Exception):
    """The configuration cannot be used; the text says why and what to do."""


def parse_config(text: str) -> Config:
    """Read and check the JSON configuration. Raises ConfigError."""
    try:
        data = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"the configuration is not JSON: {error}") from None
    if not isinstance(data, dict):
        raise ConfigError("the configuration must be a JSON object")
    if unknown := sorted(set(data) - set(Config._fields)):
        raise ConfigError(f"unknown key {unknown[0]!r}; known: {', '.join(Config._fields)}")
    argv = data.get("argv")
    if not argv or not isinstance(argv, list) or not all(isinstance(word, str) for word in argv):
        raise ConfigError("argv must be a list of words that starts the launcher")
    if not isinstance(data.get("allocation"), str) or not data["allocation"]:
        raise ConfigError("allocation must be a text that names this allocation and no other")
    if not isinstance(data.get("per_node", False), bool) or not isinstance(data.get("stdin", ""), str):
        raise ConfigError("per_node must be true or false, and stdin a text")
    env = data.get("env")
    if env is not None and not (isinstance(env, dict) and all(isinstance(value, str) for value in env.values())):
        raise ConfigError("env must be an object of texts, or absent for the guardian's own environment")
    config = Config(**data)
    lengths = ("wall_time_sec", "kill_margin_sec", "hard_margin_sec", "kill_grace_sec", "steady_sec")
    for name in (*lengths, "max_restarts"):
        value = getattr(config, name)
        if not (value is None and name == "wall_time_sec") and not (is_number(value) and value >= 0):
            raise ConfigError(f"{name} must be a number >= 0, not {value!r}")
    if config.hard_margin_sec > config.kill_margin_sec / 2:
        raise ConfigError("hard_margin_sec must be at most half of kill_margin_sec, which leaves time to drain")
    return config


def is_number(value: Any) -> bool:
    """Whether it is a number of JSON; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def read_config(path: str | None) -> Config:
    """Read the configuration from a file that nobody else can read, or from stdin. Raises ConfigError."""
    if path is None:
        return parse_config(sys.stdin.read())
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC), encoding="utf-8") as file:
            status = os.fstat(file.fileno())
            if status.st_mode & 0o077 or status.st_uid != os.geteuid():
                raise ConfigError(f"{path} must belong to you and be readable by nobody else: chmod 600 {path}")
            return parse_config(file.read())
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
