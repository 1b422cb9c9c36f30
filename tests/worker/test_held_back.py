"""Stored values that a deployment can't read: the execution waits for one that can, and nothing is lost."""

from __future__ import annotations

import asyncio
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from polos_redis import (
    BatchWorkflowInput,
    EventData,
    ExecutionFailedError,
    ExecutionHandle,
    PolosClient,
    UnknownTypeError,
    UnreadableValueError,
    WorkflowContext,
    events,
    workflow,
)
from polos_redis.state import keys
from tests.harness.command import Command
from tests.harness.running import Running, running, until

MODULE = types.ModuleType("held_back_types")


@pytest.fixture(autouse=True)
def first_deployment() -> Iterator[None]:
    sys.modules[MODULE.__name__] = MODULE
    deploy({"amt": int})
    yield
    del sys.modules[MODULE.__name__]


def deploy(fields: dict[str, Any], **defaults: Any) -> None:
    """Replace the class Order."""
    body = {"__module__": MODULE.__name__, "__qualname__": "Order", "__annotations__": fields, **defaults}
    vars(MODULE)["Order"] = type("Order", (BaseModel,), body)


def deploy_renamed() -> None:
    deploy({"amount": int}, amount=0)


def deploy_fixed() -> None:
    deploy({"amount": int}, amount=Field(default=0, validation_alias="amt"))


def order() -> Any:
    return vars(MODULE)["Order"](amt=5000)


class Ledger(BaseModel):
    order: Any = None


@workflow(id="held-back-child")
async def child(ctx: WorkflowContext) -> Any:
    return order()


async def keep(ctx: WorkflowContext, kind: str, input: Any) -> Any:
    """A stored order, by the way it is stored."""
    if kind == "step":
        return await ctx.step.run("load", order)
    if kind == "input":
        return input["order"]
    if kind == "answer":
        return (await ctx.step.suspend("order"))["data"]
    if kind in ("typed answer", "typed instance"):
        return await ctx.step.suspend("order", schema=vars(MODULE)["Order"])
    if kind == "event":
        return (await ctx.step.wait_for_event("order", input["topic"])).data
    if kind == "child":
        return await ctx.step.invoke_and_wait("child", child)
    if kind == "children":
        (one,) = await ctx.step.batch_invoke_and_wait("children", [BatchWorkflowInput(id=child.id)])
        return one.result
    if kind == "state of a step":
        await ctx.step.run("change", lambda: setattr(ctx.state, "order", order()))
    return ctx.state.order


@workflow(id="held-back", state_schema=Ledger)
async def keeps(ctx: WorkflowContext, input: Any) -> int:
    kept = await keep(ctx, input["kind"], input)
    await ctx.step.suspend("gate")
    return int(kept.amount)


async def held_back(at: Running, handle: ExecutionHandle[Any], times: int = 2) -> dict[str, Any]:
    """The execution, once it has been held back so many times in a row."""

    async def found() -> dict[str, Any] | None:
        execution = await at.client.get_execution(handle.id)
        held = execution["held_back"]
        return execution if held is not None and held["times"] >= times else None

    execution: dict[str, Any] = await until(found, "it is held back")
    return execution


OWN = ["step", "input", "child", "children", "state of a step", "initial state"]
FOREIGN = [
    "answer",
    "typed answer",
    "typed instance",
    "event",
]  # from another program: of a type that is not imported here they are plain data


@pytest.mark.parametrize(
    ("kind", "gone"), [*((kind, False) for kind in OWN + FOREIGN), *((kind, True) for kind in OWN)]
)
@pytest.mark.promise("value")
async def test_an_execution_waits_for_a_deployment_that_reads_its_values(
    kind: str, gone: bool, redis_url: str, namespace: str
) -> None:
    async with running(redis_url, namespace, keeps, child, put_back_seconds=0.02) as at:
        topic = f"orders/{namespace}"
        given = {"kind": kind, "topic": topic, "order": order() if kind == "input" else None}
        state = Ledger(order=order()) if kind == "initial state" else None
        handle = await keeps.invoke(at.client, given, initial_state=state)
        if kind in ("answer", "typed answer", "typed instance"):
            await at.opened(handle, "order")
            await at.answer(handle, "order", {"amt": 5000} if kind == "typed answer" else order())
        elif kind == "event":
            await at.reached(handle, "waiting")
            await events.publish(at.client, topic, EventData("order", order()))
        await at.opened(handle, "gate")
        await at.parked(handle)
        if gone:
            del vars(MODULE)["Order"]
        else:
            deploy_renamed()
        await at.answer(handle, "gate")
        execution = await held_back(at, handle)
        await at.reached(handle, "queued")
        assert (execution["error"], execution["lost_deliveries"]) == (None, 0)
        expected = (
            "is not imported in this process" if gone else "amt would be lost, and amount set to a default"
        )
        assert expected in execution["held_back"]["reason"]
        deploy_fixed()
        assert await at.result(handle) == 5000
        assert (await at.client.get_execution(handle.id))["held_back"] is None


