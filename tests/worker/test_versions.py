"""The version of a workflow's code, and which versions still have open executions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from polos_redis import ConfigurationError, PolosClient, Workflow, WorkflowContext, apikeys
from tests.harness.command import Command
from tests.harness.running import Running, running, until, working
from tests.harness.serving import calling, serving
from tests.harness.visiting import visiting


async def asks(ctx: WorkflowContext, input: Any) -> Any:
    return (await ctx.step.suspend("review"))["data"]


def asking(version: str | None, **options: Any) -> Workflow[Any, Any]:
    return Workflow(asks, "versions-asks", version=version, **options)


async def version_of(client: PolosClient, execution_id: str) -> str | None:
    version: str | None = (await client.get_execution(execution_id))["version"]
    return version


async def rows(client: PolosClient) -> list[tuple[Any, ...]]:
    return [(row["version"], row["open"], row["oldest"], row["workers"]) for row in await client.versions()]


async def test_the_first_activation_stores_the_version(redis_url: str, namespace: str) -> None:
    """Not the invoker, who may not know it; and not a later activation, of other code."""
    async with PolosClient(redis_url, namespace) as client:
        one, other = [await client.invoke("versions-asks", number) for number in range(2)]
        assert await version_of(client, one.id) is None
        async with working(client, asking("1")) as worker:
            at = Running(client, worker)
            for handle in (one, other):
                await at.parked(handle)
                assert await version_of(client, handle.id) == "1"
            listed = await client.list_executions()
            assert [row["version"] for row in listed] == ["1", "1"]
            assert await rows(client) == [("1", 2, one.id, 1)]
        async with working(client, asking("2")) as worker:
            at = Running(client, worker)
            new = await client.invoke("versions-asks", 3)
            await at.parked(new)
            await at.answer(other, "review", "yes")
            assert await at.result(other) == "yes"
            assert await version_of(client, other.id) == "1"
            await until(lambda: has(client, [("1", 1, one.id, 0), ("2", 1, new.id, 1)]))
            await at.answer(one, "review")
            await at.result(one)
            assert await rows(client) == [("2", 1, new.id, 1)]
            await client.cancel(new.id)
            assert await rows(client) == [("2", 0, None, 1)]
        assert await rows(client) == []


async def has(client: PolosClient, expected: list[tuple[Any, ...]]) -> bool:
    return await rows(client) == expected


async def test_without_a_version_there_is_none(redis_url: str, namespace: str) -> None:
    """Also for what has started when the workflow gets one."""
    async with PolosClient(redis_url, namespace) as client:
        async with working(client, asking(None)) as worker:
            old = await client.invoke("versions-asks", 1)
            await Running(client, worker).parked(old)
            assert await rows(client) == [(None, 1, None, None)]
        async with working(client, asking("1")) as worker:
            at = Running(client, worker)
            new = await client.invoke("versions-asks", 2)
            await at.parked(new)
            await at.client.resume(suspend_execution_id=old.id, suspend_step_key="review", data=1)
            later = await client.invoke("versions-asks", 3, start_delay=3600)
            await at.result(old)
            assert await version_of(client, old.id) is None and await version_of(client, new.id) == "1"
            assert await rows(client) == [("1", 1, new.id, 1), (None, 1, None, None)]
            await client.cancel(later.id)


async def test_a_child_has_the_version_of_its_own_workflow(redis_url: str, namespace: str) -> None:
    async def parent(ctx: WorkflowContext, input: Any) -> Any:
        return await ctx.step.invoke_and_wait("child", child, input)

    child = asking("7")
    above: Workflow[Any, Any] = Workflow(parent, "versions-parent", version="1")
    async with running(redis_url, namespace, above, child) as at:
        handle = await above.invoke(at.client, 1)
        await at.parked(handle)
        (row,) = (await at.client.get_execution(handle.id))["children"]
        await until(lambda: has_version(at.client, row["id"], "7"))
        assert await rows(at.client) == [("7", 1, row["id"], 1), ("1", 1, handle.id, 1)]
        await at.client.cancel(handle.id)


async def has_version(client: PolosClient, execution_id: str, version: str) -> bool:
    return await version_of(client, execution_id) == version


async def test_a_retry_keeps_the_version(redis_url: str, namespace: str) -> None:
    async def fails(ctx: WorkflowContext, input: Any) -> None:
        if ctx.run < 3:
            raise ValueError("not yet")
        await ctx.step.suspend("review")

    flow: Workflow[Any, Any] = Workflow(fails, "versions-fails", version="1", retries=1, retry_delay=0)
    async with running(redis_url, namespace, flow) as at:
        handle = await flow.invoke(at.client, 1)
        await at.reached(handle, "failed")
        assert await rows(at.client) == [("1", 0, None, 1)]
        await at.client.retry(handle.id)
        await at.parked(handle)
        assert await rows(at.client) == [("1", 1, handle.id, 1)]
        await at.client.cancel(handle.id)


@pytest.mark.parametrize("wrong", ["", 3, 1.5, "a\0b", "x" * 129, "\u202e", b"1"])
def test_a_version_that_is_none(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^workflow 'versions-asks': version (must|has)"):
        asking(wrong)


async def test_where_people_look(redis_url: str, namespace: str, tmp_path: Path) -> None:
    polos = Command(redis_url, namespace, tmp_path)
    async with running(redis_url, namespace, asking("2026-11 b")) as at:
        assert "no open executions" not in (await polos("versions")).err  # a worker announces it
        handle = await asking(None).invoke(at.client, 1)
        await at.parked(handle)
        titles, row = (await polos("versions")).out.splitlines()
        assert titles.split() == ["WORKFLOW", "VERSION", "OPEN", "WORKERS", "OLDEST", "CREATED"]
        assert row.split()[:6] == ["versions-asks", "2026-11", "b", "1", "1", handle.id]
        assert (await polos("versions", "--json")).json == await at.client.versions()
        assert "workflow    versions-asks, version 2026-11 b\n" in (await polos("show", handle.id)).out
        titles, row = (await polos("list")).out.splitlines()
        assert "  WORKFLOW       VERSION" in titles and "  versions-asks  2026-11 b" in row
        async with calling(at.client) as api:
            assert (await api.get(f"/api/v1/executions/{handle.id}")).json()["version"] == "2026-11 b"
            (row,) = (await api.get("/api/v1/executions")).json()["executions"]
            assert row["version"] == "2026-11 b"
        _, secret = await apikeys.create(at.client, "ann", ["read"])
        async with serving(at.client) as base, visiting(base) as visitor:
            await visitor.log_in(secret)
            assert "2026-11 b" in (await visitor.get(f"/executions/{handle.id}")).text
            assert "2026-11 b" in (await visitor.get("/executions")).text
        await at.client.cancel(handle.id)
    assert (await polos("versions")).err == "no open executions\n"
