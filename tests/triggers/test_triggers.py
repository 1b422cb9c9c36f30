"""Workflows triggered by the events of a topic: each event once, in order, alone or in batches."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from polos_redis import (
    BatchEventPayload,
    ConfigurationError,
    EventData,
    EventPayload,
    PolosClient,
    Workflow,
    WorkflowContext,
    events,
    workflow,
)
from polos_redis.state import keys
from polos_redis.triggers.subscriptions import IN_A_ROW, READ, subscriber
from polos_redis.triggers.subscriptions import trigger as hand_out
from tests.harness.fleet import Fleet
from tests.harness.running import until, working
from tests.triggers.test_schedules import count_of, executions_of, timer_leader


class Order(BaseModel):
    number: int
    text: str = ""


@workflow(id="triggers-typed", trigger_on_event="orders")
async def typed(ctx: WorkflowContext, event: EventPayload) -> EventPayload:
    return event


@workflow(id="triggers-bare", trigger_on_event="orders")
async def bare(ctx: WorkflowContext) -> str:
    return "ran"


@workflow(id="triggers-in-turn", trigger_on_event="orders", queue={"concurrency_limit": 1})
async def in_turn(ctx: WorkflowContext, event: EventPayload) -> None:
    _at_work.append(event.data)
    await ctx.step.run("work", asyncio.sleep, 0.005)
    assert _at_work[-1] == event.data, "another one has started meanwhile"


_at_work: list[int] = []


def batching(topic: str | None = "orders", size: int = 1, timeout: float | None = None) -> Workflow[Any, Any]:
    """The same workflow as declared by different releases."""

    @workflow(id="triggers-batching", trigger_on_event=topic, batch_size=size, batch_timeout_seconds=timeout)
    async def batched(ctx: WorkflowContext, batch: Any) -> None: ...

    return batched


async def register(client: PolosClient, *workflows: Workflow[Any, Any]) -> None:
    """Have a worker publish workflows; none runs afterwards."""
    async with working(client, *workflows):
        pass


async def publish(client: PolosClient, *data: Any, topic: str = "orders") -> list[str]:
    return [await events.publish(client, topic, EventData("order", one)) for one in data]


async def completed(client: PolosClient, workflow: Workflow[Any, Any], times: int) -> list[dict[str, Any]]:
    """Wait for `times` completed executions; returns all executions of the workflow, oldest first."""

    async def there() -> bool:
        return await count_of(client, workflow.id, "completed") >= times

    await until(there, f"{times} executions of {workflow.id}")
    return await executions_of(client, workflow.id)


def data_of(executions: list[dict[str, Any]]) -> list[Any]:
    """The data of each execution's events."""
    inputs = [one["input"] for one in executions]
    return [[e["data"] for e in i["events"]] if "events" in i else i["data"] for i in inputs]


# --- one at a time ----------------------------------------------------------------------


@pytest.mark.promise("trigger")
async def test_each_event_starts_one_execution_in_the_order_of_the_topic(client: PolosClient) -> None:
    count = 2 * READ + 50
    await register(client, typed)
    published = await publish(client, *range(count))
    async with working(client, typed):
        found = await completed(client, typed, count)
    assert data_of(found) == list(range(count))
    assert [one["input"]["id"] for one in found] == published
    created = [one["created_at"] for one in found]
    assert created == sorted(created)


async def test_the_workflow_receives_the_event_as_published(client: PolosClient) -> None:
    async with working(client, typed):
        (event_id,) = await publish(client, Order(number=7, text="ä" * 3000))
        (found,) = await completed(client, typed, 1)
        payload = await client.get_handle(found["id"]).result()
    assert isinstance(payload, EventPayload)
    assert (payload.id, payload.topic, payload.event_type) == (event_id, "orders", "order")
    assert payload.data == Order(number=7, text="ä" * 3000)
    streamed = events.stream_topic(client, "orders")
    event = await anext(streamed)
    assert (event.sequence_id, event.created_at) == (payload.sequence_id, payload.created_at)


