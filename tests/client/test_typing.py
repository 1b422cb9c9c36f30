"""What a type checker reports in a user's program, under mypy --strict."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests import ROOT

PROGRAM = """
    import functools
    from collections.abc import AsyncIterator, Coroutine
    from dataclasses import dataclass
    from typing import Any, assert_type

    from polos_redis import (
        Agent, AgentResult, Tool, Usage, ask_user, tool,
        BatchStepResult, BatchWorkflowInput, Event, EventData, EventPayload, ExecutionHandle, HookContext,
        HookResult, Page, Polos, PolosClient, Resumed, Winner, Worker, Workflow, WorkflowContext,
        WorkflowState, events, queue, workflow,
    )
    from polos_redis import results
    from polos_redis import types as polos_types
    from polos_redis.features import events as features

    @dataclass
    class Order:
        amount: float

    @dataclass
    class Receipt:
        number: int

    def price(order: Order) -> float:
        return order.amount

    async def charge(order: Order, *, retries: int = 0) -> Receipt:
        return Receipt(1)

    class Notify:
        def __call__(self, receipt: Receipt) -> bool:
            return True

        async def later(self, receipt: Receipt) -> str:
            return ""

    @workflow
    async def buy(ctx: WorkflowContext, input: Order) -> Receipt:
        assert_type(await ctx.step.run("sync", price, input), float)
        assert_type(await ctx.step.run("async", charge, input, retries=1, max_retries=5), Receipt)
        assert_type(await ctx.step.run("lambda", lambda: 5), int)
        assert_type(await ctx.step.run("lambda of a coroutine", lambda: charge(input)), Receipt)
        assert_type(await ctx.step.run("partial", functools.partial(price, input)), float)
        assert_type(await ctx.step.run("async partial", functools.partial(charge, input)), Receipt)
        assert_type(await ctx.step.run("object", Notify(), Receipt(1)), bool)
        assert_type(await ctx.step.run("method", Notify().later, Receipt(1)), str)
        answer = await ctx.step.suspend("ask", data={"amount": 1}, timeout=3600)
        assert_type(answer, dict[str, Any])
        assert_type(ctx.step.idempotency_key("sync"), str)
        assert_type(ctx.execution_id, str)
        return await ctx.step.run("again", charge, input)

    @workflow(id="tidy-up")
    async def tidy(ctx: WorkflowContext) -> int:
        return 1

    @workflow(id="with-input")
    async def with_input(ctx: WorkflowContext, input: dict[str, int]) -> list[str]:
        return list(input)

    class Tally(WorkflowState):
        count: int = 0

    async def check(ctx: WorkflowContext, hook: HookContext) -> HookResult:
        return HookResult.continue_with(modified_payload=hook.current_payload)

    def note(ctx: WorkflowContext, hook: HookContext) -> None:
        print(hook.current_output)

    @workflow(state_schema=Tally, on_start=[check, note], on_end=check, queue=queue("till", 3), retries=2)
    async def counts(ctx: WorkflowContext, input: Order) -> Receipt:
        assert_type(ctx.state, Any)
        return Receipt(ctx.state.count)

    @workflow(state_schema=Tally, unreached="stop")
    async def only_counts(ctx: WorkflowContext) -> int:
        return 1

    @tool
    def look_up(order: Order) -> float:
        return order.amount

    @tool(description="Buy.", approval=lambda order: order.amount > 5, approvers=["group:till"])
    async def order_it(ctx: WorkflowContext, order: Order) -> str:
        return ""

    tools = [look_up, order_it, tidy, ask_user()]
    planner = Agent(id="planner", model="m", output_schema=Receipt, tools=tools)
    talker = Agent(id="talker", model="m", tools=[planner])

    @workflow
    async def asks(ctx: WorkflowContext) -> int:
        plan = await ctx.step.agent_invoke_and_wait("plan", planner.with_input("a plan"))
        assert_type(plan, AgentResult[Receipt])
        assert_type(plan.result, Receipt)
        assert_type(plan.usage, Usage)
        messages = [{"role": "user", "content": ""}]
        text = await ctx.step.agent_invoke_and_wait("talk", talker.with_input(messages))
        assert_type(text.result, str)
        begun = await ctx.step.agent_invoke("begin", planner.with_input("a plan"))
        assert_type(begun, ExecutionHandle[AgentResult[Receipt]])
        calls = [planner.with_input("a"), talker.with_input("b")]
        assert_type(await ctx.step.batch_agent_invoke("all", calls), list[ExecutionHandle[Any]])
        assert_type(await ctx.step.batch_agent_invoke_and_wait("wait", calls), list[BatchStepResult])
        return plan.usage.total_tokens

    async def converse(client: PolosClient) -> None:
        assert_type(look_up, Tool)
        assert_type(order_it, Tool)
        assert_type(planner, Agent[Receipt])
        assert_type(talker, Agent[str])
        assert_type((await planner.run(client, "a plan", timeout=5)).result, Receipt)
        stream = await planner.stream(client, "a plan")
        async for chunk in stream.text_chunks:
            assert_type(chunk, str)
        async for event in stream.events:
            assert_type(event, Event)
        assert_type((await stream.result()).result, Receipt)

    @workflow(on_end=[note])
    async def parent(ctx: WorkflowContext) -> int:
        assert_type(await ctx.step.invoke_and_wait("one", counts, Order(1.0)), Receipt)
        assert_type(await ctx.step.invoke_and_wait("id", "counts", {"amount": 1}), Any)
        assert_type(await ctx.step.invoke("go on", only_counts), ExecutionHandle[int])
        several = [BatchWorkflowInput(counts, Order(1.0), initial_state=Tally(count=2))]
        assert_type(await ctx.step.batch_invoke_and_wait("all", several), list[BatchStepResult])
        assert_type(await ctx.step.batch_invoke("begin", several), list[ExecutionHandle[Any]])
        event = await ctx.step.wait_for_event("event", "topic", timeout=5)
        assert_type(event, EventPayload)
        assert_type(event, polos_types.EventPayload)
        assert_type(event, features.EventPayload)
        assert_type(event.sequence_id, int)
        first = await ctx.step.first_of(
            "race", {"asked": ctx.step.suspend("ask"), "late": ctx.step.wait_for("late", hours=1)}
        )
        assert_type(first, Winner)
        assert_type(first.name, str)
        assert_type(await ctx.step.uuid("uuid"), str)
        assert_type(await ctx.step.now("now"), int)
        assert_type(await ctx.step.random("random"), float)
        return 1

    async def main() -> None:
        client = PolosClient()
        assert_type(counts, Workflow[Order, Receipt])
        assert_type(only_counts, Workflow[None, int])
        assert_type(parent, Workflow[None, int])
        assert_type(await counts.run(client, Order(1.0), timeout=5, initial_state={"count": 1}), Receipt)
        assert_type(buy, Workflow[Order, Receipt])
        assert_type(tidy, Workflow[None, int])
        assert_type(with_input, Workflow[dict[str, int], list[str]])
        handle = await buy.invoke(client, Order(1.0))
        assert_type(handle, ExecutionHandle[Receipt])
        assert_type(await handle.result(), Receipt)
        assert_type(await handle.result(timeout=5), Receipt)
        assert_type(await handle.status(), str)
        assert_type(await (await tidy.invoke(client)).result(), int)
        assert_type(await (await client.invoke(with_input, {"a": 1})).result(), list[str])
        execution = await client.get_execution(handle.id)
        assert_type(execution, results.Execution)
        assert_type(execution.status, results.ExecutionStatus)
        assert_type(execution.steps[0].attempts, int)
        assert_type(execution["status"], Any)
        as_dict: dict[str, Any] = execution
        assert_type(await client.list_executions(), Page[results.ExecutionSummary])
        assert_type(await client.list_suspensions(), Page[results.Suspension])
        assert_type((await client.get_suspension(handle.id, "ask")).user_id, str | None)
        assert_type(await client.audit(handle.id), list[results.AuditEntry])
        by_id = await client.invoke("tidy-up")
        assert_type(by_id, ExecutionHandle[Any])
        general: ExecutionHandle[object] = handle
        assert_type(await client.get_handle("id").result(), Any)
        assert_type(await client.get_handle("id"), ExecutionHandle[Any])
        resumed = await client.resume(suspend_execution_id="id", suspend_step_key="ask", data={"ok": True})
        assert_type(resumed, Resumed)
        assert_type(await client.list_executions(), Page[results.ExecutionSummary])
        assert_type(events.stream_workflow(client, "w", "id"), AsyncIterator[Event])
        async for event in events.stream_topic(client, "ask/id"):
            assert_type(event, Event)
        assert_type(await events.publish(client, "topic", EventData(event_type="x", data=1)), str)
        async with Polos() as polos:
            assert_type(polos, Polos)
            await buy.invoke(polos, Order(1.0))
        await Worker(client, [buy, tidy, with_input]).run()
