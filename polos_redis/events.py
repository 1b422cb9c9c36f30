"""Event streams: what executions tell while they run, and what user code publishes.

A stream entry holds one event or several that were told in one write (a step's start and its finish): pairs
of type and data. An event's id is the entry's id and its place in it, so a reader continues in the middle.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from polos_redis.connection.connection import Connection
from polos_redis.decisions import answers
from polos_redis.errors import EventsTrimmedError, ExecutionNotFoundError, InvalidInputError
from polos_redis.state import keys
from polos_redis.state.executions import FINISHED
from polos_redis.state.store import Store
from polos_redis.values import codec
from polos_redis.values.text import raw, text
from polos_redis.values.times import to_datetime
from polos_redis.values.validation import GeneratedInput

EPOCH_MS = 1_577_836_800_000  # 2020: keeps sequence ids below 2 ** 53, as JSON readers need
PLACES = 8  # events per entry that a sequence id tells apart
RESERVED = {"workflow_start", "workflow_finish", "workflow_retry"}  # readers rely on these to be true
IDLE_SECONDS = 5.0  # then the end of the execution is looked for where its finish event can't be seen


@dataclass(frozen=True, slots=True)
class EventData:
    """An event to publish: its type, and any storable value."""

    event_type: str
    data: Any = None


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a topic. `sequence_id` rises within a topic; `created_at` is the server's time;
    `metadata` has the execution's id ("execution_id") for events of an execution's topics."""

    id: str
    sequence_id: int
    topic: str
    event_type: str
    data: Any
    created_at: datetime
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EventPayload(GeneratedInput):
    """An event as `wait_for_event` returns it and a triggered workflow is given it."""

    id: str
    sequence_id: int
    topic: str
    event_type: str
    data: Any
    created_at: datetime


@dataclass(frozen=True, slots=True)
class BatchEventPayload(GeneratedInput):
    """Several events, in order, as a workflow triggered in batches is given them."""

    events: list[EventPayload]


def payload(topic: str, entry: bytes, event_type: str, data: Any) -> EventPayload:
    """One event of a stream entry as a payload."""
    event = _event(topic, entry, 0, raw(event_type), data)
    return EventPayload(event.id, event.sequence_id, topic, event.event_type, data, event.created_at)


def encode_payload(topic: str, entry: bytes, event_type: bytes, data: bytes) -> bytes:
    """An `EventPayload` as an input is stored, around data of a type that need not be known here."""
    event = payload(topic, entry, text(event_type), None)
    fields = {name: codec.encode(getattr(event, name)) for name in EventPayload.__slots__}
    return codec.encode_record(EventPayload, {**fields, "data": data})


def encode_batch(payloads: Sequence[bytes]) -> bytes:
    """A `BatchEventPayload` of payloads that are encoded already."""
    return codec.encode_record(BatchEventPayload, {"events": codec.encode_list(payloads)})


async def publish_once(
    connection: Connection, topic: str, event: EventData, once: str, execution_id: str
) -> str:
    """Publish an event once under a name, however often this is called within the retention; returns its id.
    On a root's stream, `execution_id` marks it as a descendant's."""
    step_key, topics_execution = _checked(topic, event)
    if event.event_type == "resume" and step_key is not None and topics_execution is not None:
        return await publish(connection, topic, event)
    data = codec.encode(event.data, limit=connection.max_value_bytes)
    kind = f"{event.event_type}\0{execution_id}" if execution_id else event.event_type
    store = await connection.store()
    return _event_id(
        await store.topics.publish(topic, topics_execution or "", connection.retention_ms, kind, data, once),
        0,
    )


async def publish(connection: Connection, topic: str, event: EventData) -> str:
    """Publish an event to a topic; returns its id.

    A "resume" event on a suspension's topic (`{step_key}/{execution_id}`) is a resume, with the same
    outcomes and errors as `connection.resume`.
    """
    step_key, execution_id = _checked(topic, event)
    if event.event_type == "resume" and step_key is not None and execution_id is not None:
        resumed = await answers.decide(connection, execution_id, step_key, event.data, channel="topic")
        return f"resume-{resumed.outcome}"
    data = codec.encode(event.data, limit=connection.max_value_bytes)
    store = await connection.store()
    entry = await store.topics.publish(
        topic, execution_id or "", connection.retention_ms, event.event_type, data
    )
    return _event_id(entry, 0)


def _checked(topic: str, event: EventData) -> tuple[str | None, str | None]:
    """Refuse what can't be published; (step key, execution id) of the topic, where it has them."""
    if not isinstance(topic, str) or not topic:
        raise InvalidInputError(f"a topic is a text that is not empty, not {topic!r}")
    if not isinstance(event.event_type, str) or not event.event_type or "\0" in event.event_type:
        raise InvalidInputError(
            f"an event_type is a text that is not empty and has no NUL in it, not {event.event_type!r}"
        )
    step_key, execution_id = keys.parse_topic(topic)
    if step_key is None and execution_id is not None and event.event_type in RESERVED:
        raise InvalidInputError(
            f"{event.event_type!r} events of an execution's own stream are told by its worker only"
        )
    return step_key, execution_id


async def stream_topic(
    connection: Connection, topic: str, *, last_event_id: str | None = None, plain: bool = False
) -> AsyncIterator[Event]:
    """The events of a topic, from its beginning or after `last_event_id`; goes on for ever.

    Survives reconnects and restarts of Redis without gap or duplicate. Raises `EventsTrimmedError` when the
    event to continue from is no longer there. With `plain=True` data is plain JSON, and no type need be
    imported here.
    """
    found = await follow(connection, topic, last_event_id=last_event_id, plain=plain)
    assert found is not None
    async for event in found:
        yield event


