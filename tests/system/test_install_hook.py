"""libEnsemble finds our executor under its own module names, however the two were installed.

Real environments: {pip, uv} x {normal, editable}, made from one shared set of wheels. The files under test are in
`packaging/`; docs/decisions/dependencies.md says why a finder and not files laid into libEnsemble's package.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
UV = Path(sys.prefix) / "bin" / "uv"
BUILD = ("hatchling", "editables")  # what a build of ours asks for; editables for editable ones

IMPORTS = """
import sys
assert not [name for name in sys.modules if name.partition(".")[0] in ("balsam", "libensemble")], "imported at start"

from libensemble.executors.balsam_executors import BalsamExecutor, BalsamTask
from libensemble.executors.balsam_executor import BalsamExecutor as same, BalsamTask as same_task
from libensemble.executors import BalsamExecutor as from_package
import libensemble.executors
assert BalsamExecutor is same is from_package is libensemble.executors.BalsamExecutor
assert BalsamTask is same_task

from libensemble.executors import Executor
assert issubclass(BalsamExecutor, Executor)

import importlib, pickle
from unittest import mock
import balsam.libensemble.executor as home
assert home.__spec__.name == home.__name__ == "balsam.libensemble.executor"
assert pickle.loads(pickle.dumps(BalsamExecutor)) is BalsamExecutor
for module in ("balsam_executor", "balsam_executors"):
    for name in ("Job", "BatchJob", "EventLog", "ApplicationDefinition"):
        with mock.patch(f"libensemble.executors.{module}.{name}") as fake:
            assert getattr(home, name) is fake
"""
PACKAGE_FIRST = "from libensemble.executors import BalsamExecutor as c; assert isinstance(c, type), c"
GONE = """
import libensemble.executors
for name in ("balsam_executor", "balsam_executors", "BalsamExecutor"):
    try:
        __import__(f"libensemble.executors.{name}")
    except ModuleNotFoundError:
        continue
    raise AssertionError(name)
"""
WITHOUT_LIBENSEMBLE = """
import balsam
try:
    import libensemble
except ModuleNotFoundError:
    pass
else:
    raise AssertionError(libensemble)
"""


def _run(words: Sequence[str | Path], **environment: str) -> str:
    """Run `words`; the output must be empty for the probes, so it is returned whole."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(
        words,
        env=env | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{words}\n{done.stdout}"
    return done.stdout


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything an install needs but our own wheel, which each case builds from the tree."""
    folder = tmp_path_factory.mktemp("wheels")
    _run([sys.executable, "-m", "pip", "wheel", "--quiet", "--wheel-dir", folder, f"{ROOT}[libensemble]", *BUILD])
    for own in folder.glob("openbalsam-*"):
        own.unlink()
    return folder


class Venv:
    """An environment made and filled by one tool, from the shared wheels only."""

    def __init__(self, tool: str, folder: Path, wheels: Path) -> None:
        self.python = folder / "bin" / "python"
        self._offline = ["--quiet", "--no-index", "--find-links", str(wheels)]
        if tool == "uv":
            _run([UV, "venv", "--quiet", "--python", sys.executable, folder])
            self._tool: list[str | Path] = [UV, "pip"]
            self._here = ["--python", str(self.python)]
            self._yes: list[str] = []
        else:
            _run([sys.executable, "-m", "venv", folder])
            self._tool = [self.python, "-m", "pip"]
            self._here = []
            self._yes = ["--yes"]
            self._offline.append("--no-compile")  # half of pip's time, and nothing here asks for it

    def install(self, *what: str) -> None:
        _run([*self._tool, "install", *self._here, *self._offline, *what])

    def uninstall(self, name: str) -> None:
        _run([*self._tool, "uninstall", "--quiet", *self._here, *self._yes, name])

    def says(self, code: str, **environment: str) -> str:
        return _run([self.python, "-c", code], **environment)

    def packages(self) -> Path:
        return Path(self.says("import sysconfig; print(sysconfig.get_path('purelib'))").strip())


@pytest.mark.timeout(600)
@pytest.mark.parametrize("editable", [False, True], ids=["normal", "editable"])
@pytest.mark.parametrize("tool", ["pip", "uv"])
def test_both_module_names_in_a_fresh_environment(tool: str, editable: bool, wheels: Path, tmp_path: Path) -> None:
    venv = Venv(tool, tmp_path / "env", wheels)
    source = f"{ROOT}[libensemble]"
    venv.install(*(["--editable", source] if editable else [source]))
    assert venv.says(IMPORTS) == ""
    assert venv.says(PACKAGE_FIRST) == ""

    venv.uninstall("libensemble")
    assert venv.says(WITHOUT_LIBENSEMBLE) == ""
    venv.install("libensemble")
    assert venv.says(PACKAGE_FIRST) == "", "libEnsemble put in after us is served too"

    venv.uninstall("openbalsam")
    assert venv.says(GONE) == ""
    left = [path.name for path in venv.packages().iterdir() if "balsam" in path.name.lower()]
    assert left == []


@pytest.mark.timeout(600)
def test_a_target_directory_works_once_balsam_is_imported(wheels: Path, tmp_path: Path) -> None:
    venv = Venv("uv", tmp_path / "env", wheels)
    venv.install("--target", str(tmp_path / "target"), f"{ROOT}[libensemble]")
    probe = "import balsam; from libensemble.executors.balsam_executors import BalsamExecutor"
    assert venv.says(probe, PYTHONPATH=str(tmp_path / "target")) == ""


def test_a_module_of_libensembles_own_wins(tmp_path: Path) -> None:
    """libEnsemble up to 1.5 ships the singular name itself; the plural name never existed there and stays ours."""
    package = tmp_path / "libensemble" / "executors"
    package.mkdir(parents=True)
    for folder in (package.parent, package):
        (folder / "__init__.py").write_text("")
    (package / "balsam_executor.py").write_text("BalsamExecutor = 'its own'\n")
    probe = "from libensemble.executors.balsam_executor import BalsamExecutor as e; assert e == 'its own', e"
    assert _run([sys.executable, "-c", probe], PYTHONPATH=str(tmp_path)) == ""


def test_the_start_of_an_interpreter_imports_nothing_of_ours_but_the_finder() -> None:
    probe = "import sys; print(sorted(name for name in sys.modules if 'balsam' in name))"
    assert _run([sys.executable, "-c", probe]).strip() == "['_balsam_libensemble']"
