"""Latency of a client that has nothing else to do."""

from __future__ import annotations

import statistics
import time

from benchmarks.figures import Figure, percentiles
from benchmarks.scenarios.sizes import Size
from benchmarks.scenarios.suspending import resume, suspend
from benchmarks.stage import Stage
from benchmarks.workflows import noop


async def latency(stage: Stage, size: Size) -> list[Figure]:
    """One at a time: invoke and await the result; resume a parked execution and await its result.

    Before each, a PING on the same connection.
    """
    await stage.warm_up(noop)
    pings, seconds = [], []
    async with stage.measured(size.samples) as invoked:
        for _ in range(size.samples):
            pings.append(await _ping(stage))
            since = time.perf_counter()
            await (await noop.invoke(stage.client)).result()
            seconds.append(time.perf_counter() - since)
    figures = percentiles("latency", "invoke -> result", seconds, target=0.5, cpu=invoked.cpu)
    figures.append(_in_pings("invoke -> result", seconds, pings))

    parked = await suspend(stage, size.samples)
    again, seconds = [], []
    async with stage.measured(size.samples) as resumed:
        for handle in parked:
            again.append(await _ping(stage))
            since = time.perf_counter()
            await resume(stage, handle.id)
            await handle.result()
            seconds.append(time.perf_counter() - since)
    figures += percentiles("latency", "resume -> finished", seconds, target=0.65, cpu=resumed.cpu)
    figures.append(_in_pings("resume -> finished", seconds, again))
    return figures + percentiles("latency", "PING", pings + again)


async def _ping(stage: Stage) -> float:
    since = time.perf_counter()
    await stage.ping()
    return time.perf_counter() - since


def _in_pings(name: str, seconds: list[float], pings: list[float]) -> Figure:
    ratio = statistics.median(seconds) / statistics.median(pings)
    return Figure("latency", f"{name}, p50 in PINGs", ratio, "x", 4, more=False)