async def stream_workflow(
    connection: Connection,
    root_workflow_id: str,
    root_execution_id: str,
    *,
    last_event_id: str | None = None,
    plain: bool = False,
) -> AsyncIterator[Event]:
    """The events of an execution, from its beginning or after `last_event_id`; ends after its finish event.

    Types: workflow_start, step_start, step_finish, suspend_K, resume_K, timeout_K, workflow_finish, and what
    user code publishes. With `plain=True` data is plain JSON, and no type need be imported here. Raises
    `ExecutionNotFoundError`.
    """
    topic = keys.root_of(root_execution_id)
    found = await follow(
        connection, topic, execution_id=root_execution_id, last_event_id=last_event_id, plain=plain
    )
    if found is not None:
        async for event in found:
            yield event


async def follow(
    connection: Connection,
    topic: str,
    *,
    execution_id: str | None = None,
    last_event_id: str | None = None,
    plain: bool = False,
) -> AsyncIterator[Event] | None:
    """As `stream_topic`, or with `execution_id` as `stream_workflow` (of the topic that is its root's), but
    what those raise at their beginning is raised here. None when the execution has ended and nothing follows
    the event to continue from."""
    store = await connection.store()
    if execution_id is not None and not await _exists(store, execution_id):
        raise ExecutionNotFoundError(execution_id)
    key = store.partitions.topic_prefix(topic) + keys.TOPIC.encode() + raw(topic)
    after, skip = await _start(store, key, topic, last_event_id)
    if last_event_id and execution_id is not None and await _is_over(store, key, after, execution_id):
        return None
    return _read(connection, topic, key, after, skip, execution_id, plain)


async def _read(
    connection: Connection,
    topic: str,
    key: bytes,
    after: bytes,
    skip: int,
    execution_id: str | None,
    plain: bool,
) -> AsyncIterator[Event]:
    session = await connection.session()
    store = session.store
    while True:
        entries = await session.tail.next(key, after, IDLE_SECONDS)
        for entry_id, flat in entries:
            count = len(flat) // 2
            for place in range(count):
                if place < skip:
                    continue
                kind, data = flat[2 * place], flat[2 * place + 1]
                value = codec.to_plain(data) if plain else codec.decode(data)
                event = _event(topic, entry_id, place, kind, value)
                yield event
                if (
                    execution_id is not None
                    and event.event_type == "workflow_finish"
                    and event.metadata["execution_id"] == execution_id
                    and await _is_last_run(store, execution_id, value)
                ):
                    return
            after, skip = entry_id, 0
        if not entries and execution_id is not None and await _is_over(store, key, after, execution_id):
            return


async def _exists(store: Store, execution_id: str) -> bool:
    (status,) = await store.executions.read_fields(execution_id, "status")
    return status is not None


async def _is_last_run(store: Store, execution_id: str, finish: Any) -> bool:
    """Whether a finish event is that of the last run: a failed execution may have been retried since."""
    (run,) = await store.executions.read_fields(execution_id, "run")
    told = finish.get("run", 1) if isinstance(finish, dict) else 1
    return run is None or told >= int(run)


async def _is_over(store: Store, key: bytes, after: bytes, execution_id: str) -> bool:
    """Whether an execution ended before the event to continue from: nothing of it is to come."""
    (status,) = await store.executions.read_fields(execution_id, "status")
    if status is not None and text(status) not in FINISHED:
        return False
    # its end and its last event are one write: what can't be seen now will not come
    return not await store.wire.call(
        "XRANGE", key, b"(" + after, "+", "COUNT", 1, patience=store.partitions.patience
    )


async def _start(store: Store, key: bytes, topic: str, last_event_id: str | None) -> tuple[bytes, int]:
    """Where to read from: the stream id to read after, and how many events of the next entry to skip."""
    if last_event_id is None or last_event_id in ("", "0", "0-0"):
        return b"0-0", 0
    entry, _, place = last_event_id.partition(".")
    ms, _, sequence = entry.partition("-")
    try:
        order = (int(ms), int(sequence or 0))
        skip = int(place) + 1 if place else 0
        if min(*order, skip) < 0 or not place.isascii():
            raise ValueError
    except ValueError:
        raise InvalidInputError(f"last_event_id is the id of an event, not {last_event_id!r}") from None
    name = f"{order[0]}-{order[1]}"
    found = await store.wire.call("XRANGE", key, name, name, patience=store.partitions.patience)
    if not found:
        raise EventsTrimmedError(
            f"topic {topic!r} no longer has event {last_event_id!r}: what followed it may be gone too; "
            "read from the beginning instead"
        )
    if not skip or skip >= len(found[0][1]) // 2:
        return name.encode(), 0
    before = f"{order[0]}-{order[1] - 1}" if order[1] else f"{order[0] - 1}-{2**64 - 1}"
    return before.encode(), skip


def _event(topic: str, entry: bytes, place: int, kind: bytes, data: Any) -> Event:
    ms, _, sequence = entry.partition(b"-")
    name, _, child = text(kind).rpartition("\0")
    if not name or not keys.is_execution_id(child):  # a step key may have a NUL in it
        name, child = text(kind), ""
    execution_id = child or keys.parse_topic(topic)[1]
    return Event(
        id=_event_id(entry, place),
        sequence_id=(((int(ms) - EPOCH_MS) << 10) + int(sequence)) * PLACES + min(place, PLACES - 1),
        topic=topic,
        event_type=name,
        data=data,
        created_at=to_datetime(int(ms)),
        metadata={"execution_id": execution_id} if execution_id else {},
    )


def _event_id(entry: bytes, place: int) -> str:
    return f"{entry.decode()}.{place}"
