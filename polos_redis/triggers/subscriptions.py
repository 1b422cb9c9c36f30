"""Subscriptions: the workflows that a topic's events trigger.

A subscription lives in its topic's partition, and so do the executions it starts. Starting an execution and
moving the subscription past its events is one atomic change, so each event starts exactly one execution, in
the order of the topic, whichever worker is the partition's timer leader.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from polos_redis import failures
from polos_redis.definitions.published import definition_of
from polos_redis.errors import PolosError
from polos_redis.events import encode_batch, encode_payload
from polos_redis.executions.starting import start_options
from polos_redis.state import keys
from polos_redis.state.store import Store

logger = logging.getLogger("polos.worker")

READ = 100  # events per read, at least
IN_A_ROW = 500  # events handled before other errands get their turn
RETRY_MS = 1000  # until a workflow that could not be triggered is tried again


def subscriber(workflow_id: str) -> str:
    """A workflow's name among the subscribers of a topic."""
    return f"t{workflow_id}"


async def trigger_all(store: Store, retention_ms: int, largest_input: int, topic: str) -> int | None:
    """Trigger every workflow subscribed to a topic; one that fails does not delay the others.

    Returns the ms until this must run again; None when all events are handled.
    """
    waits: list[int] = []
    for member, position in (await store.topics.subscribers(topic)).items():
        if not member.startswith("t"):
            continue
        try:
            wait = await trigger(store, topic, member[1:], position, retention_ms, largest_input)
        except Exception as error:
            facts = {"topic": topic, "workflow": member[1:], "error": failures.text_of(error)}
            known = failures.is_a(error, PolosError)
            logger.error("a workflow could not be triggered", extra=facts, exc_info=None if known else error)
            wait = RETRY_MS
        if wait is not None:
            waits.append(wait)
    return min(waits, default=None)


async def trigger(
    store: Store, topic: str, workflow_id: str, position: bytes, retention_ms: int, largest_input: int
) -> int | None:
    """Start a workflow for the events of a topic after a position.

    The input of a batch is at most `largest_input` bytes, unless it has only one event. Returns the ms until
    this must run again; None when all events are handled.
    """
    definition = await definition_of(store, workflow_id)
    start = start_options(definition, workflow_id)
    partition, size = store.prefixes.index(store.partitions.topic_prefix(topic)), definition.batch_size
    batch_timeout_ms = int((definition.batch_timeout or 0) * 1000)
    count = max(READ, size)
    handled = 0
    while handled < IN_A_ROW:
        entries = await store.topics.events_after(topic, position, count)
        more = len(entries) == count
        while entries and (not more or len(entries) >= size):
            payloads = [encode_payload(topic, entry, flat[0], flat[1]) for entry, flat in entries[:size]]
            fitting = _fitting(payloads, largest_input)
            first, last = entries[0][0], entries[fitting - 1][0]
            full = fitting == size or fitting < len(payloads)
            wait = await store.topics.trigger(
                topic,
                workflow_id,
                at=position,
                to=last,
                not_before=0 if full else int(first.partition(b"-")[0]) + batch_timeout_ms,
                execution_id=keys.id_in(
                    partition, store.partitions.number, "trigger", workflow_id, topic, first.decode()
                ),
                input=payloads[0] if size == 1 else encode_batch(payloads[:fitting]),
                retention_ms=retention_ms,
                start=start,
            )
            if wait:
                return max(0, wait)  # -1: another worker moved the subscription, so read it again
            position, entries, handled = last, entries[fitting:], handled + fitting
        if not more:
            return None
    return 0


def _fitting(payloads: Sequence[bytes], largest: int) -> int:
    """The number of payloads that fit into one input, at least one."""
    total = 0
    for index, payload in enumerate(payloads):
        total += len(payload)
        if index and total > largest:
            return index
    return len(payloads)
