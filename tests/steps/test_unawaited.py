"""Calls of ctx that are not awaited fail their execution, and name their key and line."""

from __future__ import annotations

import asyncio
import gc
import threading
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from polos_redis import BatchWorkflowInput, ExecutionFailedError, Workflow, WorkflowContext
from polos_redis.runtime.step import Step
from tests.harness.running import Running, running


def flow(body: Callable[..., Any]) -> Workflow[Any, Any]:
    """A workflow that need not be registered."""
    return Workflow(body, body.__name__)


@flow
async def leaf(ctx: WorkflowContext) -> None: ...


async def failure(at: Running, workflow: Workflow[Any, Any]) -> ExecutionFailedError:
    with pytest.raises(ExecutionFailedError) as raised:
        await at.result(await workflow.invoke(at.client))
    return raised.value


CALLS: dict[str, Callable[[WorkflowContext], Any]] = {
    "run": lambda ctx: ctx.step.run("it", str),
    "suspend": lambda ctx: ctx.step.suspend("it", data={}),
    "resume": lambda ctx: ctx.step.resume(
        "it", suspend_workflow_id="leaf", suspend_execution_id="x", suspend_step_key="y", data=1
    ),
    "wait_for": lambda ctx: ctx.step.wait_for("it", seconds=1),
    "wait_until": lambda ctx: ctx.step.wait_until("it", datetime.now(UTC)),
    "wait_for_event": lambda ctx: ctx.step.wait_for_event("it", topic="news"),
    "invoke": lambda ctx: ctx.step.invoke("it", leaf),
    "invoke_and_wait": lambda ctx: ctx.step.invoke_and_wait("it", leaf),
    "batch_invoke": lambda ctx: ctx.step.batch_invoke("it", [BatchWorkflowInput("leaf", None)]),
    "batch_invoke_and_wait": lambda ctx: ctx.step.batch_invoke_and_wait(
        "it", [BatchWorkflowInput("leaf", None)]
    ),
    "first_of": lambda ctx: ctx.step.first_of(
        "it", {"a": ctx.step.wait_for("branch", seconds=1), "b": ctx.step.uuid("c")}
    ),
    "publish_event": lambda ctx: ctx.step.publish_event("it", topic="news", data=1),
    "publish_workflow_event": lambda ctx: ctx.step.publish_workflow_event("it", data=1),
    "uuid": lambda ctx: ctx.step.uuid("it"),
    "now": lambda ctx: ctx.step.now("it"),
    "random": lambda ctx: ctx.step.random("it"),
    "patched": lambda ctx: ctx.patched("it"),
}


@pytest.mark.parametrize("call", CALLS)
async def test_every_call_of_ctx_has_to_be_awaited(redis_url: str, namespace: str, call: str) -> None:
    @flow
    async def forgets(ctx: WorkflowContext) -> str:
        CALLS[call](ctx)
        return "as if nothing were missing"

    async with running(redis_url, namespace, forgets, leaf) as at:
        error = await failure(at, forgets)
    assert error.error_type == "NotAwaitedError"
    named = "ctx.patched('it')" if call == "patched" else "the call of step 'it'"
    assert error.error_message.startswith(f"{named} at test_unawaited.py:")
    assert error.error_message.endswith(" was not awaited, so it did not run: write `await` before it")


def test_the_table_has_every_call_of_ctx() -> None:
    names = {name for name in dir(Step) if not name.startswith("_") and "agent" not in name}
    assert names - {"idempotency_key", "heartbeat", "last_progress"} == set(CALLS) - {"patched"}


async def test_no_later_call_starts(redis_url: str, namespace: str) -> None:
    ran: list[str] = []

    @flow
    async def goes_on(ctx: WorkflowContext) -> None:
        ctx.step.run("first", ran.append, "first")  # type: ignore[unused-coroutine]
        try:
            await ctx.step.run("second", ran.append, "second")
        except Exception:
            ran.append("caught")

    async with running(redis_url, namespace, goes_on) as at:
        error = await failure(at, goes_on)
    assert error.error_type == "NotAwaitedError"
    assert ran == ["caught"]


async def test_a_forgotten_call_beside_a_wait_fails_at_once(redis_url: str, namespace: str) -> None:
    @flow
    async def beside(ctx: WorkflowContext) -> None:
        async def forgets() -> None:
            ctx.step.run("forgotten", str)  # type: ignore[unused-coroutine]

        await asyncio.gather(ctx.step.suspend("ask", data={}), forgets())

    async with running(redis_url, namespace, beside) as at:
        error = await failure(at, beside)
    assert error.error_message.startswith("the call of step 'forgotten' at test_unawaited.py:")


async def test_a_call_that_is_awaited_after_a_park_is_none(redis_url: str, namespace: str) -> None:
    @flow
    async def later(ctx: WorkflowContext) -> list[str]:
        calls = [ctx.step.run(f"call-{number}", str, number) for number in range(3)]
        await ctx.step.suspend("ask", data={})
        return list(await asyncio.gather(*calls))

    async with running(redis_url, namespace, later) as at:
        handle = await later.invoke(at.client)
        await at.opened(handle, "ask")
        await at.parked(handle)
        await at.answer(handle, "ask")
        assert await at.result(handle) == ["0", "1", "2"]


async def test_the_codes_own_error_is_the_executions_error(redis_url: str, namespace: str) -> None:
    @flow
    async def breaks(ctx: WorkflowContext) -> None:
        def words() -> Any:
            yield "one"
            raise ValueError("no second word")

        await asyncio.gather(*[ctx.step.run(word, str) for word in words()])

    async with running(redis_url, namespace, breaks) as at:
        error = await failure(at, breaks)
    assert (error.error_type, error.error_message) == ("ValueError", "no second word")


async def test_a_call_freed_in_another_thread_counts(redis_url: str, namespace: str) -> None:
    @flow
    async def hands_away(ctx: WorkflowContext) -> str:
        calls = [ctx.step.run("forgotten", str)]
        thread = threading.Thread(target=calls.clear)
        thread.start()
        thread.join()
        return await ctx.step.run("other", str, "other")

    async with running(redis_url, namespace, hands_away) as at:
        error = await failure(at, hands_away)
    assert error.error_message.startswith("the call of step 'forgotten'")


async def test_python_warns_of_any_other_coroutine(redis_url: str, namespace: str) -> None:
    async def other() -> None: ...

    @flow
    async def forgets_another(ctx: WorkflowContext) -> str:
        other()  # type: ignore[unused-coroutine]
        gc.collect()
        return "done"

    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        async with running(redis_url, namespace, forgets_another) as at:
            assert await at.result(await forgets_another.invoke(at.client)) == "done"
    assert any("other' was never awaited" in str(one.message) for one in warned)
