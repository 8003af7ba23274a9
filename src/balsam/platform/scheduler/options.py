"""Reading an adapter's own options, `scheduler.scheduler_options` in a Site's settings.yml.

Called by the constructors of adapters; every function raises ValueError with a sentence that names the option.
"""

import difflib
from collections.abc import Mapping, Sequence


def refuse_unknown(options: Mapping[str, object], known: Mapping[str, str]) -> None:
    """An option that nobody reads is a mistake: say which one was meant."""
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known) or 'none'}"
            raise ValueError(f"has no option {name!r}; {hint}")


def positive(options: Mapping[str, object], name: str, default: float) -> float:
    """A number above 0."""
    value = options.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise ValueError(f"option {name!r} is {value!r}; it must be a number above 0")
    return float(value)


def flag(options: Mapping[str, object], name: str, default: bool) -> bool:
    """true or false."""
    value = options.get(name, default)
    if not isinstance(value, bool):
        raise ValueError(f"option {name!r} is {value!r}; it must be true or false")
    return value


def text(options: Mapping[str, object], name: str, default: str) -> str:
    """One line of text."""
    value = options.get(name, default)
    if not isinstance(value, str) or not value.isprintable():
        raise ValueError(f"option {name!r} is {value!r}; it must be one line of text")
    return value


def choice(options: Mapping[str, object], name: str, among: Sequence[str]) -> str:
    """One of some words; the first is the default.

    >>> choice({"queue_is": "qos"}, "queue_is", ("partition", "qos"))
    'qos'
    """
    value = options.get(name, among[0])
    if value not in among:
        raise ValueError(f"option {name!r} is {value!r}; it must be one of: {', '.join(among)}")
    return str(value)
