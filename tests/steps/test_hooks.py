"""`on_start` and `on_end`: hooks that run once around a workflow, and what they may change."""

from __future__ import annotations

import functools
from typing import Any

import pytest
from pydantic import BaseModel

from polos_redis import (
    ConfigurationError,
    ExecutionFailedError,
    HookContext,
    HookResult,
    Workflow,
    WorkflowContext,
    workflow,
)
from tests.harness.fleet import Fleet
from tests.harness.fleet_state import Account, polite
from tests.harness.running import running


class Order(BaseModel):
    amount: float
    checked_by: str = ""


_ran: list[str] = []  # what hooks and code did in this process
_seen: list[HookContext] = []


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    _ran.clear()
    _seen.clear()


async def check(ctx: WorkflowContext, hook: HookContext) -> HookResult:
    _ran.append("check")
    _seen.append(hook)
    return HookResult.continue_with(modified_payload={"amount": "20", "checked_by": ctx.workflow_id})


def count(ctx: WorkflowContext, hook: HookContext) -> None:
    _ran.append("count")
    _seen.append(hook)


async def double(ctx: WorkflowContext, hook: HookContext) -> HookResult | None:
    _ran.append("double")
    _seen.append(hook)
    return HookResult.continue_with(modified_output=hook.current_output * 2)


class Plus:
    def __call__(self, ctx: WorkflowContext, hook: HookContext) -> HookResult:
        _ran.append("plus")
        return HookResult.continue_with(modified_output=hook.current_output + 1)


@workflow(on_start=[check, count], on_end=[double, Plus(), functools.partial(count)])
async def sells(ctx: WorkflowContext, input: Order) -> float:
    _ran.append(f"code {type(input).__name__} {input.checked_by}")
    await ctx.step.suspend("ask")
    return input.amount


async def test_hooks_run_once_and_change_the_input_and_the_output(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, sells) as at:
        handle = await sells.invoke(at.client, Order(amount=1), session_id="s", user_id="u")
        await at.parked(handle)
        assert _ran == ["check", "count", "code Order sells"]
        await at.answer(handle, "ask")
        assert await at.result(handle) == 41.0
        after = ["code Order sells", "double", "plus", "count"]
        assert _ran == ["check", "count", "code Order sells", *after]
        changed = Order(amount=20, checked_by="sells")
        assert _seen == [
            HookContext("sells", "s", "u", Order(amount=1)),
            HookContext("sells", "s", "u", changed),
            HookContext("sells", "s", "u", changed, 20.0),
            HookContext("sells", "s", "u", changed, 41.0),
        ]
        keys = [step["step_key"] for step in (await at.client.get_execution(handle.id))["steps"]]
        assert keys == [
            *("on_start.check.0", "on_start.count.1"),
            *("on_end.double.0", "on_end.Plus.1", "on_end.count.2"),
        ]


async def refuse(ctx: WorkflowContext, hook: HookContext) -> HookResult:
    _ran.append("refuse")
    return HookResult.fail("not on a Sunday")


async def stumble(ctx: WorkflowContext, hook: HookContext) -> None:
    _ran.append("stumble")
    raise LookupError("no such rule")


async def misjudge(ctx: WorkflowContext, hook: HookContext) -> HookResult:
    return HookResult.continue_with(modified_payload={"amount": "a lot"})


async def answers_five(ctx: WorkflowContext, hook: HookContext) -> Any:
    return 5


async def changes_the_past(ctx: WorkflowContext, hook: HookContext) -> HookResult:
    return HookResult.continue_with(modified_payload=Order(amount=1), modified_output="x")


def asks(ctx: WorkflowContext, hook: HookContext) -> Any:
    return ctx.step.suspend("ask")


async def _sell(ctx: WorkflowContext, input: Order) -> float:
    _ran.append("code")
    return input.amount


async def _fail(ctx: WorkflowContext, input: Order) -> float:
    raise LookupError("the workflow's own")