"""

MISTAKES = """
    from polos_redis import Agent, PolosClient, WorkflowContext, tool, workflow

    talker = Agent(id="talker", model="m", temprature=1)  # E: Unexpected keyword argument "temprature"

    @tool(approval="maybe")  # E: No overload variant
    def look() -> str:
        return ""

    @workflow
    async def talk(ctx: WorkflowContext) -> int:
        await ctx.step.agent_invoke_and_wait("talk", "Hi")  # E: Argument 2 to "agent_invoke_and_wait"
        found = await ctx.step.agent_invoke_and_wait("talk", talker.with_input(""))
        return found.result  # E: Incompatible return value

    @workflow
    async def buy(ctx: WorkflowContext, input: int) -> str:
        number: int = await ctx.step.run("key", str, input)  # E: Argument 2 to "run"
        await ctx.step.run("key")  # E: No overload variant
        await ctx.step.run(5, str)  # E: No overload variant
        ctx.step.run("never awaited", str)  # E: must be used
        return ""

    @workflow  # E: Argument 1 to "workflow"
    def sync(ctx: WorkflowContext) -> str:
        return ""

    def hook(ctx: WorkflowContext) -> None: ...

    @workflow(on_start=hook)  # E: Argument "on_start" to "workflow"
    async def hooked(ctx: WorkflowContext) -> int:
        return await ctx.step.invoke_and_wait("key", buy, 1)  # E: Argument 2 to "invoke_and_wait"

    @workflow(unreached="raise")  # E: No overload variant
    async def strict(ctx: WorkflowContext) -> int:
        return 1

    @workflow(state_schema="Tally")  # E: No overload variant
    async def counted(ctx: WorkflowContext) -> int:
        return 1

    async def main(client: PolosClient) -> None:
        await buy.invoke(client, "not a number")  # E: Argument 2 to "invoke"
        handle = await buy.invoke(client, 1)
        await buy.invoke(client, 1, inital_state={})  # E: Unexpected keyword argument "inital_state"
        number: int = await handle.result()  # E: Incompatible types in assignment
        await client.resume(suspend_step_key="ask", data=1)  # E: Missing named argument
