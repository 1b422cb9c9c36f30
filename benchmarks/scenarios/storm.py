"""Many answers at once."""

from __future__ import annotations

import asyncio

from benchmarks.figures import Figure
from benchmarks.scenarios.sizes import Size
from benchmarks.scenarios.suspending import resume, suspend
from benchmarks.stage import Stage


async def storm(stage: Stage, size: Size) -> list[Figure]:
    """All parked executions are answered at once."""
    await stage.worker.run()
    handles = await suspend(stage, size.storm)
    async with stage.measured(size.storm) as measured:
        await asyncio.gather(*(resume(stage, handle.id) for handle in handles))
        await stage.until_queued()
    return [
        Figure("storm", f"{size.storm:,} resumes until all have finished", measured.seconds, "s", more=False),
        Figure("storm", "resumes", size.storm / measured.seconds, "/s", cpu=measured.cpu),
    ]
