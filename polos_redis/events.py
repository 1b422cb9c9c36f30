"""Events: publish to topics, and stream what executions and user code publish.

A topic is one Redis stream. An entry holds one event, or several that were written together (a step's start
and its finish), as pairs of type and data. An event's id is `<entry id>.<index>`, so a reader can continue in
the middle of an entry.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from polos_redis.connection.clients import takes_client
from polos_redis.connection.connection import Connection
from polos_redis.decisions import answers
from polos_redis.errors import EventsTrimmedError, ExecutionNotFoundError, InvalidInputError
from polos_redis.state import keys
from polos_redis.state.executions import FINISHED
from polos_redis.state.store import Store
from polos_redis.values import codec
from polos_redis.values.preview import LARGE
from polos_redis.values.text import raw, text
from polos_redis.values.times import to_datetime
from polos_redis.values.validation import GeneratedInput
from polos_redis.wire.durable import Durability

__all__ = [
    "BatchEventPayload",
    "Event",
    "EventData",
    "EventPayload",
    "publish",
    "stream_topic",
    "stream_workflow",
]

EPOCH_MS = 1_577_836_800_000  # 2020: keeps sequence ids below 2 ** 53, as JSON readers need
INDEXES = 8  # events of one entry that get distinct sequence ids
RESERVED = {
    "workflow_start",
    "workflow_finish",
    "workflow_retry",
    "workflow_continue",
}  # only the runtime emits these
IDLE_SECONDS = 5.0  # a stream this quiet checks whether its execution has ended


@dataclass(frozen=True, slots=True)
class EventData:
    """An event to publish: its type and any storable value."""

    event_type: str
    data: Any = None


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a topic.

    `sequence_id` increases within a topic. `created_at` is the server's time. For topics of an execution,
    `metadata` contains its id as "execution_id".
    """

    id: str
    sequence_id: int
    topic: str
    event_type: str
    data: Any
    created_at: datetime
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EventPayload(GeneratedInput):
    """One event: the result of `wait_for_event`, and the input of a workflow that an event triggers."""

    id: str
    sequence_id: int
    topic: str
    event_type: str
    data: Any
    created_at: datetime


@dataclass(frozen=True, slots=True)
class BatchEventPayload(GeneratedInput):
    """Several events, oldest first: the input of a workflow that a batch of events triggers."""

    events: list[EventPayload]


# --- payloads, as waits return them and inputs store them -------------------------------


def payload(topic: str, entry: bytes, event_type: str, data: Any) -> EventPayload:
    """The first event of a stream entry, as a payload."""
    event = _event(topic, entry, 0, raw(event_type), data)
    return EventPayload(event.id, event.sequence_id, topic, event.event_type, data, event.created_at)


def encode_payload(topic: str, entry: bytes, event_type: bytes, data: bytes) -> bytes:
    """Encode an `EventPayload` around data that is encoded already, so its type need not be imported."""
    event = payload(topic, entry, text(event_type), None)
    fields = {name: codec.encode(getattr(event, name)) for name in EventPayload.__slots__}
    return codec.encode_record(EventPayload, {**fields, "data": data})


def encode_batch(payloads: Sequence[bytes]) -> bytes:
    """Encode a `BatchEventPayload` of encoded payloads."""
    return codec.encode_record(BatchEventPayload, {"events": codec.encode_list(payloads)})


# --- publishing -------------------------------------------------------------------------


@takes_client
async def publish(
    client: Connection, topic: str, event: EventData, *, durability: Durability | None = None
) -> str:
    """Publish an event to a topic and return its id.

    A "resume" event on a suspension's topic, `{step_key}/{execution_id}`, answers that suspension, with the
    outcomes and errors of `client.resume`. `durability` as in `PolosClient`.
    """
    return await _publish(client, topic, event, durability)


async def publish_once(client: Connection, topic: str, event: EventData, once: str, execution_id: str) -> str:
    """Publish an event once per name (`once`) within the retention; return its id.

    On a root's topic, `execution_id` names the descendant that publishes.
    """
    return await _publish(client, topic, event, "server", once, execution_id)


