"""Waits for events: delivers an event to the waits that the publishing script could not reach.

The script that publishes an event serves the waits of its own partition. Errands serve the others, and all of
them if they are too many for one script.
"""

from __future__ import annotations

import asyncio

from polos_redis.state.journal import waits_as
from polos_redis.state.store import Store
from polos_redis.values.text import raw, text

CHECK_AGAIN_MS = 60_000  # while a wait is about to open
OPENING_MS = 50  # a wait opens within about this time after it has subscribed
DELIVERED = "g"  # the subscriber that marks the last event errands have delivered
BATCH = 100  # waits that get an event concurrently


async def deliver(store: Store, topic: str) -> int | None:
    """Deliver to each wait of a topic the event that it is due: the first one published after it had
    subscribed. Returns the ms until this has to be repeated because a wait is about to open, None if all
    waits have their events."""
    last = await store.topics.last_to_deliver(topic)  # before the subscribers: a later event repeats this
    if await _deliver_all(store, topic, last):
        return OPENING_MS
    if last is not None:
        await store.topics.advance(topic, DELIVERED, last, b"")
    return None


async def unsubscribe(store: Store, rest: str) -> None:
    """End a wait's subscription."""
    await store.topics.unsubscribe(*_subscription(rest))


async def check(store: Store, rest: str) -> int | None:
    """End a wait's subscription unless the wait is open, and its decision ends it, or about to be: the worker
    may have died before it opened the wait. Returns the ms until this has to be repeated, None for never."""
    topic, subscriber = _subscription(rest)
    entry, execution_id, step_key = subscriber[1:].split(" ", 2)
    # The entry first: a wait that is not about to open by then, and is not open later, never will be.
    status, at_work = await store.executions.read_fields(execution_id, "status", "entry")
    (record,) = await store.executions.read_records(execution_id, [raw(step_key)])
    if record is None and status == b"queued" and at_work == raw(entry):
        return CHECK_AGAIN_MS
    if record is None or not waits_as(record, subscriber):
        await store.topics.unsubscribe(topic, subscriber)
    return None


def _subscription(rest: str) -> tuple[str, str]:
    """Returns the topic and the subscriber that an errand's name ends with."""
    size, _, both = raw(rest).partition(b" ")
    return text(both[: int(size)]), text(both[int(size) :])


async def _deliver_all(store: Store, topic: str, last: bytes | None) -> bool:
    """Deliver all events up to the last one; returns whether a wait is about to open."""
    due: dict[str, list[str]] = {}  # "=event" that a wait is due, or the position after which it has none yet
    for subscriber, position in (await store.topics.subscribers(topic)).items():
        after, _, event = text(position).partition("=")
        if subscriber[0] in "wf" and (event or (last is not None and _order(after) < _order(text(last)))):
            due.setdefault(f"={event}" if event else after, []).append(subscriber)
    opening, delivery = False, _Delivery(store, topic)
    for place, waits in due.items():
        if place.startswith("="):
            event, found = place[1:], await store.topics.event(topic, place[1:])
        else:
            event, found = await store.topics.event_after(topic, place)
        if found is not None and (place.startswith("=") or _order(event) <= _order(text(last or b"0-0"))):
            for i in range(0, len(waits), BATCH):
                opening |= await delivery.to(waits[i : i + BATCH], event, found)
    if delivery.failure is not None:
        raise delivery.failure
    return opening


class _Delivery:
    """One pass over the waits of a topic. A partition that fails once is not asked again: the waits of the
    others get their events, and `failure` is raised in the end."""

    def __init__(self, store: Store, topic: str) -> None:
        self.failure: BaseException | None = None
        self._store = store
        self._topic = topic
        self._away: set[bytes] = set()

    async def to(self, waits: list[str], event: str, found: list[bytes]) -> bool:
        """Deliver an event to some waits concurrently; returns whether one of them is about to open."""
        topics, (kind, data, *_) = self._store.topics, found
        asked = [wait for wait in waits if self._prefix(wait) not in self._away]
        delivered = (topics.deliver(wait, event, kind, data) for wait in asked)
        decided = await asyncio.gather(*delivered, return_exceptions=True)
        over = []
        for wait, code in zip(asked, decided, strict=True):
            if isinstance(code, BaseException):
                self.failure = code
                self._away.add(self._prefix(wait))
            elif code >= 0:
                over.append(wait)
        await asyncio.gather(*(topics.unsubscribe(self._topic, wait) for wait in over))
        return -1 in decided

    def _prefix(self, wait: str) -> bytes:
        return self._store.partitions.prefix(wait.split(" ", 2)[1])


def _order(event: str) -> tuple[int, int]:
    """Returns a stream id as numbers that compare by time."""
    ms, _, sequence = event.partition("-")
    return int(ms), int(sequence)
