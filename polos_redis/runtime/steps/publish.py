"""`ctx.step.publish_event` and `publish_workflow_event`: events that are published once."""

from __future__ import annotations

import functools
from collections.abc import Coroutine
from typing import Any

from polos_redis.events import EventData, publish_once
from polos_redis.runtime.call_sites import caller
from polos_redis.runtime.steps.values import Values
from polos_redis.values.times import to_us


class Publishing(Values):
    """Steps that publish an event. A repeated attempt publishes nothing new."""

    __slots__ = ()

    def publish_event(
        self, key: str, topic: str, data: Any = None, event_type: str | None = None
    ) -> Coroutine[Any, Any, str]:
        """Publish an event to a topic, once however often this is replayed; returns its id."""
        event = EventData(event_type or "event", data)
        call = functools.partial(self._publish, key, topic, event)
        return self._run(key, True, call, 2, 1.0, 10.0, caller())

    def publish_workflow_event(
        self, key: str, data: Any = None, event_type: str | None = None
    ) -> Coroutine[Any, Any, str]:
        """Publish an event, once, to the stream that `stream_workflow` reads: the root execution's."""
        event = EventData(event_type or "event", data)
        call = functools.partial(self._publish, key, self._activation.root, event)
        return self._run(key, True, call, 2, 1.0, 10.0, caller())

    async def _publish(self, key: str, topic: str, event: EventData) -> str:
        activation = self._activation
        mark = activation.id if topic == activation.root != activation.id else ""
        # Not the id alone: a deleted execution may be started again under its id, and publishes again then.
        created_at = await self._created_at()
        once = self.idempotency_key(f"publish {to_us(created_at)} {key}")
        connection = activation.host.connection
        return await activation.journal.ask(lambda: publish_once(connection, topic, event, once, mark))