"""


ANSWERS = """
    from dataclasses import dataclass
    from typing import Annotated, Any, Literal, assert_type

    from pydantic import BaseModel, Field

    from polos_redis import Rejection, WorkflowContext, workflow

    class Payment(BaseModel):
        approved: bool
        amount: int
        reason: str | None = None

    class Approval(BaseModel):
        approved: Literal[True]
        amount: int

    class Refusal(BaseModel):
        approved: Literal[False]
        code: str

    @dataclass(frozen=True)
    class Plain:
        approved: bool
        amount: int

    class Choice(BaseModel):
        amount: int

    @workflow
    async def pay(ctx: WorkflowContext) -> int:
        assert_type(await ctx.step.suspend("key", schema=Payment), Payment | Rejection)
        assert_type(await ctx.step.suspend("key", schema=Plain), Plain | Rejection)
        assert_type(await ctx.step.suspend("key", schema=Choice), Choice)
        assert_type(await ctx.step.suspend("key", schema=bool), bool)
        assert_type(await ctx.step.suspend("key", schema=Payment, reject_schema=Refusal), Payment | Refusal)
        assert_type(await ctx.step.suspend("key", {"amount": 1}, 3600), dict[str, Any])
        either: Payment | Choice | Rejection = await ctx.step.suspend("key", schema=Payment | Choice)
        maybe: Payment | None = await ctx.step.suspend("key", schema=Payment | None, required=1)
        tagged: Approval | Refusal = await ctx.step.suspend(
            "key", schema=Annotated[Approval | Refusal, Field(discriminator="approved")]
        )
        whole: int = await ctx.step.suspend("key", schema=Annotated[int, Field(gt=0)], timeout=5)
        listed: list[Payment] = await ctx.step.suspend("key", schema=list[Payment])
        refused: Payment | Refusal | Choice = await ctx.step.suspend(
            "key", schema=Payment | Choice, reject_schema=Refusal
        )
        print(either, maybe, tagged, whole, listed, refused)

        payment = await ctx.step.suspend("key", schema=Payment)
        assert_type(payment.reason, str | None)
        if isinstance(payment, Rejection):
            return 0
        assert_type(payment, Payment)
        approval = await ctx.step.suspend("key", schema=Approval)
        if approval.approved is False:
            return 0
        assert_type(approval, Approval)
        other = await ctx.step.suspend("key", schema=Payment, reject_schema=Refusal)
        if isinstance(other, Refusal):
            return len(other.code)
        assert_type(other, Payment)
        return payment.amount + approval.amount + other.amount

    @workflow
    async def pay_anyhow(ctx: WorkflowContext) -> int:
        payment = await ctx.step.suspend("key", schema=Payment)
        await ctx.step.suspend("key", reject_schema=Refusal)  # E
        await ctx.step.suspend("key", schema=Payment | Choice, required="two")  # E
        return payment.amount  # E
