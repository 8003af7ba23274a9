"""Makes libEnsemble's module names for BalsamExecutor importable without touching libEnsemble's files.

Loaded at every interpreter start through balsam-libensemble.pth (.start from Python 3.15 on), hence it imports `sys`
only. It appends a finder to `sys.meta_path` that answers three names and nothing else; because it comes last, a module
that libEnsemble itself ships (its releases up to 1.5) wins. Nothing of balsam is imported before one of the names is.
"""

import sys

TYPE_CHECKING = False  # what type checkers read as true, without the import of `typing`
if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

_TARGET = "balsam.libensemble.executor"
_MODULES = ("libensemble.executors.balsam_executor", "libensemble.executors.balsam_executors")
_CLASS = "libensemble.executors.BalsamExecutor"


class _Loader:
    """Answers each module name with the very module object of `balsam.libensemble.executor`.

    One object under three names, so that `mock.patch` on any of them patches what the executor really looks up.
    """

    def create_module(self, spec: "ModuleSpec") -> "ModuleType":
        import importlib

        module = importlib.import_module(_TARGET)
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: "Any") -> None:
        # The import system has just put the alias's spec on the module; its own must stay, for reload and pickling.
        alias = module.__spec__
        module.__spec__ = alias.loader_state
        parent: Any = sys.modules["libensemble.executors"]
        if not hasattr(parent, "BalsamExecutor"):
            parent.BalsamExecutor = module.BalsamExecutor
        if alias.name == _CLASS:
            # `from libensemble.executors import BalsamExecutor` looks for a submodule of that name when the package
            # has no such attribute; what stands in sys.modules afterwards is what the statement binds.
            sys.modules[_CLASS] = module.BalsamExecutor


class _Finder:
    @staticmethod
    def find_spec(name: str, path: "Any" = None, target: "Any" = None) -> "ModuleSpec | None":
        if name not in _MODULES and name != _CLASS:
            return None
        from importlib.machinery import ModuleSpec

        loader: Any = _Loader()
        return ModuleSpec(name, loader, origin=_TARGET)


def install() -> None:
    """Register the finder; a second call changes nothing."""
    if _Finder not in sys.meta_path:
        sys.meta_path.append(_Finder)
