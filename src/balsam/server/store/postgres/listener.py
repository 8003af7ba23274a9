"""The ear of a process: hears the wakes of the other processes, and knows whether this one runs the sweeps (L6).

One thread with a connection of its own. When the connection is lost, nobody knows what was missed: subscribers are told
so with a wake of topic `wakes`, at the loss and again when the connection is back.
"""

import logging
import os
import select
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress

import psycopg

from balsam.server.database_address import DatabaseAddress
from balsam.server.errors import Unavailable
from balsam.server.store.postgres import notifications
from balsam.server.store.postgres.connection import ADVISORY_LOCKS, ConnectionLost, PostgresDatabase, connect
from balsam.server.store.postgres.statistics import Statistics
from balsam.server.store.protocol import Wake

log = logging.getLogger(__name__)

BEAT_SEC = 1.0
START_SEC = 10.0
# A leader that was not heard of by itself for so long does not call itself one: its connection may be dead.
LEADS_FOR_SEC = 5.0
TIDY_SEC = 20.0
STATEMENT_SEC = 5.0
RETRY_SEC = 0.25
_LEAD = f"SELECT pg_try_advisory_lock({ADVISORY_LOCKS}, 1)"
_LOST, _BACK = Wake("wakes", 0, "lost", {}), Wake("wakes", 0, "back", {})


class Listener:
    """Calls `hear` in its thread with the wakes of the other processes; the own ones come by a shorter way."""

    def __init__(self, address: DatabaseAddress, origin: str, hear: Callable[[Sequence[Wake]], None]) -> None:
        self._address = address
        self._origin = origin
        self._hear = hear
        self._statistics = Statistics(address)
        self._stop_reader, self._stop_writer = os.pipe()
        self._stopping = threading.Event()
        self._leads = False
        self._beat_at = self._tidied_at = 0.0
        self._heard_once = threading.Event()
        self._thread = threading.Thread(target=self._run, name="store-listen", daemon=True)
        self._thread.start()
        self._heard_once.wait(START_SEC)

    @property
    def leads(self) -> bool:
        """Whether this process is the one that runs the sweeps."""
        return self._leads and time.monotonic() - self._beat_at < LEADS_FOR_SEC

    def close(self) -> None:
        self._stopping.set()
        os.write(self._stop_writer, b"x")
        self._thread.join()
        self._statistics.close()
        os.close(self._stop_reader)
        os.close(self._stop_writer)

    def _run(self) -> None:
        while not self._stopping.is_set():
            heard = False
            try:
                with closing(connect(self._address, "listener", limit_sec=STATEMENT_SEC)) as connection:
                    connection.execute(f"LISTEN {notifications.CHANNEL}".encode())
                    if self._heard_once.is_set():
                        self._hear([_BACK])
                    heard = True
                    self._heard_once.set()
                    self._listen(PostgresDatabase(connection))
            except (Unavailable, ConnectionLost, psycopg.Error) as error:
                log.info("not hearing other processes: %s", error)
            except Exception:
                # Said by a program that is none of ours, or by a version to come. Without its ear a process is deaf.
                log.exception("what other processes said was not understood")
            self._leads = False
            if heard and not self._stopping.is_set():
                self._hear([_LOST])
            self._stopping.wait(RETRY_SEC)

    def _listen(self, database: PostgresDatabase) -> None:
        connection = database.connection
        heard: list[str] = []
        # What arrives while a statement runs is given to the handler, what arrives in between is fetched below.
        connection.add_notify_handler(lambda notify: heard.append(notify.payload))
        poll = select.poll()  # select() knows no descriptor above 1023, and each stream of the service is one
        for fd in (connection.fileno(), self._stop_reader):
            poll.register(fd, select.POLLIN)
        while not self._stopping.is_set():
            self._beat(database)
            until = time.monotonic() + BEAT_SEC
            while not self._stopping.is_set() and (left := until - time.monotonic()) > 0:
                # Before each wait: some may have come with the answer to a statement.
                connection.pgconn.consume_input()
                while (notify := connection.pgconn.notifies()) is not None:
                    heard.append(notify.extra.decode())
                self._tell(database, heard)
                poll.poll(1000 * left)

    def _tell(self, database: PostgresDatabase, heard: list[str]) -> None:
        """Give on what was heard; `heard` may grow meanwhile."""
        while heard:
            payload = heard.pop(0)
            if not notifications.is_from(self._origin, payload):
                said = notifications.read(payload)
                wakes = said.wakes if said.note_id is None else notifications.note(database, said.note_id)
                self._hear(wakes)

    def _beat(self, database: PostgresDatabase) -> None:
        """Is the connection alive, and does this process lead?"""
        if self._leads:
            self._statistics.look(database)
        else:
            self._leads = database.execute(_LEAD).fetchone() == (True,)
        self._beat_at = time.monotonic()
        if self._leads and self._beat_at - self._tidied_at > TIDY_SEC:
            self._tidied_at = self._beat_at
            with suppress(Unavailable):
                notifications.remove_old_notes(database)
