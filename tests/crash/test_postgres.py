"""PostgreSQL restarted, workers killed, networks cut, all under load: what was acknowledged is there, once.

Nothing acknowledged is lost (S1), nothing is there twice (S2, S3), no Job is granted twice with one token (S6), the log
is the state (S5), the counters are the rows; and the errors are over within 5 s of the last fault.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from balsam.domain.states import JobState
from balsam.server.database_address import DatabaseAddress
from balsam.server.principal import Principal
from balsam.server.store.codec import STATES
from balsam.server.store.postgres.store import PostgresStore
from balsam.testing.store_world import StoreWorld
from tests.conformance.histories import check, rows_of, until
from tests.server.test_proxy import running_nginx
from tests.server.world import PASSWORD, furnish, make_user, ok
from tests.services import RunningService, running_service
from tests.testbed.load import Books, load_on
from tests.testbed.postgres import PostgresServer, wheel_programs
from tests.testbed.stopping_proxy import StoppingProxy

CLEAN_SEC = 5.0


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server that is restarted: nobody else's."""
    server = PostgresServer(wheel_programs(), tcp=True)
    yield server
    server.close()


@pytest.fixture
def address(server: PostgresServer) -> Iterator[DatabaseAddress]:
    with server.migrated() as address:
        yield address


@pytest.fixture
def workers(address: DatabaseAddress, tmp_path: Path) -> Iterator[RunningService]:
    env = {"BALSAM_DATABASE": address.text}
    with running_service(tmp_path / "balsam", options=["--workers", "3"], env=env) as service:
        yield service


def settle(address: DatabaseAddress, books: Books) -> None:
    """The invariants, in the database itself."""
    rows = rows_of(address)
    assert books.broken == []
    assert len(books.submitted) > 100 and len(books.finished) > 20, "too little happened to say anything"
    there = Counter(workdir for (workdir,) in rows("SELECT workdir FROM jobs WHERE workdir LIKE 'load/%'"))
    assert [name for name, count in there.items() if count > 1] == [], "Jobs are there twice"
    by_id = {job_id: (workdir, STATES[state]) for job_id, workdir, state in rows("SELECT id, workdir, state FROM jobs")}
    assert {job_id: by_id.get(job_id, ("lost",))[0] for job_id in books.submitted} == books.submitted
    lost = {job_id for job_id in books.finished if by_id[job_id][1] is not JobState.JOB_FINISHED}
    assert not lost, "what a launcher reported and was acknowledged is not there"
    assert len(there) == len(books.submitted), "a submission that was never acknowledged is there"
    assert max(Counter(books.granted).values()) == 1, "S6: a grant was given twice"
    with closing(PostgresStore(address)) as store:
        world = StoreWorld.__new__(StoreWorld)
        ((user_id,),) = rows("SELECT id FROM users WHERE username = 'ann'")
        world.__dict__.update(store=store, ada=Principal(user_id, "ann"))
        check(world, rows, every=50)


def children(service: RunningService) -> list[int]:
    return [int(word) for word in Path(f"/proc/{service.pid}/task/{service.pid}/children").read_text().split()]


def told(books: Books) -> str:
    """After `settle`."""
    lists = (books.submitted, books.granted, books.finished)
    return "{} Jobs submitted, {} granted, {} finished, none lost or twice".format(*map(len, lists))


def test_f12_the_database_is_restarted_under_load(
    server: PostgresServer, workers: RunningService, address: DatabaseAddress, figure: Callable[[str], None]
) -> None:
    person = furnish(workers, make_user(workers, "ann"))
    with load_on([workers], person) as load:
        for sig in (signal.SIGQUIT, signal.SIGINT, signal.SIGQUIT):
            time.sleep(3)
            server.restart(sig)
        back = time.monotonic()
        time.sleep(CLEAN_SEC + 2)
    assert load.books.clean_after() < back + CLEAN_SEC, "requests still failed"
    settle(address, load.books)
    clean_sec = max(0.0, load.books.clean_after() - back)
    figure(f"3 restarts of PostgreSQL: {told(load.books)}, clean {clean_sec:.1f} s after the last")


