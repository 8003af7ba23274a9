"""The service of the floors: `python -m bench.bare_service DIR [DATABASE]` prints {"url": ...} and serves till SIGTERM.

Bare ASGI on uvicorn, as the product runs it. It decodes JSON, writes the rows of `bench.bare_rows`, into PostgreSQL
where an address of one is given, and answers with the ids. No rules at all.
"""

import json
import socket
import sys
from pathlib import Path
from typing import Any

import uvicorn

from bench.bare_rows import Rows, open_rows


def make_app(rows: Rows) -> Any:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        answer = json.dumps(list(rows.insert(json.loads(body)))).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": answer})

    return app


def main() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    with open_rows(Path(sys.argv[1]), *sys.argv[2:]) as rows:
        print(json.dumps({"url": f"http://127.0.0.1:{listener.getsockname()[1]}"}), flush=True)
        config = uvicorn.Config(make_app(rows), log_level="error", lifespan="off", access_log=False)
        uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
