"""Histories: whoever follows an execution early, late or after its end reads the same events."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from polos_redis import EventData, NoRetryError, PolosClient, Workflow, WorkflowContext, events
from polos_redis.state import keys
from tests.harness.running import Running, running, soon, until

pytestmark = pytest.mark.also_on_cluster


def flow(body: Any) -> Workflow[Any, Any]:
    """A workflow that need not be registered."""
    return Workflow(body, body.__name__)


async def _value(value: Any = None) -> Any:
    return value


async def _slow(seconds: float) -> None:
    await asyncio.sleep(seconds)


async def _fails_once(key: str) -> None:
    if key not in _failed:
        _failed.add(key)
        raise ValueError("not yet")


async def _refuses() -> None:
    raise NoRetryError("never")


_failed: set[str] = set()


@flow
async def does_nothing(ctx: WorkflowContext) -> str:
    return "nothing"


@flow
async def takes_steps(ctx: WorkflowContext) -> int:
    for number in range(5):
        await ctx.step.run(f"step-{number}", _value, number)
    return 5


@flow
async def takes_long_steps(ctx: WorkflowContext) -> None:
    await ctx.step.run("quick", _value)
    await ctx.step.run("slow", _slow, 0.1)
    await asyncio.gather(ctx.step.run("long", _slow, 0.2), ctx.step.run("longer", _slow, 0.3))


@flow
async def takes_many_steps(ctx: WorkflowContext) -> None:
    for number in range(130):
        await ctx.step.run(f"step-{number}", _value)


@flow
async def has_large_values(ctx: WorkflowContext) -> None:
    for number in range(6):
        await ctx.step.run(f"step-{number}", _value, "x" * 100_000)


@flow
async def waits(ctx: WorkflowContext) -> None:
    await ctx.step.run("before", _value)
    await ctx.step.wait_for("nap", seconds=0.05)
    await ctx.step.run("after", _value)


@flow
async def retries(ctx: WorkflowContext) -> None:
    await ctx.step.run("before", _value)
    await ctx.step.run("flaky", _fails_once, ctx.execution_id, base_delay=0.01)
    await ctx.step.run("after", _value)


@flow
async def races(ctx: WorkflowContext) -> Any:
    await ctx.step.run("before", _value)

    async def wins() -> str:
        await ctx.step.run("winner", _value)
        return "won"

    async def loses() -> None:
        await ctx.step.wait_for("loser", seconds=60)

    name, _ = await ctx.step.first_of("race", {"wins": wins(), "loses": loses()})
    return name


@flow
async def has_children(ctx: WorkflowContext) -> None:
    await ctx.step.run("before", _value)
    await ctx.step.invoke_and_wait("child", takes_steps)
    await ctx.step.run("after", _value)


@flow
async def publishes(ctx: WorkflowContext) -> None:
    await ctx.step.run("before", _value)
    await ctx.step.publish_workflow_event("tell", EventData("news", {"percent": 50}))
    await ctx.step.run("after", _value)


@flow
async def fails(ctx: WorkflowContext) -> None:
    await ctx.step.run("before", _value)
    await ctx.step.run("refuses", _refuses)


@flow
async def fails_at_once(ctx: WorkflowContext) -> None:
    raise RuntimeError("no")


FLOWS = [
    *(does_nothing, takes_steps, takes_long_steps, takes_many_steps, has_large_values, waits, retries),
    *(races, has_children, publishes, fails, fails_at_once),
]


async def history(client: PolosClient, workflow: Workflow[Any, Any], execution_id: str) -> list[Any]:
    """All that a follower reads, without times and ids that differ from execution to execution."""

    def same(value: Any) -> Any:
        if isinstance(value, str):
            return re.sub(r"<id>\.\w+", "<child>", value.replace(execution_id, "<id>"))
        return {key: same(one) for key, one in value.items()} if isinstance(value, dict) else value

    found, last = [], 0
    async for event in events.stream_workflow(client, workflow.id, execution_id, plain=True):
        assert event.sequence_id > last, "sequence ids increase"
        last = event.sequence_id
        of = event.metadata["execution_id"].partition(".")
        found.append((event.event_type, same(event.data), of[1]))
    return found


def in_any_order(found: list[Any]) -> list[str]:
    return sorted(map(repr, found))


@pytest.mark.parametrize("workflow", FLOWS, ids=lambda one: one.id)
async def test_early_and_late_followers_read_the_same(
    workflow: Workflow[Any, Any], redis_url: str, namespace: str
) -> None:
    async with running(redis_url, namespace, *FLOWS) as at:
        early = await at.client.invoke(workflow, start_delay=0.2)
        follower = asyncio.create_task(history(at.client, workflow, early.id))
        late = await at.client.invoke(workflow)
        await until(lambda: _has_ended(at, late.id))
        after = await soon(history(at.client, workflow, late.id))
        before = await soon(follower)
        assert before[0][0] == "workflow_start" and before[-1][0] == "workflow_finish"
        assert after[0] == before[0] and after[-1] == before[-1]
        # what runs at the same time may be told in another order
        assert in_any_order(after) == in_any_order(before)
        if workflow not in (takes_long_steps, races, has_children):
            assert after == before
        assert await soon(history(at.client, workflow, early.id)) == before, "it is read again"


async def _has_ended(at: Running, execution_id: str) -> bool:
    (finished,) = await (await at.client.store()).executions.read_fields(execution_id, "finished")
    return finished is not None


async def test_nobody_has_followed_a_finished_execution(redis_url: str, namespace: str) -> None:
    """So it has no stream, until somebody does."""
    async with running(redis_url, namespace, takes_steps) as at:
        handle = await at.client.invoke(takes_steps)
        assert await at.result(handle) == 5
        store = await at.client.store()
        key = store.partitions.prefix(handle.id) + (keys.TOPIC + handle.id).encode()
        assert await store.wire.call("EXISTS", key) == 0
        assert len(await soon(history(at.client, takes_steps, handle.id))) == 12
        assert await store.wire.call("EXISTS", key) == 1


@flow
async def holds(ctx: WorkflowContext) -> None:
    await ctx.step.run("one", _value)
    await ctx.step.run("two", _slow, 0.5)
    await ctx.step.run("three", _value)


@pytest.mark.parametrize("after", [0.0, 0.1, 0.3, 0.6])
async def test_a_follower_who_comes_while_it_runs_misses_nothing(
    after: float, redis_url: str, namespace: str
) -> None:
    async with running(redis_url, namespace, holds) as at:
        handle = await at.client.invoke(holds)
        await asyncio.sleep(after)
        found = await soon(history(at.client, holds, handle.id))
        steps = [(kind, data["step_key"]) for kind, data, _ in found[1:-1]]
        assert steps == [
            (kind, key) for key in ("one", "two", "three") for kind in ("step_start", "step_finish")
        ]


async def test_a_step_that_runs_is_shown(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, holds) as at:
        handle = await at.client.invoke(holds)

        async def shown() -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = (await at.client.get_execution(handle.id))["running_steps"]
            return found

        (one,) = await until(shown)
        assert (one["step_key"], one["attempt"]) == ("two", 1)
        assert one["started_at"] >= (await at.client.get_execution(handle.id))["created_at"][:19]
        await at.result(handle)
        assert await shown() == []
