"""Workflows whose inputs, states and answers have the types that hostile values aim at; a worker process
serves them."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import BaseModel, Field, Json, create_model

from polos_redis import StepExecutionError, WorkflowContext, workflow


class And(BaseModel):
    kind: Literal["and"]
    of: list[And | Or | Leaf]


class Or(BaseModel):
    kind: Literal["or"]
    of: list[And | Or | Leaf]


class Leaf(BaseModel):
    kind: Literal["leaf"]
    value: str


class Left(BaseModel):
    inner: dict[str, Left | Right | None] = {}


class Right(BaseModel):
    inner: dict[str, Left | Right | None] = {}


class Tree(BaseModel):
    value: int
    children: list[Tree] = []


class Part(BaseModel):
    name: str
    weight: float


Wide: Any = create_model("Wide", **{f"f{number}": (int, ...) for number in range(50)})  # type: ignore[call-overload]


Choice: Any = Literal[tuple(f"option {number}" for number in range(3_000))]


class Everything(BaseModel):
    """One field for each kind of attack."""

    rule: And | Or | Leaf | None = None
    either: Left | Right | None = None
    tree: Tree | None = None
    numbers: list[int] | None = None
    lists: list[list[int] | list[str] | list[bytes]] | None = None
    parts: list[Part] = []
    wide: list[Wide] = []
    tags: set[str] = set()
    prices: dict[str, int] = {}
    name: str = Field("", pattern=r"^(\w+\s?)*$")
    text: Json[list[int] | None] | None = None
    ids: set[int] = set()
    counts: dict[int, int] = {}
    choices: list[Choice] = []
    regex: re.Pattern[str] | None = None
    untyped: Any = None


@workflow(id="hostile-quick")
async def quick(ctx: WorkflowContext) -> str:
    return "done"


@workflow(id="hostile-input")
async def takes(ctx: WorkflowContext, input: Everything) -> str:
    return "taken"


@workflow(id="hostile-state", state_schema=Everything)
async def has_state(ctx: WorkflowContext) -> str:
    return "taken"


@workflow(id="hostile-answer")
async def asks(ctx: WorkflowContext, key: str) -> str:
    await ctx.step.suspend(key, schema=Everything)
    return "answered"


@workflow(id="hostile-early")
async def asks_later(ctx: WorkflowContext) -> str:
    await ctx.step.suspend("gate")
    await ctx.step.suspend("ask", schema=Everything)
    return "answered"


@workflow(id="hostile-shown")
async def shows(ctx: WorkflowContext, input: Any) -> str:
    await ctx.step.suspend("ask", data={"shown": input}, form={})
    return "answered"


@workflow(id="hostile-resumes")
async def resumes(ctx: WorkflowContext, input: dict[str, Any]) -> str:
    """Pass an answer on from inside a worker, as an event and as a call."""
    execution_id, key = input["to"], input["key"]
    found = []
    try:
        await ctx.step.publish_event("event", f"{key}/{execution_id}", input["data"], "resume")
        found.append("passed on")
    except StepExecutionError as error:
        found.append(error.error_type)
    try:
        await ctx.step.resume("call", key, execution_id, data=input["data"])
        found.append("passed on")
    except StepExecutionError as error:
        found.append(error.error_type)
    return " ".join(found)
