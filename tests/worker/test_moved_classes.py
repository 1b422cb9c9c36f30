"""Worker processes whose classes move to another module while a person decides."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from polos_redis import ExecutionHandle, PolosClient, UnknownTypeError
from tests.harness.command import Command
from tests.harness.running import until

CLASSES = """
import enum
from dataclasses import dataclass
from typing import Generic, TypeVar
from pydantic import BaseModel
from polos_redis import stored_as
T = TypeVar("T")

{color}
class Color(enum.Enum):
    RED = 1

{item}
@dataclass(slots=True)
class Item:
    sku: str
    color: Color

{order}
class Order(BaseModel):
    items: list[Item]

{box}
class Box(BaseModel, Generic[T]):
    content: T

{ledger}
class Ledger(BaseModel):
    orders: list[Order] = []
"""
# The classes are in shop.py itself (`here`), or in a module that it imports without their names.
WORKFLOWS = """
from polos_redis import WorkflowContext, workflow

def order():
    return {c}Order(items=[{c}Item("apple", {c}Color.RED)])

@workflow
async def pack(ctx: WorkflowContext, wanted: {c}Order) -> {c}Box[{c}Order]:
    return {c}Box[{c}Order](content=wanted)

@workflow
async def restock(ctx: WorkflowContext) -> None:
    await ctx.step.publish_event("publish", "stock", order())

@workflow(state_schema={c}Ledger)
async def sell(ctx: WorkflowContext, wanted: {c}Order) -> {c}Order:
    loaded = await ctx.step.run("load", order)
    ctx.state.orders.append(loaded)
    box = await ctx.step.invoke_and_wait("pack", pack, wanted)
    event = await ctx.step.wait_for_event("restocked", "stock")
    first = await ctx.step.suspend("first", schema={c}Order)
    last = await ctx.step.suspend("last", {{"order": wanted}}, schema={c}Box[{c}Item])
    values = [wanted, loaded, box.content, event.data, first, ctx.state.orders[0]]
    assert all(type(one) is {c}Order and one == order() for one in values), values
    assert type(last) is {c}Box[{c}Item] and last.content == order().items[0], last
    return wanted
"""
NAMES = {name.lower(): f'@stored_as("shop:{name}")' for name in ("Color", "Item", "Order", "Box", "Ledger")}
ORDER = {"items": [{"sku": "apple", "color": 1}]}


def deploy(polos: Command, where: str, *, named: bool = False) -> None:
    """The workflows stay in shop.py; the classes are where it is said."""
    classes = CLASSES.format(**(NAMES if named else dict.fromkeys(NAMES, "")))
    workflows = WORKFLOWS.format(c="" if where == "shop" else f"{where}.")
    imported = classes if where == "shop" else f"import {where}\n"
    if where != "shop":
        (polos.folder / f"{where}.py").write_text(classes)
    (polos.folder / "shop.py").write_text(imported + workflows)


@pytest.mark.promise("value")
@pytest.mark.timeout(300)
async def test_classes_move_while_a_person_decides(redis_url: str, namespace: str, tmp_path: Path) -> None:
    """Input, results, state, event and answers of every kind of class are read where the classes are now: an
    execution waits while they have no name, and goes on once they have their old one, also after another
    move."""
    polos = Command(redis_url, namespace, tmp_path)
    polos.environment |= {"POLOS_PUT_BACK_SECONDS": "0.1", "PYTHONDONTWRITEBYTECODE": "1"}

    async with PolosClient(redis_url, namespace) as client:

        async def is_open(handle: ExecutionHandle[Any], key: str) -> bool:
            execution = await client.get_execution(handle.id)
            assert execution.error is None
            return execution.status == "waiting" and [wait.step_key for wait in execution.waits_for] == [key]

        async def answer(handle: ExecutionHandle[Any], key: str, data: Any) -> None:
            await client.resume(suspend_execution_id=handle.id, suspend_step_key=key, data=data)

        deploy(polos, "shop")
        with polos.worker("shop.py"):
            handles = [await client.invoke("sell", ORDER) for _ in range(2)]
            for handle in handles:
                await until(partial(is_open, handle, "restocked"))
            await client.get_handle(await started(polos, "restock")).result(timeout=60)
            for handle in handles:
                await until(partial(is_open, handle, "first"))
                await answer(handle, "first", ORDER)
                await until(partial(is_open, handle, "last"))
        deploy(polos, "goods")
        with polos.worker("shop.py"):
            await answer(handles[0], "last", {"content": ORDER["items"][0]})

            async def held_back() -> bool:
                report = " ".join((await polos("show", handles[0].id)).out.split())
                return "held back" in report and "declare it with @stored_as('shop:" in report

            await until(held_back)
        deploy(polos, "goods", named=True)
        with polos.worker("shop.py"):
            assert await plain_result(client, handles[0]) == ORDER
        (tmp_path / "goods.py").unlink()
        deploy(polos, "stock", named=True)
        with polos.worker("shop.py"):
            await answer(handles[1], "last", {"content": ORDER["items"][0]})
            assert await plain_result(client, handles[1]) == ORDER


async def started(polos: Command, workflow_id: str) -> str:
    return (await polos("invoke", workflow_id)).out.strip()


async def plain_result(client: PolosClient, handle: ExecutionHandle[Any]) -> Any:
    """The result as the dict of its fields, as its class is not imported here."""
    with pytest.raises(UnknownTypeError, match="declare it with @stored_as\\('shop:Color'\\)"):
        await handle.result(timeout=60)
    return (await client.get_execution(handle.id))["result"]
