"""Spans: what an activation, a step's attempt and a model call report to OpenTelemetry.

A sampler, a processor or an exporter is the application's code: what it raises is logged, once per process,
and changes nothing for the execution.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from polos_redis import failures
from polos_redis.redaction import redact_text
from polos_redis.tracing.context import TraceContext, place_of
from polos_redis.version import __version__

logger = logging.getLogger("polos.execution")

Attributes = Mapping[str, str | int | float | bool | Sequence[str]]

_reported: set[type[BaseException]] = set()


def _report(error: Exception) -> None:
    if type(error) not in _reported:
        _reported.add(type(error))
        logger.warning(
            "tracing failed; the execution goes on without it", extra={"error": failures.line_of(error)}
        )


class Span:
    """A span of the runtime. `context` has it as the active one."""

    __slots__ = ("_span", "_tracer", "context")

    def __init__(self, tracer: trace.Tracer, span: trace.Span, parent: Context) -> None:
        self._tracer = tracer
        self._span = span
        self.context = trace.set_span_in_context(span, parent)

    def enter(self) -> None:
        """Make this the active span of the context variables that this is called with."""
        otel_context.attach(self.context)

    def child(self, name: str, attributes: Attributes) -> Span | None:
        """Start a span inside the active one, which may be the code's own, or inside this one where none is
        active."""
        active = otel_context.get_current()
        if not trace.get_current_span(active).get_span_context().is_valid:
            active = self.context
        return _start(self._tracer, name, active, attributes, SpanKind.INTERNAL)

    @contextmanager
    def calling(self, name: str, attributes: Attributes) -> Iterator[Span | None]:
        """A span of a call of another service, below the active span: active in the block, with its error."""
        span = _start(self._tracer, name, otel_context.get_current(), attributes, SpanKind.CLIENT)
        if span is None:
            yield None
            return
        token = otel_context.attach(span.context)
        try:
            yield span
        except BaseException as error:
            if failures.is_a(error, Exception):
                span.fail(error)
            raise
        finally:
            otel_context.detach(token)
            span.end()

    def note(self, attributes: Attributes) -> None:
        """Add attributes."""
        try:
            self._span.set_attributes(attributes)
        except Exception as error:
            _report(error)

    def fail(self, error: BaseException) -> None:
        """Record what was raised, with secrets redacted, and set the status."""
        if not self._span.is_recording():
            return
        kind, line = failures.name_of(error), redact_text(failures.line_of(error))
        attributes = {
            "exception.type": kind,
            "exception.message": redact_text(failures.text_of(error)),
            "exception.stacktrace": redact_text(failures.traceback_of(error)),
        }
        try:
            self._span.set_attribute("error.type", kind)
            self._span.add_event("exception", attributes)
            self._span.set_status(Status(StatusCode.ERROR, line))
        except Exception as raised:
            _report(raised)

    def end(self) -> None:
        """End the span, unless it has ended."""
        try:
            if self._span.is_recording():
                self._span.end()
        except Exception as error:
            _report(error)

    @property
    def place(self) -> TraceContext | None:
        """Its place in the trace."""
        return place_of(self._span.get_span_context())

    @property
    def ids(self) -> dict[str, str]:
        """Its trace and span id, as a log record has them."""
        return _ids(self._span.get_span_context())

    @property
    def active_ids(self) -> dict[str, str]:
        """The ids of the active span, or of this one where none is active, as in a thread of the code's
        own."""
        found = trace.get_current_span().get_span_context()
        return _ids(found) if found.is_valid else self.ids


class Tracer:
    """Starts the spans of activations."""

    __slots__ = ("_tracer",)

    def __init__(self) -> None:
        self._tracer = trace.get_tracer("polos_redis", __version__)

    def activation(
        self, name: str, attributes: Attributes, parent: TraceContext | None, previous: TraceContext | None
    ) -> Span | None:
        """Start the span of an activation, in the trace of its execution's start, with a link to that of the
        activation before. Without a parent, a new trace begins."""
        context = Context()
        if parent is not None:
            context = trace.set_span_in_context(trace.NonRecordingSpan(_span_context(parent)), context)
        links = () if previous is None else (Link(_span_context(previous)),)
        return _start(self._tracer, name, context, attributes, SpanKind.CONSUMER, links)


def _start(
    tracer: trace.Tracer,
    name: str,
    context: Context,
    attributes: Attributes,
    kind: SpanKind,
    links: Sequence[Link] = (),
) -> Span | None:
    try:
        span = tracer.start_span(name, context, kind, attributes, links)
        return Span(tracer, span, context) if span.get_span_context().is_valid else None
    except Exception as error:
        _report(error)
        return None


def _ids(found: SpanContext) -> dict[str, str]:
    return {"trace_id": f"{found.trace_id:032x}", "span_id": f"{found.span_id:016x}"}


def _span_context(place: TraceContext) -> SpanContext:
    state = TraceState.from_header([place.tracestate]) if place.tracestate else None
    return SpanContext(
        place.trace_id, place.span_id, is_remote=True, trace_flags=TraceFlags(place.flags), trace_state=state
    )
