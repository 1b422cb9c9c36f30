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

SETTLED = 5  # looks at the number of calls, each finding the same


async def handles(stage: Stage, size: Size) -> list[Figure]:
    """A client of its own awaits the results of suspended executions, which are then answered."""
    await stage.warm_up(approval)
    parked = await suspend(stage, size.awaited)
    before = most = await stage.connections()
    async with PolosClient(stage.client.url, NAMESPACE) as client:
        results = [asyncio.ensure_future(client.get_handle(one.id).result()) for one in parked]
        calls, same = -1, 0
        while same < SETTLED:  # all handles have asked once, and wait
            now = (await stage.commands())["evalsha"]
            calls, same = now, same + 1 if now == calls else 0
            most = max(most, await stage.connections())
            await asyncio.sleep(0.02)
        if any(result.done() for result in results):
            raise BenchmarkError("the result of a suspended execution was there before its answer")
        async with stage.measured(size.awaited) as measured:
            await stage.for_each(parked, lambda one: resume(stage, one.id))
            most = max(most, await stage.connections())
            await asyncio.gather(*results)
    name, rate = f"connections of {size.awaited:,} awaited handles", size.awaited / measured.seconds
    return [
        Figure("handles", name, most - before, "", 4, more=False),
        Figure("handles", "results, awaited at once", rate, "/s", cpu=measured.cpu),
    ]
