"""The workflows under load. Each step returns a token that only this run of it has, and each workflow returns
all that its code was given, so every value is a register that the audit can follow.

What a suspension shows tells the driver how to answer it (see load.py).
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from typing import Any

from pydantic import BaseModel, Field

from polos_redis import (
    Agent,
    BatchWorkflowInput,
    NoRetryError,
    StepExecutionError,
    SuspendTimeoutError,
    WaitTimeoutError,
    WorkflowContext,
    WorkflowState,
    queue,
    tool,
    workflow,
)
from polos_redis.notifications import Notification
from tests.chaos import effects
from tests.chaos.effects import record
from tests.chaos.terms import KEYED, NARROW, NEWS, ORDERS, REQUIRED


def token() -> str:
    return os.urandom(6).hex()


class Acting:
    """The steps of one activation, and what its code was given, by step key."""

    def __init__(self, ctx: WorkflowContext, slot: str = "") -> None:
        self.ctx = ctx
        self.slot = slot
        self.given: dict[str, str] = {}

    def saw(self, step: str, value: object) -> str:
        """Record what the code was given."""
        self.given[step] = str(value)
        record(self.ctx.execution_id, effects.SAW, step, value=str(value), run=self.ctx.run)
        return str(value)

    async def step(
        self, key: str, seconds: float = 0.0, *, raises: int = 0, thread: bool = False, **options: Any
    ) -> str:
        """A step that takes some time; `raises` of its runs fail first."""
        run = _Run(self, key, seconds, raises)
        return self.saw(key, await self.ctx.step.run(key, run.wait if thread else run.sleep, **options))

    async def ask(self, key: str, plan: dict[str, Any], **options: Any) -> str:
        """A suspension answered as the plan says."""
        answer = await self.ctx.step.suspend(key, data={"plan": plan}, **options)
        return self.saw(key, answer["data"]["value"] if isinstance(answer, dict) else answer.value)


class _Run:
    """The function of a step."""

    def __init__(self, acting: Acting, key: str, seconds: float, raises: int) -> None:
        self.acting, self.key, self.seconds, self.raises = acting, key, seconds, raises

    def _record(self, what: str, attempt: str) -> None:
        acting = self.acting
        record(acting.ctx.execution_id, what, self.key, attempt=attempt, run=acting.ctx.run, slot=acting.slot)

    def _begin(self) -> str:
        attempt = token()
        self._record(effects.START, attempt)
        return attempt

    def _end(self, attempt: str) -> str:
        if self.raises and effects.times(self.acting.ctx.execution_id, self.key) <= self.raises:
            self._record(effects.RAISED, attempt)
            raise ConnectionError("as planned")
        self._record(effects.END, attempt)
        return attempt

    async def sleep(self) -> str:
        attempt = self._begin()
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            self._record(effects.CANCELLED, attempt)
            raise
        return self._end(attempt)

    def wait(self) -> str:
        attempt = self._begin()
        threading.Event().wait(self.seconds)
        return self._end(attempt)


# --- steps ------------------------------------------------------------------------------


@workflow
async def steps(ctx: WorkflowContext, input: Any) -> dict[str, str]:
    """Steps in the loop and in threads, alone and side by side, with retries in place and parked."""
    acting = Acting(ctx)
    await acting.step("first")
    await acting.step("flaky", 0.02, raises=2, max_retries=50, base_delay=0.05, max_delay=0.2)
    await acting.step("thread", 0.1, thread=True)
    await asyncio.gather(acting.step("left", 0.1), acting.step("right", 0.3, thread=True))
    if input["parks"]:
        await acting.step("parked", raises=1, max_retries=50, base_delay=5.5, max_delay=5.5)
    acting.saw("uuid", await ctx.step.uuid("uuid"))
    await asyncio.sleep(input["pause"])  # the code's own, between steps
    await acting.step("last")
    return acting.given


@workflow
async def long(ctx: WorkflowContext, input: Any) -> dict[str, str]:
    """Slow steps; some of its executions are cancelled."""
    acting = Acting(ctx)
    for number in range(input["steps"]):
        await acting.step(f"step-{number}", input["seconds"], thread=number % 2 == 1)
    return acting.given


@workflow
async def delayed(ctx: WorkflowContext, input: Any) -> dict[str, str]:
    """Started later; waits in between."""
    acting = Acting(ctx)
    await acting.step("first")
    await ctx.step.wait_for("pause", seconds=input["seconds"])
    await acting.step("last")
    return acting.given


# --- suspensions ------------------------------------------------------------------------


class Verdict(BaseModel):
    approved: bool
    value: str


@workflow
async def approval(ctx: WorkflowContext, input: Any) -> dict[str, str]:
    """Suspensions of each kind in a row: anybody's answer, a typed one, one of several people."""
    acting = Acting(ctx)
    await acting.step("before")
    await acting.ask("plain", {"after": input["after"], "rivals": 2})
    await acting.step("between")
    await acting.ask("typed", {"after": 0, "rivals": 3}, schema=Verdict)
    both = {"after": 0, "people": ["ann", "bob", "eve"]}
    await acting.ask("several", both, approvers=["ann", "bob", "group:eves"], required=REQUIRED)
    await acting.step("after")
    return acting.given


