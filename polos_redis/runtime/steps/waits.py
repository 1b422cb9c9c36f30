"""`ctx.step.wait_for`, `wait_until`, `wait_for_event`: durable waits for a time or an event.

A topic may live in another partition than the execution. Then the wait is subscribed there first and opened
second, so no event is missed; a worker's errand delivers the event.
"""

from __future__ import annotations

from collections.abc import Coroutine
from datetime import datetime, timedelta
from typing import Any

from polos_redis.errors import WaitTimeoutError
from polos_redis.events import EventPayload, payload
from polos_redis.runtime.branches import one_wait, race_membership
from polos_redis.runtime.call_sites import CallSite, caller
from polos_redis.runtime.steps.calls import Calls
from polos_redis.state import keys
from polos_redis.state.journal import WaitRecord
from polos_redis.values.text import raw
from polos_redis.values.times import checked_ms, milliseconds, span


class Waits(Calls):
    """Steps that wait for a time or an event."""

    __slots__ = ()

    # --- times --------------------------------------------------------------------------

    def wait_for(
        self,
        key: str,
        seconds: float = 0,
        minutes: float = 0,
        hours: float = 0,
        days: float = 0,
        weeks: float = 0,
    ) -> Coroutine[Any, Any, None]:
        """Wait for a duration, the sum of the parts, by the server's clock from when the wait first opened.

        The execution is parked and holds no slot. A total of 0 or less is over immediately.
        """
        self._refuse_inside_step(key, "wait_for")
        for_ms = span(f"wait {key!r}", seconds=seconds, minutes=minutes, hours=hours, days=days, weeks=weeks)
        return self._wait_for_time(key, for_ms, None, caller())

    def wait_until(self, key: str, when: datetime) -> Coroutine[Any, Any, None]:
        """Wait until an aware datetime; one in the past is over immediately."""
        self._refuse_inside_step(key, "wait_until")
        return self._wait_for_time(key, None, checked_ms(f"wait {key!r}", when), caller())

    @one_wait
    async def _wait_for_time(
        self, key: str, for_ms: int | None, until_ms: int | None, call_site: CallSite
    ) -> None:
        stored = await self._start_call(key, call_site)
        if stored is None:
            stored = await self._open(key, for_ms, until_ms)
        await self._decision(key, stored, WaitRecord, call_site)

    # --- events -------------------------------------------------------------------------

    def wait_for_event(
        self, key: str, topic: str, timeout: float | timedelta | None = None
    ) -> Coroutine[Any, Any, EventPayload]:
        """Wait for the first event published to a topic after the wait was opened.

        Events are published by `events.publish`, `publish_event` and `publish_workflow_event`. Raises
        `WaitTimeoutError` (a `StepExecutionError`) when none came within `timeout` seconds.
        """
        self._refuse_inside_step(key, "wait_for_event")
        keys.check_text(f"wait {key!r}: a topic", topic, keys.LONGEST_TOPIC)
        return self._wait_for_event(key, topic, timeout, caller())

    @one_wait
    async def _wait_for_event(
        self, key: str, topic: str, timeout: float | timedelta | None, call_site: CallSite
    ) -> EventPayload:
        activation = self._activation
        timeout_ms = milliseconds(f"wait {key!r}", timeout)
        stored = await self._start_call(key, call_site)
        if stored is None:
            who = f"{activation.fence.entry.decode()} {activation.id} {key}"
            if activation.host.store.partitions.topic_prefix(topic) == activation.fence.prefix:
                stored = await self._open(key, timeout_ms, None, topic, f"w{who}")
            else:
                stored = await self._open_far(key, timeout_ms, topic, f"f{who}")
        record = await self._decision(key, stored, WaitRecord, call_site)
        if record.status == "expired":
            raise WaitTimeoutError(key, topic, (record.due_ms - record.opened_ms) / 1000)
        data = await self._decode_foreign(key, record.data)
        return payload(record.topic, record.event_id, record.event_type, data)

    async def _open(
        self, key: str, for_ms: int | None, until_ms: int | None, topic: str = "", subscriber: str = ""
    ) -> bytes:
        activation = self._activation
        events, races = activation.events.first(), race_membership()
        store, name = activation.host.store, raw(key)
        return await self._commit_wait(
            key,
            lambda known: store.fenced.wait(
                activation.fence,
                known,
                name,
                for_ms=for_ms,
                until_ms=until_ms,
                topic=topic,
                subscriber=subscriber,
                race_membership=races,
                events=events,
            ),
        )

    async def _open_far(self, key: str, timeout_ms: int | None, topic: str, subscriber: str) -> bytes:
        """Wait for an event of a topic in another partition: subscribe there first, so no event is missed."""
        activation = self._activation
        activation.in_flight += 1
        try:
            topics = activation.host.store.topics
            await activation.journal.ask(lambda: topics.subscribe(topic, subscriber))
            return await self._open(key, timeout_ms, None, topic, subscriber)
        except BaseException:
            activation.host.spawn(self._unsubscribe(key, topic, subscriber))
            raise
        finally:
            activation.landed()

    async def _unsubscribe(self, key: str, topic: str, subscriber: str) -> None:
        """End a subscription, unless its wait did open: then the wait's decision ends it."""
        store = self._activation.host.store
        (stored,) = await store.executions.read_records(self._activation.id, [raw(key)])
        if stored is None:
            await store.topics.unsubscribe(topic, subscriber)
