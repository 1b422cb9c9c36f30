"""`ctx.step.wait_for_event` and the publishing steps: the first event after the wait opened, once."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from polos_redis import (
    EventData,
    ExecutionFailedError,
    ExecutionHandle,
    PolosClient,
    StepExecutionError,
    Workflow,
    WorkflowContext,
    events,
)
from polos_redis.errors import WaitTimeoutError
from polos_redis.events import EventPayload
from polos_redis.state.keys import partition_of
from tests.harness.fleet import Fleet
from tests.harness.fleet_waits import announces, dies_as_it_opens
from tests.harness.running import Running, in_partition, running, soon, until, working
from tests.invariants.rows import rows
from tests.invariants.state import read_all


@dataclass(frozen=True)
class Order:
    number: int


def flow(body: Any) -> Workflow[Any, Any]:
    """A workflow that need not be registered."""
    return Workflow(body, body.__name__)


@flow
async def waits(ctx: WorkflowContext, input: dict[str, Any]) -> Any:
    try:
        return await ctx.step.wait_for_event(input.get("key", "wait"), **input["options"])
    except WaitTimeoutError as error:
        await ctx.step.suspend("after")
        return str(error)


def options(topic: str, **more: Any) -> dict[str, Any]:
    return {"options": {"topic": topic, **more}}


@pytest.fixture(params=[1, 4])
async def at(request: pytest.FixtureRequest, redis_url: str, namespace: str) -> AsyncIterator[Running]:
    """A worker in a namespace of one partition, then of four, where most subscribers are remote."""
    async with (
        PolosClient(redis_url, namespace, partitions=request.param) as client,
        working(client, waits, publishes, publishes_to_itself) as worker,
    ):
        yield Running(client, worker)


def left(at: Running) -> set[str]:
    return rows(at.client.url, at.client.namespace)


@flow
async def publishes(ctx: WorkflowContext, input: list[Any]) -> Any:
    topic, data, event_type = input
    return await ctx.step.publish_event("tell", topic, data, event_type)


@flow
async def publishes_to_itself(ctx: WorkflowContext, topic: str) -> Any:
    async def publish() -> None:
        await ctx.step.wait_for("a while", seconds=0.01)
        await ctx.step.publish_event("tell", topic, {"by": "itself"})

    event, _ = await asyncio.gather(ctx.step.wait_for_event("wait", topic), publish())
    return event.data


# --- an event -----------------------------------------------------------------------------


@pytest.mark.promise("event")
async def test_a_wait_gets_the_first_event_after_it_opened(at: Running) -> None:
    await events.publish(at.client, "orders", EventData("order", Order(0)))
    handles = [await waits.invoke(at.client, options("orders")) for _ in range(6)]
    for handle in handles:
        await at.parked(handle)
    ids = [await events.publish(at.client, "orders", EventData("order", Order(number))) for number in (1, 2)]
    for handle in handles:
        event = await at.result(handle)
        assert isinstance(event, EventPayload)
        assert (event.id, event.topic, event.event_type) == (ids[0], "orders", "order")
        assert event.data == Order(1)
        assert abs((event.created_at - datetime.now(UTC)).total_seconds()) < 60
        streamed = [one async for one in _take(at.client, "orders", 2)]
        assert event.sequence_id == streamed[1].sequence_id
    await until(lambda: left(at) == set(), "nothing left")


async def _take(client: PolosClient, topic: str, count: int) -> AsyncIterator[Any]:
    async for event in events.stream_topic(client, topic):
        yield event
        count -= 1
        if not count:
            return


async def test_a_wait_gets_an_event_from_another_workflow_or_its_own(at: Running) -> None:
    handle = await waits.invoke(at.client, options("news"))
    await at.parked(handle)
    event_id = await at.result(await publishes.invoke(at.client, ["news", [1, 2], None]))
    event = await at.result(handle)
    assert (event.id, event.event_type, event.data) == (event_id, "event", [1, 2])
    for topic in ("mine 0", "mine 1", "mine 2"):
        assert await at.result(await publishes_to_itself.invoke(at.client, topic)) == {"by": "itself"}
    await until(lambda: left(at) == set(), "nothing left")


@pytest.mark.failure(24)
async def test_events_published_while_waits_open_are_not_missed(at: Running) -> None:
    """Every wait gets one: none falls between its subscription and its opening."""
    stop = asyncio.Event()

    async def publish() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            await events.publish(at.client, "clock", EventData("tick", number))

    publishing = asyncio.create_task(publish())
    handles = [await waits.invoke(at.client, options("clock")) for _ in range(60)]
    numbers = [(await at.result(handle)).data for handle in handles]
    stop.set()
    await publishing
    assert all(number >= 1 for number in numbers)
    await until(lambda: left(at) == set(), "nothing left")


async def test_the_next_event_removes_a_subscription_whose_wait_never_opened(at: Running) -> None:
    store = await at.client.store()
    handle = await waits.invoke(at.client, options("other"))
    await at.parked(handle)
    await store.topics.subscribe("lost", f"f1-1 {handle.id} wait")
    await events.publish(at.client, "lost", EventData("event"))
    await until(lambda: not any(row.startswith(("lost", "errand")) for row in left(at)))
    assert await handle.status() == "waiting"
    await handle.cancel()


async def test_a_wait_that_does_not_open_holds_up_no_later_event(redis_url: str, namespace: str) -> None:
    ends = asyncio.Event()

    @flow
    async def busy(ctx: WorkflowContext) -> None:
        await ctx.step.run("long", ends.wait)

    async with (
        PolosClient(redis_url, namespace, partitions=4) as client,
        working(client, waits, busy) as worker,
    ):
        at = Running(client, worker)
        store = await client.store()
        handle = await busy.invoke(client)
        await until(lambda: worker.active, "the step")
        (entry,) = await store.executions.read_fields(handle.id, "entry")
        assert entry is not None
        opening = f"f{entry.decode()} {handle.id} never"  # as between its subscription and its opening
        await store.topics.subscribe("orders", opening)
        for number in range(3):
            waiting = [await waits.invoke(client, options("orders")) for _ in range(4)]
            for one in waiting:
                await at.parked(one)
            await events.publish(client, "orders", EventData("order", Order(number)))
            for one in waiting:
                assert (await at.result(one)).data == Order(number)
        assert opening in await store.topics.subscribers("orders")
        home = store.partitions.topic_prefix("orders")
        due = await store.wire.call("ZRANGE", home + b"errands", 0, -1)
        assert [name for name in due if name[:1] != b"s"] == [b"worders"]
        ends.set()
        await at.result(handle)
        await until(lambda: left(at) == set(), "nothing left")


# --- a worker that dies between subscription and opening --------------------------------


async def check_subscriptions(client: PolosClient, topic: str) -> int:
    """Make the errands that check a topic's subscriptions due; returns how many there are."""
    store = await client.store()
    errands = store.partitions.topic_prefix(topic) + b"errands"
    due = [name for name in await store.wire.call("ZRANGE", errands, 0, -1) if name[:1] == b"s"]
    for name in due:
        await store.wire.call("ZADD", errands, "XX", 1, name)
    return len(due)


