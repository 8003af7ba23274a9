"""Pickling: the one place that makes and opens envelopes of Python objects.

Used by the SDK (parameters, Apps; results when the user asks for the value) and by the worker processes of a Site that
run Apps. Never by the service, nor by the agent's or the launcher's own process: opening an envelope runs code of
whoever made it. Imports nothing of the client, so that a worker is up quickly.
"""

import contextlib
import functools
import hashlib
import inspect
import io
import pickle
import sys
import sysconfig
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from balsam.client.models.application import AppState
from balsam.domain.envelope import Envelope

_ORDERLESS = (str, bytes, int, float, bool, type(None))
_lock = threading.RLock()  # a function may stand in one module and what it wraps in another


class NotPicklable(ValueError):
    """The object can't be pickled; the text says which part of it."""


class NotOpened(Exception):
    """An envelope could not be opened here; the text says why and what to do."""


def python_version() -> str:
    """major.minor of this interpreter."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def pickler_version() -> str:
    """Name and version of the pickling library."""
    import cloudpickle

    return f"cloudpickle {cloudpickle.__version__}"


def seal(value: object) -> Envelope:
    """A value in an envelope; functions and classes of `__main__` travel with their code.

    Raises NotPicklable, BadEnvelope when it is too large.

    >>> open_envelope(seal({1, 2}))
    {1, 2}
    """
    buffer = io.BytesIO()
    try:
        _pickler(buffer).dump(value)
    except Exception as error:  # pickling runs methods of the object's own, which may raise anything
        raise NotPicklable(f"{type(error).__name__}: {error}") from error
    return Envelope.seal(buffer.getvalue(), python=python_version(), pickler=pickler_version())


def seal_class(app: type) -> Envelope:
    """A class with its code, whatever module it stands in, and with what it uses of that module.

    The same class gives the same bytes in every process, so that its hash can be compared and pinned.
    Raises NotPicklable, BadEnvelope when it is too large.
    """
    with _by_value(app.__module__):
        return seal(app)


def seal_function(value: object, function: object) -> Envelope:
    """A value that holds a function, with the code of that function when it is the user's own.

    Functions of installed libraries are named instead: the Site needs the library. Raises NotPicklable, BadEnvelope.
    """
    with contextlib.ExitStack() as stack:
        for name in sorted(_own_modules(function)):
            stack.enter_context(_by_value(name))
        return seal(value)


def open_envelope(envelope: Envelope) -> Any:
    """The object. Runs code of whoever made the envelope. Raises NotOpened."""
    obstacle = envelope.obstacle(python_version(), pickler_version())
    if obstacle is not None:
        raise NotOpened(obstacle)
    try:
        return _Unpickler(io.BytesIO(envelope.payload)).load()
    except Exception as error:
        place = f"Python {python_version()} at {sys.executable}"
        raise NotOpened(f"it can't be loaded by {place}: {type(error).__name__}: {error}") from error


def _own_modules(function: Any) -> set[str]:
    """The modules of a function, of what it wraps and of what it is bound to; not those of libraries."""
    found: set[str] = set()
    parts = [function]
    while parts:
        part = parts.pop()
        if isinstance(part, functools.partial):
            parts.append(part.func)
        elif inspect.ismethod(part):
            parts += [part.__func__, part.__self__ if isinstance(part.__self__, type) else type(part.__self__)]
        else:
            found.add(getattr(part, "__module__", None) or "")
            found.add(type(part).__module__)
    return {name for name in found if _is_own(sys.modules.get(name))}


def _is_own(module: Any) -> bool:
    path = getattr(module, "__file__", None)
    if path is None:  # built in, or __main__ at a prompt
        return False
    directories = Path(path).parents
    if any(directory.name in ("site-packages", "dist-packages") for directory in directories):
        return False
    return Path(sysconfig.get_path("stdlib")) not in directories and module.__name__.partition(".")[0] != "balsam"


@contextlib.contextmanager
def _by_value(module_name: str) -> Iterator[None]:
    """Meanwhile functions and classes of this module travel with their code: the Site does not have the module."""
    import cloudpickle

    module = sys.modules.get(module_name)
    with _lock:
        if module is None or module_name == "__main__" or module_name in cloudpickle.list_registry_pickle_by_value():
            yield
            return
        cloudpickle.register_pickle_by_value(module)
        try:
            yield
        finally:
            cloudpickle.unregister_pickle_by_value(module)


def _pickler(buffer: io.BytesIO) -> "pickle.Pickler":
    from cloudpickle import cloudpickle

    class Pickler(cloudpickle.Pickler):
        """Bases that belong to one client become the plain ones; what differs from process to process is made alike."""

        def persistent_id(self, obj: Any) -> list[Any] | None:
            # `mode in {"fast", "slow"}` is a frozenset in the code, whose order hangs on the process's hash seed.
            if type(obj) is frozenset and all(type(item) in _ORDERLESS for item in obj):
                return sorted(obj, key=lambda item: (type(item).__name__, repr(item)))
            return None

        def reducer_override(self, obj: Any) -> Any:
            plain = obj.__dict__.get("_plain_base") if isinstance(obj, type) else None
            if plain is not None:
                return getattr, (sys.modules[plain.__module__], plain.__qualname__)
            if isinstance(obj, AppState):  # what this process knows of a class is not part of it
                return AppState, ()
            reduced = super().reducer_override(obj)
            if isinstance(obj, type) and isinstance(reduced, tuple):
                return (reduced[0], _with_stable_id(cloudpickle, obj, reduced[1]), *reduced[2:])
            return reduced

    return Pickler(buffer)


class _Unpickler(pickle.Unpickler):
    """Runs code of whoever made the pickle: see the head of this module."""

    def persistent_load(self, pid: list[Any]) -> frozenset[Any]:
        return frozenset(pid)


def _with_stable_id(library: Any, kind: type, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """cloudpickle knows a class that comes back (in a result) by a random id; ours is made of its source."""
    given = library._DYNAMIC_CLASS_TRACKER_BY_CLASS.get(kind)
    if given is None or given not in arguments:
        return arguments
    try:
        source = inspect.getsource(kind)
    except (OSError, TypeError):
        return arguments  # typed at a prompt: nothing to recognise it by
    text = f"{kind.__module__}\0{kind.__qualname__}\0{source}"
    stable = hashlib.sha256(text.encode()).hexdigest()[: len(given)]
    library._DYNAMIC_CLASS_TRACKER_BY_CLASS[kind] = stable
    library._DYNAMIC_CLASS_TRACKER_BY_ID[stable] = kind
    return tuple(stable if argument == given else argument for argument in arguments)