"""

WITHOUT_ASYNCIO = """
    from collections.abc import Iterator
    from typing import Any, assert_type

    from polos_redis import Agent, AgentResult, Event, EventData, Page, Resumed, WorkflowContext, workflow
    from polos_redis.sync import ExecutionHandle, PolosClient, Stream, apikeys, events, schedules

    @workflow
    async def buy(ctx: WorkflowContext, input: int) -> str:
        return ""

    talker = Agent(id="talker", model="m")

    def main() -> int:
        with PolosClient(patience_seconds=5) as client:
            assert_type(client, PolosClient)
        handle = client.invoke(buy, 1, idempotency_key="once")
        assert_type(handle, ExecutionHandle[str])
        assert_type(handle.result(timeout=5), str)
        assert_type(handle.load(), ExecutionHandle[str])
        assert_type(handle.id, str)
        assert_type(client.invoke("buy", 1), ExecutionHandle[Any])
        assert_type(client.get_handle("id").result(), Any)
        resumed = client.resume(suspend_execution_id="id", suspend_step_key="ask", data=1, early=True)
        assert_type(resumed, Resumed)
        assert_type(client.list_executions(limit=5).next_cursor, str | None)
        assert_type(client.retry("id", skip=["ask"], reason="by mistake"), int)
        assert_type(client.served_workflows(), set[str])
        assert_type(events.publish(client, "topic", EventData("x")), str)
        assert_type(events.stream_topic(client, "topic", plain=True), Stream[Event])
        assert_type(events.stream_topic(client, "topic").next(timeout=5), Event)
        for event in events.stream_workflow(client, "buy", "id"):
            assert_type(event, Event)
        assert_type(schedules.list(client), list[schedules.Schedule])
        assert_type(apikeys.create(client, "ann", ["read"]), tuple[apikeys.ApiKey, str])
        assert_type(client.call(buy.run, 1), str)
        assert_type(client.call(talker.run, "Hi"), AgentResult[str])
        general: ExecutionHandle[object] = handle
        iterator: Iterator[Event] = events.stream_topic(client, "topic")
        print(general, iterator)

        client.invoke(buy, 1, inital_state={})  # E
        client.resume(suspend_step_key="ask", data=1)  # E
        client.cancel("id", by="ann")  # E
        client.list_executions(limit="many")  # E
        client.call(buy.run, "not a number")  # E
        events.publish(client, "topic", "said")  # E
        schedules.create(client, buy)  # E
        return handle.result()  # E
"""


def _mypy(source: str, folder: Path) -> dict[int, str]:
    """Returns mypy's messages by line."""
    program = folder / "program.py"
    program.write_text(textwrap.dedent(source))
    command = [sys.executable, "-m", "mypy", "--strict", "--no-pretty", "--config-file="]
    command += ["--follow-imports=silent", f"--cache-dir={ROOT / '.mypy_cache' / 'users'}", "program.py"]
    environment = {**os.environ, "MYPYPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found: dict[int, str] = {}
    for number, message in re.findall(r"^program\.py:(\d+): error: (.*)$", done.stdout, re.MULTILINE):
        found[int(number)] = found.get(int(number), "") + message
    assert found or done.returncode == 0, done.stdout
    return found


@pytest.mark.timeout(300)
def test_a_users_program_is_typed(tmp_path: Path) -> None:
    assert (ROOT / "polos_redis" / "py.typed").exists()
    assert _mypy(PROGRAM, tmp_path) == {}


@pytest.mark.timeout(300)
def test_a_users_mistakes_are_found(tmp_path: Path) -> None:
    found = _mypy(MISTAKES, tmp_path)
    lines = textwrap.dedent(MISTAKES).splitlines()
    expected = {n: line.partition("# E: ")[2] for n, line in enumerate(lines, 1) if "# E: " in line}
    assert found.keys() == expected.keys(), found
    for number, part in expected.items():
        assert part in found[number]


def _expected(source: str) -> set[int]:
    lines = textwrap.dedent(source).splitlines()
    return {number for number, line in enumerate(lines, 1) if line.endswith("# E")}


PROGRAMS = pytest.mark.parametrize(
    "source",
    [pytest.param(ANSWERS, id="answers"), pytest.param(WITHOUT_ASYNCIO, id="without asyncio")],
)


@PROGRAMS
@pytest.mark.timeout(300)
def test_mypy_finds_the_mistakes(source: str, tmp_path: Path) -> None:
    found = _mypy(source, tmp_path)
    assert found.keys() == _expected(source), found


@PROGRAMS
@pytest.mark.timeout(300)
def test_pyright_finds_the_mistakes(source: str, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(textwrap.dedent(source))
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "program.py"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    found = {int(line) for line in re.findall(r"program\.py:(\d+):\d+ - error", done.stdout)}
    assert found == _expected(source), done.stdout + done.stderr
