"""Many awaited handles in one client."""

from __future__ import annotations

import asyncio

from benchmarks.figures import Figure
from benchmarks.scenarios.sizes import Size
from benchmarks.scenarios.suspending import resume, suspend
from benchmarks.stage import BenchmarkError, Stage
from benchmarks.worker import NAMESPACE
from benchmarks.workflows import approval
from polos_redis import PolosClient

BACKGROUND = 20  # at most this many calls are the worker's own, in 0.2 s


async def handles(stage: Stage, size: Size) -> list[Figure]:
    """A client of its own awaits the results of suspended executions, which are then answered."""
    await stage.warm_up(approval)
    parked = await suspend(stage, size.awaited)
    before = most = await stage.connections()
    first = calls = await _calls(stage)
    async with PolosClient(stage.client.url, NAMESPACE) as client, asyncio.TaskGroup() as group:
        results = [group.create_task(client.get_handle(one.id).result()) for one in parked]
        seen = -BACKGROUND - 1
        while calls - first < size.awaited and calls > seen + BACKGROUND:  # until all have asked, and wait
            await asyncio.sleep(0.2)
            seen, calls = calls, await _calls(stage)
            most = max(most, await stage.connections())
        if any(result.done() for result in results):
            raise BenchmarkError("the result of a suspended execution was there before its answer")
        async with stage.measured(size.awaited) as measured:
            await stage.for_each(parked, lambda one: resume(stage, one.id))
            most = max(most, await stage.connections())
            await asyncio.wait(results)
    name, rate = f"connections of {size.awaited:,} awaited handles", size.awaited / measured.seconds
    return [
        Figure("handles", name, most - before, "", 4, more=False),
        Figure("handles", "results, awaited at once", rate, "/s", cpu=measured.cpu),
    ]


async def _calls(stage: Stage) -> int:
    return (await stage.commands())["evalsha"]
