"""Event streams, as `polos_redis.events` has them."""

from __future__ import annotations

from polos_redis.events import (
    BatchEventPayload,
    Event,
    EventData,
    EventPayload,
    publish,
    stream_topic,
    stream_workflow,
)

__all__ = [
    "BatchEventPayload",
    "Event",
    "EventData",
    "EventPayload",
    "publish",
    "stream_topic",
    "stream_workflow",
]
