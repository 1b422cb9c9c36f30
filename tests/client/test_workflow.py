"""Defining workflows and starting them: ids, signatures, inputs."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import BaseModel

from polos_redis import (
    ConfigurationError,
    ExecutionFailedError,
    InvalidInputError,
    NotStorableError,
    PolosClient,
    StepKeyError,
    ValueTooLargeError,
    Workflow,
    WorkflowContext,
    workflow,
)
from tests.harness.running import running

pytestmark = pytest.mark.also_on_cluster


class Order(BaseModel):
    customer: str
    amount: float


@dataclass
class Parcel:
    weight: int
    fragile: bool = False


@workflow
async def takes_nothing(ctx: WorkflowContext) -> str:
    return ctx.workflow_id


@workflow
async def takes_a_model(ctx: WorkflowContext, input: Order) -> Order:
    return Order(customer=input.customer, amount=input.amount * 2)


@workflow(id="parcels / with any id: {1}\n")
async def takes_a_dataclass(ctx: WorkflowContext, input: Parcel) -> Parcel:
    return input


@workflow
async def takes_a_dict(ctx: WorkflowContext, input: dict[str, int]) -> dict[str, int]:
    return input


@workflow
async def takes_anything(ctx: WorkflowContext, input) -> Any:  # type: ignore[no-untyped-def]
    return input


@workflow
async def may_take_an_order(ctx: WorkflowContext, input: Order | None = None) -> str:
    return "nothing" if input is None else input.customer


@pytest.mark.parametrize(
    ("which", "input", "result"),
    [
        (takes_nothing, None, "takes_nothing"),
        (takes_a_model, Order(customer="Ada", amount=1.5), Order(customer="Ada", amount=3.0)),
        (takes_a_model, {"customer": "Ada", "amount": "1.5"}, Order(customer="Ada", amount=3.0)),
        (takes_a_dataclass, Parcel(3, True), Parcel(3, True)),
        (takes_a_dataclass, {"weight": 3}, Parcel(3)),
        (takes_a_dict, {"a": 1}, {"a": 1}),
        (takes_anything, (1, {2}, "drei"), (1, {2}, "drei")),
        (takes_anything, None, None),
        (may_take_an_order, None, "nothing"),
        (may_take_an_order, Order(customer="Ada", amount=1), "Ada"),
    ],
)
async def test_inputs_arrive_typed(
    which: Workflow[Any, Any], input: Any, result: Any, redis_url: str, namespace: str
) -> None:
    async with running(redis_url, namespace, which) as at:
        handle = await which.invoke(at.client, input)
        assert handle.workflow_id == handle.root_workflow_id == which.id
        assert handle.root_execution_id == handle.id
        found = await at.result(handle)
        assert found == result
        assert type(found) is type(result)
        by_id = await at.client.invoke(which.id, input)
        assert await at.result(by_id) == result


@pytest.mark.failure(29)
@pytest.mark.parametrize(
    ("which", "input", "error", "named"),
    [
        (takes_a_model, {"customer": "Ada", "amount": "a lot"}, InvalidInputError, "input.amount"),
        (takes_a_model, {"amount": 1}, InvalidInputError, "input.customer"),
        (takes_a_model, None, InvalidInputError, "takes_a_model"),
        (takes_a_dataclass, {"weight": "heavy"}, InvalidInputError, "input.weight"),
        (takes_a_dict, {"a": "one"}, InvalidInputError, "input.a"),
        (takes_nothing, 1, InvalidInputError, "takes no input"),
        (takes_anything, {"file": [object()]}, NotStorableError, r"\$\.file\[0\]"),
        (takes_anything, "x" * 2_000_000, ValueTooLargeError, "limit"),
    ],
)
@pytest.mark.promise("input")
async def test_an_invalid_input_is_refused_at_the_call(
    which: Workflow[Any, Any],
    input: Any,
    error: type[Exception],
    named: str,
    redis_url: str,
    namespace: str,
) -> None:
    async with PolosClient(redis_url, namespace) as client:
        with pytest.raises(error, match=named):
            await which.invoke(client, input)
        assert not await client.list_executions()


@pytest.mark.parametrize(
    ("which", "input", "named"),
    [
        (takes_a_model, {"customer": "Ada", "amount": "a lot"}, "input.amount"),
        (takes_a_dataclass, {"weight": "heavy"}, "input.weight"),
        (takes_nothing, {"some": "thing"}, "takes no input"),
    ],
)
@pytest.mark.promise("input")
async def test_an_invalid_input_by_id_fails_at_the_worker(
    which: Workflow[Any, Any], input: Any, named: str, redis_url: str, namespace: str
) -> None:
    async with running(redis_url, namespace, which) as at:
        handle = await at.client.invoke(which.id, input)
        with pytest.raises(ExecutionFailedError, match=named) as caught:
            await at.result(handle)
        assert caught.value.error_type == "InvalidInputError"
        assert [e.event_type for e in await at.events(handle)] == ["workflow_start", "workflow_finish"]


async def test_a_large_input_arrives(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, takes_anything) as at:
        handle = await takes_anything.invoke(at.client, "x" * 500_000)
        assert await at.result(handle) == "x" * 500_000


def test_a_duplicate_id_is_refused() -> None:
    def define() -> None:
        @workflow(id="takes_nothing")
        async def another(ctx: WorkflowContext) -> None: ...

    with pytest.raises(ConfigurationError, match=r"'takes_nothing' is already used at .*_workflow\.py:\d+"):
        define()


def test_reloading_a_definition_is_no_duplicate() -> None:
    def define() -> Workflow[None, None]:
        @workflow
        async def defined_again(ctx: WorkflowContext) -> None: ...

        return defined_again

    assert define().id == define().id


async def _two(ctx: WorkflowContext, a: int) -> None: ...


async def _three(ctx: WorkflowContext, a: int, b: int) -> None: ...


async def _none() -> None: ...


async def _keyword(ctx: WorkflowContext, *, b: int) -> None: ...


def _sync(ctx: WorkflowContext) -> None: ...


@pytest.mark.parametrize("function", [_three, _none, _keyword, _sync])
def test_another_signature_is_refused(function: Any) -> None:
    with pytest.raises(ConfigurationError, match=function.__name__):
        workflow(function)


@pytest.mark.parametrize("id", ["", "x" * 257, 5])
def test_an_invalid_id_is_refused(id: Any) -> None:
    with pytest.raises(
        ConfigurationError,
        match=r"a workflow's id (must be a non-empty string|has 257 bytes in UTF-8, and 256 are allowed)",
    ):
        workflow(id=id)(_two)


@pytest.mark.parametrize("target", ["", None, 5, _two])
async def test_invoking_something_else_is_refused(target: Any, redis_url: str, namespace: str) -> None:
    async with PolosClient(redis_url, namespace) as client:
        with pytest.raises(ConfigurationError, match="expected a workflow or a workflow's id, not"):
            await client.invoke(target)


@workflow
async def fails_itself(ctx: WorkflowContext) -> None:
    raise LookupError("no such customer")


@workflow
async def returns_an_object(ctx: WorkflowContext) -> Any:
    return {"items": [object()]}


class Signal(BaseException):
    """A user-defined BaseException."""


@workflow
async def leaves(ctx: WorkflowContext, input: str) -> Any:
    if input == "recurse":
        return await leaves(ctx, input)
    raise {"exit": SystemExit(2), "interrupt": KeyboardInterrupt(), "own": Signal("x")}[input]


@pytest.mark.failure(12)
@pytest.mark.parametrize(
    ("which", "input", "type", "message"),
    [
        (fails_itself, None, "LookupError", "no such customer"),
        (returns_an_object, None, "NotStorableError", "$.items[0]"),
        (leaves, "exit", "WorkflowExit", "SystemExit: 2"),
        (leaves, "interrupt", "WorkflowExit", "KeyboardInterrupt"),
        (leaves, "own", "WorkflowExit", "Signal: x"),
        (leaves, "recurse", "RecursionError", "recursion"),
    ],
)
async def test_an_exception_fails_only_its_execution(
    which: Workflow[Any, Any], input: Any, type: str, message: str, redis_url: str, namespace: str
) -> None:
    async with running(redis_url, namespace, which, takes_nothing) as at:
        handle = await which.invoke(at.client, input)
        with pytest.raises(ExecutionFailedError) as caught:
            await at.result(handle)
        assert caught.value.error_type == type
        assert message in caught.value.error_message
        assert which.function.__name__ in caught.value.traceback or type == "NotStorableError"
        assert await at.result(await takes_nothing.invoke(at.client)) == "takes_nothing"


@workflow
async def uses_a_key_twice(ctx: WorkflowContext) -> list[int]:
    first = await ctx.step.run("key", lambda: 1)
    try:
        return [first, await ctx.step.run("key", lambda: 2)]
    except Exception:
        return [first, first]


@workflow
async def suspends_under_a_steps_key(ctx: WorkflowContext) -> Any:
    await ctx.step.run("key", lambda: 1)
    return await ctx.step.suspend("key")


@workflow
async def uses_an_empty_key(ctx: WorkflowContext) -> Any:
    return await ctx.step.run("", lambda: 1)


@pytest.mark.parametrize(
    ("which", "named"),
    [
        (uses_a_key_twice, r"'key' is used twice .*test_workflow.py:\d+ and at test_workflow.py:\d+"),
        (suspends_under_a_steps_key, "'key' is used twice"),
        (uses_an_empty_key, "non-empty string, not ''"),
    ],
)
async def test_a_step_key_used_twice_stops_the_execution(
    which: Workflow[Any, Any], named: str, redis_url: str, namespace: str
) -> None:
    async with running(redis_url, namespace, which) as at:
        with pytest.raises(ExecutionFailedError, match=named) as caught:
            await at.result(await which.invoke(at.client))
        assert caught.value.error_type == StepKeyError.__name__


_charged: list[str] = []


@workflow
async def swallows_a_key_error(ctx: WorkflowContext) -> None:
    await ctx.step.run("key", lambda: 1)
    with contextlib.suppress(Exception):
        await ctx.step.run("key", lambda: 2)
    with contextlib.suppress(Exception):
        await ctx.step.run("charge", _charged.append, ctx.execution_id)
    await ctx.step.suspend("ask")


async def test_no_step_starts_after_a_caught_key_error(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, swallows_a_key_error) as at:
        handle = await swallows_a_key_error.invoke(at.client)
        with pytest.raises(ExecutionFailedError, match="'key' is used twice"):
            await at.result(handle)
        assert handle.id not in _charged


_second_time = False


@workflow
async def changes_its_code(ctx: WorkflowContext) -> Any:
    if _second_time:
        return await ctx.step.suspend("key")
    await ctx.step.run("key", lambda: 1)
    return await ctx.step.suspend("ask")


@workflow
async def forgets_a_step(ctx: WorkflowContext) -> Any:
    if not _second_time:
        await ctx.step.run("key", lambda: 1)
    return (await ctx.step.suspend("ask"))["data"]


@pytest.mark.failure(27)
async def test_a_key_of_another_kind_on_replay_is_refused(redis_url: str, namespace: str) -> None:
    global _second_time
    _second_time = False
    async with running(redis_url, namespace, changes_its_code, forgets_a_step) as at:
        changed, forgetful = await changes_its_code.invoke(at.client), await forgets_a_step.invoke(at.client)
        await at.parked(changed)
        await at.parked(forgetful)
        _second_time = True
        await at.answer(changed, "ask")
        await at.answer(forgetful, "ask")
        with pytest.raises(ExecutionFailedError, match="is a suspension now, but was journaled as a step"):
            await at.result(changed)
        assert await at.result(forgetful) == "yes"
        assert (await at.client.get_execution(forgetful.id))["unreached_steps"] == ["key"]


@pytest.mark.failure(21)
@pytest.mark.parametrize("key", ["{a}:b", "with space", "line\nbreak", "ünïcödé ☃", "x" * 500, "a/b", "\x00"])
async def test_a_step_key_may_be_any_text(key: str, redis_url: str, namespace: str) -> None:
    made: Workflow[Any, Any] = Workflow(_uses_a_key, "uses-a-key")
    async with running(redis_url, namespace, made) as at:
        handle = await made.invoke(at.client, key)
        await at.parked(handle)
        assert (await at.answer(handle, key)).outcome == "accepted"
        assert await at.result(handle) == [1, "yes"]
        execution = await at.client.get_execution(handle.id)
        assert execution["suspensions"][0]["step_key"] == key


async def _uses_a_key(ctx: WorkflowContext, key: str) -> Any:
    return [await ctx.step.run(f"run {key}", lambda: 1), (await ctx.step.suspend(key))["data"]]
