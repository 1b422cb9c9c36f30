"""Reading: one execution, lists of executions, and the inbox of open suspensions."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, TypeVar

import pytest
from pydantic import BaseModel

from polos_redis import ConfigurationError, Page, PolosClient, Workflow, WorkflowContext
from tests.harness.running import running

pytestmark = pytest.mark.also_on_cluster

T = TypeVar("T")


class Order(BaseModel):
    amount: Decimal
    due: datetime


def flow(body: Any) -> Workflow[Any, Any]:
    """A workflow that need not be registered."""
    return Workflow(body, body.__name__)


@flow
async def orders(ctx: WorkflowContext, input: Order) -> Any:
    await ctx.step.run("price", lambda: {1: Decimal("1.50"), (1, 2): {b"\xff"}})
    answer = await ctx.step.suspend("ask", input, timeout=3600)
    return [input, answer["data"], float("nan")]


@flow
async def breaks(ctx: WorkflowContext) -> None:
    await ctx.step.run("fail", int, "x", max_retries=0)


async def test_an_execution_is_plain_json(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, orders, breaks) as at:
        handle = await orders.invoke(
            at.client, Order(amount=Decimal("9.99"), due=datetime(2026, 1, 2, tzinfo=UTC))
        )
        await at.parked(handle)
        shown = {"amount": "9.99", "due": "2026-01-02T00:00:00Z"}
        found = await at.client.get_execution(handle.id)
        assert json.loads(json.dumps(found, allow_nan=False)) == found
        assert (found["id"], found["workflow_id"], found["status"]) == (handle.id, "orders", "waiting")
        assert found["input"] == shown
        assert (found["result"], found["error"], found["finished_at"]) == (None, None, None)
        (step,) = found["steps"]
        assert (step["step_key"], step["status"], step["attempts"], step["error"]) == ("price", "ok", 1, None)
        (wait,) = found["open_suspensions"]
        assert wait == found["suspensions"][0]
        assert (wait["status"], wait["data"], wait["answer"]) == ("open", shown, None)
        assert wait["topic"] == f"ask/{handle.id}"
        opened, expires = (datetime.fromisoformat(wait[name]) for name in ("opened_at", "expires_at"))
        assert expires - opened == timedelta(hours=1)

        await at.answer(handle, "ask", {"ok": Decimal(1)})
        await at.result(handle)
        found = await at.client.get_execution(handle.id)
        assert json.loads(json.dumps(found, allow_nan=False)) == found
        assert (found["status"], found["result"]) == ("completed", [shown, {"ok": "1"}, "NaN"])
        assert found["open_suspensions"] == []
        assert found["suspensions"][0]["answer"] == {"ok": "1"}
        times = [datetime.fromisoformat(found[name]) for name in ("created_at", "started_at", "finished_at")]
        assert times == sorted(times)
        assert all(time.utcoffset() == timedelta(0) for time in times)

        broken = await breaks.invoke(at.client)
        await at.reached(broken, "failed")
        found = await at.client.get_execution(broken.id)
        assert json.loads(json.dumps(found, allow_nan=False)) == found
        assert found["error"]["type"] == "StepExecutionError"
        assert found["steps"][0]["error"]["type"] == "ValueError"


async def _visit(pages: Any, limit: int, **filters: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    cursor = None
    while True:
        page = await pages(limit=limit, cursor=cursor, **filters)
        assert isinstance(page, Page)
        assert len(page) <= limit
        found += page
        cursor = page.next_cursor
        if cursor is None:
            return found
        assert page, "a page with a cursor is not empty"


@flow
async def asks(ctx: WorkflowContext, input: int) -> int:
    if input % 3:
        await ctx.step.suspend("ask", {"n": input})
    return input


@flow
async def asks_twice(ctx: WorkflowContext) -> None:
    await asyncio.gather(ctx.step.suspend("a"), ctx.step.suspend("b"))


async def _apart(started: Awaitable[T]) -> T:
    """Waits for the next millisecond, by the servers' clock, which is ours: of one millisecond, executions of
    several queues or partitions are listed in no particular order."""
    handle, begun = await started, time.time_ns()
    while time.time_ns() // 1_000_000 == begun // 1_000_000:
        pass
    return handle


@pytest.mark.parametrize("limit", [1, 2, 4, 6, 7, 50])
async def test_cursors_visit_everything_once(limit: int, redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, asks, asks_twice) as at:
        handles = [await _apart(asks.invoke(at.client, n)) for n in range(6)]
        twice = await asks_twice.invoke(at.client)
        for number, handle in enumerate(handles):
            await at.reached(handle, "waiting" if number % 3 else "completed")
        await at.parked(twice)
        client = at.client
        ids = [handle.id for handle in handles]

        newest_first = await _visit(client.list_executions, limit)
        assert [one["id"] for one in newest_first] == [twice.id, *reversed(ids)]
        assert json.loads(json.dumps(newest_first)) == newest_first
        of_one = await _visit(client.list_executions, limit, workflow=asks)
        assert [one["id"] for one in of_one] == ids[::-1]
        assert {one["workflow_id"] for one in of_one} == {"asks"}
        done = await _visit(client.list_executions, limit, status="completed")
        assert [one["id"] for one in done] == [ids[3], ids[0]]
        assert all(one["status"] == "completed" and one["finished_at"] for one in done)
        waiting = await _visit(client.list_executions, limit, status="waiting", workflow="asks_twice")
        assert [one["id"] for one in waiting] == [twice.id]
        assert await _visit(client.list_executions, limit, workflow="never invoked") == []

        inbox = await _visit(client.list_suspensions, limit)
        assert len(inbox) == 6
        assert {(one["execution_id"], one["step_key"]) for one in inbox} == {
            *((ids[n], "ask") for n in (1, 2, 4, 5)),
            (twice.id, "a"),
            (twice.id, "b"),
        }
        opened = [one["opened_at"] for one in inbox]
        assert opened == sorted(opened)
        of_one = await _visit(client.list_suspensions, limit, workflow=asks)
        assert sorted(one["data"]["n"] for one in of_one) == [1, 2, 4, 5]
        assert {one["workflow_id"] for one in of_one} == {"asks"}


async def test_cursors_survive_rows_that_come_and_go(redis_url: str, namespace: str) -> None:
    async with PolosClient(redis_url, namespace) as client:
        ids = [(await _apart(client.invoke("nobody-runs-it"))).id for _ in range(6)]
        page = await client.list_executions(limit=2)
        await client.invoke("nobody-runs-it")
        await client.cancel(ids[4])
        rest = await client.list_executions(limit=10, cursor=page.next_cursor)
        assert [one["id"] for one in [*page, *rest]] == ids[::-1]


async def test_a_page_is_a_sequence(redis_url: str, namespace: str) -> None:
    async with PolosClient(redis_url, namespace) as client:
        empty = await client.list_executions()
        assert not empty
        assert (len(empty), list(empty), empty.next_cursor) == (0, [], None)
        assert not await client.list_suspensions()
        ids = [(await _apart(client.invoke("nobody-runs-it"))).id for _ in range(3)]
        page = await client.list_executions(limit=2)
        assert page
        assert (page[0]["id"], page[-1]["id"]) == (ids[2], ids[1])
        assert len(page[:1]) == 1
        assert f"next_cursor={page.next_cursor!r}" in repr(page)


@pytest.mark.parametrize("limit", [0, -1, 1001, 1.5, "ten", None])
async def test_an_invalid_limit_is_refused(limit: Any, redis_url: str, namespace: str) -> None:
    async with PolosClient(redis_url, namespace) as client:
        for pages in (client.list_executions, client.list_suspensions):
            with pytest.raises(ConfigurationError, match="limit must be an integer from 1 to 1000"):
                await pages(limit=limit)


@pytest.mark.parametrize("cursor", ["", "later", "1.5", 1.5j])
async def test_an_invalid_cursor_is_refused(cursor: Any, redis_url: str, namespace: str) -> None:
    async with PolosClient(redis_url, namespace) as client:
        for pages in (client.list_executions, client.list_suspensions):
            with pytest.raises(ConfigurationError, match="cursor must be the next_cursor of a page"):
                await pages(cursor=cursor)


@pytest.mark.parametrize("status", ["Running", "", "Completed", 5])
async def test_an_invalid_status_is_refused(status: Any, redis_url: str, namespace: str) -> None:
    async with PolosClient(redis_url, namespace) as client:
        with pytest.raises(ConfigurationError, match="status must be one of queued, running, waiting"):
            await client.list_executions(status=status)


async def test_two_partitions_form_one_list(redis_url: str, namespace: str) -> None:
    async with PolosClient(redis_url, namespace, partitions=4) as client:
        ids = [(await client.invoke("nobody-runs-it")).id for _ in range(20)]
        for limit in (1, 3, 20, 50):
            listed = await _visit(client.list_executions, limit)
            created = [one["created_at"] for one in listed]  # some in the same millisecond
            assert created == sorted(created, reverse=True)
            assert sorted(one["id"] for one in listed) == sorted(ids)
