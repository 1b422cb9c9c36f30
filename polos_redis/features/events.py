"""The names of `polos_redis.events`, at the import path that Polos uses."""

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
