"""Traces of requests for OpenTelemetry, when the standard OTEL_* variables ask for them; nothing is imported otherwise.

Used by `run`. The spans are those of OpenTelemetry's own ASGI instrumentation, one for each request, named by its
route. What comes after the `?` of an address is left out: browsers are let in by codes that stand there. Needs the
extra `otel`.
"""

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from balsam import __version__
from balsam.server.logs import SeenRequest
from balsam.server.settings import SettingsError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

FLUSH_SEC = 2.0
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_SPOKEN = "http/protobuf"
_QUERY = "balsam.query_string"


def wanted(environ: Mapping[str, str] | None = None) -> bool:
    """Whether traces are asked for. Raises SettingsError when they are asked for in a way that is not there.

    >>> wanted({}), wanted({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"})
    (False, True)
    """
    environ = os.environ if environ is None else environ
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporter = environ.get("OTEL_TRACES_EXPORTER", "").strip()
    if exporter == "none" or not (exporter or any(environ.get(name) for name in _ENDPOINTS)):
        return False
    if exporter not in ("", "otlp"):
        raise SettingsError(f"OTEL_TRACES_EXPORTER={exporter}: the service has otlp, or none")
    protocol = next((environ[name] for name in _PROTOCOLS if environ.get(name)), _SPOKEN)
    if protocol != _SPOKEN:
        raise SettingsError(f"{_PROTOCOLS[1]}={protocol}: the service speaks {_SPOKEN}")
    try:
        import opentelemetry.exporter.otlp.proto.http.trace_exporter
        import opentelemetry.instrumentation.asgi  # noqa: F401
    except ImportError as error:
        raise SettingsError(
            f"OTEL_* asks for traces, which needs more packages ({error}): pip install 'openbalsam[otel]'; or leave "
            "them out with OTEL_SDK_DISABLED=true"
        ) from None
    return True


@contextmanager
def traced(app: ASGIApp) -> Iterator[ASGIApp]:
    """The application with a span for each request, or itself; what is not sent yet is sent at the end."""
    if not wanted():
        yield app
        return
    from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
    from opentelemetry.util.http import get_excluded_urls

    provider = _provider()
    try:
        yield _without_query(
            OpenTelemetryMiddleware(
                _named(app),
                excluded_urls=get_excluded_urls("ASGI"),
                tracer_provider=provider,
                exclude_spans=["send", "receive"],
                default_span_details=lambda scope: (str(scope.get("method", "")), {}),
            )
        )
    finally:
        _flush(provider)


def _provider() -> "TracerProvider":
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    what = {"service.version": __version__}
    if not os.environ.get("OTEL_SERVICE_NAME"):
        what["service.name"] = "balsam"
    provider = TracerProvider(resource=Resource.create(what), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def _flush(provider: "TracerProvider") -> None:
    """Send what is not sent yet. A collector that is away does not hold up a stop or a restart."""
    sending = threading.Thread(target=provider.shutdown, name="traces", daemon=True)
    sending.start()
    sending.join(FLUSH_SEC)


def _without_query(app: ASGIApp) -> ASGIApp:
    async def hidden(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = {**scope, "query_string": b"", _QUERY: scope["query_string"]}
        await app(scope, receive, send)

    return hidden


def _named(app: ASGIApp) -> ASGIApp:
    """Gives the query back, and the span the name and the id under which the log has the request."""
    from opentelemetry import trace

    async def named(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        inner = {**scope, "query_string": scope[_QUERY]}
        span = trace.get_current_span()

        async def begin(message: Message) -> None:
            if message["type"] == "http.response.start":  # the span ends with the last piece of the answer
                seen: SeenRequest = inner["balsam.seen"]
                span.update_name(f"{scope['method']} {seen.route}")
                span.set_attributes({"http.route": seen.route, "balsam.request_id": seen.request_id})
            await send(message)

        await app(inner, receive, begin)

    return named
