"""The workflows that golden data is of. Later releases go on with what they have begun: don't change them."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from pydantic import BaseModel, Field

from polos_redis import (
    BatchEventPayload,
    BatchWorkflowInput,
    StepExecutionError,
    SuspendTimeoutError,
    Workflow,
    WorkflowContext,
    WorkflowState,
    queue,
    stored_as,
    workflow,
)
from polos_redis.notifications import Notification

RECORDING = "POLOS_TEST_RECORDING"  # set while golden data is made: then some steps fail, or do not end
FAR = 3e9  # seconds, 95 years: what golden data waits for does not become due
TOPIC = "golden-parcels"


class Order(BaseModel):
    item: str
    amount: float


class Review(BaseModel):
    approved: bool
    note: str


@stored_as("golden:Parcel")
@dataclass
class Parcel:
    item: str
    weight: int


class Basket(WorkflowState):
    items: list[str] = Field(default_factory=list)


class Size(Enum):
    SMALL = "s"
    LARGE = "l"


# One of each type that values can have.
VALUES: dict[str, Any] = {
    "plain": [None, True, -1, 1.5, "é", b"\x00", {1: "one"}],
    "integer": 2**100,
    "tuple": (1, (2,)),
    "sets": [{1, 2}, frozenset(("a",))],
    "times": [
        datetime(2026, 3, 29, 2, 30, tzinfo=ZoneInfo("Europe/Vienna")),
        datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC),
        date(2026, 2, 28),
        time(23, 59),
        timedelta(days=-1, microseconds=1),
    ],
    "decimal": Decimal("1.10"),
    "uuid": UUID("12345678-1234-5678-1234-567812345678"),
    "enum": Size.LARGE,
    "dataclass": Parcel("lamp", 1),
    "model": Order(item="lamp", amount=5),
}


class Pager:
    """A channel that nobody answers while golden data is made."""

    name = "pager"

    async def send(self, notification: Notification) -> None:
        call()


def call() -> str:
    if os.environ.get(RECORDING):
        raise ConnectionError("no answer")
    return "called"


def refuse() -> None:
    raise ValueError("no paper")


async def hold(heartbeat: Callable[[str], None]) -> str:
    if os.environ.get(RECORDING):
        heartbeat("half")
        await asyncio.Event().wait()
    return "held"


@workflow(id="golden-pack")
async def pack(ctx: WorkflowContext, item: str) -> Parcel:
    answer = await ctx.step.suspend("count", data={"item": item})
    return Parcel(item, answer["data"])


@workflow(id="golden-order", version="1", state_schema=Basket)
async def order(ctx: WorkflowContext, input: Order) -> list[Any]:
    ctx.state.items.append(input.item)
    parcel = await ctx.step.run("wrap", lambda: Parcel(input.item, 1))
    with contextlib.suppress(StepExecutionError):
        await ctx.step.run("print", refuse, max_retries=0)
    with contextlib.suppress(SuspendTimeoutError):
        await ctx.step.suspend("glance", timeout=0.001)
    await ctx.step.wait_for("rest", seconds=0.001)
    packed = ctx.step.invoke_and_wait("pack", pack, input.item)
    arrived = ctx.step.wait_for_event("parcel", f"{TOPIC}/{ctx.execution_id}", timeout=FAR)
    asked = ctx.step.suspend(
        "review",
        data=input,
        schema=Review,
        timeout=FAR,
        form={"title": "An order"},
        approvers=["ann", "bob", "group:staff"],
        required=2,
    )
    review, kid, event = await asyncio.gather(asked, packed, arrived)
    shipped = await ctx.step.suspend("ship")
    return [parcel, review, kid, event.data, shipped["data"], ctx.state.items]


@workflow(id="golden-race")
async def race(ctx: WorkflowContext) -> Any:
    name, value = await ctx.step.first_of(
        "first",
        {
            "approval": ctx.step.suspend("approval"),
            "limit": ctx.step.wait_for("limit", seconds=FAR),
            "pack": ctx.step.invoke_and_wait("pack", pack, "lamp"),
        },
    )
    return [name, value["data"]]


@workflow(id="golden-batch")
async def batch(ctx: WorkflowContext) -> list[Any]:
    some = [BatchWorkflowInput("golden-pack", item) for item in ("cup", "plate")]
    return [one.result for one in await ctx.step.batch_invoke_and_wait("both", some)]


@workflow(id="golden-sleeping")
async def sleeping(ctx: WorkflowContext) -> str:
    await ctx.step.wait_for("rest", seconds=FAR)
    return "rested"


@workflow(id="golden-backing-off")
async def backing_off(ctx: WorkflowContext) -> Any:
    return await ctx.step.run("call", call, base_delay=FAR, max_delay=FAR)


@workflow(id="golden-retrying", retries=1, retry_delay=FAR)
async def retrying(ctx: WorkflowContext) -> Any:
    return await ctx.step.run("call", call, max_retries=0)


@workflow(id="golden-failing")
async def failing(ctx: WorkflowContext) -> Any:
    return await ctx.step.run("call", call, max_retries=0)


@workflow(id="golden-paused", on_exhausted="pause")
async def paused(ctx: WorkflowContext) -> str:
    await ctx.step.suspend("before")
    return call()


@workflow(id="golden-continuing")
async def continuing(ctx: WorkflowContext, input: int) -> int:
    await ctx.step.suspend(f"page-{input}")
    if input < 3:
        await ctx.continue_as_new(input + 1)
    return input


@workflow(id="golden-held", queue=queue("golden-narrow", concurrency_limit=1))
async def held(ctx: WorkflowContext) -> Any:
    return await ctx.step.run("hold", hold, ctx.step.heartbeat)


@workflow(id="golden-plain")
async def plain(ctx: WorkflowContext, input: Any) -> Any:
    return input


@workflow(
    id="golden-triggered",
    trigger_on_event=TOPIC,
    batch_size=3,
    batch_timeout_seconds=9e6,  # the longest that is allowed
)
async def triggered(ctx: WorkflowContext, input: BatchEventPayload) -> Any:
    return await ctx.step.run("read", lambda: [event.data for event in input.events])


@workflow(id="golden-steps")
async def steps(ctx: WorkflowContext) -> list[Any]:
    """The kinds of records that the others have no example of."""
    quick = {"quick": ctx.step.wait_for("quick", seconds=0.001), "slow": ctx.step.suspend("slow")}
    name, _ = await ctx.step.first_of("first", quick)
    kid = await ctx.step.invoke("kid", pack, "lamp")
    values = [await ctx.step.uuid("uuid"), await ctx.step.now("now"), await ctx.step.random("random")]
    is_new = await ctx.patched("new")
    answer = await ctx.step.suspend("after", data=VALUES)
    return [name, kid.id, values, is_new, answer["data"]]


async def _asks(ctx: WorkflowContext) -> Any:
    return (await ctx.step.suspend("review"))["data"]


async def _asks_both(ctx: WorkflowContext) -> Any:
    await asyncio.gather(ctx.step.suspend("review"), ctx.step.suspend("other"))


async def _asks_the_other(ctx: WorkflowContext) -> Any:
    return (await ctx.step.suspend("other"))["data"]


def pinned(version: str) -> Workflow[Any, Any]:
    """The version of a workflow that executions stay with."""
    return Workflow(_asks, "golden-pinned", version=version, version_policy="pin")


before: Workflow[Any, Any] = Workflow(_asks_both, "golden-changed")
after: Workflow[Any, Any] = Workflow(_asks_the_other, "golden-changed")

FLOWS: tuple[Workflow[Any, Any], ...] = (
    *(pack, order, race, batch, sleeping, backing_off, retrying, failing),
    *(paused, continuing, held, plain, triggered, steps),
)
