"""The W3C trace context that an execution is started in: the active span's, or that of a received request.

None of this needs OpenTelemetry. A server without it stores the context of a request for the workers.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, Protocol

LONGEST_STATE = 512  # characters of a tracestate; a longer one is dropped, as the standard allows

_PARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_STATE = re.compile(r"[\x20-\x7e]*")


class TraceContext(NamedTuple):
    """The place of a span in its trace, as the headers `traceparent` and `tracestate` have it."""

    traceparent: str
    tracestate: str = ""

    @classmethod
    def parse(cls, traceparent: str | None, tracestate: str | None = None) -> TraceContext | None:
        """Returns the context of these headers, None if `traceparent` is missing or malformed: the standard
        has it ignored then."""
        found = _PARENT.fullmatch(traceparent or "")
        if found is None or traceparent is None or (traceparent.startswith("00") and found[4]):
            return None
        state = tracestate or ""
        if len(state) > LONGEST_STATE or not _STATE.fullmatch(state):
            state = ""
        return cls(f"00-{found[1]}-{found[2]}-{found[3]}", state)

    @property
    def trace_id(self) -> int:
        return int(self.traceparent[3:35], 16)

    @property
    def span_id(self) -> int:
        return int(self.traceparent[36:52], 16)

    @property
    def flags(self) -> int:
        return int(self.traceparent[53:], 16)


_RECEIVED: ContextVar[TraceContext | None] = ContextVar("polos_received_trace", default=None)


class SpanPlace(Protocol):
    """OpenTelemetry's `SpanContext`."""

    @property
    def trace_id(self) -> int: ...
    @property
    def span_id(self) -> int: ...
    @property
    def trace_flags(self) -> int: ...
    @property
    def trace_state(self) -> Any: ...


def place_of(found: SpanPlace) -> TraceContext | None:
    """Returns the place of a span, None if it is none."""
    ids = f"00-{found.trace_id:032x}-{found.span_id:016x}-{found.trace_flags:02x}"
    return TraceContext.parse(ids, found.trace_state.to_header())


@contextmanager
def received(context: TraceContext | None) -> Iterator[None]:
    """Executions that are started in this block, outside any span, belong to the context of a request."""
    token = _RECEIVED.set(context)
    try:
        yield
    finally:
        _RECEIVED.reset(token)


def is_traced() -> bool:
    """Whether an execution that is started here belongs to a trace: `current` is not None, at less cost."""
    api = sys.modules.get("opentelemetry.trace")
    if api is not None and api.get_current_span().get_span_context().is_valid:
        return True
    return _RECEIVED.get() is not None


def current() -> TraceContext | None:
    """Returns the context of the active span, else that of the received request, if there is one."""
    api = sys.modules.get("opentelemetry.trace")
    if api is not None:
        found = api.get_current_span().get_span_context()
        if found.is_valid:
            return place_of(found)
    return _RECEIVED.get()