@workflow
async def early(ctx: WorkflowContext, input: Any) -> dict[str, str]:
    """A suspension whose answer comes before it."""
    acting = Acting(ctx)
    await acting.step("before", input["seconds"])
    await acting.ask("early", {"silent": True})
    return acting.given


@workflow
async def timed(ctx: WorkflowContext, input: Any) -> dict[str, str]:
    """A suspension whose deadline comes about when its answer does."""
    acting = Acting(ctx)
    try:
        await acting.ask("timed", {"after": input["after"]}, timeout=input["timeout"])
    except SuspendTimeoutError:
        acting.saw("timed", "nobody")
    await acting.step("after")
    return acting.given


@workflow
async def race(ctx: WorkflowContext, input: Any) -> dict[str, str]:
    """An answer, a delay and a slow step, of which one wins."""
    acting = Acting(ctx)
    won = await ctx.step.first_of(
        "race",
        {
            "ask": ctx.step.suspend("ask", data={"plan": {"after": input["after"]}}),
            "time": ctx.step.wait_for("time", seconds=input["timeout"]),
            "code": acting.step("slow", input["timeout"] + 0.3),
        },
    )
    acting.saw("race", won.name)
    if won.name == "ask":
        acting.saw("ask", won.value["data"]["value"])
    await acting.step("after")
    return acting.given


@workflow
async def asked(ctx: WorkflowContext, input: Any) -> dict[str, str]:
    """A suspension that `responder` answers."""
    acting = Acting(ctx)
    await acting.ask("asked", {"silent": True})
    return acting.given


@workflow
async def responder(ctx: WorkflowContext, input: Any) -> dict[str, str]:
    """Answers another execution's suspension."""
    acting = Acting(ctx)
    value = acting.saw("value", await ctx.step.uuid("value"))
    record(input["id"], effects.OFFERED, "asked", value=value)
    await ctx.step.resume("answer", "asked", input["id"], "asked", {"value": value})
    await acting.step("after")
    return acting.given


@workflow
async def notified(ctx: WorkflowContext, input: Any) -> dict[str, str]:
    """A suspension that is answered only once its notification has been sent."""
    acting = Acting(ctx)
    await acting.ask("notified", {"after": 0, "once_notified": True})
    return acting.given


class RecordingChannel:
    """A channel that records what it is given."""

    name = "chaos"

    async def send(self, notification: Notification) -> None:
        record(notification.execution_id, effects.NOTIFIED, notification.step_key)


CHANNELS = [RecordingChannel()]


