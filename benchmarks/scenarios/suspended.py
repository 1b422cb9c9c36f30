"""What many suspended executions cost those that run, beside an empty system."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from benchmarks.figures import Figure, percentiles
from benchmarks.scenarios.memory import SUSPENDED_BYTES
from benchmarks.scenarios.sizes import Size
from benchmarks.stage import BenchmarkError, Stage
from benchmarks.workflows import alarm, approval, noop
from polos_redis import ExecutionHandle

SLOWER = 1.2
LATE_MS = 50
PAGE = 50
HEAD_START = 0.3  # seconds until the first timer is due
PER_SECOND = 200  # timers that become due


async def suspended(stage: Stage, size: Size) -> list[Figure]:
    """The same work with few suspended executions and with many, in turn, on a server and a worker each.

    The few fill a page of a listing. The many are suspended by running them; each has a timeout, so there are
    as many pending timers.
    """
    figures: list[Figure] = []
    async with stage.beside() as few:
        for one in (few, stage):
            await one.warm_up(noop)
        await _suspend(few, size.few)
        present = 0
        for count in size.suspended:
            before = await stage.memory()
            await _suspend(stage, count - present)
            await stage.log_rewritten()
            each = (await stage.memory() - before) / (count - present)
            present = count
            figures.append(
                Figure(
                    "suspended",
                    "memory per suspended execution",
                    each,
                    "bytes",
                    SUSPENDED_BYTES,
                    more=False,
                    size=count,
                )
            )
            figures += await _compared(few, stage, size, count)
    return figures


async def _suspend(stage: Stage, count: int) -> None:
    await stage.invoke(approval, count)
    await stage.until_queued()


async def _compared(few: Stage, many: Stage, size: Size, count: int) -> list[Figure]:
    """The figures with many, and how many times slower each is than with few."""
    show = many.show_progress
    rates, ratios = [], []
    for turn in range(size.rounds):
        show(f"{count:,} suspended: throughput")
        took = {stage: await _throughput(stage, size) for stage in _in_turn(few, many, turn)}
        rates.append(size.round_executions / took[many])
        ratios.append(took[many] / took[few])
    figures = [
        Figure("suspended", "no-ops, end to end", statistics.median(rates), "/s", size=count),
        _slower("no-ops, end to end", statistics.median(ratios), size, count),
    ]
    operations: list[tuple[str, int, Callable[[Stage], Awaitable[None]]]] = [
        ("invoke -> result", size.round_samples, _call),
        ("page of executions", size.round_pages, _list),
        ("page of the inbox", size.round_pages, _inbox),
    ]
    for name, samples, operation in operations:
        show(f"{count:,} suspended: {name}")
        seconds: dict[Stage, list[float]] = {few: [], many: []}
        for turn in range(size.rounds * samples):
            for stage in _in_turn(few, many, turn):
                since = time.perf_counter()
                await operation(stage)
                seconds[stage].append(time.perf_counter() - since)
        figures += percentiles("suspended", name, seconds[many], size=count)
        ratio = statistics.median(seconds[many]) / statistics.median(seconds[few])
        figures.append(_slower(name, ratio, size, count))
    late: dict[Stage, list[float]] = {few: [], many: []}
    for turn in range(size.rounds):
        for stage in _in_turn(few, many, turn):
            show(f"{count:,} suspended: timers")
            late[stage] += await _lateness(stage, size.round_timers)
    ratio = statistics.median(late[many]) / statistics.median(late[few])
    return [
        *figures,
        *percentiles("suspended", "timers late", late[many], target_p99=LATE_MS, size=count),
        Figure("suspended", "timers late, longest", max(late[many]) * 1000, "ms", more=False, size=count),
        _slower("timers late", ratio, size, count),
    ]


def _slower(name: str, ratio: float, size: Size, count: int) -> Figure:
    return Figure(
        "suspended",
        f"{name}: times slower than with {size.few:,}",
        ratio,
        "x",
        SLOWER,
        more=False,
        size=count,
    )


def _in_turn(few: Stage, many: Stage, turn: int) -> tuple[Stage, Stage]:
    return (few, many) if turn % 2 == 0 else (many, few)


async def _throughput(stage: Stage, size: Size) -> float:
    since = time.perf_counter()
    await stage.invoke(noop, size.round_executions)
    await stage.until_queued()
    return time.perf_counter() - since


async def _call(stage: Stage) -> None:
    await (await noop.invoke(stage.client)).result()


async def _list(stage: Stage) -> None:
    if len(await stage.client.list_executions(status="waiting", limit=PAGE)) != PAGE:
        raise BenchmarkError("the page of suspended executions is not full")


async def _inbox(stage: Stage) -> None:
    if len(await stage.client.list_suspensions(limit=PAGE)) != PAGE:
        raise BenchmarkError("the page of the inbox is not full")


async def _lateness(stage: Stage, count: int) -> list[float]:
    """Seconds from when each timer is due until its execution continues; they become due one by one."""
    handles: list[ExecutionHandle[float]] = []
    first = time.time() + HEAD_START
    dues = iter(range(count))

    async def start() -> None:
        due = datetime.fromtimestamp(first + next(dues) / PER_SECOND, UTC)
        handles.append(await alarm.invoke(stage.client, due))

    await stage.spread(start, count)
    return list(await asyncio.gather(*(handle.result() for handle in handles)))
