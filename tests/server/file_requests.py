"""Both ends of a request for a file of a workdir: who asks in a thread, and the agent that puts the answer."""

from __future__ import annotations

import threading
from typing import Any

import httpx2

from tests.services import RunningService


class Asking:
    """A request made in a thread, because its answer is made here."""

    def __init__(self, service: RunningService, token: str, path: str) -> None:
        self.reply: httpx2.Response | None = None
        self._thread = threading.Thread(target=self._ask, args=(service, token, path))
        self._thread.start()

    def _ask(self, service: RunningService, token: str, path: str) -> None:
        with service.client(token) as client:
            self.reply = client.get(path)

    def answer(self) -> httpx2.Response:
        self._thread.join(25)
        assert self.reply is not None
        return self.reply


def put(service: RunningService, token: str, request_id: str, body: dict[str, Any]) -> httpx2.Response:
    with service.client(token) as client:
        return client.put(f"/api/file-requests/{request_id}", json=body)
