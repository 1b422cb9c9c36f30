"""Replay of a journal: what an execution's past costs when it continues."""

from __future__ import annotations

import time

from benchmarks.figures import Cpu, Figure, percentiles
from benchmarks.scenarios.sizes import Size
from benchmarks.scenarios.suspending import resume
from benchmarks.stage import Stage
from benchmarks.workflows import journal
from polos_redis import ExecutionHandle


async def replay(stage: Stage, size: Size) -> list[Figure]:
    """Executions that are suspended behind some steps are resumed one at a time, until each has finished."""
    await stage.worker.run()
    figures: list[Figure] = []
    shortest: tuple[int, Cpu] | None = None
    await _measured(stage, min(size.journals), 20)  # the warm-up
    for steps, count in size.journals.items():
        seconds, cpu = await _measured(stage, steps, count)
        figures += percentiles("replay", "resume -> finished", seconds, cpu=cpu, size=steps)
        assert cpu.worker is not None
        if shortest is None:
            shortest = steps, cpu
        else:
            each = (cpu.worker - (shortest[1].worker or 0.0)) / (steps - shortest[0])
            figures.append(
                Figure("replay", "worker CPU of a replayed step", each, "us", more=False, size=steps)
            )
    return figures


async def _measured(stage: Stage, steps: int, count: int) -> tuple[list[float], Cpu]:
    handles: list[ExecutionHandle[None]] = []

    async def start() -> None:
        handles.append(await journal.invoke(stage.client, steps))

    stage.show_progress(f"{count} executions of {steps:,} steps")
    await stage.spread(start, count)
    await stage.until_queued()
    seconds = []
    async with stage.measured(count) as measured:
        for handle in handles:
            since = time.perf_counter()
            await resume(stage, handle.id)
            await handle.result()
            seconds.append(time.perf_counter() - since)
    return seconds, measured.cpu
