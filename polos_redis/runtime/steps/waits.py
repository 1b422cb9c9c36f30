"""`ctx.step.wait_for`, `wait_until`, `wait_for_event`: durable waits for a time or an event; publishing
events."""

from __future__ import annotations

import functools
from collections.abc import Coroutine
from datetime import datetime, timedelta
from typing import Any

from polos_redis.errors import InvalidInputError, WaitTimeoutError
from polos_redis.events import EventData, EventPayload, payload, publish_once
from polos_redis.runtime.activation import CallSite
from polos_redis.runtime.steps.calls import caller, decoded, one_wait, race_membership
from polos_redis.runtime.steps.run import Runs
from polos_redis.runtime.steps.times import milliseconds, moment, span
from polos_redis.state.journal import WaitRecord
from polos_redis.state.store import raw


class Waits(Runs):
    """Waits for times and events; and what other executions may wait for."""

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
        """Wait for a while, by the server's clock from when the wait first opened; the parts add up.

        The execution is parked and holds nothing. A total of 0 or less is over at once.
        """
        self._refuse_inside_step(key, "wait_for")
        for_ms = span(f"wait {key!r}", seconds=seconds, minutes=minutes, hours=hours, days=days, weeks=weeks)
        return self._wait_for_time(key, for_ms, None, caller())

    def wait_until(self, key: str, when: datetime) -> Coroutine[Any, Any, None]:
        """Wait until a moment, an aware datetime; one in the past is over at once."""
        self._refuse_inside_step(key, "wait_until")
        return self._wait_for_time(key, None, moment(f"wait {key!r}", when), caller())

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

        Published means by `events.publish`, `publish_event` or `publish_workflow_event`. Raises
        `WaitTimeoutError` (a `StepExecutionError`) when none came within `timeout` seconds.
        """
        self._refuse_inside_step(key, "wait_for_event")
        if not isinstance(topic, str) or not topic:
            raise InvalidInputError(f"wait {key!r}: a topic is a text that is not empty, not {topic!r}")
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
            if activation.host.store.topic_prefix(topic) == activation.fence.prefix:
                stored = await self._open(key, timeout_ms, None, topic, f"w{who}")
            else:
                stored = await self._open_far(key, timeout_ms, topic, f"f{who}")
        record = await self._decision(key, stored, WaitRecord, call_site)
        if record.status == "expired":
            raise WaitTimeoutError(key, topic, (record.due_ms - record.opened_ms) / 1000)
        return payload(record.topic, record.event_id, record.event_type, decoded(record.data))

    async def _open(
        self, key: str, for_ms: int | None, until_ms: int | None, topic: str = "", subscriber: str = ""
    ) -> bytes:
        activation = self._activation
        events, races = activation.first_events(), race_membership()
        store, name = activation.host.store, raw(key)
        return await self._commit_wait(
            key,
            lambda known: store.wait(
                activation.fence, known, name, for_ms, until_ms, topic, subscriber, races, events
            ),
        )

    async def _open_far(self, key: str, timeout_ms: int | None, topic: str, subscriber: str) -> bytes:
        """Wait for an event of a topic in another partition: subscribe there first, so none is missed."""
        activation = self._activation
        activation.in_flight += 1
        try:
            await activation.host.store.subscribe(topic, subscriber)
            return await self._open(key, timeout_ms, None, topic, subscriber)
        except BaseException:
            activation.host.spawn(self._unsubscribe(key, topic, subscriber))
            raise
        finally:
            activation.landed()

    async def _unsubscribe(self, key: str, topic: str, subscriber: str) -> None:
        """End a subscription unless its wait has opened all the same: then its decision ends it."""
        store = self._activation.host.store
        (stored,) = await store.read_records(self._activation.id, [raw(key)])
        if stored is None:
            await store.unsubscribe(topic, subscriber)

    # --- telling others -----------------------------------------------------------------

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
        activation = self._activation
        event = EventData(event_type or "event", data)
        call = functools.partial(self._publish, key, activation.root, event)
        return self._run(key, True, call, 2, 1.0, 10.0, caller())

    async def _publish(self, key: str, topic: str, event: EventData) -> str:
        activation = self._activation
        mark = activation.id if topic == activation.root != activation.id else ""
        once = self.idempotency_key(f"publish {key}")
        return await publish_once(activation.host.client, topic, event, once, mark)

    def resume(
        self,
        key: str,
        suspend_step_key: str,
        suspend_execution_id: str,
        suspend_workflow_id: str | None = None,
        data: Any = None,
        *,
        resumed_by: str | None = None,
    ) -> Coroutine[Any, Any, None]:
        """Answer a suspension of another execution, once; its refusals are `StepExecutionError`s."""
        client, by = self._activation.host.client, resumed_by or f"execution {self._activation.id}"

        async def answer() -> None:
            await client.resume(
                suspend_workflow_id=suspend_workflow_id,
                suspend_execution_id=suspend_execution_id,
                suspend_step_key=suspend_step_key,
                data=data,
                resumed_by=by,
                channel="workflow",
            )

        return self._run(key, True, answer, 0, 0.0, 0.0, caller())
