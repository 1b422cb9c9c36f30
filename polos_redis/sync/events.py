"""Events without asyncio: publish to topics, and stream what executions and user code publish.

Each function is that of the same name in `polos_redis.events`, and takes a `polos_redis.sync.PolosClient`.
The streams are `Stream`s.
"""

from polos_redis import events
from polos_redis.events import BatchEventPayload, Event, EventData, EventPayload
from polos_redis.sync.calls import blocking, streaming

__all__ = [
    "BatchEventPayload",
    "Event",
    "EventData",
    "EventPayload",
    "publish",
    "stream_topic",
    "stream_workflow",
]

publish = blocking(events.publish)
stream_topic = streaming(events.stream_topic)
stream_workflow = streaming(events.stream_workflow)
