"""The warm worker: one process that runs Jobs of one App, one after another: `python -P -m balsam.worker.serve`.

Started by a launcher with a socket as its standard input, in the first Job's work directory and with its output. It
ends when the launcher closes the socket, and after an answer that says it does not stay. Between Jobs everything is put
back (`isolation.py`); module and class variables of the App stay as a Job left them.
"""

import faulthandler
import fcntl
import os
import socket
import sys

from balsam.worker import performing
from balsam.worker.isolation import Surroundings
from balsam.worker.loading import AppNotLoaded, load_app
from balsam.worker.preparing import prepare
from balsam.worker.protocol import EXIT_NO_CHANNEL, Answer, Call, Closed, receive_call, send_answer

# Above the numbers that programs are used to close.
_SOCKET_FD = 200


class Worker:
    """Takes calls until its launcher is gone."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._pid = os.getpid()
        self._surroundings = Surroundings()
        self._make: performing.Make | None = None

    def serve(self) -> None:
        """Raises Closed."""
        while True:
            call, workdir, output = receive_call(self._sock)
            self._surroundings.enter(workdir, output, call["env"])
            answer = self._answer(call)
            if os.getpid() != self._pid:  # a child that run() forked came back from it
                os._exit(answer["code"])
            try:
                reason = self._surroundings.leave()
                stays = not reason and self._make is not None
                send_answer(self._sock, {**answer, "stays": stays, "left": reason})
            except OSError:  # it closed descriptors that are not its own
                os._exit(EXIT_NO_CHANNEL)

    def _answer(self, call: Call) -> Answer:
        try:
            if self._make is None:
                self._make = load_app(**call["app"])
                self._surroundings.loaded()
        except AppNotLoaded as error:
            return performing.failure(error)
        return performing.run(self._make, call) if call["do"] == "run" else prepare(self._make, call)


def main() -> None:
    """Entry point."""
    number = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, _SOCKET_FD)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    faulthandler.enable(2)
    try:
        Worker(socket.socket(fileno=number)).serve()
    except Closed:
        sys.exit(0)


if __name__ == "__main__":
    main()
