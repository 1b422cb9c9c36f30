"""Agents for worker processes (tests/harness/fleet.py)."""

from __future__ import annotations

from dataclasses import dataclass

from polos_redis import Agent, WorkflowContext, tool, workflow
from tests.harness.fleet_workflows import effect, gate


@dataclass
class Note:
    text: str


@tool
async def note(ctx: WorkflowContext, note: Note) -> str:
    """Note something down once the gate is open."""
    await ctx.step.run("note", _note, ctx.root_execution_id, note.text)
    return f"noted {note.text}"


async def _note(execution_id: str, text: str) -> None:
    effect(execution_id, text)
    await gate("go")


writer = Agent(id="writer", model="gpt-4o", tools=[note])


@workflow
async def ask_the_writer(ctx: WorkflowContext, prompt: str) -> str:
    return (await ctx.step.agent_invoke_and_wait("ask", writer.with_input(prompt))).result