async def _publish(
    client: Connection,
    topic: str,
    event: EventData,
    durability: Durability | None,
    once: str = "",
    publisher: str = "",
) -> str:
    step_key, execution_id = _validate(topic, event)
    if event.event_type == "resume" and step_key is not None and execution_id is not None:
        resumed = await answers.decide(
            client, execution_id, step_key, event.data, channel="topic", durability=durability
        )
        return f"resume-{resumed.outcome}"
    data = codec.encode(event.data, limit=client.max_value_bytes)
    kind = f"{event.event_type}\0{publisher}" if publisher else event.event_type
    store = await client.acknowledging_store(durability)
    retention_ms = client.retention_ms
    return _event_id(await store.topics.publish(topic, execution_id or "", retention_ms, kind, data, once), 0)


def _validate(topic: str, event: EventData) -> tuple[str | None, str | None]:
    """Return the step key and the execution id in a topic's name. Raises `InvalidInputError`."""
    keys.check_text("a topic", topic, keys.LONGEST_TOPIC)
    if "\0" in keys.check_text("an event_type", event.event_type):
        raise InvalidInputError(f"an event_type must not contain NUL, as {event.event_type!r} does")
    step_key, execution_id = keys.parse_topic(topic)
    if step_key is None and execution_id is not None and event.event_type in RESERVED:
        raise InvalidInputError(
            f"{event.event_type!r} events of an execution's own topic are published by its worker only"
        )
    return step_key, execution_id


# --- streaming --------------------------------------------------------------------------


@takes_client
async def stream_topic(
    client: Connection, topic: str, *, last_event_id: str | None = None, plain: bool = False
) -> AsyncIterator[Event]:
    """Stream the events of a topic from its beginning, or from after `last_event_id` ("$": only new ones);
    never ends.

    Survives reconnects and restarts of Redis without a gap or a duplicate. With `plain=True`, data is plain
    JSON, so no type need be imported. Raises `EventsTrimmedError` when the event to continue from is gone.
    """
    events = await follow(client, topic, last_event_id=last_event_id, plain=plain)
    assert events is not None
    async for event in events:
        yield event


@takes_client
async def stream_workflow(
    client: Connection,
    root_workflow_id: str,
    root_execution_id: str,
    *,
    last_event_id: str | None = None,
    plain: bool = False,
) -> AsyncIterator[Event]:
    """Stream the events of an execution from its beginning, or from after `last_event_id` ("$": only new
    ones).

    Ends after the execution's finish event. Event types are workflow_start, step_start, step_progress,
    step_finish, suspend_K, resume_K and timeout_K (K is the step key), workflow_finish, and whatever user
    code publishes. With `plain=True`, data is plain JSON, so no type need be imported.

    Raises `ExecutionNotFoundError`, or `EventsTrimmedError` when the event to continue from is gone.
    """
    topic = keys.root_of(root_execution_id)
    events = await follow(
        client, topic, execution_id=root_execution_id, last_event_id=last_event_id, plain=plain
    )
    if events is not None:
        async for event in events:
            yield event


async def follow(
    client: Connection,
    topic: str,
    *,
    execution_id: str | None = None,
    last_event_id: str | None = None,
    plain: bool = False,
) -> AsyncIterator[Event] | None:
    """Open a stream: `stream_topic`, or with `execution_id` `stream_workflow` on its root's topic.

    Raises here, not at the first event. Returns None when the execution has ended and no event follows
    `last_event_id`.
    """
    keys.check_text("a topic", topic, keys.LONGEST_TOPIC)
    store = await client.store()
    if execution_id is not None and not await _exists(store, execution_id):
        raise ExecutionNotFoundError(execution_id)
    await store.topics.follow(topic)
    after, skip = await _position(store, topic, last_event_id)
    if last_event_id and execution_id is not None and await _is_over(store, topic, after, execution_id):
        return None
    return _read(client, topic, after, skip, execution_id, plain)


