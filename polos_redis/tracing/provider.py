"""Whether an application traces: it has imported OpenTelemetry and configured a tracer provider."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from polos_redis.tracing.spans import Tracer


def configured_tracer() -> Tracer | None:
    """Returns the tracer of the configured provider, None if there is none."""
    api = sys.modules.get("opentelemetry.trace")
    if api is None:
        return None
    if isinstance(api.get_tracer_provider(), (api.ProxyTracerProvider, api.NoOpTracerProvider)):
        return None
    from polos_redis.tracing.spans import Tracer

    return Tracer()
