"""Waits for events: delivers an event to the waits that the publishing script could not reach.

The script that publishes an event serves the waits of its own partition. Errands serve the others, and all of
them if they are too many for one script.
"""

from __future__ import annotations

import asyncio

from polos_redis.state.store import Store
from polos_redis.values.text import raw, text

OPENING_MS = 50  # a wait opens within about this time after it has subscribed
DELIVERED = "g"  # the subscriber that marks the last event errands have delivered
BATCH = 100  # waits that get an event concurrently


async def deliver(store: Store, rest: str) -> int | None:
    """Deliver an event to the waits that were subscribed when it was published. Returns the ms until it has
    to be repeated because a wait is about to open, None if all waits have the event."""
    event, _, topic = rest.partition(" ")
    found = await store.topics.event(topic, event)
    if found is not None and not await _deliver_all(store, topic, event, found):
        return OPENING_MS
    await store.topics.advance(topic, DELIVERED, raw(event), b"")
    return None


async def unsubscribe(store: Store, rest: str) -> None:
    """End a wait's subscription."""
    size, _, both = raw(rest).partition(b" ")
    topic, subscriber = both[: int(size)], both[int(size) :]
    await store.topics.unsubscribe(text(topic), text(subscriber))


async def _deliver_all(store: Store, topic: str, event: str, found: list[bytes]) -> bool:
    """Deliver an event to all waits that are due it; returns whether all have it."""
    waits = [
        subscriber
        for subscriber, position in (await store.topics.subscribers(topic)).items()
        if subscriber[0] in "wf" and _is_due(text(position), event)
    ]
    done = [
        await _deliver_batch(store, topic, waits[i : i + BATCH], event, found)
        for i in range(0, len(waits), BATCH)
    ]
    return all(done)


async def _deliver_batch(store: Store, topic: str, waits: list[str], event: str, found: list[bytes]) -> bool:
    """Deliver an event to some waits concurrently; returns whether all have it or have stopped waiting."""
    kind, data = found[:2]
    delivered = (store.topics.deliver(wait, event, kind, data) for wait in waits)
    decided = await asyncio.gather(*delivered, return_exceptions=True)
    over = [wait for wait, code in zip(waits, decided, strict=True) if isinstance(code, int) and code >= 0]
    await asyncio.gather(*(store.topics.unsubscribe(topic, wait) for wait in over))
    for failure in decided:
        if isinstance(failure, BaseException):
            raise failure  # of a partition that is away: the waits of the others have the event
    return len(over) == len(waits)


def _is_due(position: str, event: str) -> bool:
    """Whether a wait is due an event: one after its position, and no later than the event it has already
    (`position=event`)."""
    after, _, own = position.partition("=")
    return _order(after) < _order(event) and (not own or _order(event) <= _order(own))


def _order(event: str) -> tuple[int, int]:
    """Returns a stream id as numbers that compare by time."""
    ms, _, sequence = event.partition("-")
    return int(ms), int(sequence)