@workflow
async def hurried(ctx: WorkflowContext, input: Any) -> None:
    """Nobody answers it before its run timeout."""
    acting = Acting(ctx)
    await acting.step("before")
    await acting.ask("nobody", {"silent": True})


# --- children ---------------------------------------------------------------------------


@workflow
async def leaf(ctx: WorkflowContext, input: Any) -> dict[str, str]:
    acting = Acting(ctx)
    await acting.step("work", 0.05)
    if input.get("asks"):
        await acting.ask("leaf", {"after": 0})
    return acting.given


@workflow
async def branch(ctx: WorkflowContext, input: Any) -> dict[str, str]:
    """Children by id, one of them with a concurrency key."""
    acting = Acting(ctx)
    one = await ctx.step.invoke_and_wait("one", "leaf", {"asks": True})
    acting.saw("one", one["leaf"])
    two = await ctx.step.invoke_and_wait("two", "keyed", {"key": "child"}, concurrency_key="child")
    acting.saw("two", two["inside"])
    return acting.given


@workflow
async def parent(ctx: WorkflowContext, input: Any) -> dict[str, str]:
    """A batch of children, a nested one, and one that it does not wait for."""
    acting = Acting(ctx)
    batch = [BatchWorkflowInput("leaf", {}) for _ in range(input["count"])]
    for number, child in enumerate(await ctx.step.batch_invoke_and_wait("batch", batch)):
        acting.saw(f"batch-{number}", child.result["work"] if child.success else child.error)
    nested = await ctx.step.invoke_and_wait("nested", branch, {})
    acting.saw("nested", nested["one"])
    await ctx.step.invoke("aside", leaf, {})
    await acting.step("after")
    return acting.given


# --- events -----------------------------------------------------------------------------


@workflow
async def listener(ctx: WorkflowContext, input: Any) -> dict[str, str]:
    """Waits for an event of a topic, and for one that never comes."""
    acting = Acting(ctx)
    event = await ctx.step.wait_for_event("bell", input["topic"])
    acting.saw("bell", event.data)
    try:
        await ctx.step.wait_for_event("never", f"{input['topic']}-never", timeout=0.3)
    except WaitTimeoutError:
        acting.saw("never", "nothing")
    await acting.step("after")
    return acting.given


@workflow
async def announcer(ctx: WorkflowContext, input: Any) -> dict[str, str]:
    """Publishes once to a topic and to its own stream."""
    acting = Acting(ctx)
    await acting.step("before")
    await ctx.step.publish_event("announce", NEWS, {"from": ctx.execution_id}, event_type="news")
    await ctx.step.publish_workflow_event("tell", {"from": ctx.execution_id}, event_type="told")
    await acting.step("after", 0.1)
    return acting.given


@workflow(trigger_on_event=ORDERS)
async def ordered(ctx: WorkflowContext, event: Any) -> dict[str, str]:
    acting = Acting(ctx)
    acting.saw("order", event.data)
    await acting.step("work")
    return acting.given


@workflow
async def ticking(ctx: WorkflowContext, tick: Any) -> dict[str, str]:
    acting = Acting(ctx)
    acting.saw("tick", f"{tick.key} {tick.timestamp.isoformat()}")
    await acting.step("work")
    return acting.given


# --- queues -----------------------------------------------------------------------------


async def _inside(ctx: WorkflowContext, slot: str) -> dict[str, str]:
    acting = Acting(ctx, slot)
    await acting.step("inside", 0.15)
    await ctx.step.wait_for("outside", seconds=0.1)
    await acting.step("again", 0.1, thread=True)
    return acting.given


@workflow(queue=queue("narrow", concurrency_limit=NARROW))
async def narrow(ctx: WorkflowContext, input: Any) -> dict[str, str]:
    return await _inside(ctx, "narrow")


@workflow(queue=queue("keyed", concurrency_limit=KEYED))
async def keyed(ctx: WorkflowContext, input: Any) -> dict[str, str]:
    return await _inside(ctx, f"keyed/{input['key']}")