async def test_a_worker_that_does_not_know_the_type_of_the_data_passes_it_on(
    fleet: Fleet, client: PolosClient
) -> None:
    other = await fleet.start(defined_in="tests.harness.fleet_starts", knows="ticked", queues=["elsewhere"])
    assert await timer_leader(client, fleet, "orders") is other
    async with working(client, typed):
        await publish(client, Order(number=8))
        (found,) = await completed(client, typed, 1)
        assert await timer_leader(client, fleet, "orders") is other
        assert (await client.get_handle(found["id"]).result()).data == Order(number=8)


async def test_a_workflow_without_an_input_can_be_triggered(client: PolosClient) -> None:
    async with working(client, bare):
        await publish(client, 1, 2)
        found = await completed(client, bare, 2)
    assert [one["result"] for one in found] == ["ran", "ran"]


async def test_events_count_from_the_declaration_on_even_while_no_worker_runs(
    client: PolosClient,
) -> None:
    await publish(client, "before")
    await register(client, typed)
    await publish(client, "between")
    await register(client, typed)
    await publish(client, "later")
    async with working(client, typed):
        assert data_of(await completed(client, typed, 2)) == ["between", "later"]


async def test_every_workflow_of_a_topic_receives_its_events_and_no_others(client: PolosClient) -> None:
    async with working(client, typed, bare, batching("news")):
        await publish(client, 1)
        await publish(client, 2, topic="news")
        for one, expected in ((typed, [1]), (bare, [1]), (batching("news"), [2])):
            assert data_of(await completed(client, one, 1)) == expected


async def test_a_limit_of_one_runs_them_one_after_another(client: PolosClient) -> None:
    _at_work.clear()
    await register(client, in_turn)
    await publish(client, *range(30))
    async with working(client, in_turn):
        found = await completed(client, in_turn, 30)
    assert {one["status"] for one in found} == {"completed"}
    assert [n for i, n in enumerate(_at_work) if n not in _at_work[:i]] == list(range(30))


async def test_a_workflow_can_publish_an_event_that_triggers_another(client: PolosClient) -> None:
    @workflow(id="triggers-publisher")
    async def publisher(ctx: WorkflowContext, numbers: list[int]) -> None:
        for number in numbers:
            await ctx.step.publish_event(f"order-{number}", "orders", Order(number=number))

    async with working(client, publisher, typed):
        await (await publisher.invoke(client, [1, 2, 3])).result()
        found = await completed(client, typed, 3)
    assert [one["number"] for one in data_of(found)] == [1, 2, 3]


async def test_more_events_than_one_delivery_takes_all_arrive(client: PolosClient) -> None:
    count = IN_A_ROW + READ + 1
    await register(client, typed)
    store = await client.store()
    await asyncio.gather(*(publish(client, number) for number in range(count)))
    async with working(client, typed):
        await until(lambda: count_is(client, typed.id, count))
    stream = store.partitions.topic_prefix("orders") + keys.TOPIC.encode() + b"orders"
    published = [entry.decode() + ".0" for entry, _ in await store.wire.call("XRANGE", stream, "-", "+")]
    assert [one["input"]["id"] for one in await executions_of(client, typed.id)] == published[-1000:]


async def count_is(client: PolosClient, workflow_id: str, count: int) -> bool:
    return await count_of(client, workflow_id, "completed") == count


# --- batches ----------------------------------------------------------------------------


async def test_a_batch_starts_with_the_events_present(client: PolosClient) -> None:
    await register(client, batching(size=3))
    await publish(client, *range(8))
    async with working(client, batching(size=3)):
        found = await completed(client, batching(size=3), 3)
    assert data_of(found) == [[0, 1, 2], [3, 4, 5], [6, 7]]


async def test_a_batch_can_be_larger_than_a_read(client: PolosClient) -> None:
    size = READ + 20
    await register(client, batching(size=size))
    await publish(client, *range(2 * size + 1))
    async with working(client, batching(size=size)):
        found = await completed(client, batching(size=size), 3)
    assert data_of(found) == [[*range(size)], [*range(size, 2 * size)], [2 * size]]


