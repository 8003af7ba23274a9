"""The service of the floors: `python -m bench.bare_service DIR` prints {"url": ...} and serves until SIGTERM."""

import json
import socket
import sqlite3
import sys
from pathlib import Path
from typing import Any

import uvicorn

SCHEMA = """
CREATE TABLE job (
    id INTEGER PRIMARY KEY, site INTEGER, app INTEGER, state INTEGER, workdir TEXT, tags TEXT, parameters TEXT,
    nodes INTEGER, ranks INTEGER, packing INTEGER, wall_time INTEGER, session INTEGER, updated INTEGER
);
CREATE INDEX by_state ON job (site, state, id);
CREATE INDEX by_app ON job (app, id);
CREATE INDEX by_update ON job (updated);
CREATE TABLE event (id INTEGER PRIMARY KEY, job INTEGER, source INTEGER, target INTEGER, at INTEGER);
CREATE INDEX by_job ON event (job);
"""
INSERT_JOB = "INSERT INTO job VALUES (?, 1, 1, 4, ?, '{}', ?, 1, 1, 1, 0, NULL, 0)"
INSERT_EVENT = "INSERT INTO event (job, source, target, at) VALUES (?, ?, ?, 0)"


def open_database(path: Path) -> sqlite3.Connection:
    """A durable SQLite file with a job row of thirteen columns, three indexes on it, and an event table."""
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")
    database.executescript(SCHEMA)
    return database


def make_app(directory: Path) -> Any:
    database = open_database(directory / "bare.db")

    def insert(rows: list[dict[str, Any]]) -> list[int]:
        database.execute("BEGIN IMMEDIATE")
        last = database.execute("SELECT coalesce(max(id), 0) FROM job").fetchone()[0]
        ids = list(range(last + 1, last + 1 + len(rows)))
        jobs = [(i, row["workdir"], json.dumps(row["parameters"])) for i, row in zip(ids, rows, strict=True)]
        database.executemany(INSERT_JOB, jobs)
        database.executemany(INSERT_EVENT, [(i, source, source + 1) for i in ids for source in (1, 2, 3)])
        database.execute("COMMIT")
        return ids

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        answer = json.dumps(insert(json.loads(body))).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": answer})

    return app


def main() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    print(json.dumps({"url": f"http://127.0.0.1:{listener.getsockname()[1]}"}), flush=True)
    config = uvicorn.Config(make_app(Path(sys.argv[1])), log_level="error", lifespan="off", access_log=False)
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