async def checks_left(client: PolosClient, topic: str) -> list[bytes]:
    """The errands that are due to check a topic's subscriptions."""
    store = await client.store()
    errands = store.partitions.topic_prefix(topic) + b"errands"
    due = await store.wire.call("ZRANGEBYSCORE", errands, "-inf", 1)
    return [name for name in due if name[:1] == b"s"]


async def test_a_subscription_left_by_a_worker_that_was_killed_is_ended(
    redis_url: str, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POLOS_PARTITIONS", "4")
    async with PolosClient(redis_url, namespace) as client:
        handle = await in_partition(client, 0, dies_as_it_opens, None)
        topic = next(f"far {n}" for n in range(99) if partition_of(f"far {n}", 4) != 0)
        store = await client.store()
        with Fleet(redis_url, namespace, tmp_path) as fleet:
            (tmp_path / "topic").write_text(topic)
            worker = fleet.launch(defined_in="tests.harness.fleet_waits")
            assert await worker.ended() == -signal.SIGKILL
            (left_behind,) = await store.topics.subscribers(topic)
            await fleet.start(defined_in="tests.harness.fleet_waits")

            async def opened() -> bool:
                return await handle.status() == "waiting"

            await until(opened, "the next worker's wait")
            assert len(both := await store.topics.subscribers(topic)) == 2 and left_behind in both
            assert await check_subscriptions(client, topic) == 2

            async def checked() -> bool:
                return not await checks_left(client, topic)

            await until(checked)
            (left_open,) = await store.topics.subscribers(topic)
            assert left_open != left_behind
            await events.publish(client, topic, EventData("event", 7))
            assert await handle.result(timeout=20) == 7

            async def ended() -> bool:
                return await store.topics.subscribers(topic) == {}

            await until(ended)


async def test_a_check_leaves_a_wait_that_is_about_to_open(redis_url: str, namespace: str) -> None:
    ends = asyncio.Event()

    @flow
    async def busy(ctx: WorkflowContext) -> None:
        await ctx.step.run("long", ends.wait)

    async with (
        PolosClient(redis_url, namespace, partitions=4) as client,
        working(client, busy) as worker,
    ):
        store = await client.store()
        handle = await busy.invoke(client)
        await until(lambda: worker.active, "the step")
        (entry,) = await store.executions.read_fields(handle.id, "entry")
        assert entry is not None
        opening = f"f{entry.decode()} {handle.id} never"
        await store.topics.subscribe("orders", opening)

        async def checked() -> bool:
            return not await checks_left(client, "orders")

        assert await check_subscriptions(client, "orders") == 1
        await until(checked)
        assert opening in await store.topics.subscribers("orders")
        ends.set()
        await handle.result(timeout=20)
        assert await check_subscriptions(client, "orders") == 1, "put off, as it was about to open"

        async def ended() -> bool:
            return await store.topics.subscribers("orders") == {}

        await until(ended)
        assert await check_subscriptions(client, "orders") == 0


async def test_only_published_events_count_on_an_executions_own_topics(at: Running) -> None:
    asking = await waits.invoke(at.client, options("nothing", timeout=0.01))
    await at.opened(asking, "after")
    own = await waits.invoke(at.client, options(asking.id))
    of_suspension = await waits.invoke(at.client, options(f"after/{asking.id}"))
    for handle in (own, of_suspension):
        await at.parked(handle)
    await events.publish(at.client, f"after/{asking.id}", EventData("comment", "take your time"))
    assert (await at.result(of_suspension)).data == "take your time"
    late = await waits.invoke(at.client, options(f"after/{asking.id}", timeout=0.3))
    await until(lambda: f"after/{asking.id} wait" in left(at))
    await at.answer(asking, "after")  # emits to both topics; its own stream also gets its finish event
    await at.result(asking)
    await at.opened(late, "after")
    await at.answer(late, "after")
    assert "no event on topic" in await at.result(late)
    assert await own.status() == "waiting"
    await events.publish(at.client, asking.id, EventData("comment", "well done"))
    assert (await at.result(own)).data == "well done"


@pytest.mark.parametrize("count", [1, 100, 101, 300])
async def test_any_number_of_waits_get_the_same_event(count: int, redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, waits, concurrency=50) as at:
        handles = await asyncio.gather(*(waits.invoke(at.client, options("all")) for _ in range(count)))
        await until(lambda: len(left_ids(at)) == count, "all wait")
        await events.publish(at.client, "all", EventData("one", 1))
        await events.publish(at.client, "all", EventData("two", 2))
        assert [(await at.result(handle)).data for handle in handles] == [1] * count
        await until(lambda: left(at) == set(), "nothing left")


def left_ids(at: Running) -> set[bytes]:
    partitions = read_all(at.client.url, at.client.namespace)
    return {member for one in partitions for member in one.subs.get(b"all", ())}


async def test_event_data_may_have_a_type_only_the_publisher_knows(redis_url: str, namespace: str) -> None:
    @dataclass
    class Unknown:
        """No importable module has it, so it looks like a type of another program."""

        number: int

    async with running(redis_url, namespace, waits) as at:
        handle = await waits.invoke(at.client, options("unknown"))
        await at.parked(handle)
        store = await at.client.store()
        from polos_redis.values import codec

        packed = codec.encode(Order(5)).replace(b"Order", b"Ordnr")
        await store.topics.publish("unknown", "", 60_000, "event", packed)
        assert (await at.result(handle)).data == {"number": 5}


# --- no event ---------------------------------------------------------------------------


async def test_a_wait_without_an_event_times_out(at: Running) -> None:
    handle = await waits.invoke(at.client, options("quiet", timeout=0.02))
    await at.opened(handle, "after")
    await until(lambda: left(at) == {"suspension after"}, "nothing else left")
    await events.publish(at.client, "quiet", EventData("late"))
    await at.answer(handle, "after")
    assert await at.result(handle) == "wait 'wait' timed out: no event on topic 'quiet' within 0.02 s"
    (wait,) = (await at.client.get_execution(handle.id))["waits"]
    assert (wait["status"], wait["topic"], wait["event"]) == ("expired", "quiet", None)


async def test_a_cancel_leaves_no_subscription(at: Running) -> None:
    handles = [await waits.invoke(at.client, options(f"topic {n}", timeout=3600)) for n in range(6)]
    for handle in handles:
        await at.parked(handle)
    for handle in handles:
        await handle.cancel()
    await until(lambda: left(at) == set(), "nothing left")


async def test_a_retried_wait_keeps_its_new_subscription(redis_url: str, namespace: str) -> None:
    async def times_out_first(ctx: WorkflowContext) -> Any:
        return (await ctx.step.wait_for_event("wait", "again", timeout=None if ctx.run > 1 else 0.01)).data

    body: Workflow[Any, Any] = Workflow(times_out_first, "tried-again", retries=1, retry_delay=0)
    async with (
        PolosClient(redis_url, namespace, partitions=4) as client,
        working(client, body) as worker,
    ):
        at = Running(client, worker)
        handles = [await body.invoke(client) for _ in range(8)]
        for handle in handles:

            async def second(handle: ExecutionHandle[Any] = handle) -> bool:
                found = await client.get_execution(handle.id)
                return (found["run"], found["status"]) == (2, "waiting")

            await until(second)
        await until(lambda: not any(row.startswith("errand") for row in left(at)))
        await events.publish(client, "again", EventData("event", 1))
        assert [await at.result(handle) for handle in handles] == [1] * 8
        await until(lambda: left(at) == set(), "nothing left")


async def test_a_wait_cancelled_while_it_opens_is_closed(redis_url: str, namespace: str) -> None:
    @flow
    async def gives_up(ctx: WorkflowContext, spins: int) -> str:
        wait = asyncio.ensure_future(ctx.step.wait_for_event("wait", "given up"))
        for _ in range(spins):
            await asyncio.sleep(0)
        wait.cancel()
        await asyncio.wait([wait])
        await ctx.step.suspend("after")
        return "done"

    async with (
        PolosClient(redis_url, namespace, partitions=4) as client,
        working(client, gives_up) as worker,
    ):
        at = Running(client, worker)
        for spins in range(12):
            handle = await gives_up.invoke(client, spins)
            await at.opened(handle, "after")
            await at.parked(handle)
            await until(lambda: left(at) == {"suspension after"}, "nothing else left")
            await at.answer(handle, "after")
            assert await at.result(handle) == "done"


# --- odd names and wrong use ------------------------------------------------------------

NAMES = ["two words", "a\nb", "nul\0nul", "é✓", "{brace}", " ", "x" * 500, "w1-1 a b"]


@pytest.mark.failure(21)
@pytest.mark.parametrize("name", NAMES)
async def test_topics_and_step_keys_may_be_any_text(name: str, redis_url: str, namespace: str) -> None:
    async with (
        PolosClient(redis_url, namespace, partitions=4) as client,
        working(client, waits) as worker,
    ):
        at = Running(client, worker)
        handles = [
            await waits.invoke(client, {"key": name, **options(name + str(number))}) for number in range(4)
        ]
        near = {partition_of(name + str(n), 4) == partition_of(h.id, 4) for n, h in enumerate(handles)}
        assert near
        for number, handle in enumerate(handles):
            await at.parked(handle)
            await events.publish(client, name + str(number), EventData("event", number))
            assert (await at.result(handle)).data == number
        gone = [await waits.invoke(client, {"key": name, **options(name + str(n))}) for n in range(4)]
        for handle in gone:
            await at.parked(handle)
            await handle.cancel()
        await until(lambda: left(at) == set(), "nothing left")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"topic": ""}, "a topic must be a non-empty string"),
        ({"topic": 5}, "a topic must be a non-empty string"),
        ({"topic": "t", "timeout": 0}, "timeout must be a positive number of seconds"),
        ({"topic": "t", "timeout": float("inf")}, "timeout must be a positive number of seconds"),
    ],
)
async def test_wrong_use_is_refused(arguments: Any, message: str, redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, waits) as at:
        with pytest.raises(ExecutionFailedError, match=message):
            await at.result(await waits.invoke(at.client, {"options": arguments}))


