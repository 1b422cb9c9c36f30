"""The workflows of tests/harness/fleet.py's workers: each step appends a line to the effects file.

Their inputs are untyped: a worker that does not import pydantic starts in half the time.
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

from polos_redis import BatchWorkflowInput, WorkflowContext, queue, workflow
from tests.harness.fleet import EFFECTS


def effect(execution_id: str, name: str) -> int:
    """Append one line atomically."""
    file = os.open(os.environ[EFFECTS], os.O_WRONLY | os.O_APPEND)
    os.write(file, f"{execution_id} {name} {os.getpid()}\n".encode())
    os.close(file)
    return os.getpid()


async def gate(name: str) -> None:
    path = Path(os.environ[EFFECTS]).parent / name
    while not path.exists():  # noqa: ASYNC110 - the other end is another process
        await asyncio.sleep(0.01)


def effects_of(ctx: WorkflowContext) -> Any:
    execution_id = ctx.execution_id

    async def happen(name: str, until: str = "") -> int:
        """An effect; with a gate, another one after it has opened."""
        pid = effect(execution_id, name)
        if until:
            await gate(until)
            effect(execution_id, f"{name}-through")
        return pid

    return happen


@workflow
async def gated(ctx: WorkflowContext, input: Any) -> list[int]:
    """Three steps; the second one waits for the gate."""
    happen = effects_of(ctx)
    one = await ctx.step.run("one", happen, "one")
    two = await ctx.step.run("two", happen, "two", input["gate"])
    three = await ctx.step.run("three", happen, "three")
    return [one, two, three]


@workflow
async def gated_in_thread(ctx: WorkflowContext, input: Any) -> list[int]:
    """Like `gated`, but the second step waits in a thread, so it passes the gate even if it is cancelled."""
    happen = effects_of(ctx)

    def wait() -> int:
        number: int = asyncio.run(happen("two", input["gate"]))
        return number

    one = await ctx.step.run("one", happen, "one")
    two = await ctx.step.run("two", wait)
    three = await ctx.step.run("three", happen, "three")
    return [one, two, three]


@workflow
async def in_thread(ctx: WorkflowContext, input: Any) -> int:
    """A step that blocks a thread for `input` seconds."""

    def hold() -> int:
        effect(ctx.execution_id, "hold")
        time.sleep(input)
        return os.getpid()

    return await ctx.step.run("hold", hold)


@workflow
async def blocking(ctx: WorkflowContext, input: Any) -> int:
    """A step that blocks the worker's whole event loop in the first process that runs it."""

    async def block() -> int:
        first = not Path(os.environ[EFFECTS]).with_name("blocked").exists()
        effect(ctx.execution_id, "block")
        if first:
            Path(os.environ[EFFECTS]).with_name("blocked").touch()
            time.sleep(input)  # noqa: ASYNC251 - the point of it
        return os.getpid()

    blocked = await ctx.step.run("block", block)
    await ctx.step.run("after", effects_of(ctx), "after")
    return blocked


@workflow
async def approval(ctx: WorkflowContext, input: Any) -> Any:
    """A step, a suspension (with a timeout in seconds, if given), a step."""
    happen = effects_of(ctx)
    await ctx.step.run("before", happen, "before")
    resume = await ctx.step.suspend("ok", data={"amount": 5}, timeout=input)
    await ctx.step.run("after", happen, "after")
    return resume["data"]


@workflow
async def deadly(ctx: WorkflowContext, input: Any) -> str:
    """Kills its worker process: always, or once per journaled step while steps remain."""
    happen = effects_of(ctx)
    await ctx.step.run("start", happen, "start")
    for number in range(input.get("steps", 0)):
        first = not any(name == f"death-{number}" for name in _effects(ctx.execution_id))
        await ctx.step.run(f"step-{number}", happen, f"step-{number}")
        if first:
            effect(ctx.execution_id, f"death-{number}")
            os._exit(1)
    if input.get("always") and not Path(os.environ[EFFECTS]).with_name("mended").exists():
        effect(ctx.execution_id, "death")
        os._exit(1)
    return "lived"


@workflow(on_exhausted="pause")
async def deadly_pausing(ctx: WorkflowContext, input: Any) -> str:
    return await deadly(ctx, input)


def _effects(execution_id: str) -> list[str]:
    lines = [line.split() for line in Path(os.environ[EFFECTS]).read_text().splitlines()]
    return [line[1] for line in lines if line[0] == execution_id]


@workflow
async def chain(ctx: WorkflowContext, input: Any) -> list[int]:
    """Steps in a row, with a suspension after one of them; each step's value is its number."""
    happen = effects_of(ctx)
    values = []
    for number in range(input["steps"]):

        async def numbered(number: int = number) -> int:
            await happen(f"step-{number}")
            await asyncio.sleep(input.get("pause", 0))
            return number

        values.append(await ctx.step.run(f"step-{number}", numbered))
        if number == input.get("suspend_after"):
            resume = await ctx.step.suspend("middle", data={"number": number})
            values.append(resume["data"])
    return values


@workflow
async def polls(ctx: WorkflowContext, input: Any) -> list[int]:
    """`steps` steps and a short wait in each of `runs` runs; returns the sum of their values, and the run."""
    happen, run = effects_of(ctx), input.get("run", 0)
    total = input.get("total", 0)
    for number in range(input["steps"]):

        async def numbered(number: int = number) -> int:
            await happen(f"{run}.{number}")
            return number

        total += await ctx.step.run(f"step-{number}", numbered)
    await ctx.step.wait_for("pause", seconds=0.01)
    if run + 1 < input["runs"]:
        await ctx.continue_as_new({**input, "run": run + 1, "total": total})
    return [total, ctx.run]


@workflow(queue=queue("limited", concurrency_limit=3))
async def in_queue(ctx: WorkflowContext, input: Any) -> None:
    """A step that takes `seconds` and waits for its gate, if any; its effects record the times."""

    async def work() -> None:
        effect(ctx.execution_id, f"enter@{time.monotonic_ns()}")
        await asyncio.sleep(input.get("seconds", 0))
        if input.get("gate"):
            await gate(input["gate"])
        effect(ctx.execution_id, f"leave@{time.monotonic_ns()}")

    await ctx.step.run("work", work)


@workflow
async def fan(ctx: WorkflowContext, input: Any) -> list[Any]:
    """`count` children of the workflow `each`, numbered from `first`; returns their results in order."""
    effect(ctx.execution_id, "activation")
    first = input.get("first", 0)
    batch = [BatchWorkflowInput(input["each"], first + index) for index in range(input["count"])]
    return [one.result for one in await ctx.step.batch_invoke_and_wait("all", batch)]


@workflow
async def number(ctx: WorkflowContext, input: Any) -> int:
    """One step that returns its input."""

    async def numbered() -> int:
        effect(ctx.execution_id, "step")
        await asyncio.sleep(0.01)  # so that some are running whenever a worker is killed
        return int(input)

    return await ctx.step.run("step", numbered)


@workflow
async def reporting(ctx: WorkflowContext, input: Any) -> Any:
    """A step that reports its progress and waits for a gate; returns what its last attempt has found."""
    happen = effects_of(ctx)

    async def report() -> Any:
        found = ctx.step.last_progress()
        ctx.step.heartbeat([*(found or ()), os.getpid()])
        await happen("report", input["gate"])
        return ctx.step.last_progress()

    return await ctx.step.run("report", report)