def test_s1_a_number_that_the_server_gives_out_again_is_not_ours_any_more(
    server: PostgresServer, address: DatabaseAddress
) -> None:
    """What was not in the log of a server that crashed is gone, and another transaction has its number."""

    def begun() -> str:
        groups._connected().begin()
        return groups._connected().number()

    with closing(PostgresStore(address)) as store:
        groups = store._groups
        kept = begun()
        groups._connected().commit()
        gone = begun()
        server.restart(signal.SIGQUIT)
        taken = 0
        with psycopg.connect(address.text, autocommit=True) as somebody:
            while taken < int(gone):
                taken = int(somebody.execute("SELECT pg_current_xact_id()::text").fetchone()[0])  # type: ignore[index]
            fate = somebody.execute("SELECT pg_xact_status(%s::xid8)", (gone,)).fetchone()
        assert fate == ("committed",)
        assert not groups._was_committed(gone)
        groups.close()
        server.restart(signal.SIGINT)
        assert groups._was_committed(kept)


def test_f3_one_of_three_workers_is_killed_under_load(
    workers: RunningService, address: DatabaseAddress, figure: Callable[[str], None]
) -> None:
    person = furnish(workers, make_user(workers, "ann"))
    with load_on([workers], person) as load:
        for _ in range(4):
            time.sleep(1.5)
            before = children(workers)
            os.kill(before[0], signal.SIGKILL)
            until(lambda before=before: len(set(children(workers)) - set(before)) == 1)
        killed = time.monotonic()
        time.sleep(CLEAN_SEC + 1)
    assert load.books.clean_after() < killed + CLEAN_SEC
    settle(address, load.books)
    figure(f"4 kills of one of three processes: {told(load.books)}")


def test_f3_one_of_two_services_behind_a_proxy_is_killed_under_load(
    address: DatabaseAddress, tmp_path: Path, figure: Callable[[str], None]
) -> None:
    """As on two machines: nginx finds out by itself, and nobody has to know of more than its address."""
    env, options = {"BALSAM_DATABASE": address.text}, ["--multi-user", "--behind-proxy"]
    with ExitStack() as stack:
        pair = [stack.enter_context(running_service(tmp_path / name, options=options, env=env)) for name in "ab"]
        nginx = tmp_path / "nginx"
        nginx.mkdir()
        proxy = stack.enter_context(running_nginx(nginx, *pair))
        code = re.search(r"--code (\S+)", pair[0].log)
        assert code is not None
        with proxy.client("") as nobody:
            account = {"username": "root", "password": PASSWORD}
            ok(pair[0].client("").post("/api/users/first", json={**account, "code": code[1]}))
            pair[0].token = ok(nobody.post("/api/auth/login", json=account))["token"]
        person = furnish(pair[0], make_user(pair[0], "ann"))
        through = replace(pair[0], url=f"https://localhost:{proxy.port}"), proxy.trusted
        with load_on(pair, person, through=through) as load:
            for _ in range(3):
                time.sleep(1.5)
                pair[1].kill()
                time.sleep(1.5)
                assert not load.books.broken
                pair[1] = pair[1].restart()
                stack.callback(pair[1].stop)
            killed = time.monotonic()
            time.sleep(CLEAN_SEC + 1)
        assert load.books.clean_after() < killed + CLEAN_SEC
        settle(address, load.books)
        figure(
            f"3 kills of one of two services behind nginx: {len(load.books.failed_at)} requests were not answered by a "
            f"service, the slowest was answered after {load.books.slowest_sec:.1f} s; {told(load.books)}"
        )


def test_the_network_between_a_process_and_the_database_is_cut(
    server: PostgresServer, address: DatabaseAddress, tmp_path: Path
) -> None:
    """Two processes, one of them behind a network that is cut: the other one goes on and takes over the sweeps."""
    name = urlsplit(address.text).path.removeprefix("/")
    with StoppingProxy(server.port) as proxy:
        cut_off = {"BALSAM_DATABASE": server.tcp_url(name, proxy.port)}
        home = tmp_path / "balsam"
        with (
            running_service(home, env=cut_off) as first,
            running_service(home, env={"BALSAM_DATABASE": address.text}) as second,
        ):
            person = furnish(second, make_user(second, "ann"))
            with load_on([first, second], person) as load:
                time.sleep(2)
                proxy.cut()
                begin = time.monotonic()
                with first.client("") as one, second.client("") as other:
                    until(lambda: one.get("/readyz").status_code != 200)
                    assert other.get("/readyz").status_code == 200
                    done = len(load.books.finished)
                    time.sleep(5)
                    assert len(load.books.finished) > done, "nothing went on"
                    proxy.heal()
                    until(lambda: one.get("/readyz").status_code == 200, CLEAN_SEC)
                healed = time.monotonic()
                time.sleep(CLEAN_SEC + 1)
            assert begin < load.books.clean_after() < healed + CLEAN_SEC
    settle(address, load.books)