# --- publishing -------------------------------------------------------------------------


@pytest.mark.failure(16)
@pytest.mark.promise("event")
async def test_an_event_is_published_once_across_a_crash(fleet: Fleet, client: PolosClient) -> None:
    """The worker dies after the event is published and before that is journaled."""
    first = await fleet.start(defined_in="tests.harness.fleet_waits")
    handle = await announces.invoke(client)
    assert await soon(_ended(first)) != 0
    assert not (await client.get_execution(handle.id))["steps"]
    await fleet.start(defined_in="tests.harness.fleet_waits")
    event_id = await handle.result(timeout=20)
    async with asyncio.timeout(20):
        assert [event.id async for event in _take(client, "announced", 1)] == [event_id]
    store = await client.store()
    assert await store.wire.call("XLEN", store.partitions.topic_prefix("announced") + b"topic:announced") == 1
    stream = [event async for event in events.stream_workflow(client, "announces", handle.id)]
    assert [event.data for event in stream if event.event_type == "hello"] == ["everybody"]


async def _ended(worker: Any) -> int:
    return int(await worker.ended())


async def test_the_workflows_stream_has_what_it_and_its_children_publish(
    redis_url: str, namespace: str
) -> None:
    @flow
    async def below(ctx: WorkflowContext) -> None:
        await ctx.step.publish_workflow_event("tell", "below", event_type="said")

    @flow
    async def above(ctx: WorkflowContext) -> None:
        await ctx.step.publish_workflow_event("tell", "above", event_type="said")
        await ctx.step.invoke_and_wait("child", below)

    async with running(redis_url, namespace, above, below) as at:
        handle = await above.invoke(at.client)
        await at.result(handle)
        published = [event for event in await at.events(handle) if event.event_type == "said"]
        assert [event.data for event in published] == ["above", "below"]
        assert published[0].metadata["execution_id"] == handle.id
        assert published[1].metadata["execution_id"].startswith(f"{handle.id}.")