@pytest.mark.parametrize(
    ("options", "named", "ran"),
    [
        (
            {"on_start": [refuse, count]},
            r"'on_start\.refuse\.0' failed \(tried once\): HookFailedError: not on a Sunday",
            ["refuse"],
        ),
        ({"on_end": refuse}, r"'on_end\.refuse\.0' .* not on a Sunday", ["code", "refuse"]),
        ({"on_start": stumble}, r"'on_start\.stumble\.0' .* LookupError: no such rule", ["stumble"] * 3),
        ({"on_start": misjudge}, r"InvalidInputError: .*input\.amount", []),
        ({"on_start": answers_five}, "must return a HookResult or None, not 5", []),
        ({"on_start": changes_the_past}, "can't return modified_output=", []),
        ({"on_end": changes_the_past}, "can't return modified_payload=", ["code"]),
        ({"on_start": asks}, "was called inside a step's function", []),
    ],
)
async def test_a_hook_that_stops_fails_the_execution(
    options: dict[str, Any], named: str, ran: list[str], redis_url: str, namespace: str
) -> None:
    hooked: Workflow[Order, float] = Workflow(_sell, "sell", **options)
    async with running(redis_url, namespace, hooked) as at:
        with pytest.raises(ExecutionFailedError, match=named):
            await at.result(await hooked.invoke(at.client, Order(amount=1)))
    assert _ran == ran


async def test_on_end_runs_only_after_a_return(redis_url: str, namespace: str) -> None:
    hooked: Workflow[Order, float] = Workflow(_fail, "fails", on_end=count)
    async with running(redis_url, namespace, hooked, sells) as at:
        with pytest.raises(ExecutionFailedError, match="the workflow's own"):
            await at.result(await hooked.invoke(at.client, Order(amount=1)))
        cancelled = await sells.invoke(at.client, Order(amount=1))
        await at.parked(cancelled)
        _ran.clear()
        await at.client.cancel(cancelled.id)
        assert await cancelled.status() == "cancelled"
    assert _ran == []


_open = False


def check_the_door(ctx: WorkflowContext, hook: HookContext) -> HookResult | None:
    _ran.append("door")
    return None if _open else HookResult.fail("closed")


async def test_a_retry_calls_the_refusing_hook_again(redis_url: str, namespace: str) -> None:
    global _open
    _open = False
    made: Workflow[Order, float] = Workflow(_sell, "sell", on_start=[count, check_the_door])
    async with running(redis_url, namespace, made) as at:
        handle = await made.invoke(at.client, Order(amount=3))
        with pytest.raises(ExecutionFailedError, match="closed"):
            await at.result(handle)
        _open = True
        await at.client.retry(handle.id)
        assert await at.result(handle) == 3
    assert _ran == ["count", "door", "door", "code"]


def meddle(ctx: WorkflowContext, hook: HookContext) -> None:
    hook.current_payload.append("meddled")
    if hook.current_output:
        hook.current_output.append("meddled")


@workflow(on_start=meddle, on_end=[meddle, meddle])
async def lists(ctx: WorkflowContext, input: list[str]) -> list[str]:
    return input


async def test_a_hook_cannot_change_values_in_place(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, lists) as at:
        assert await lists.run(at.client, ["given"], timeout=20) == ["given"]


@workflow(on_start=lambda ctx, hook: _ran.append("lambda"), on_end=[])
async def needs_no_input(ctx: WorkflowContext) -> int:
    return 1


async def test_a_workflow_without_input_can_have_hooks(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, needs_no_input) as at:
        handle = await at.client.invoke("needs_no_input")
        assert await at.result(handle) == 1
        (step,) = (await at.client.get_execution(handle.id))["steps"]
        assert step["step_key"] == "on_start.<lambda>.0"


@pytest.mark.parametrize("kind", ["on_start", "on_end"])
@pytest.mark.parametrize("hooks", ["check", 5, [check, None], {"check": check}])
def test_a_hook_must_be_a_function(kind: str, hooks: Any) -> None:
    with pytest.raises(ConfigurationError, match=rf"'sell': {kind} must be a function"):
        Workflow(_sell, "sell", **{kind: hooks})


async def test_hooks_and_state_survive_a_killed_worker(fleet: Fleet, client: Any) -> None:
    """Killed inside the last hook: the earlier ones do not run again, and their state changes persist."""
    first = await fleet.start(defined_in="tests.harness.fleet_state")
    handle = await polite.invoke(client)
    await fleet.seen(handle.id, "bow")
    first.kill()
    fleet.open("bow")
    await fleet.start(defined_in="tests.harness.fleet_state")
    assert await handle.result(timeout=20) == ["greeted", "code", "bowed"]
    assert [name for name, _ in fleet.effects(handle.id)] == ["greet", "bow", "bow"]
    state = Account(**(await client.get_execution(handle.id))["state"])
    assert state.log == ["greeted", "code"]
