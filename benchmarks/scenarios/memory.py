"""Memory of executions in Redis."""

from __future__ import annotations

from benchmarks.figures import Figure
from benchmarks.scenarios.sizes import Size
from benchmarks.stage import Stage
from benchmarks.workflows import approval, noop

SUSPENDED_BYTES = 2_300


async def memory(stage: Stage, size: Size) -> list[Figure]:
    """Memory of a suspended execution, and of a completed one while it is kept."""
    await stage.warm_up(approval)
    before = await stage.memory()
    async with stage.measured(size.memory) as measured:
        await stage.invoke(approval, size.memory)
        await stage.until_queued()
    rate = size.memory / measured.seconds
    suspended = await stage.memory()
    await stage.invoke(noop, size.memory)
    await stage.until_queued()
    completed = await stage.memory()
    each, kept = (suspended - before) / size.memory, (completed - suspended) / size.memory
    return [
        Figure("memory", "per suspended execution", each, "bytes", SUSPENDED_BYTES, more=False),
        Figure("memory", "per completed execution", kept, "bytes", more=False),
        Figure("memory", "executions until suspended", rate, "/s", cpu=measured.cpu),
    ]
