"""The span of an activation: what it says, and how the next activation finds it.

No span stays open while an execution waits. The activation that is about to leave stores the place of its
span with the origin of the execution, and the next one has a link to it. All of them are in one trace: that
of the span that started the execution, or else of its first activation.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Protocol

from polos_redis import tasks
from polos_redis.definitions.definition import WorkflowDefinition
from polos_redis.runtime.code_tasks import CodeTasks
from polos_redis.runtime.host import Host
from polos_redis.state import keys
from polos_redis.state.fencing import Fence
from polos_redis.state.origin import Origin
from polos_redis.tracing import TraceContext

if TYPE_CHECKING:
    from polos_redis.tracing.spans import Span, Tracer


class Traced(Protocol):
    """An activation, as its span sees it."""

    id: str
    root: str
    run: int
    queue: str
    workflow: WorkflowDefinition[Any, Any]
    host: Host[Any]
    fence: Fence
    code: CodeTasks
    origin: Origin


def activation_span(tracer: Tracer, activation: Traced) -> Span | None:
    """Start the span of an activation that has read its origin."""
    origin = activation.origin
    attributes: dict[str, str | int] = {
        "polos.workflow.id": activation.workflow.id,
        "polos.execution.id": activation.id,
        "polos.root_execution.id": activation.root,
        "polos.run": activation.run,
        "polos.queue": keys.parse_stream(activation.queue)[0],
    }
    parent = TraceContext.parse(origin.traceparent, origin.tracestate)
    previous = TraceContext.parse(origin.last_span)
    return tracer.activation(f"activation {activation.workflow.id}", attributes, parent, previous)


def noted(activation: Traced, span: Span) -> Origin:
    """Returns the origin of an execution with the place of the activation's span, if it has one."""
    place, origin = span.place, activation.origin
    if place is None:
        return origin
    start = TraceContext.parse(origin.traceparent, origin.tracestate) or place
    return dataclasses.replace(
        origin,
        traceparent=start.traceparent,
        tracestate=start.tracestate or None,
        last_span=place.traceparent,
    )


def note_span(activation: Traced, span: Span) -> None:
    """Store the place of the span, before the write that ends the activation, without waiting for it."""
    origin = noted(activation, span)
    if origin is activation.origin:
        return
    future = activation.host.store.fenced.note_span(activation.fence, origin.pack())
    future.add_done_callback(tasks.mark_retrieved, context=tasks.OUTSIDE)
