"""A port for a server that has to be told one before it starts."""

import random
import socket

# Below what the kernel gives to connections and to servers that ask for any port: nobody gets one of these by chance.
_PORTS = range(20_000, 32_000)
# pytest-randomly seeds `random` alike before each test: two workers would choose the same port at the same time.
_CHOICE = random.SystemRandom()


def free_port() -> int:
    """A loopback port on which nobody listens. Raises RuntimeError when there is none."""
    for port in _CHOICE.sample(_PORTS, 200):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError(f"no free port among 200 of {_PORTS}")
