"""The workflows that workers of two releases share.

Each release imports its own copy of this file, in a folder outside the repository, so it uses only what both
releases have.
"""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from polos_redis import SuspendTimeoutError, Workflow, WorkflowContext, WorkflowState, queue, workflow

SOON = 3.0  # seconds until waits end that time ends


class Order(BaseModel):
    item: str
    price: Decimal


class Review(BaseModel):
    approved: bool
    note: str


@dataclass(frozen=True)
class Parcel:
    item: str
    weight: int


class Basket(WorkflowState):
    items: list[str] = Field(default_factory=list)


def is_open() -> bool:
    """Whether the test has let steps end."""
    return Path("open").exists()


def note(effect: str) -> str:
    """Notes an effect and the process that has it."""
    with Path("effects").open("a") as effects:
        effects.write(f"{effect} {os.getpid()}\n")
    return effect


def processes(effect: str) -> set[str]:
    """The processes that have noted an effect."""
    lines = Path("effects").read_text().splitlines()
    return {line.rpartition(" ")[2] for line in lines if line.rpartition(" ")[0] == effect}


def call(execution_id: str) -> str:
    note(f"call {execution_id}")
    if not is_open():
        raise ConnectionError("no answer")
    return "called"


def hold(execution_id: str) -> str:
    note(f"hold {execution_id}")
    while not is_open():
        time.sleep(0.02)
    return "held"


async def meet(place: str) -> None:
    note(f"meet {place}")
    while len(processes(f"meet {place}")) < 2:  # noqa: ASYNC110 - no event of another process
        await asyncio.sleep(0.02)


@workflow
async def packing(ctx: WorkflowContext, item: str) -> Parcel:
    answer = await ctx.step.suspend("weight", data={"item": item})
    return Parcel(item, answer["data"])


@workflow(state_schema=Basket)
async def ordering(ctx: WorkflowContext, input: Order) -> tuple[Any, ...]:
    """People, before whose answers and after them: steps, values of the runtime, state and a child."""
    ctx.state.items.append(input.item)
    wrapped = await ctx.step.run("wrap", lambda: Parcel(input.item, 1))
    await ctx.step.uuid("number")
    review = await ctx.step.suspend("review", data=input, schema=Review, timeout=3600)
    packed = await ctx.step.invoke_and_wait("pack", packing, input.item)
    ctx.state.items.append("box")
    await ctx.step.run("ship", note, f"ship {ctx.execution_id}")
    address = await ctx.step.suspend("address")
    return wrapped, review, packed, address["data"], ctx.state.items


@workflow
async def loading(ctx: WorkflowContext) -> list[Parcel]:
    """Children that are under way."""
    both = (ctx.step.invoke_and_wait(item, packing, item) for item in ("cup", "plate"))
    return await asyncio.gather(*both)


@workflow
async def racing(ctx: WorkflowContext) -> tuple[str, Any]:
    """A race that a person wins, and one that time wins."""
    first = {"yes": ctx.step.suspend("yes"), "limit": ctx.step.wait_for("limit", seconds=3600)}
    name, answer = await ctx.step.first_of("first", first)
    second = {"no": ctx.step.suspend("no"), "soon": ctx.step.wait_for("soon", seconds=SOON)}
    other, _ = await ctx.step.first_of("second", second)
    return f"{name}, {other}", answer["data"]


@workflow
async def expiring(ctx: WorkflowContext) -> str:
    """A person who is late."""
    try:
        await ctx.step.suspend("late", timeout=SOON)
    except SuspendTimeoutError:
        return "too late"
    return "in time"


@workflow
async def listening(ctx: WorkflowContext) -> Any:
    """An event."""
    return (await ctx.step.wait_for_event("ship", f"dock/{ctx.execution_id}", timeout=3600)).data


@workflow
async def calling(ctx: WorkflowContext) -> str:
    """Attempts at a step."""
    return await ctx.step.run(
        "call", call, ctx.execution_id, base_delay=0.2, max_delay=0.2, max_retries=10_000
    )


@workflow
async def failing(ctx: WorkflowContext) -> str:
    """A failure that people retry."""
    await ctx.step.suspend("go")
    return await ctx.step.run("call", call, ctx.execution_id, max_retries=0)


@workflow(queue=queue("mixed-narrow", concurrency_limit=1))
async def holding(ctx: WorkflowContext) -> str:
    """A long step, in a queue of one slot."""
    return await ctx.step.run("hold", hold, ctx.execution_id)


@workflow
async def meeting(ctx: WorkflowContext, place: str) -> None:
    await ctx.step.run("meet", meet, place)


@workflow
async def gathering(ctx: WorkflowContext) -> str:
    """Two children that run in two processes at the same time."""
    places = (ctx.step.invoke_and_wait(kid, meeting, ctx.execution_id) for kid in ("a", "b"))
    await asyncio.gather(*places)
    return "met"


FLOWS: dict[str, Workflow[Any, Any]] = {
    "ordering": ordering,
    "loading": loading,
    "racing": racing,
    "expiring": expiring,
    "listening": listening,
    "calling": calling,
    "failing": failing,
    "holding": holding,
    "gathering": gathering,
}
INPUTS: dict[str, Any] = {"ordering": Order(item="lamp", price=Decimal("9.90"))}
