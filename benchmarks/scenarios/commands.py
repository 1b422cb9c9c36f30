"""Redis commands of each operation, by INFO commandstats."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any

from benchmarks.figures import Figure
from benchmarks.scenarios.sizes import Size
from benchmarks.scenarios.suspending import resume
from benchmarks.stage import Stage
from benchmarks.workflows import STEPS, approval, noop, one_step, ten_steps
from polos_redis import Workflow

if TYPE_CHECKING:  # older checkouts, which `compare` measures, don't have it
    from polos_redis.results import Suspension

CALLS = ("eval", "evalsha", "xreadgroup")
LEAST = 0.05  # what is rarer, per operation, is background work


async def commands(stage: Stage, size: Size) -> list[Figure]:
    """Calls to Redis, and the commands its scripts run, to a tenth. No results are awaited."""
    await stage.warm_up(noop)

    async def counted(workflow: Workflow[None, Any]) -> Counter[str]:
        before = await stage.commands()
        await stage.invoke(workflow, size.counted)
        await stage.until_queued()
        if workflow is approval:
            rows = await _suspensions(stage)
            await asyncio.gather(*(resume(stage, row["execution_id"]) for row in rows))
            await stage.until_queued()
        after = await stage.commands()
        after.subtract(before)
        return after

    bare, one, ten = await counted(noop), await counted(one_step), await counted(ten_steps)
    approved = await counted(approval)
    operations = [
        ("per no-op execution", _each(bare, size.counted), 11.0),
        ("per first step", _each(_less(one, bare), size.counted), None),
        ("per further step", _each(_less(ten, one), size.counted * (STEPS - 1)), 3.0),
        ("per suspend and resume", _each(_less(approved, bare), size.counted), None),
    ]
    figures = []
    for name, counts, target in operations:
        calls = {one: count for one, count in counts.items() if one in CALLS}
        scripted = {one: count for one, count in counts.items() if one not in CALLS}
        figures.append(_figure(name, calls, "calls", None))
        figures.append(_figure(name, scripted, "commands", target))
    return figures


def _figure(name: str, counts: dict[str, float], unit: str, target: float | None) -> Figure:
    breakdown = {one: counts[one] for one in sorted(counts) if counts[one] >= LEAST}
    total = round(sum(counts.values()), 1)
    return Figure("commands", name, total, unit, target, more=False, breakdown=breakdown)


def _less(counts: Counter[str], others: Counter[str]) -> Counter[str]:
    left = Counter(counts)
    left.subtract(others)
    return left


def _each(counts: Counter[str], times: int) -> dict[str, float]:
    return {name: count / times for name, count in counts.items()}


async def _suspensions(stage: Stage) -> list[Suspension]:
    """All open suspensions."""
    page = await stage.client.list_suspensions(limit=1000)
    rows = [*page]
    while page.next_cursor:
        page = await stage.client.list_suspensions(limit=1000, cursor=page.next_cursor)
        rows += page
    return rows
