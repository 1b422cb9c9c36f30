"""The workflows whose output, events and logs are the snapshots: `polos worker tests.compatibility.flows`."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

from pydantic import BaseModel, Field

from polos_redis import (
    Agent,
    StepExecutionError,
    SuspendTimeoutError,
    WorkflowContext,
    WorkflowState,
    ask_user,
    queue,
    tool,
    workflow,
)

GATE = "gate"  # a file: a step runs until it is there
DEPLOYED = "deployed"  # once this file is there, `frozen-changed` has other code
TOPIC = "parcels"
PROMPT = "Where is it?"


class Order(BaseModel):
    item: str
    amount: float


class Review(BaseModel):
    approved: bool


class Basket(WorkflowState):
    items: list[str] = Field(default_factory=list)


attempted: set[str] = set()


def reserve(execution_id: str) -> str:
    if execution_id not in attempted:
        attempted.add(execution_id)
        raise ConnectionError("no answer")
    return "reserved"


def refuse() -> None:
    raise ValueError("no paper")


def until_there(path: str, heartbeat: Callable[[str], None]) -> None:
    while not Path(path).exists():
        heartbeat("not yet")
        time.sleep(0.02)


@workflow(id="frozen-pack")
async def pack(ctx: WorkflowContext, item: str) -> str:
    return str((await ctx.step.suspend("count", data=item))["data"])


@workflow(id="frozen-order", version="1", state_schema=Basket)
async def order(ctx: WorkflowContext, input: Order) -> Review:
    ctx.state.items.append(input.item)
    await ctx.step.run("reserve", reserve, ctx.execution_id, base_delay=0.001)
    with contextlib.suppress(StepExecutionError):
        await ctx.step.run("print", refuse, max_retries=0)
    with contextlib.suppress(SuspendTimeoutError):
        await ctx.step.suspend("glance", timeout=0.001)
    await ctx.step.wait_for("rest", seconds=0.001)
    await ctx.step.publish_event("tell", TOPIC, {"item": input.item}, "ordered")
    counted = ctx.step.invoke_and_wait("pack", pack, input.item)
    waited = ctx.step.wait_for_event("parcel", f"{TOPIC}/{ctx.execution_id}", timeout=3600)
    asked = ctx.step.suspend(
        "review",
        data=input,
        schema=Review,
        timeout=3600,
        form={"title": "An order"},
        approvers=["ann", "bob"],
        required=2,
    )
    reviewed, _, _ = await asyncio.gather(asked, counted, waited)
    await ctx.step.suspend("ship")
    return cast("Review", reviewed)


@workflow(id="frozen-failing", retries=1, retry_delay=0.001)
async def failing(ctx: WorkflowContext) -> None:
    await ctx.step.run("print", refuse, max_retries=0)


@workflow(id="frozen-paused", on_exhausted="pause")
async def paused(ctx: WorkflowContext) -> None:
    refuse()


def questions() -> list[str]:
    return ["other"] if Path(DEPLOYED).exists() else ["review", "other"]


@workflow(id="frozen-changed")
async def changed(ctx: WorkflowContext) -> None:
    await asyncio.gather(*(ctx.step.suspend(key) for key in questions()))


@workflow(id="frozen-running", queue=queue("frozen-narrow", concurrency_limit=1))
async def running(ctx: WorkflowContext) -> None:
    await ctx.step.run("until", until_there, GATE, ctx.step.heartbeat)


@workflow(id="frozen-continuing")
async def continuing(ctx: WorkflowContext, input: int) -> int:
    await ctx.step.suspend(f"page-{input}")
    if input < 2:
        await ctx.continue_as_new(input + 1)
    return input


@workflow(id="frozen-daily", schedule="0 9 * * *")
async def daily(ctx: WorkflowContext) -> None:
    pass


@tool
def look() -> str:
    """Look for it."""
    return "not here"


agent = Agent(id="frozen-agent", model="gpt-4o", tools=[look, ask_user()])