async def test_a_batch_is_typed(client: PolosClient) -> None:
    batches: list[BatchEventPayload] = []

    @workflow(id="triggers-typed-batch", trigger_on_event="orders", batch_size=2)
    async def typed_batch(ctx: WorkflowContext, batch: BatchEventPayload) -> None:
        batches.append(batch)

    await register(client, typed_batch)
    await publish(client, Order(number=1), Order(number=2))
    async with working(client, typed_batch):
        await completed(client, typed_batch, 1)
    (batch,) = batches
    assert isinstance(batch, BatchEventPayload)
    assert [event.data for event in batch.events] == [Order(number=1), Order(number=2)]


async def test_only_an_incomplete_batch_waits(client: PolosClient) -> None:
    waiting = batching(size=3, timeout=3600)
    async with working(client, waiting):
        await publish(client, *range(7))
        assert data_of(await completed(client, waiting, 2)) == [[0, 1, 2], [3, 4, 5]]
        store = await client.store()
        errands = store.partitions.topic_prefix("orders") + keys.ERRANDS.encode()

        async def postponed() -> bool:
            due = await store.wire.call("ZSCORE", errands, "eorders")
            seconds, _ = await store.wire.call("TIME")
            return due is not None and float(due) > (int(seconds) + 3000) * 1000

        await until(postponed, "the last event to be postponed")
        assert len(await executions_of(client, waiting.id)) == 2
        await publish(client, 7, 8)
        assert data_of(await completed(client, waiting, 3))[2] == [6, 7, 8]


async def test_an_incomplete_batch_starts_when_its_first_event_has_waited_long_enough(
    client: PolosClient,
) -> None:
    waiting = batching(size=10, timeout=0.5)
    async with working(client, waiting):
        await publish(client, 1, 2)
        (found,) = await completed(client, waiting, 1)
    assert data_of([found]) == [[1, 2]]
    first = datetime.fromisoformat(found["input"]["events"][0]["created_at"])
    assert datetime.fromisoformat(found["created_at"]) >= first + timedelta(seconds=0.5)


async def test_a_batch_is_no_larger_than_a_value_may_be(redis_url: str, namespace: str) -> None:
    async with PolosClient(redis_url, namespace, max_value_bytes=10_000) as client:
        await register(client, batching(size=5))
        await publish(client, *("x" * n for n in (4000, 4000, 4000, 9900, 1)))
        async with working(client, batching(size=5)):
            found = await completed(client, batching(size=5), 4)
    assert [[len(data) for data in batch] for batch in data_of(found)] == [[4000, 4000], [4000], [9900], [1]]


# --- withdrawn declarations -------------------------------------------------------------


async def test_a_withdrawn_trigger_ends(client: PolosClient) -> None:
    store = await client.store()
    await register(client, batching("orders"))
    assert list(await store.topics.subscribers("orders")) == [subscriber("triggers-batching")]
    await register(client, batching("news"))
    assert await store.topics.subscribers("orders") == {}
    assert list(await store.topics.subscribers("news")) == [subscriber("triggers-batching")]
    await register(client, typed)
    assert list(await store.topics.subscribers("news")) == [subscriber("triggers-batching")], (
        "not known there"
    )
    await register(client, batching(None))
    assert await store.topics.subscribers("news") == {}