NEWER: dict[str, tuple[Callable[[list[Any]], list[Any]], str]] = {
    "record": (lambda record: [2, *record[1:]], "a journal record is of version 2 and kind b'step'"),
    "kind": (lambda record: [1, "vote", *record[2:]], "a journal record is of version 1 and kind b'vote'"),
    "value": (
        lambda record: [*record[:5], msgpack.packb(msgpack.ExtType(126, msgpack.packb("new"))), *record[6:]],
        "126",
    ),
}


@pytest.mark.parametrize("what", NEWER)
async def test_what_a_newer_release_wrote_waits_for_it(what: str, redis_url: str, namespace: str) -> None:
    """An older worker in a rolling deploy puts the execution back; nothing fails, and nothing is changed."""
    deploy_fixed()
    async with running(redis_url, namespace, keeps, put_back_seconds=0.02) as at:
        handle = await keeps.invoke(at.client, {"kind": "step"})
        await at.opened(handle, "gate")
        await at.parked(handle)
        store = await at.client.store()
        journal = store.partitions.prefix(handle.id) + keys.JOURNAL.encode() + handle.id.encode()
        own = await store.wire.call("HGET", journal, "load")
        change, reason = NEWER[what]
        newer = msgpack.packb(change(msgpack.unpackb(own, raw=True)), use_bin_type=False)
        await store.wire.call("HSET", journal, "load", newer)
        await at.answer(handle, "gate")
        execution = await held_back(at, handle)
        assert (execution["status"], execution["error"], execution["lost_deliveries"]) == ("queued", None, 0)
        assert reason in execution["held_back"]["reason"]
        assert await store.wire.call("HGET", journal, "load") == newer
        await store.wire.call("HSET", journal, "load", own)  # now one that reads it is deployed
        assert await at.result(handle) == 5000


RUNS: list[str] = []
STARTED, OPEN = asyncio.Event(), asyncio.Event()


@workflow(id="held-back-beside")
async def beside(ctx: WorkflowContext) -> Any:
    async def slow() -> str:
        RUNS.append("slow")
        STARTED.set()
        await OPEN.wait()
        return "done"

    async def work() -> str:
        await ctx.step.suspend("gate")
        return await ctx.step.run("slow", slow)

    async def read() -> int:
        await STARTED.wait()
        amount = int((await ctx.step.run("load", order)).amount)
        await ctx.step.run("after", RUNS.append, "after")
        return amount

    return await asyncio.gather(read(), work())


LIMIT = [10]


class Charge(BaseModel):
    cents: int

    @field_validator("cents")
    @classmethod
    def limited(cls, cents: int) -> int:
        if cents > LIMIT[0]:
            raise ValueError(f"at most {LIMIT[0]}")
        return cents


@workflow(id="held-back-typed")
async def typed(ctx: WorkflowContext, input: Charge) -> int:
    await ctx.step.suspend("gate")
    return input.cents


def renamed(data: Any) -> Any:
    return {"amount": data["amt"]} if "amt" in data else data


@pytest.mark.parametrize("fix", ["validator", "dropped"])
async def test_a_typed_answer_is_read_again_once_the_type_takes_it(
    fix: str, redis_url: str, namespace: str
) -> None:
    async with running(redis_url, namespace, keeps, put_back_seconds=0.02) as at:
        handle = await keeps.invoke(at.client, {"kind": "typed answer"})
        await at.opened(handle, "order")
        await at.answer(handle, "order", {"amt": 5000})
        await at.opened(handle, "gate")
        await at.parked(handle)
        deploy({"amount": str}, amount="")
        await at.answer(handle, "gate")
        await held_back(at, handle, 1)
        if fix == "validator":
            deploy({"amount": int}, amount=0, old=model_validator(mode="before")(renamed))
            assert await at.result(handle) == 5000
        else:
            deploy({"amount": int}, amount=7, model_config=ConfigDict(extra="ignore"))
            assert await at.result(handle) == 7


