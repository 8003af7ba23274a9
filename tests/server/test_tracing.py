"""Traces of requests: a real exporter sends them to a receiver of the tests, and without OTEL_* nothing is imported."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from balsam.server import tracing
from balsam.server.settings import SettingsError
from tests.server.world import ok
from tests.services import running_service

URL = "OTEL_EXPORTER_OTLP_ENDPOINT"


@contextmanager
def receiver() -> Iterator[tuple[str, list[ExportTraceServiceRequest]]]:
    """The address of a collector on loopback, and what it was sent."""
    received: list[ExportTraceServiceRequest] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.path == "/v1/traces"
            received.append(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", received
        finally:
            server.shutdown()
            thread.join()


def attributes(span: Span) -> dict[str, str]:
    return {pair.key: pair.value.string_value for pair in span.attributes}


@pytest.mark.slow
def test_each_request_is_a_span_named_by_its_route_and_without_its_query(tmp_path: Path) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    environment = {"OTEL_PYTHON_EXCLUDED_URLS": "healthz,readyz"}
    with receiver() as (url, received):
        with running_service(tmp_path / "home", env={**environment, URL: url}) as service, service.client() as client:
            given = {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
            found = client.get("/api/jobs", params={"limit": 3, "tags": "kind:secret-tag"}, headers=given)
            ok(found)
            client.get("/api/sites/17")
            ok(client.get("/readyz"))
            client.get("/no/such/page", params={"code": "secret-code"})
        spans = [
            (resource.resource, span)
            for request in received
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]
    by_name = {span.name: span for _, span in spans}
    assert by_name.keys() == {"GET /api/jobs", "GET /api/sites/{site_id}", "GET page"} and len(spans) == 3
    assert by_name["GET /api/jobs"].trace_id.hex() == trace
    assert attributes(by_name["GET /api/jobs"])["balsam.request_id"] == found.headers["x-request-id"]
    assert not any(b"secret" in request.SerializeToString() for request in received)
    assert {pair.value.string_value for pair in spans[0][0].attributes if pair.key == "service.name"} == {"balsam"}


@pytest.mark.slow
def test_a_collector_that_is_away_hinders_nobody(tmp_path: Path) -> None:
    with running_service(tmp_path / "home", env={URL: "http://127.0.0.1:9"}) as service:
        with service.client() as client:
            ok(client.get("/api/jobs"))
        begun = time.monotonic()
        assert service.stop() == 0
        assert time.monotonic() - begun < 6, "the exporter alone would go on for about 8 s"


@pytest.mark.parametrize(
    ("environ", "answer"),
    [
        ({}, False),
        ({URL: "http://127.0.0.1:4318"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": "none", URL: "http://127.0.0.1:4318"}, False),
        ({"OTEL_SDK_DISABLED": "TRUE", URL: "http://127.0.0.1:4318"}, False),
        ({URL: "http://127.0.0.1:4318", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, True),
    ],
)
def test_the_environment_asks(environ: dict[str, str], answer: bool) -> None:
    assert tracing.wanted(environ) is answer


def test_what_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match="zipkin: the service has otlp, or none"):
        tracing.wanted({"OTEL_TRACES_EXPORTER": "zipkin"})
    with pytest.raises(SettingsError, match="the service speaks http/protobuf"):
        tracing.wanted({URL: "http://127.0.0.1:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"})
    monkeypatch.setitem(sys.modules, "opentelemetry.instrumentation.asgi", None)
    with pytest.raises(SettingsError, match=r"openbalsam\[otel\]"):
        tracing.wanted({URL: "http://127.0.0.1:4318"})


@pytest.mark.slow
def test_nothing_of_it_is_imported_when_nobody_asks() -> None:
    program = """if True:
        import sys
        import balsam.server.run
        from balsam.server import tracing
        with tracing.traced(app := object()) as same:
            assert same is app
        parts = ("opentelemetry.sdk", "opentelemetry.instrumentation", "opentelemetry.exporter")
        print([name for name in sys.modules if name.startswith(parts)])"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
