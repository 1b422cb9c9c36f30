"""`ctx.step.suspend`: waiting for people, one or several at once, with and without a deadline."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from polos_redis import (
    ExecutionFailedError,
    PolosClient,
    StepExecutionError,
    SuspendTimeoutError,
    Workflow,
    WorkflowContext,
    workflow,
)
from tests.harness.running import running, soon, until

pytestmark = pytest.mark.also_on_cluster

CALLS: defaultdict[str, Counter[str]] = defaultdict(Counter)


class Plan(BaseModel):
    cost: float
    due: datetime


@dataclass
class Note:
    text: str


def flow(body: Any) -> Workflow[Any, Any]:
    """A workflow that need not be registered."""
    return Workflow(body, body.__name__)


SHOWN = {
    "dict": ({"amount": 5, "tags": ["a"]}, {"amount": 5, "tags": ["a"]}),
    "model": (
        Plan(cost=1.5, due=datetime(2026, 1, 2, tzinfo=UTC)),
        {"cost": 1.5, "due": "2026-01-02T00:00:00Z"},
    ),
    "dataclass": (Note("hi"), {"text": "hi"}),
    "none": (None, {}),
}


@flow
async def shows(ctx: WorkflowContext, input: str) -> Any:
    return await ctx.step.suspend("ask", data=SHOWN[input][0])


@pytest.mark.parametrize("kind", SHOWN)
@pytest.mark.promise("suspend")
async def test_the_data_shown_and_the_answer_returned(kind: str, redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, shows) as at:
        handle = await shows.invoke(at.client, kind)
        await at.parked(handle)
        (shown,) = await at.client.list_suspensions()
        assert shown["data"] == SHOWN[kind][1]
        answer = {"approved": True, "plan": Plan(cost=2, due=datetime(2026, 1, 2, tzinfo=UTC))}
        resumed = await at.client.resume(
            suspend_workflow_id=handle.root_workflow_id,
            suspend_execution_id=handle.id,
            suspend_step_key="ask",
            data=answer,
            resumed_by="alice@example.com",
        )
        result = await at.result(handle)
        assert result == {
            "data": answer,
            "resumed_by": "alice@example.com",
            "resumed_at": resumed.resumed_at,
            "channel": "client",
        }
        assert (await at.client.get_execution(handle.id))["suspensions"][0][
            "resumed_by"
        ] == "alice@example.com"
        event = next(e for e in await at.events(handle) if e.event_type == "suspend_ask")
        assert event.data == SHOWN[kind][1]


@flow
async def two_stages(ctx: WorkflowContext) -> list[Any]:
    manager = await ctx.step.suspend("manager", {"stage": "manager"})
    if not manager["data"].get("approved"):
        return ["rejected"]
    finance = await ctx.step.suspend("finance", {"stage": "finance"})
    return [manager["data"], finance["data"]]


@pytest.mark.promise("code")
async def test_stages_suspend_one_after_the_other(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, two_stages) as at:
        handle, rejected = await two_stages.invoke(at.client), await two_stages.invoke(at.client)
        await at.parked(handle)
        await at.parked(rejected)
        await at.answer(rejected, "manager", {"approved": False})
        await at.answer(handle, "manager", {"approved": True})
        await at.opened(handle, "finance")
        await at.answer(handle, "finance", {"limit": 3})
        assert await at.result(handle) == [{"approved": True}, {"limit": 3}]
        assert await at.result(rejected) == ["rejected"]


@flow
async def asks_until_satisfied(ctx: WorkflowContext) -> int:
    rounds = 0
    while True:
        rounds += 1
        if (await ctx.step.suspend(f"round-{rounds}"))["data"]:
            return rounds


async def test_a_loop_can_suspend_repeatedly(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, asks_until_satisfied) as at:
        handle = await asks_until_satisfied.invoke(at.client)
        for number in range(1, 6):
            await at.opened(handle, f"round-{number}")
            await at.answer(handle, f"round-{number}", number == 5)
        assert await at.result(handle) == 5


# --- several at once --------------------------------------------------------------------


async def _one(ctx: WorkflowContext, key: str) -> Any:
    answer = await ctx.step.suspend(key)
    await ctx.step.run(f"seen-{key}", lambda: CALLS[ctx.execution_id].update([key]))
    return answer["data"]


@flow
async def gathers(ctx: WorkflowContext) -> Any:
    return await asyncio.gather(*(_one(ctx, key) for key in "abc"))


@flow
async def groups(ctx: WorkflowContext) -> Any:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_one(ctx, key)) for key in "abc"]
    return [task.result() for task in tasks]


@pytest.mark.failure(23)
@pytest.mark.parametrize("which", [gathers, groups], ids=["gather", "TaskGroup"])
async def test_several_suspensions_are_open_at_once(
    which: Workflow[Any, Any], redis_url: str, namespace: str
) -> None:
    async with running(redis_url, namespace, which) as at:
        handle = await which.invoke(at.client)
        still_open = ["a", "b", "c"]
        for key in "bca":
            await at.parked(handle)
            found = await at.client.list_suspensions()
            assert sorted(one["step_key"] for one in found) == still_open
            await at.answer(handle, key, key.upper())
            still_open.remove(key)
            await until(lambda: CALLS[handle.id][key])  # noqa: B023
        assert await at.result(handle) == ["A", "B", "C"]
        assert CALLS[handle.id] == Counter("abc")


_go_on = asyncio.Event()


@flow
async def asks_beside_a_long_step(ctx: WorkflowContext) -> Any:
    return await asyncio.gather(ctx.step.run("long", _wait_to_go_on), _one(ctx, "ask"))


async def _wait_to_go_on() -> str:
    await _go_on.wait()
    return "long"


async def test_an_answer_arrives_while_a_sibling_step_runs(redis_url: str, namespace: str) -> None:
    global _go_on
    _go_on = asyncio.Event()
    async with running(redis_url, namespace, asks_beside_a_long_step) as at:
        handle = await asks_beside_a_long_step.invoke(at.client)
        await at.opened(handle, "ask")
        await at.answer(handle, "ask", "now")
        await until(lambda: CALLS[handle.id]["ask"])
        assert await handle.status() == "running"
        _go_on.set()
        assert await at.result(handle) == ["long", "now"]
        steps = (await at.client.get_execution(handle.id))["steps"]
        assert [step["step_key"] for step in steps] == ["seen-ask", "long"]


@flow
async def first_of_two(ctx: WorkflowContext) -> Any:
    tasks = {asyncio.create_task(_one(ctx, key)) for key in "ab"}
    done, left = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in left:
        task.cancel()
    return done.pop().result()


async def test_the_losing_suspension_is_closed_at_the_end(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, first_of_two) as at:
        handle = await first_of_two.invoke(at.client)
        await at.parked(handle)
        await at.answer(handle, "b", "B")
        assert await at.result(handle) == "B"
        assert not await at.client.list_suspensions()
        found = {
            s["step_key"]: s["status"] for s in (await at.client.get_execution(handle.id))["suspensions"]
        }
        assert found == {"a": "closed", "b": "answered"}


# --- deadlines --------------------------------------------------------------------------


@flow
async def has_a_deadline(ctx: WorkflowContext, input: Any) -> Any:
    found: list[Any] = []
    try:
        found.append(await ctx.step.suspend("ask", timeout=input))
    except StepExecutionError as error:
        seconds = error.timeout_seconds if isinstance(error, SuspendTimeoutError) else None
        found.append([error.step_key, error.error_type, seconds, str(error)])
    await ctx.step.run("note", lambda: CALLS[ctx.execution_id].update(["note"]))
    await ctx.step.suspend("again")
    return found[0]


@pytest.mark.parametrize("timeout", [0.02, timedelta(milliseconds=20)], ids=["seconds", "timedelta"])
@pytest.mark.promise("no answer")
async def test_an_expired_deadline_raises(timeout: Any, redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, has_a_deadline) as at:
        handle = await has_a_deadline.invoke(at.client, timeout)
        await at.opened(handle, "again")
        await at.answer(handle, "again")  # this replay raises it from the journal
        expected = ["ask", "SuspendTimeoutError", 0.02]
        found = await at.result(handle)
        assert found[:3] == expected
        assert found[3] == "suspension 'ask' timed out: nobody answered within 0.02 s"
        assert CALLS[handle.id] == Counter(note=1)
        assert "timeout_ask" in [event.event_type for event in await at.events(handle)]


@pytest.mark.failure(26)
async def test_a_deadline_can_expire_while_parked(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, has_a_deadline) as at:
        handle = await has_a_deadline.invoke(at.client, 3600)
        await at.parked(handle)
        await at.make_due(handle, "ask", "s")
        await at.opened(handle, "again")
        await at.answer(handle, "again")
        assert (await at.result(handle))[1:3] == ["SuspendTimeoutError", 3600]


@flow
async def does_not_catch(ctx: WorkflowContext) -> Any:
    return await ctx.step.suspend("ask", timeout=0.02)


async def test_an_uncaught_timeout_fails_the_execution(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, does_not_catch) as at:
        with pytest.raises(ExecutionFailedError, match="nobody answered within") as caught:
            await at.result(await does_not_catch.invoke(at.client))
        assert caught.value.error_type == "SuspendTimeoutError"


@flow
async def asks_with(ctx: WorkflowContext, input: Any) -> Any:
    return await ctx.step.suspend("ask", **input)


@pytest.mark.parametrize("timeout", [0, -1, "soon", float("nan"), True, timedelta(0)])
async def test_an_invalid_timeout_is_refused(timeout: Any, redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, asks_with) as at:
        with pytest.raises(ExecutionFailedError, match="timeout must be a positive number of seconds"):
            await at.result(await asks_with.invoke(at.client, {"timeout": timeout}))


_unstorable: Any = {"file": [object()]}


@flow
async def shows_something_unstorable(ctx: WorkflowContext) -> Any:
    return await ctx.step.suspend("ask", _unstorable)


async def test_unstorable_data_is_refused(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, shows_something_unstorable) as at:
        with pytest.raises(ExecutionFailedError, match=r"\$\.file\[0\]"):
            await at.result(await shows_something_unstorable.invoke(at.client))
        assert not await at.client.list_suspensions()


async def test_a_failing_child_task_cancels_its_siblings_wait(redis_url: str, namespace: str) -> None:
    @flow
    async def one_fails(ctx: WorkflowContext) -> Any:
        async def fail() -> None:
            await ctx.step.run("fine", str)
            raise LookupError("gone")

        async with asyncio.TaskGroup() as group:
            group.create_task(ctx.step.suspend("ask"))
            group.create_task(fail())

    async with running(redis_url, namespace, one_fails) as at:
        handle = await one_fails.invoke(at.client)
        with pytest.raises(ExecutionFailedError, match="LookupError: gone"):
            await soon(at.result(handle))
        assert not await at.client.list_suspensions()


@workflow(id="suspend-inside-a-step")
async def suspends_inside_a_step(ctx: WorkflowContext) -> str:
    async def ask() -> Any:
        return await ctx.step.suspend("ask")

    said = []
    for key, function in (("async", ask), ("sync", lambda: ctx.step.suspend("ask"))):
        try:
            await ctx.step.run(key, function, max_retries=0)
        except StepExecutionError as error:
            said.append(error.error_message)
    return "; ".join(said)


async def test_a_suspension_inside_a_step_function_is_refused(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, suspends_inside_a_step) as at:
        handle = await suspends_inside_a_step.invoke(at.client)
        assert (await at.result(handle)).count("was called inside a step's function") == 2


_second_seen = asyncio.Event()


@workflow(id="suspend-two-and-a-step")
async def two_and_a_step(ctx: WorkflowContext) -> list[str]:
    async def until_the_second_is_seen() -> str:
        await _second_seen.wait()
        return "both"

    async def first() -> str:
        await ctx.step.suspend("first")
        return await ctx.step.run("long", until_the_second_is_seen)

    async def second() -> str:
        answer: str = (await ctx.step.suspend("second"))["data"]
        _second_seen.set()
        return answer

    return list(await asyncio.gather(first(), second()))


async def test_an_answer_between_a_wake_up_and_its_activation_is_seen_at_once(
    redis_url: str, namespace: str
) -> None:
    _second_seen.clear()
    async with running(redis_url, namespace, two_and_a_step) as at:
        handle = await two_and_a_step.invoke(at.client)
        await at.parked(handle)
    async with PolosClient(redis_url, namespace) as client:
        for key in ("first", "second"):  # the wake-up carries the journal from before the second answer
            await client.resume(suspend_execution_id=handle.id, suspend_step_key=key, data=key)
    # the lease is too long for a periodic check to find the answer
    async with running(redis_url, namespace, two_and_a_step, lease_seconds=600.0) as at:
        assert await at.result(at.client.get_handle(handle.id)) == ["both", "second"]
