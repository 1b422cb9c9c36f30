"""Subscriptions: starting the workflows that a topic's events trigger.

A workflow's subscription lives with its topic, and so do the executions it starts: an execution and the
position of the last event it was given are one atomic change. So each event starts one execution, in the
order of the topic, whichever worker leads the timers of the partition.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from polos_redis.definitions.published import definition_of
from polos_redis.errors import PolosError
from polos_redis.events import encode_batch, encode_payload
from polos_redis.executions.starting import queue_of, start_options
from polos_redis.state import keys
from polos_redis.state.store import Store

logger = logging.getLogger("polos.worker")

READ = 100  # events read at a time
IN_A_ROW = 500  # events handled before other errands get their turn
RETRY_MS = 1000  # until a workflow that could not be triggered is tried again


def subscriber(workflow_id: str) -> str:
    """A workflow's name among the subscribers of a topic."""
    return f"t{workflow_id}"


async def trigger_all(store: Store, retention_ms: int, largest_input: int, topic: str) -> int | None:
    """Trigger every workflow subscribed to a topic; returns the ms until that has to be repeated, None when
    all events are handled. A workflow that fails does not hold up the others."""
    again: int | None = None
    for member, position in (await store.topics.subscribers(topic)).items():
        if not member.startswith("t"):
            continue
        try:
            wait = await trigger(store, topic, member[1:], position, retention_ms, largest_input)
        except PolosError as error:
            facts = {"topic": topic, "to": member, "error": str(error)}
            logger.error("events can't be given", extra=facts)
            wait = RETRY_MS
        if wait is not None:
            again = wait if again is None else min(again, wait)
    return again


async def trigger(
    store: Store, topic: str, workflow_id: str, position: bytes, retention_ms: int, largest_input: int
) -> int | None:
    """Start a workflow with the events of a topic after a position; returns the ms until that has to be
    repeated, None when all events are handled. A batch's input is at most `largest_input` bytes, unless it
    consists of one event."""
    definition = await definition_of(store, workflow_id)
    start = start_options(definition, workflow_id, None, queue=queue_of(definition, workflow_id, None))
    partition, size = store.prefixes.index(store.partitions.topic_prefix(topic)), definition.batch_size
    patience_ms = int((definition.batch_timeout or 0) * 1000)
    count = max(READ, size)
    given = 0
    while given < IN_A_ROW:
        found = await store.topics.events_after(topic, position, count)
        more = len(found) == count
        while found and (not more or len(found) >= size):
            payloads = [encode_payload(topic, entry, flat[0], flat[1]) for entry, flat in found[:size]]
            fitting = _fitting(payloads, largest_input)
            first, last = found[0][0], found[fitting - 1][0]
            full = fitting == size or fitting < len(payloads)
            waits = await store.topics.trigger(
                topic,
                workflow_id,
                at=position,
                to=last,
                not_before=0 if full else int(first.partition(b"-")[0]) + patience_ms,
                execution_id=keys.id_in(
                    partition, store.partitions.number, workflow_id, topic, first.decode()
                ),
                input=payloads[0] if size == 1 else encode_batch(payloads[:fitting]),
                retention_ms=retention_ms,
                start=start,
            )
            if waits:
                return max(0, waits)  # -1: another worker was quicker, so look again
            position, found, given = last, found[fitting:], given + fitting
        if not more:
            return None
    return 0


def _fitting(payloads: Sequence[bytes], largest: int) -> int:
    """Returns how many payloads fit into one input: at least one."""
    total = 0
    for index, payload in enumerate(payloads):
        total += len(payload)
        if index and total > largest:
            return index
    return len(payloads)
