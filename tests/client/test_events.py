"""Event streams: which events are emitted, in which order, to readers that come, go and return."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from pydantic import BaseModel

from polos_redis import (
    Event,
    EventData,
    EventsTrimmedError,
    ExecutionNotFoundError,
    InvalidInputError,
    PolosClient,
    Workflow,
    WorkflowContext,
    events,
)
from polos_redis.state.executions import Loaded
from polos_redis.state.fencing import Fence
from polos_redis.worker.host import TICK_SECONDS
from tests.harness.running import Running, connections, running, soon, until

pytestmark = pytest.mark.also_on_cluster


class Progress(BaseModel):
    percent: int


def flow(body: Any) -> Workflow[Any, Any]:
    """A workflow that need not be registered."""
    return Workflow(body, body.__name__)


async def _double(number: int) -> int:
    return number * 2


@flow
async def tells_a_story(ctx: WorkflowContext, input: int) -> int:
    first = await ctx.step.run("first", _double, input)
    await ctx.step.suspend("ask", {"first": first})
    return await ctx.step.run("second", _double, first)


STORY = [
    "workflow_start",
    "step_start",
    "step_finish",
    "suspend_ask",
    "resume_ask",
    "step_start",
    "step_finish",
    "workflow_finish",
]


async def test_a_slow_load_emits_no_second_start(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, tells_a_story) as at:
        load = at.host.store.executions.load

        async def load_slowly(by: Fence, version: str | None = None) -> Loaded | None:
            loaded = await load(by, version)
            ticks = asyncio.Event()  # the worker emits a start for what is still running at each of its ticks
            asyncio.get_running_loop().call_later(4 * TICK_SECONDS, ticks.set)
            await ticks.wait()
            return loaded

        at.host.store.executions.load = load_slowly  # type: ignore[method-assign]
        _, emitted = await _run(at)
        assert [event.event_type for event in emitted] == STORY


async def test_a_slow_reply_emits_no_second_step_start(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, tells_a_story) as at:
        write, tick, ticks = at.host.store.fenced.write, at.host.tick, 0

        def counted() -> None:
            nonlocal ticks
            ticks += 1
            tick()

        async def late(reply: asyncio.Future[int]) -> int:
            seen = ticks
            await until(lambda: ticks >= seen + 3, "the time of a start's notice to pass")
            return await reply

        at.host.tick = counted  # type: ignore[method-assign]
        at.host.store.fenced.write = lambda *call: asyncio.ensure_future(late(write(*call)))  # type: ignore[method-assign]
        _, emitted = await _run(at)
        assert [event.event_type for event in emitted] == STORY


async def _run(at: Running) -> tuple[str, list[Event]]:
    handle = await tells_a_story.invoke(at.client, 3)
    await at.parked(handle)
    await at.answer(handle, "ask")
    return handle.id, await at.events(handle)


async def test_a_run_emits_its_events_in_order(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, tells_a_story) as at:
        execution_id, emitted = await _run(at)
        assert [event.event_type for event in emitted] == STORY
        assert emitted[0].data == {"workflow_id": "tells_a_story", "execution_id": execution_id}
        assert emitted[1].data == {"step_key": "first", "attempt": 1}
        assert emitted[2].data == {"step_key": "first", "attempt": 1, "status": "ok"}
        assert emitted[3].data == {"first": 6}
        assert emitted[4].data["data"] == "yes"
        assert emitted[-1].data == {"status": "completed", "result": 12}
        assert {event.topic for event in emitted} == {execution_id}
        assert {event.metadata["execution_id"] for event in emitted} == {execution_id}
        numbers = [event.sequence_id for event in emitted]
        assert numbers == sorted(set(numbers))
        assert len({event.id for event in emitted}) == len(emitted)
        times = [event.created_at for event in emitted]
        assert times == sorted(times)
        assert all(time.utcoffset() is not None for time in times)


@pytest.mark.failure(31)
async def test_a_stream_continues_after_any_event(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, tells_a_story) as at:
        execution_id, emitted = await _run(at)
        assert len({event.id.partition(".")[0] for event in emitted}) < len(emitted), (
            "no entry has two events"
        )
        for place, event in enumerate(emitted):
            stream = events.stream_workflow(at.client, "tells_a_story", execution_id, last_event_id=event.id)
            rest = await soon(_all(stream))
            assert rest == emitted[place + 1 :]
            topic = events.stream_topic(at.client, execution_id, last_event_id=event.id)
            assert await soon(_take(topic, len(emitted) - place - 1)) == emitted[place + 1 :]


async def _all(stream: Any) -> list[Event]:
    return [event async for event in stream]


async def _take(stream: Any, count: int) -> list[Event]:
    found: list[Event] = []
    async with contextlib.aclosing(stream):
        while len(found) < count:
            found.append(await anext(stream))
    return found


@pytest.mark.failure(31)
@pytest.mark.promise("event stream")
async def test_a_reader_that_reconnects_for_each_event_misses_none(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, tells_a_story) as at:
        handle = await tells_a_story.invoke(at.client, 3)
        found: list[Event] = []
        while not found or found[-1].event_type != "workflow_finish":
            last = found[-1].id if found else None
            stream = events.stream_workflow(at.client, handle.workflow_id, handle.id, last_event_id=last)
            found += await soon(_take(stream, 1))
            if found[-1].event_type == "suspend_ask":
                await at.answer(handle, "ask")
        assert [event.event_type for event in found] == STORY


_go_on = asyncio.Event()


@flow
async def takes_its_time(ctx: WorkflowContext, input: int) -> None:
    async def wait() -> None:
        await _go_on.wait()

    await asyncio.gather(*(ctx.step.run(f"slow-{n}", wait) for n in range(input)))


@pytest.mark.failure(31)
@pytest.mark.parametrize("steps", [1, 40])
async def test_a_long_step_emits_its_start_while_it_runs(steps: int, redis_url: str, namespace: str) -> None:
    global _go_on
    _go_on = asyncio.Event()
    async with running(redis_url, namespace, takes_its_time) as at:
        handle = await takes_its_time.invoke(at.client, steps)
        stream = events.stream_workflow(at.client, handle.workflow_id, handle.id)
        started = await soon(_take(stream, 1 + steps))
        assert [event.event_type for event in started] == ["workflow_start", *["step_start"] * steps]
        _go_on.set()
        emitted = await at.events(handle)
        assert emitted[: 1 + steps] == started
        assert [event.event_type for event in emitted[1 + steps :]] == [
            *["step_finish"] * steps,
            "workflow_finish",
        ]
        numbers = [event.sequence_id for event in emitted]
        assert numbers == sorted(set(numbers)), "sequence ids increase"


@flow
async def does_nothing_for_a_while(ctx: WorkflowContext) -> None:
    await _go_on.wait()


async def test_a_long_run_without_steps_emits_its_start(redis_url: str, namespace: str) -> None:
    global _go_on
    _go_on = asyncio.Event()
    async with running(redis_url, namespace, does_nothing_for_a_while) as at:
        handle = await does_nothing_for_a_while.invoke(at.client)
        stream = events.stream_workflow(at.client, handle.workflow_id, handle.id)
        (start,) = await soon(_take(stream, 1))
        assert start.event_type == "workflow_start"
        _go_on.set()
        assert [e.event_type for e in await at.events(handle)] == ["workflow_start", "workflow_finish"]


@flow
async def fails(ctx: WorkflowContext) -> None:
    raise ValueError("no")


async def test_the_finish_event_has_the_error(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, fails, does_nothing_for_a_while) as at:
        finish = (await at.events(await fails.invoke(at.client)))[-1]
        assert finish.data == {"status": "failed", "error": "ValueError: no"}
    async with PolosClient(redis_url, namespace) as client:
        handle = await client.invoke(fails)
        await client.cancel(handle.id, cancelled_by="alice")
        (finish,) = await soon(_all(events.stream_workflow(client, "fails", handle.id)))
        assert finish.data == {"status": "cancelled", "cancelled_by": "alice"}


# --- topics -----------------------------------------------------------------------------


@pytest.mark.failure(21)
@pytest.mark.parametrize("topic", ["news", "a/b/c", "{braces}: and\nmore ünï", "x" * 1024])
async def test_any_topic_can_be_published_to(topic: str, redis_url: str, namespace: str) -> None:
    async with PolosClient(redis_url, namespace) as client:
        sent = [Progress(percent=5), {"a": (1, 2)}, None]
        ids = [await events.publish(client, topic, EventData("progress", data)) for data in sent]
        found = await soon(_take(events.stream_topic(client, topic), 3))
        assert [event.id for event in found] == ids
        assert [event.data for event in found] == sent
        assert {(event.topic, event.event_type) for event in found} == {(topic, "progress")}
        assert [e.sequence_id for e in found] == sorted({e.sequence_id for e in found})


async def test_a_reader_may_come_before_the_first_event(redis_url: str, namespace: str) -> None:
    async with PolosClient(redis_url, namespace) as client:
        reading = asyncio.create_task(_take(events.stream_topic(client, "later"), 2))
        for number in range(2):
            await events.publish(client, "later", EventData("n", number))
        assert [event.data for event in await soon(reading)] == [0, 1]


@flow
async def publishes(ctx: WorkflowContext) -> Any:
    return (await ctx.step.suspend("ask"))["data"]


@pytest.mark.failure(32)
async def test_a_workflow_can_publish_while_it_runs(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, publishes) as at:
        handle = await publishes.invoke(at.client)
        await at.parked(handle)
        progress = f"progress/{handle.id}"
        await events.publish(at.client, handle.id, EventData("progress", 1))
        await events.publish(at.client, progress, EventData("progress", 2))
        await events.publish(at.client, f"ask/{handle.id}", EventData("comment", "why?"))
        await at.answer(handle, "ask")
        assert "progress" in [event.event_type for event in await at.events(handle)]
        topic = events.stream_topic(at.client, f"ask/{handle.id}")
        assert [e.event_type for e in await soon(_take(topic, 3))] == ["suspend", "comment", "resume"]
        store = await at.client.store()
        for name in (handle.id, progress, f"ask/{handle.id}"):
            key = store.partitions.prefix(handle.id) + b"topic:" + name.encode()
            assert await store.wire.call("PTTL", key) > 0, name


@pytest.mark.parametrize(("topic", "kind"), [("", "x"), (None, "x"), ("t", ""), ("t", None), ("t", "a\0b")])
async def test_an_invalid_topic_or_type_is_refused(
    topic: Any, kind: Any, redis_url: str, namespace: str
) -> None:
    async with PolosClient(redis_url, namespace) as client:
        with pytest.raises(InvalidInputError, match=r"must be a non-empty string|must not contain NUL"):
            await events.publish(client, topic, EventData(kind))


# --- where to start ---------------------------------------------------------------------


async def test_an_unknown_execution_is_an_error(redis_url: str, namespace: str) -> None:
    async with PolosClient(redis_url, namespace) as client:
        with pytest.raises(ExecutionNotFoundError):
            await soon(_all(events.stream_workflow(client, "w", "0" * 32)))


@pytest.mark.parametrize("last", ["later", "1-x", "1.x", "-1", "1-2.-3", "\u00b2"])
async def test_an_invalid_event_id_is_refused(last: str, redis_url: str, namespace: str) -> None:
    async with PolosClient(redis_url, namespace) as client:
        with pytest.raises(InvalidInputError, match="last_event_id must be the id of an event"):
            await soon(_all(events.stream_topic(client, "t", last_event_id=last)))


@pytest.mark.failure(31)
@pytest.mark.promise("event stream")
async def test_trimmed_history_is_reported(redis_url: str, namespace: str) -> None:
    async with PolosClient(redis_url, namespace) as client:
        ids = [await events.publish(client, "t", EventData("n", n)) for n in range(4)]
        store = await client.store()
        await store.wire.call("XTRIM", store.partitions.topic_prefix("t") + b"topic:t", "MAXLEN", 2)
        with pytest.raises(EventsTrimmedError, match="no longer has event"):
            await soon(_take(events.stream_topic(client, "t", last_event_id=ids[0]), 1))
        (rest,) = await soon(_take(events.stream_topic(client, "t", last_event_id=ids[2]), 1))
        assert rest.id == ids[3]


# --- several readers --------------------------------------------------------------------


@pytest.mark.failure(31)
async def test_many_readers_share_a_few_connections(redis_url: str, namespace: str) -> None:
    async with PolosClient(redis_url, namespace) as client:
        store = await client.store()
        topics = [f"topic-{n % 20}" for n in range(200)]
        reading = [asyncio.create_task(_take(events.stream_topic(client, t), 3)) for t in topics]
        await events.publish(client, topics[0], EventData("n", 0))
        for topic in topics[:20]:
            for number in range(0 if topic != topics[0] else 1, 3):
                await events.publish(client, topic, EventData("n", number))
        for found in await soon(asyncio.gather(*reading)):
            assert [event.data for event in found] == [0, 1, 2]
        read = {tuple(group) for group in store.wire.groups(store.prefixes)}
        assert 0 < len(await connections(store, "polos-tail")) <= len(read)


@pytest.mark.failure(31)
async def test_a_slow_reader_does_not_block_others(redis_url: str, namespace: str) -> None:
    async with PolosClient(redis_url, namespace) as client:
        slow = events.stream_topic(client, "t")
        await events.publish(client, "t", EventData("n", 0))
        first = await soon(anext(slow))
        for number in range(1, 500):  # more than one read returns
            await events.publish(client, "t", EventData("n", number))
        quick = await soon(_take(events.stream_topic(client, "t"), 500))
        assert [event.data for event in quick] == list(range(500))
        rest = await soon(_take(slow, 499))
        assert [first, *rest] == quick


async def test_a_leaving_reader_does_not_affect_others(redis_url: str, namespace: str) -> None:
    async with PolosClient(redis_url, namespace) as client:
        topics = [f"topic-{n % 3}" for n in range(30)]
        reading = [asyncio.create_task(_take(events.stream_topic(client, t), 1)) for t in topics]
        store = await client.store()
        await until(lambda: connections(store, "polos-tail"))
        for task in reading[::2]:
            task.cancel()
        for topic in topics[:3]:
            await events.publish(client, topic, EventData("n", topic))
        for topic, task in list(zip(topics, reading, strict=True))[1::2]:
            assert [event.data for event in await soon(task)] == [topic]
        assert all(task.cancelled() for task in reading[::2])


@pytest.mark.failure(31)
async def test_a_lost_connection_leaves_no_gap(redis_url: str, namespace: str) -> None:
    async with PolosClient(redis_url, namespace) as client:
        reading = asyncio.create_task(_take(events.stream_topic(client, "t"), 60))
        store = await client.store()
        for number in range(60):
            await events.publish(client, "t", EventData("n", number))
            if number % 20 == 10:
                for node, connection in await until(lambda: connections(store, "polos-tail")):
                    await node.call("CLIENT", "KILL", "ID", connection)
        assert [event.data for event in await soon(reading)] == list(range(60))


async def test_only_its_worker_can_emit_an_executions_end(redis_url: str, namespace: str) -> None:
    async with PolosClient(redis_url, namespace) as client:
        with pytest.raises(InvalidInputError, match="published by its worker only"):
            await events.publish(client, "0" * 32, EventData("workflow_finish", {"status": "completed"}))