@pytest.mark.parametrize(
    ("topic", "event_type", "said"),
    [
        ("", "event", "a topic must be a non-empty string"),
        ("t", "nul\0", "an event_type must not contain NUL"),
        ("0" * 32, "workflow_finish", "are published by its worker only"),
    ],
)
async def test_unpublishable_events_are_refused_at_once(
    topic: str, event_type: str, said: str, redis_url: str, namespace: str
) -> None:
    async with running(redis_url, namespace, publishes) as at:
        with pytest.raises(ExecutionFailedError, match=f"tried once.*{said}"):
            await at.result(await publishes.invoke(at.client, [topic, 1, event_type]))


async def test_a_step_resumes_another_execution(redis_url: str, namespace: str) -> None:
    @flow
    async def asks(ctx: WorkflowContext) -> Any:
        return await ctx.step.suspend("ask")

    @flow
    async def answers(ctx: WorkflowContext, input: list[str]) -> str:
        execution_id, data = input
        try:
            await ctx.step.resume("answer", "ask", execution_id, "asks", {"said": data})
        except StepExecutionError as error:
            return error.error_type
        await ctx.step.suspend("after")
        return "answered"

    async with running(redis_url, namespace, asks, answers) as at:
        asked = await asks.invoke(at.client)
        await at.parked(asked)
        first = await answers.invoke(at.client, [asked.id, "yes"])
        answer = await at.result(asked)
        assert answer["data"] == {"said": "yes"}
        assert (answer["resumed_by"], answer["channel"]) == (f"execution {first.id}", "workflow")
        second = await answers.invoke(at.client, [asked.id, "no"])
        assert await at.result(second) == "AlreadyResumedError"
        nobody = await answers.invoke(at.client, ["0" * 32, "no"])
        assert await at.result(nobody) == "ExecutionNotFoundError"
        await at.answer(first, "after")
        assert await at.result(first) == "answered"
