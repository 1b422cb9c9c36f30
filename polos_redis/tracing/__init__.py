"""OpenTelemetry: the spans of activations, step attempts and model calls, and the W3C trace context of
executions. Nothing here is loaded before an application has configured a tracer provider."""

from __future__ import annotations

from polos_redis.tracing.context import TraceContext, current, is_traced, received
from polos_redis.tracing.provider import configured_tracer

__all__ = ["TraceContext", "configured_tracer", "current", "is_traced", "received"]
