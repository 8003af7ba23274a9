"""The heavy user of bench.fairness: asks for lists that look at every Job, many at once, until its stdin ends.

`python -m bench.heavy_lists URL AT_ONCE`, with the user's token in the environment. A line is printed when the first
list is answered, and at the end the statuses of those that were answered meanwhile, as JSON.
"""

import json
import os
import sys
import threading

import httpx2

TOKEN = "BALSAM_BENCH_TOKEN"
HEAVY = "/api/jobs?workdir__contains=nowhere&limit=1"  # no index helps: every Job is looked at


class Asker:
    """Threads that ask, each with a connection of its own."""

    def __init__(self, url: str, token: str) -> None:
        self._url = url
        self._headers = {"Balsam-Wire": "1", "Authorization": f"Bearer {token}"}
        self.statuses: list[int] = []
        self.answered, self.stopping = threading.Event(), threading.Event()

    def ask(self) -> None:
        with httpx2.Client(base_url=self._url, headers=self._headers, timeout=120, trust_env=False) as client:
            while not self.stopping.is_set():
                status = client.get(HEAVY).status_code
                if not self.stopping.is_set():
                    self.statuses.append(status)
                self.answered.set()


def main(url: str, at_once: int) -> None:
    asker = Asker(url, os.environ[TOKEN])
    threads = [threading.Thread(target=asker.ask) for _ in range(at_once)]
    for thread in threads:
        thread.start()
    asker.answered.wait(120)
    print("asking", flush=True)
    sys.stdin.read()
    asker.stopping.set()
    for thread in threads:
        thread.join()
    print(json.dumps(asker.statuses))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
