"""Models whose output is hostile: it is refused within the bounds, and the model is told."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest
from pydantic import BaseModel

from polos_redis import Agent, WorkflowContext, tool, workflow
from polos_redis.testing.model import Call, ModelRequest, Reply, Say
from tests.harness.agents import error_of, talking

MAX_WAIT = 1.0  # seconds of CPU that another workflow may wait for more than without the value


class Left(BaseModel):
    inner: dict[str, Left | Right | None] = {}


class Right(BaseModel):
    inner: dict[str, Left | Right | None] = {}


class Anything(BaseModel):
    either: Left | Right | None = None
    numbers: list[int] | None = None
    tags: set[int] = set()
    prices: dict[int, int] = {}


@tool(id="hostile-tool")
async def takes(value: Anything) -> str:
    """Take anything."""
    return "taken"


@workflow(id="hostile-quick")
async def quick(ctx: WorkflowContext) -> str:
    return "done"


def _deep(levels: int) -> Any:
    value: Any = 5
    for _ in range(levels):
        value = {"inner": {"k": value}}
    return value


SAME_HASH = [number * (2**61 - 1) for number in range(20_000)]
ATTACKS: dict[str, str] = {
    "a union, 45 deep": json.dumps({"either": _deep(45)}),
    "wrong items": json.dumps({"numbers": ["x"] * 90_000}),
    "numbers with one hash": json.dumps({"tags": SAME_HASH}),
    "keys with one hash": json.dumps({"prices": {str(number): 0 for number in SAME_HASH}}),
    "too many parts": '{"numbers":[' + "[]," * 300_000 + "[]]}",
    "too many levels": '{"numbers":' + "[" * 500_000,
    "infinity": '{"numbers":[1e999]}',
    "a name twice": '{"numbers":[1],"numbers":[2]}',
}


@pytest.mark.threat(23)
@pytest.mark.failure(47)
@pytest.mark.parametrize("text", ATTACKS.values(), ids=ATTACKS)
@pytest.mark.parametrize("through", ["tool", "answer"])
async def test_hostile_output_holds_up_nobody(
    redis_url: str, namespace: str, through: str, text: str
) -> None:
    """A tool's arguments and a final answer of the declared type, in a worker with other workflows."""

    def reply(request: ModelRequest) -> Reply:
        if through == "answer":
            return Say(text)
        return Say("refused") if request.round else Say(tool_calls=[Call("hostile-tool", text)])

    status = "completed" if through == "tool" else "failed"
    agent: Agent[Any] = Agent(
        id="hostile-agent",
        model="gpt-4o",
        tools=[takes] if through == "tool" else [],
        output_schema=Anything if through == "answer" else None,
    )
    async with talking(redis_url, namespace, reply, agent, quick) as (_, at_work):

        async def longest(until_done: asyncio.Task[Any] | None) -> float:
            """The most CPU that this thread, the worker's, spends while another workflow runs: as long as a
            task runs, or ten times without one."""
            most, count = 0.0, 0
            while count < 10 or (until_done is not None and not until_done.done()):
                start = time.thread_time()
                handle = await at_work.client.invoke(quick)
                assert await handle.result(timeout=60) == "done"
                most, count = max(most, time.thread_time() - start), count + 1
            return most

        usual = await longest(None)
        handle = await agent.invoke(at_work.client, "go")
        ended = asyncio.create_task(at_work.reached(handle, status))
        wait = await longest(ended) - usual
        print(f"{wait:.3f} s of CPU more than {usual:.3f} s")
        assert wait < MAX_WAIT
        if through == "tool":
            (result,) = (await handle.result()).tool_results
            assert result.status == "invalid" and len(str(result.result)) < 20_000
        else:
            _, message = await error_of(at_work, handle)
            assert len(message) < 20_000