async def test_a_step_in_flight_finishes_and_nothing_else_starts(redis_url: str, namespace: str) -> None:
    RUNS.clear()
    OPEN.clear()
    STARTED.set()
    deploy_fixed()
    async with running(redis_url, namespace, beside, put_back_seconds=0.02) as at:
        handle = await beside.invoke(at.client)
        await at.opened(handle, "gate")
        await at.parked(handle)
        STARTED.clear()
        deploy({"total": int}, total=0)
        await at.answer(handle, "gate")
        await until(lambda: any(activation.gate.held_back for activation in at.worker.active))
        assert (await at.client.get_execution(handle.id))["held_back"] is None
        OPEN.set()
        execution = await held_back(at, handle)
        assert [step["step_key"] for step in execution["steps"]] == ["load", "after", "slow"]
        deploy_fixed()
        assert await at.result(handle) == [5000, "done"]
        assert RUNS == ["after", "slow"]


async def test_an_input_that_was_valid_before_holds_back_instead_of_failing(
    redis_url: str, namespace: str
) -> None:
    """An input by a workflow's id is stored as it came, and validated by each activation."""
    async with running(redis_url, namespace, typed, put_back_seconds=0.02) as at:
        handle = await at.client.invoke(typed.id, {"cents": 5})
        await at.opened(handle, "gate")
        await at.parked(handle)
        LIMIT[0] = 1
        await at.answer(handle, "gate")
        execution = await held_back(at, handle)
        assert "input.cents: Value error, at most 1" in execution["held_back"]["reason"]
        new = await at.client.invoke(typed.id, {"cents": 5})
        with pytest.raises(ExecutionFailedError, match="at most 1"):
            await at.result(new)
        LIMIT[0] = 10
        assert await at.result(handle) == 5


async def test_a_result_of_another_class_is_an_error_of_the_reader(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, child) as at:
        handle = await child.invoke(at.client)
        await at.reached(handle, "completed")
        deploy_renamed()
        with pytest.raises(UnreadableValueError, match=r"Order has changed: .* with \(amt: int\)"):
            await handle.result()
        gone = vars(MODULE).pop("Order")
        with pytest.raises(UnknownTypeError, match="'held_back_types:Order' is not imported in this process"):
            await handle.result()
        assert (await at.client.get_execution(handle.id))["result"] == {"amt": 5000}
        vars(MODULE)["Order"] = gone
        deploy_fixed()
        assert (await handle.result()).amount == 5000


SHOP = """
from pydantic import BaseModel, Field, field_validator
from polos_redis import workflow

class Order(BaseModel):
    {field}

def load():
    return Order(amt=5000)

@workflow(id="held-back-shop")
async def shop(ctx):
    order = await ctx.step.run("load", load)
    await ctx.step.suspend("gate")
    return order.{name}
"""


@pytest.mark.failure(54)
@pytest.mark.threat(26)
async def test_three_deployments(redis_url: str, namespace: str, tmp_path: Path) -> None:
    """One stores a value, one can't read it, one can."""
    polos = Command(redis_url, namespace, tmp_path)
    polos.environment["POLOS_PUT_BACK_SECONDS"] = "0.1"

    def write(name: str, field: str) -> None:
        (tmp_path / "shop.py").write_text(SHOP.format(name=name, field=f"{name}: int = {field}"))

    write("amt", "1")
    async with PolosClient(redis_url, namespace) as client:
        with polos.worker("shop.py"):
            started = await polos("invoke", "held-back-shop", "--json")
            execution_id = started.json["id"]

            async def waiting() -> bool:
                return await client.get_handle(execution_id).status() == "waiting"

            await until(waiting)
        write("amount", "0")
        with polos.worker("shop.py") as second:
            await client.resume(suspend_execution_id=execution_id, suspend_step_key="gate", data=True)

            async def shown() -> bool:
                report = (await polos("show", execution_id)).out
                return "held back" in report and "amt would be lost, and amount set to a default" in report

            async def queued() -> bool:  # between two attempts to read the value
                return await client.get_handle(execution_id).status() == "queued"

            await until(shown)
            await until(queued)
        assert "held back" in second.err and "held-back-shop" in second.err
        write("amount", "Field(0, validation_alias='amt')")
        with polos.worker("shop.py"):
            assert await client.get_handle(execution_id).result(timeout=60) == 5000
