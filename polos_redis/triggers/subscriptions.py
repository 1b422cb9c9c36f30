"""Beginning the workflows that a topic's events trigger.

A workflow's subscription lives with its topic, and so do the executions it begins: an execution and the place
of the last event it was given are one atomic change. So each event begins one execution, in the order of the
topic, whoever holds the partition's pump.
"""

from __future__ import annotations

from collections.abc import Sequence

from polos_redis.definitions.published import definition_of
from polos_redis.events import encode_batch, encode_payload
from polos_redis.executions.starting import queue_of, start_options
from polos_redis.state import keys
from polos_redis.state.store import Store

READ = 100  # events read at a time
IN_A_ROW = 500  # events given before other errands have their turn


def subscriber(workflow_id: str) -> str:
    """A workflow's name among those who want a topic's events."""
    return f"t{workflow_id}"


async def trigger(
    store: Store, topic: str, workflow_id: str, position: bytes, retention_ms: int, largest_input: int
) -> int | None:
    """Begin a workflow with the events of a topic after a place; ms until it is to be done again, None when
    all is given. A batch's input is no larger than `largest_input` bytes, unless its only event is."""
    definition = await definition_of(store, workflow_id)
    start = start_options(definition, workflow_id, None, queue=queue_of(definition, workflow_id, None))
    partition, size = store.prefixes.index(store.topic_prefix(topic)), definition.batch_size
    patience_ms = int((definition.batch_timeout or 0) * 1000)
    count = max(READ, size)
    given = 0
    while given < IN_A_ROW:
        found = await store.events_after(topic, position, count)
        more = len(found) == count
        while found and (not more or len(found) >= size):
            payloads = [encode_payload(topic, entry, flat[0], flat[1]) for entry, flat in found[:size]]
            fitting = _fitting(payloads, largest_input)
            first, last = found[0][0], found[fitting - 1][0]
            full = fitting == size or fitting < len(payloads)
            waits = await store.trigger(
                topic,
                workflow_id,
                position,
                last,
                0 if full else int(first.partition(b"-")[0]) + patience_ms,
                keys.id_in(partition, store.partitions, workflow_id, topic, first.decode()),
                payloads[0] if size == 1 else encode_batch(payloads[:fitting]),
                retention_ms,
                start,
            )
            if waits:
                return max(0, waits)  # -1: another was quicker, so what is there now is looked at again
            position, found, given = last, found[fitting:], given + fitting
        if not more:
            return None
    return 0


def _fitting(payloads: Sequence[bytes], largest: int) -> int:
    """How many payloads fit into one input: at least one."""
    total = 0
    for index, payload in enumerate(payloads):
        total += len(payload)
        if index and total > largest:
            return index
    return len(payloads)
