"""A change of a workflow is deployed while three people decide."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

import pytest

from polos_redis import PolosClient
from tests.harness.command import Command
from tests.harness.running import until

HEAD = """
from pathlib import Path
from polos_redis import WorkflowContext, workflow

def note(effect: str) -> None:
    with Path("effects").open("a") as effects:
        effects.write(effect + "\\n")
"""

BEFORE = """
@workflow(version="1")
async def order(ctx: WorkflowContext, customer: str) -> str:
    answer = await ctx.step.suspend("approval")
    await ctx.step.run("ship", note, f"ship {customer}")
    return answer["data"]
"""

PATCHED = """
@workflow(version="2")
async def order(ctx: WorkflowContext, customer: str) -> str:
    if await ctx.patched("credit"):
        await ctx.step.run("check credit", note, f"check {customer}")
    answer = await ctx.step.suspend("approval")
    if await ctx.patched("credit"):
        await ctx.step.run("charge", note, f"charge {customer}")
    await ctx.step.run("ship", note, f"ship {customer}")
    return answer["data"]
"""

OLD, NEW = ("ann", "bob", "cleo"), ("dora", "ed", "fay")


class Orders:
    """The orders of a namespace, as a client sees them."""

    def __init__(self, client: PolosClient) -> None:
        self.client = client

    async def place(self, customers: tuple[str, ...]) -> list[str]:
        """Place an order for each customer; returns their ids once all of them wait for approval."""
        placed = [(await self.client.invoke("order", one)).id for one in customers]
        for one in placed:
            await until(partial(self.has_status, one, "waiting"))
        return placed

    async def has_status(self, order: str, status: str) -> bool:
        return bool((await self.client.get_execution(order))["status"] == status)

    async def approve(self, orders: list[str]) -> None:
        for one in orders:
            await self.client.resume(suspend_execution_id=one, suspend_step_key="approval", data="yes")

    async def completed(self, orders: list[str]) -> None:
        for one in orders:
            await until(partial(self.has_status, one, "completed"))
            assert (await self.client.get_execution(one))["result"] == "yes"

    async def versions(self) -> dict[str, tuple[int, int]]:
        """How many executions each version has open, and how many workers announce it."""
        return {row["version"]: (row["open"], row["workers"]) for row in await self.client.versions()}


@pytest.fixture
async def orders(redis_url: str, namespace: str) -> AsyncIterator[Orders]:
    async with PolosClient(redis_url, namespace) as client:
        yield Orders(client)


Code = Callable[[str, str], Command]


@pytest.fixture
def code(redis_url: str, namespace: str, tmp_path: Path) -> Code:
    """States of the code, each in a folder of its own, where its effects are noted."""

    def write(name: str, text: str) -> Command:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "app.py").write_text(HEAD + text)
        return Command(redis_url, namespace, folder)

    return write


def effects(polos: Command) -> list[str]:
    path = polos.folder / "effects"
    return sorted(path.read_text().splitlines()) if path.exists() else []


@pytest.mark.timeout(300)
async def test_a_patch(orders: Orders, code: Code) -> None:
    """Orders from before the change go on without it, on the new code; new ones take all of it."""
    before, after = code("before", BEFORE), code("after", PATCHED)
    with before.worker("app.py"):
        old = await orders.place(OLD)
    assert await orders.versions() == {"1": (3, 0)}
    with after.worker("app.py"), after.worker("app.py"):
        new = await orders.place(NEW)
        assert await orders.versions() == {"1": (3, 0), "2": (3, 2)}
        await orders.approve(old + new)
        await orders.completed(old + new)
        assert await orders.versions() == {"2": (0, 2)}
    assert effects(before) == []
    credit = [f"{what} {one}" for what in ("check", "charge") for one in NEW]
    assert effects(after) == sorted([*credit, *(f"ship {one}" for one in OLD + NEW)])
    shown = [await orders.client.get_execution(one) for one in old + new]
    assert [one["version"] for one in shown] == ["1"] * 3 + ["2"] * 3


PINNED_BEFORE = BEFORE.replace('version="1"', 'version="1", version_policy="pin"')
PINNED_AFTER = """
@workflow(version="2", version_policy="pin")
async def order(ctx: WorkflowContext, customer: str) -> str:
    await ctx.step.run("check credit", note, f"check {customer}")
    answer = await ctx.step.suspend("approval")
    await ctx.step.run("ship", note, f"ship {customer}")
    return answer["data"]
"""


@pytest.mark.timeout(300)
async def test_a_pin(orders: Orders, code: Code) -> None:
    """Orders from before the change wait for a worker with the old code, which runs beside the new one until
    they are through."""
    before, after = code("before", PINNED_BEFORE), code("after", PINNED_AFTER)
    with before.worker("app.py"):
        old = await orders.place(OLD)
    with after.worker("app.py"):
        new = await orders.place(NEW)
        assert await orders.versions() == {"1": (3, 0), "2": (3, 1)}
        await orders.approve(old + new)
        await orders.completed(new)
        for one in old:
            shown = await orders.client.get_execution(one)
            assert (shown["status"], shown["version"], shown["unserved"]) == ("queued", "1", True)
        report = await after("show", old[0])
        assert "no worker serves version 1 of this workflow" in report.out
        with before.worker("app.py"):
            await orders.completed(old)
        assert await orders.versions() == {"2": (0, 1)}
    assert effects(before) == [f"ship {one}" for one in OLD]
    assert effects(after) == sorted([f"{what} {one}" for what in ("check", "ship") for one in NEW])
