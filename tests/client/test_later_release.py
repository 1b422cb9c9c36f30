"""What a later release may add, and this one ignores: fields, and types of events."""

from __future__ import annotations

from typing import Any

import msgpack
from hypothesis import given
from hypothesis import strategies as st

from polos_redis import PolosClient, Workflow, WorkflowContext, events
from polos_redis.definitions.published import PublishedDefinition
from polos_redis.state import keys
from polos_redis.state.origin import Origin
from polos_redis.state.stuck import StuckReason
from polos_redis.triggers.stored_schedule import StoredSchedule
from polos_redis.values import codec
from polos_redis.values.text import raw
from tests.harness.running import running, soon

names = st.text(st.characters(codec="ascii", categories=["Ll"]), min_size=1).map("later_{}".format)
later = st.dictionaries(names, st.one_of(st.none(), st.integers(0, 9), st.text(max_size=5)), min_size=1)


async def _asks(ctx: WorkflowContext, input: Any) -> Any:
    return (await ctx.step.suspend("ask"))["data"]


asks: Workflow[Any, Any] = Workflow(_asks, "later-asks")


@given(later)
def test_later_fields_of_an_origin_are_ignored(more: dict[str, Any]) -> None:
    origin = Origin("wf", user_id="ann", started_by="bob")
    stored = codec.encode({**codec.decode(origin.pack()), **more})
    assert Origin.unpack("wf", stored) == origin


@given(later)
def test_later_fields_of_a_definition_are_ignored(more: dict[str, Any]) -> None:
    definition = PublishedDefinition.of(asks)
    stored = msgpack.packb({**msgpack.unpackb(definition.pack()), **more})
    assert PublishedDefinition.unpack(stored).pack() == definition.pack()


@given(later)
def test_later_fields_of_a_schedule_are_ignored(more: dict[str, Any]) -> None:
    schedule = StoredSchedule("wf", "0 9 * * *", "UTC", "daily", declared=True, created=1)
    stored = msgpack.packb({**msgpack.unpackb(schedule.pack()), **more})
    assert StoredSchedule.unpack(stored) == schedule


@given(later)
def test_later_fields_of_a_reason_for_being_stuck_are_ignored(more: dict[str, Any]) -> None:
    reason = StuckReason("unreached", ("ok",), "flow.py:7", "its code has not reached ok")
    stored = msgpack.packb({**msgpack.unpackb(reason.pack()), **more})
    assert StuckReason.parse(stored) == reason


async def test_an_execution_with_later_fields_runs(redis_url: str, namespace: str) -> None:
    async with PolosClient(redis_url, namespace) as client:
        handle = await asks.invoke(client, None, user_id="ann")
        store = await client.store()
        key = store.partitions.prefix(handle.id) + keys.EXEC.encode() + handle.id.encode()
        origin = codec.decode(await store.wire.call("HGET", key, "origin"))
        await store.wire.call("HSET", key, "origin", codec.encode({**origin, "later": 1}), "later", "1")
    async with running(redis_url, namespace, asks) as at:
        handle = at.client.get_handle(handle.id)
        await at.opened(handle, "ask")
        execution = await at.client.get_execution(handle.id)
        assert execution.user_id == "ann"
        await at.answer(handle, "ask", 7)
        assert await at.result(handle) == 7


async def test_events_of_later_types_are_passed_on(redis_url: str, namespace: str) -> None:
    """A stream yields them, and ends by the types that this release knows."""
    async with running(redis_url, namespace, asks) as at:
        handle = await asks.invoke(at.client, None)
        stream = events.stream_workflow(at.client, handle.root_workflow_id, handle.id)
        seen = []

        async def read() -> None:
            async for event in stream:
                seen.append(event.event_type)
                if event.event_type == "suspend_ask":
                    store = await at.client.store()
                    topic = store.partitions.prefix(handle.id) + keys.TOPIC.encode() + raw(handle.id)
                    await store.wire.call("XADD", topic, "*", "execution_upgraded", codec.encode({"to": 2}))
                elif event.event_type == "execution_upgraded":
                    assert event.data == {"to": 2}
                    await at.answer(handle, "ask", 7)

        await soon(read())
        assert seen.index("suspend_ask") < seen.index("execution_upgraded") < seen.index("workflow_finish")
        assert seen[-1] == "workflow_finish"