# --- failures ---------------------------------------------------------------------------


@workflow
async def failing(ctx: WorkflowContext, input: Any) -> dict[str, str]:
    """Fails until somebody retries it."""
    acting = Acting(ctx)
    await acting.step("kept")
    await acting.ask("question", {"after": 0})

    def breaks() -> str:
        if ctx.run == 1:
            raise NoRetryError("as planned")
        return "mended"

    acting.saw("breaks", await ctx.step.run("breaks", breaks))
    await acting.step("after")
    return acting.given


@workflow(retries=5, retry_delay=0.2)
async def stubborn(ctx: WorkflowContext, input: Any) -> dict[str, str]:
    """Fails twice and goes on by itself."""
    acting = Acting(ctx)
    await acting.step("kept")
    if ctx.run < 3:
        raise LookupError("as planned")
    await acting.step("after")
    return acting.given


@workflow
async def forgiving(ctx: WorkflowContext, input: Any) -> dict[str, str]:
    """A step fails for good; the code goes on."""
    acting = Acting(ctx)

    def breaks() -> None:
        raise NoRetryError("as planned")

    try:
        await ctx.step.run("breaks", breaks)
    except StepExecutionError as error:
        acting.saw("breaks", error.error_type)
    await acting.step("undo")
    return acting.given


# --- state ------------------------------------------------------------------------------


class Tally(WorkflowState):
    log: list[str] = Field(default_factory=list)


@workflow(state_schema=Tally)
async def tally(ctx: WorkflowContext, input: Any) -> dict[str, str]:
    """A state that steps and code change; in the end it holds each change once."""
    acting = Acting(ctx)

    def change(name: str) -> str:
        ctx.state.log.append(name)
        time.sleep(0.02)
        return name

    for name in ("a", "b"):
        await ctx.step.run(name, change, name)
        ctx.state.log.append(f"after {name}")
        await acting.step(f"work-{name}", 0.1)
    await ctx.step.wait_for("pause", seconds=0.1)
    await ctx.step.run("c", change, "c")
    acting.saw("log", " ".join(ctx.state.log))
    return acting.given


@workflow(state_schema=Tally)
async def feed(ctx: WorkflowContext, input: Any) -> dict[str, str]:
    """Continues as new a few times; its state has each run once, in order."""
    acting, number = Acting(ctx), input["number"]
    await acting.step(f"fetch-{number}", 0.05)
    if number % 2:
        await acting.ask(f"ask-{number}", {"after": 0})
    child = await ctx.step.invoke_and_wait("leaf", leaf, {})
    acting.saw(f"leaf-{number}", child["work"])
    await ctx.step.invoke("aside", leaf, {})
    ctx.state.log.append(str(number))
    if number < input["last"]:
        await ctx.continue_as_new({**input, "number": number + 1})
    acting.saw("log", " ".join(ctx.state.log))
    return acting.given


# --- agents -----------------------------------------------------------------------------


class Job(BaseModel):
    name: str


@tool
async def note(ctx: WorkflowContext, job: Job) -> str:
    """Note a job."""
    return await Acting(ctx).step("note", 0.05)


@tool(approval="always")
async def pay(job: Job) -> str:
    """Pay for a job."""
    return f"paid {job.name}"


clerk = Agent(id="clerk", model="gpt-4o", tools=[note, pay])


@workflow
async def office(ctx: WorkflowContext, input: Any) -> dict[str, str]:
    """An agent with a tool, and one that a person approves."""
    acting = Acting(ctx)
    done = await ctx.step.agent_invoke_and_wait("clerk", clerk.with_input(input["prompt"]))
    acting.saw("clerk", done.result)
    acting.saw("tools", " ".join(f"{one.tool}={one.status}" for one in done.tool_results))
    await acting.step("after")
    return acting.given
