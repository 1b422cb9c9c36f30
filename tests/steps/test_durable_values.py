"""`ctx.step.uuid`, `now` and `random` return the same values on replay."""

from __future__ import annotations

import time
import uuid
from typing import Any

from polos_redis import WorkflowContext
from polos_redis.workflow import Workflow
from tests.harness.running import running

SEEN: dict[str, list[Any]] = {}


async def values(ctx: WorkflowContext) -> list[Any]:
    found = [
        await ctx.step.uuid("one id"),
        await ctx.step.uuid("another id"),
        await ctx.step.now("time"),
        await ctx.step.random("number"),
        await ctx.step.random("another number"),
    ]
    SEEN.setdefault(ctx.execution_id, []).append(found)
    await ctx.step.suspend("ask")
    return found


draws: Workflow[Any, Any] = Workflow(values, "values")


async def test_a_replay_returns_the_same_values(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, draws) as at:
        handles = [await draws.invoke(at.client) for _ in range(2)]
        for handle in handles:
            await at.parked(handle)
            await at.answer(handle, "ask")
        results = [await at.result(handle) for handle in handles]
        for handle, result in zip(handles, results, strict=True):
            assert SEEN[handle.id] == [result, result]
            one, another, now, number, other = result
            assert {type(one), type(now), type(number)} == {str, int, float}
            assert one != another and uuid.UUID(one).version == 4
            assert abs(now - time.time() * 1000) < 60_000
            assert 0 <= number < 1 and number != other
        assert not set(map(str, results[0])) & set(map(str, results[1])) - {str(results[0][2])}
        steps = (await at.client.get_execution(handles[0].id))["steps"]
        assert [step["value"] for step in steps] == results[0]
