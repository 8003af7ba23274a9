"""A fake of Globus on loopback, as its public REST documentation describes it: no Globus runs here.

It knows tokens, submission ids and transfer tasks, and really moves the files, between directories that stand for
collections. What it can't show is how real collections behave.
"""

from __future__ import annotations

import json
import shutil
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

TRANSFER = "transfer.api.globus.org"
CLIENT_ID = "5a1c1c4e-6d0f-4c55-9f7e-0d5e6a1b2c3d"
CODE, REFRESH = "the-code", "the-refresh-token"


class FakeGlobus:
    """`collections` by UUID. `access` is the token that it takes; `hold` keeps tasks ACTIVE, or in another status."""

    def __init__(self) -> None:
        self.collections: dict[str, Path] = {}
        self.access = "access-1"
        self.refresh = REFRESH
        self.scopes = ""
        self.hold = ""
        self.submissions: dict[str, str] = {}
        self.tasks: dict[str, dict[str, Any]] = {}
        self.calls: list[str] = []
        self.lock = threading.Lock()

    def add(self, place: Path) -> str:
        place.mkdir(parents=True, exist_ok=True)
        name = str(uuid.uuid4())
        self.collections[name] = place
        return name

    def tokens(self, form: dict[str, list[str]]) -> tuple[int, dict[str, Any]]:
        good = form.get("code") == [CODE] or form.get("refresh_token") == [self.refresh]
        if not good:
            return 400, {"error": "invalid_grant"}
        token = {"access_token": self.access, "refresh_token": self.refresh, "expires_in": 172800}
        return 200, {**token, "resource_server": TRANSFER, "scope": "all", "token_type": "Bearer", "other_tokens": []}

    def transfer(self, document: dict[str, Any]) -> dict[str, Any]:
        with self.lock:
            submission = document["submission_id"]
            if task := self.submissions.get(submission):
                return {"DATA_TYPE": "transfer_result", "code": "Duplicate", "task_id": task}
            task = self.submissions[submission] = str(uuid.uuid4())
            self.tasks[task] = {"document": document, "status": "ACTIVE", "moved": [], "skipped": []}
            self.calls.append("submit")
            return {"DATA_TYPE": "transfer_result", "code": "Accepted", "task_id": task}

    def look(self, number: str) -> dict[str, Any]:
        """Files are moved at the first look that finds the task not held."""
        with self.lock:
            task = self.tasks[number]
            if task["status"] == "ACTIVE" and not self.hold:
                self._move(task)
            status = self.hold or task["status"] if task["status"] == "ACTIVE" else task["status"]
            found = {"DATA_TYPE": "task", "task_id": number, "status": status, "bytes_transferred": 1}
            if status == "FAILED":
                found["fatal_error"] = {"code": "QUOTA_EXCEEDED", "description": "no room"}
            return found

    def _move(self, task: dict[str, Any]) -> None:
        document = task["document"]
        source, target = (self.collections[document[f"{end}_endpoint"]] for end in ("source", "destination"))
        task["status"] = "SUCCEEDED"
        for item in document["DATA"]:
            here, there = (
                place / item[f"{end}_path"].lstrip("/") for place, end in ((source, "source"), (target, "destination"))
            )
            if not here.exists():
                task["skipped"].append({"source_path": item["source_path"], "error_code": "FILE_NOT_FOUND"})
            elif here.is_dir() and item.get("recursive") is False:
                task["skipped"].append({"source_path": item["source_path"], "error_code": "IS_A_DIRECTORY"})
            elif there.is_dir() and here.is_file():
                task["status"] = "FAILED"
            else:
                there.parent.mkdir(parents=True, exist_ok=True)
                if here.is_dir():
                    shutil.copytree(here, there, copy_function=shutil.copyfile, dirs_exist_ok=True)
                else:
                    shutil.copyfile(here, there)
                files = [here] if here.is_file() else [path for path in here.rglob("*") if path.is_file()]
                for path in files:
                    end = "" if path == here else f"/{path.relative_to(here)}"
                    task["moved"].append(f"{item['destination_path'].rstrip('/')}{end}")


def _handler(globus: FakeGlobus) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            self._answer("GET", None)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            self._answer("POST", body)

        def _answer(self, method: str, body: str | None) -> None:
            path = urlsplit(self.path).path
            if path == "/v2/oauth2/token":
                self._send(*globus.tokens(parse_qs(body or "")))
            elif self.headers.get("Authorization") != f"Bearer {globus.access}":
                self._send(401, {"code": "AuthenticationFailed", "message": "Token is not active"})
            elif path.endswith("/submission_id"):
                self._send(200, {"value": str(uuid.uuid4())})
            elif path.endswith("/transfer"):
                self._send(202, globus.transfer(json.loads(body or "{}")))
            else:
                self._task(path.partition("/task/")[2].split("/"))

        def _task(self, words: list[str]) -> None:
            number, *what = words
            if what == ["cancel"]:
                globus.tasks[number]["status"] = "FAILED"
                self._send(200, {"code": "Canceled"})
            elif what == ["successful_transfers"]:
                moved = [{"destination_path": path} for path in globus.tasks[number]["moved"]]
                self._send(200, {"DATA": moved, "marker": None, "next_marker": None})
            elif what == ["skipped_errors"]:
                self._send(200, {"DATA": globus.tasks[number]["skipped"], "marker": None, "next_marker": None})
            else:
                self._send(200, globus.look(number))

        def _send(self, code: int, content: dict[str, Any]) -> None:
            body = json.dumps(content).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Handler


@contextmanager
def fake_globus() -> Iterator[FakeGlobus]:
    """What globus-sdk talks to meanwhile, by the variables that it has for that."""
    globus = FakeGlobus()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(globus))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}/"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLOBUS_SDK_SERVICE_URL_TRANSFER", address)
        patch.setenv("GLOBUS_SDK_SERVICE_URL_AUTH", address)
        yield globus
    server.shutdown()
    server.server_close()
    thread.join()
