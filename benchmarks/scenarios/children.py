"""Workflows that start many children."""

from __future__ import annotations

import statistics
import time

from benchmarks.figures import Figure
from benchmarks.scenarios.sizes import Size
from benchmarks.stage import BenchmarkError, Stage
from benchmarks.workflows import fan_out as parent
from benchmarks.workflows import noop


async def fan_out(stage: Stage, size: Size) -> list[Figure]:
    """A parent starts children and waits for all of them, one such parent at a time."""
    await stage.warm_up(noop)
    await (await parent.invoke(stage.client, 10)).result()
    seconds = []
    async with stage.measured(size.fan_outs * size.children) as measured:
        for _ in range(size.fan_outs):
            since = time.perf_counter()
            succeeded = await (await parent.invoke(stage.client, size.children)).result()
            seconds.append(time.perf_counter() - since)
            if succeeded != size.children:
                raise BenchmarkError(f"only {succeeded} of {size.children} children have succeeded")
    took = statistics.median(seconds)
    name = f"{size.children:,} children until their parent has finished"
    return [
        Figure("fan-out", name, took, "s", more=False),
        Figure("fan-out", "children", size.children / took, "/s", cpu=measured.cpu),
    ]
