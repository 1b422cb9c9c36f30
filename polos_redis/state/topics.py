"""Topics: their events and their subscribers.

A subscriber is a wait, `f<entry> <execution id> <step key>`, or a workflow that the topic triggers,
`t<workflow id>`. Its position is the stream id of the last event it received.
"""

from __future__ import annotations

import os

from polos_redis.state import keys, scripts
from polos_redis.state.partitions import Partitions
from polos_redis.state.start import Start
from polos_redis.values.text import raw, text

EMPTY_MS = 60_000  # how long an empty stream lasts that somebody follows before there is an execution
REPEATED_MS = 60_000  # beyond the patience: how long a call that was given up may still arrive


class Topics:
    """All topics of the namespace."""

    def __init__(self, partitions: Partitions) -> None:
        self._partitions = partitions
        self._wire = partitions.wire
        self._acknowledging = partitions.acknowledging

    def _key(self, kind: str, topic: str) -> bytes:
        return self._partitions.topic_prefix(topic) + kind.encode() + raw(topic)

    # --- events ---

    async def publish(
        self, topic: str, execution_id: str, retention_ms: int, event_type: str, data: bytes, once: str = ""
    ) -> bytes:
        """Add an event to a topic; returns its stream id.

        A call that is repeated because its reply was lost adds nothing. Under a name (`once`), only the first
        call within the retention does.
        """
        patience = self._partitions.patience
        entry: bytes = await self._acknowledging.call_script(
            scripts.PUBLISH,
            self._partitions.topic_prefix(topic),
            raw(topic),
            execution_id,
            retention_ms,
            raw(event_type),
            data,
            once or os.urandom(16).hex(),
            "" if once or patience is None else int(patience * 2000) + REPEATED_MS,
            patience=patience,
        )
        return entry

    async def event(self, topic: str, event: str) -> list[bytes] | None:
        """Returns an event of a topic, [type, data, ..]; None if it was trimmed."""
        found = await self._wire.call(
            "XRANGE", self._key(keys.TOPIC, topic), event, event, patience=self._partitions.patience
        )
        return found[0][1] if found else None

    async def event_after(self, topic: str, position: str) -> tuple[str, list[bytes] | None]:
        """Returns the first event of a topic after a position, as its id and [type, data, ..]."""
        found = await self.events_after(topic, position.encode(), 1)
        return (text(found[0][0]), found[0][1]) if found else ("", None)

    async def last_to_deliver(self, topic: str) -> bytes | None:
        """Returns the id of the last event that errands have to deliver to all waits, if there is one."""
        key = self._key(keys.SUBS, topic)
        last: bytes | None = await self._wire.call("HGET", key, "g", patience=self._partitions.patience)
        return last

    async def events_after(self, topic: str, position: bytes, count: int) -> list[tuple[bytes, list[bytes]]]:
        """Returns the events of a topic after a position: (stream id, [type, data, ..])."""
        key = self._key(keys.TOPIC, topic)
        found = await self._wire.call(
            "XRANGE", key, b"(" + position, "+", "COUNT", count, patience=self._partitions.patience
        )
        return [(entry, flat) for entry, flat in found]

    async def follow(self, topic: str) -> None:
        """See to it that the stream of an execution's own topic exists before it is read. Most executions
        have none until somebody follows them; then it holds all that has happened."""
        step_key, execution_id = keys.parse_topic(topic)
        if step_key is None and execution_id == topic:
            await self._wire.call_script(
                scripts.FOLLOW,
                self._partitions.topic_prefix(topic),
                raw(topic),
                EMPTY_MS,
                patience=self._partitions.patience,
            )

    def stream_key(self, topic: str) -> bytes:
        """The key of a topic's stream, for a tail that reads it."""
        return self._key(keys.TOPIC, topic)

    async def last(self, topic: str) -> bytes:
        """Returns the stream id of a topic's last entry; 0-0 if it has none."""
        key, patience = self._key(keys.TOPIC, topic), self._partitions.patience
        found = await self._wire.call("XREVRANGE", key, "+", "-", "COUNT", 1, patience=patience)
        return bytes(found[0][0]) if found else b"0-0"

    async def count_in(self, topic: str, entry: str) -> int:
        """The number of events in one entry of a topic; 0 when the entry is gone."""
        key, patience = self._key(keys.TOPIC, topic), self._partitions.patience
        found = await self._wire.call("XRANGE", key, entry, entry, patience=patience)
        return len(found[0][1]) // 2 if found else 0

    async def ends_at(self, topic: str, position: bytes) -> bool:
        """Whether a topic has no entry after a position."""
        key, patience = self._key(keys.TOPIC, topic), self._partitions.patience
        return not await self._wire.call("XRANGE", key, b"(" + position, "+", "COUNT", 1, patience=patience)

    # --- subscribers ---

    async def subscribe(self, topic: str, member: str) -> bytes:
        """Subscribe to a topic from now on; returns the position. An existing subscriber keeps its
        position. One of a wait that is not
        open a minute later, nor about to be, ends."""
        position: bytes = await self._wire.call_script(
            scripts.SUBSCRIBE,
            self._partitions.topic_prefix(topic),
            raw(topic),
            raw(member),
            patience=self._partitions.patience,
        )
        return position

    async def unsubscribe(self, topic: str, member: str) -> None:
        """End a subscription, at any position."""
        await self._wire.call_script(
            scripts.UNSUBSCRIBE,
            self._partitions.topic_prefix(topic),
            raw(topic),
            raw(member),
            patience=self._partitions.patience,
        )

    async def subscribers(self, topic: str) -> dict[str, bytes]:
        """Returns the subscribers of a topic and their positions."""
        key = self._key(keys.SUBS, topic)
        found: dict[str, bytes] = {}
        cursor = b"0"
        while True:
            cursor, flat = await self._wire.call(
                "HSCAN", key, cursor, "COUNT", 500, patience=self._partitions.patience
            )
            found |= {text(member): position for member, position in zip(flat[::2], flat[1::2], strict=True)}
            if cursor == b"0":
                return found

    async def advance(self, topic: str, member: str, at: bytes, to: bytes) -> bool:
        """Move a subscriber from one position to another (`to` empty: end the subscription); False if it is
        no longer at the first one."""
        return bool(
            await self._wire.call_script(
                scripts.ADVANCE_SUBSCRIPTION,
                self._partitions.topic_prefix(topic),
                raw(topic),
                raw(member),
                at,
                to,
                patience=self._partitions.patience,
            )
        )

    async def deliver(self, subscriber: str, event: str, kind: bytes, data: bytes) -> int:
        """Resolve a wait by an event: 1; 0 if it does not wait, -1 if it has subscribed but not opened."""
        prefix = self._partitions.prefix(subscriber.split(" ", 2)[1])
        decided: int = await self._wire.call_script(
            scripts.DELIVER_EVENT,
            prefix,
            raw(subscriber),
            event,
            kind,
            data,
            patience=self._partitions.patience,
        )
        return decided

    async def trigger(
        self,
        topic: str,
        workflow_id: str,
        *,
        at: bytes,
        to: bytes,
        not_before: int,
        execution_id: str,
        input: bytes,
        retention_ms: int,
        start: Start,
    ) -> int:
        """Start an execution with the events between two positions of a workflow's subscription.

        Returns 0 if it was started, the ms until it may be (`not_before`), or -1 if the subscription is no
        longer at the first position.
        """
        waits: int = await self._wire.call_script(
            scripts.TRIGGER_WORKFLOW,
            self._partitions.topic_prefix(topic),
            raw(topic),
            raw(workflow_id),
            at,
            to,
            not_before,
            execution_id,
            input,
            retention_ms,
            start.pack(self._partitions, execution_id),
            patience=self._partitions.patience,
        )
        return waits