async def _read(
    client: Connection, topic: str, after: bytes, skip: int, execution_id: str | None, plain: bool
) -> AsyncIterator[Event]:
    session = await client.session()
    store, key = session.store, session.store.topics.stream_key(topic)
    while True:
        if not session.checked:
            await session.check()
        entries = await session.tail.next(key, after, IDLE_SECONDS)
        for entry, flat in entries:
            for index in range(skip, len(flat) // 2):
                kind, stored = flat[2 * index], flat[2 * index + 1]
                event = _event(topic, entry, index, kind, await _data(stored, plain))
                yield event
                if execution_id is not None and await _is_last(store, execution_id, event):
                    return
            after, skip = entry, 0
        if not entries:
            await store.topics.follow(topic)  # the store may have gone back to before there was a stream
            if execution_id is not None and await _is_over(store, topic, after, execution_id):
                return


async def _data(stored: bytes, plain: bool) -> Any:
    """The data of an event. Readers of plain data share their event loop with others: what is large is
    decoded in a thread."""
    if not plain:
        return codec.decode(stored)
    return await asyncio.to_thread(codec.to_plain, stored) if len(stored) >= LARGE else codec.to_plain(stored)


async def _exists(store: Store, execution_id: str) -> bool:
    (status,) = await store.executions.read_fields(execution_id, "status")
    return status is not None


async def _is_last(store: Store, execution_id: str, event: Event) -> bool:
    """Whether an event finishes an execution's last run. A failed execution may have been retried since."""
    if event.event_type != "workflow_finish" or event.metadata["execution_id"] != execution_id:
        return False
    (run,) = await store.executions.read_fields(execution_id, "run")
    finished_run = event.data.get("run", 1) if isinstance(event.data, dict) else 1
    return run is None or finished_run >= int(run)


async def _is_over(store: Store, topic: str, after: bytes, execution_id: str) -> bool:
    """Whether an execution has ended and nothing follows a position in its topic."""
    (status,) = await store.executions.read_fields(execution_id, "status")
    if status is not None and text(status) not in FINISHED:
        return False
    # Its end and its last event are one write: an event that isn't there now will not come.
    return await store.topics.ends_at(topic, after)


async def _position(store: Store, topic: str, last_event_id: str | None) -> tuple[bytes, int]:
    """Return the stream id to read after, and the number of events to skip in the next entry."""
    if last_event_id is None or last_event_id in ("", "0", "0-0"):
        return b"0-0", 0
    if last_event_id == "$":
        return await store.topics.last(topic), 0
    entry, _, index = last_event_id.partition(".")
    ms, _, sequence = entry.partition("-")
    try:
        order = (int(ms), int(sequence or 0))
        skip = int(index) + 1 if index else 0
        if min(*order, skip) < 0 or not index.isascii():
            raise ValueError
    except ValueError:
        raise InvalidInputError(f"last_event_id must be the id of an event, not {last_event_id!r}") from None
    name = f"{order[0]}-{order[1]}"
    count = await store.topics.count_in(topic, name)
    if not count:
        raise EventsTrimmedError(
            f"topic {topic!r} no longer has event {last_event_id!r}, and may have lost later ones too: read "
            "from the beginning instead"
        )
    if not skip or skip >= count:
        return name.encode(), 0
    before = f"{order[0]}-{order[1] - 1}" if order[1] else f"{order[0] - 1}-{2**64 - 1}"
    return before.encode(), skip


def _event(topic: str, entry: bytes, index: int, kind: bytes, data: Any) -> Event:
    ms, _, sequence = entry.partition(b"-")
    name, _, publisher = text(kind).rpartition("\0")
    if not name or not keys.is_execution_id(publisher):  # a step key may contain a NUL
        name, publisher = text(kind), ""
    execution_id = publisher or keys.parse_topic(topic)[1]
    return Event(
        id=_event_id(entry, index),
        sequence_id=(((int(ms) - EPOCH_MS) << 10) + int(sequence)) * INDEXES + min(index, INDEXES - 1),
        topic=topic,
        event_type=name,
        data=data,
        created_at=to_datetime(int(ms)),
        metadata={"execution_id": execution_id} if execution_id else {},
    )


def _event_id(entry: bytes, index: int) -> str:
    return f"{entry.decode()}.{index}"
