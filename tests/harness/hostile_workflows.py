"""Workflows whose types' validators are hostile to the worker that runs them."""

from __future__ import annotations

import os
import time

from pydantic import BaseModel, field_validator

from polos_redis import WorkflowContext, workflow
from tests.harness.fleet_workflows import effect


class Verdict(BaseModel):
    """An answer that may kill or block the process that checks it."""

    approved: bool
    note: str = ""

    @field_validator("note")
    @classmethod
    def check_note(cls, note: str) -> str:
        what, _, seconds = note.partition(" ")
        if what == "die":
            effect("validator", "died")
            os._exit(3)
        if what == "block":
            effect("validator", "blocks")
            time.sleep(float(seconds))
        return note


@workflow
async def asks(ctx: WorkflowContext, input: float) -> str:
    """Asks a person, after `input` seconds."""
    await ctx.step.wait_for("before", seconds=input)
    verdict = await ctx.step.suspend("ask", schema=Verdict)
    return getattr(verdict, "note", "rejected")


@workflow
async def trivial(ctx: WorkflowContext) -> int:
    return await ctx.step.run("pid", os.getpid)


@workflow
async def blocks(ctx: WorkflowContext, input: float) -> int:
    """Blocks the event loop in a step, then takes another step."""

    async def hold() -> int:
        pid = effect(ctx.execution_id, "block")
        time.sleep(input)  # noqa: ASYNC251 - blocks the loop, which is the point
        return pid

    first = await ctx.step.run("block", hold)
    await ctx.step.run("after", effect, ctx.execution_id, "after")
    return first
