"""A collector of spans: a real HTTP server that receives OTLP, as worker processes export it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from tests.harness.command import wait_until


@dataclass(frozen=True)
class Exported:
    """A span that was received, with the service it came from; ids in hex, times in nanoseconds."""

    service: str
    name: str
    kind: int
    trace_id: str
    id: str
    parent_id: str
    links: list[tuple[str, str]]
    start: int
    end: int
    attributes: dict[str, Any]
    events: list[tuple[str, dict[str, Any]]]
    is_error: bool
    message: str

    @property
    def ids(self) -> tuple[str, str]:
        return self.trace_id, self.id


class Collector:
    """Holds the spans received so far, in order of their start."""

    def __init__(self) -> None:
        self._spans: list[Exported] = []
        self._lock = threading.Lock()
        self.url = ""

    def take(self, body: bytes) -> None:
        request = ExportTraceServiceRequest.FromString(body)
        with self._lock:
            for resource in request.resource_spans:
                service = _attributes(resource.resource.attributes).get("service.name", "")
                for scope in resource.scope_spans:
                    self._spans += [_exported(service, span) for span in scope.spans]

    @property
    def spans(self) -> list[Exported]:
        with self._lock:
            return sorted(self._spans, key=lambda span: span.start)

    def named(self, name: str) -> list[Exported]:
        return [span for span in self.spans if span.name == name]

    def wait_for(self, name: str, count: int = 1) -> list[Exported]:
        """Wait until so many spans of this name have come; returns them."""

        def have_come() -> bool:
            return len(self.named(name)) >= count

        wait_until(have_come, f"{count} spans {name!r} never came, but {[one.name for one in self.spans]}")
        return self.named(name)


def _exported(service: str, span: Any) -> Exported:
    return Exported(
        service,
        span.name,
        span.kind,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        [(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        _attributes(span.attributes),
        [(event.name, _attributes(event.attributes)) for event in span.events],
        span.status.code == 2,
        span.status.message,
    )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    found = getattr(value, kind)
    return [_value(one) for one in found.values] if kind == "array_value" else found


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector that listens until the end of the block."""
    collector = Collector()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(collector.take))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    collector.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(take: Callable[[bytes], None]) -> type[BaseHTTPRequestHandler]:
    class Receiving(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            take(self.rfile.read(int(self.headers["content-length"])))
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Receiving