async def test_another_batch_size_takes_effect_when_a_worker_starts(client: PolosClient) -> None:
    await register(client, batching(size=1))
    await publish(client, *range(5))
    async with working(client, batching(size=4)):
        assert data_of(await completed(client, batching(size=4), 2)) == [[0, 1, 2, 3], [4]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trigger_on_event": ""}, "trigger_on_event must be a non-empty string"),
        ({"trigger_on_event": 5}, "trigger_on_event must be a non-empty string"),
        ({"trigger_on_event": "a" * 1025}, "trigger_on_event has 1025 bytes"),
        ({"trigger_on_event": "approval/" + "0" * 32}, "can't be the topic of an execution"),
        ({"trigger_on_event": "news", "batch_size": 0}, "batch_size must be a whole number"),
        ({"trigger_on_event": "news", "batch_size": 1001}, "batch_size must be a whole number"),
        ({"trigger_on_event": "news", "batch_size": 2.0}, "batch_size must be a whole number"),
        ({"trigger_on_event": "news", "batch_timeout_seconds": -1}, "batch_timeout_seconds must be a number"),
        (
            {"trigger_on_event": "news", "batch_timeout_seconds": "1"},
            "batch_timeout_seconds must be a number",
        ),
        ({"batch_size": 2}, "need trigger_on_event"),
        ({"batch_timeout_seconds": 1}, "need trigger_on_event"),
    ],
)
def test_an_invalid_declaration_is_refused_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=f"workflow 'triggers-bad': .*{message}"):

        @workflow(id="triggers-bad", **options)
        async def bad(ctx: WorkflowContext, input: Any) -> None: ...


# --- once, by any worker ----------------------------------------------------------------


@pytest.mark.parametrize("partitions", [1, 4])
async def test_events_handed_out_by_several_workers_arrive_once(
    redis_url: str, namespace: str, partitions: int
) -> None:
    topics = [f"topic-{n}" for n in range(6)]
    async with PolosClient(redis_url, namespace, partitions=partitions) as client:
        store = await client.store()
        for topic in topics:
            await store.topics.subscribe(topic, subscriber("triggers-batching"))
            await publish(client, *range(40), topic=topic)

        async def hand_out_all(topic: str) -> None:
            while position := (await store.topics.subscribers(topic))[subscriber("triggers-batching")]:
                if await hand_out(store, topic, "triggers-batching", position, 60_000, 1000) is None:
                    return

        await asyncio.gather(*(hand_out_all(topic) for topic in topics for _ in range(8)))
        found, prefix = await executions_of(client, "triggers-batching"), store.partitions.prefix
        for topic in topics:
            mine = [one for one in found if one["input"]["topic"] == topic]
            assert data_of(mine) == list(range(40)), "each once, and created in order"
            assert {prefix(one["id"]) for one in mine} == {store.partitions.topic_prefix(topic)}
        assert len({prefix(one["id"]) for one in found}) == (1 if partitions == 1 else 4)


@pytest.mark.parametrize("partitions", [1, 4])
async def test_events_of_topics_in_all_partitions_reach_the_workers(
    redis_url: str, namespace: str, partitions: int
) -> None:
    workflows = []
    for n in range(8):

        @workflow(id=f"triggers-many-{n}", trigger_on_event=f"topic-{n}")
        async def one_of_many(ctx: WorkflowContext, event: EventPayload) -> str:
            return event.topic

        workflows.append(one_of_many)
    async with (
        PolosClient(redis_url, namespace, partitions=partitions) as client,
        working(client, *workflows),
    ):
        for n, one in enumerate(workflows):
            await publish(client, n, topic=f"topic-{n}")
            (found,) = await completed(client, one, 1)
            assert found["result"] == f"topic-{n}"


@pytest.mark.timeout(90)
@pytest.mark.promise("trigger")
async def test_each_event_starts_one_execution_when_the_worker_that_hands_them_out_is_killed(
    fleet: Fleet, client: PolosClient
) -> None:
    await asyncio.gather(*(fleet.start(defined_in="tests.harness.fleet_starts") for _ in range(2)))
    published = 0
    for _ in range(2):
        victim = await timer_leader(client, fleet, "orders")
        publishing = asyncio.create_task(publish(client, *range(published, published + 150)))

        async def some(least: int = published + 50) -> bool:
            return len(await client.list_executions(workflow="ordered", limit=1000)) >= least

        await until(some, "some of them to start")
        victim.kill()
        await publishing
        published += 150
        await fleet.start(defined_in="tests.harness.fleet_starts")

    async def all_done() -> bool:
        return await count_of(client, "ordered", "completed") == published

    await until(all_done, "all of them to complete")
    assert data_of(await executions_of(client, "ordered")) == list(range(published))
    effects = {name for counts in fleet.counts().values() for name in counts}
    assert effects == {f"order-{n}" for n in range(published)}
