"""The audit: who decided what, when, how and on what data; it outlives its execution."""

from __future__ import annotations

import asyncio
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from polos_redis import ExecutionNotFoundError, PolosClient, Workflow, WorkflowContext, events
from polos_redis.state import keys
from polos_redis.values.codec import encode
from polos_redis.values.digests import shown_digest
from tests.harness.command import Command
from tests.harness.running import running, until

pytestmark = pytest.mark.also_on_cluster

SHOWN = {"amount": 5}


async def _asks(ctx: WorkflowContext, input: dict[str, Any]) -> Any:
    return await ctx.step.suspend("ask", SHOWN, **input)


asks: Workflow[Any, Any] = Workflow(_asks, "audit-asks")


async def _asks_below(ctx: WorkflowContext) -> None:
    async def both() -> None:
        await asyncio.gather(*(ctx.step.invoke_and_wait(f"child {n}", asks, {}) for n in range(2)))

    await both()
    await ctx.step.suspend("own")


asks_below: Workflow[Any, Any] = Workflow(_asks_below, "audit-asks-below")


async def ttl(client: PolosClient, root: str) -> int:
    store = await client.store()
    found: int = await store.wire.call(
        "PTTL", store.partitions.prefix(root) + keys.AUDIT.encode() + root.encode()
    )
    return found


async def forgotten(client: PolosClient, execution_id: str) -> None:
    """Ends an execution's retention and waits until it is gone."""
    store = await client.store()
    prefix = store.partitions.prefix(execution_id)
    (workflow,) = await store.executions.read_fields(execution_id, "workflow")
    assert workflow is not None
    await store.wire.call("ZADD", prefix + b"index:ended:" + workflow, "XX", 1, execution_id.encode())

    async def gone() -> bool:
        return (await store.executions.read_fields(execution_id, "status"))[0] is None

    await until(gone)


@pytest.mark.promise("audit")
async def test_the_audit_says_how_each_suspension_ended(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, asks) as at:
        answered, expired, defaulted, closed = [
            await asks.invoke(at.client, policy)
            for policy in ({}, {"timeout": 3600}, {"timeout": 3600, "on_timeout": "none"}, {})
        ]
        for handle in (answered, expired, defaulted, closed):
            await at.parked(handle)
        opened = (await at.client.get_suspension(answered.id, "ask"))["opened_at"]
        assert await at.client.audit(answered.id) == [], "nothing has been decided yet"
        resumed = await at.client.resume(
            suspend_execution_id=answered.id, suspend_step_key="ask", data={"ok": 1}, resumed_by="ann"
        )
        (entry,) = await at.client.audit(answered.id)
        assert datetime.fromisoformat(entry.at) == resumed.resumed_at
        assert entry == {
            "at": entry.at,
            "execution_id": answered.id,
            "workflow_id": "audit-asks",
            "step_key": "ask",
            "status": "answered",
            "by": "ann",
            "channel": "client",
            "digest": shown_digest(encode(SHOWN)).hex(),
            "opened_at": opened,
            "data": {"ok": 1},
            "reason": None,
        }
        for handle in (expired, defaulted):
            await at.make_due(handle, "ask", "s")
            await at.reached(handle, "failed" if handle is expired else "completed")
        await at.client.cancel(closed.id, cancelled_by="zoe")
        for handle, status, data in (
            (expired, "expired", None),
            (defaulted, "expired", "none"),
            (closed, "closed", None),
        ):
            (entry,) = await at.client.audit(handle.id)
            assert (entry["status"], entry["by"], entry["channel"]) == (status, None, None)
            assert entry["data"] == data


async def test_the_channel_says_how_an_answer_arrived(redis_url: str, namespace: str, tmp_path: Path) -> None:
    async def answers(ctx: WorkflowContext, input: str) -> None:
        await ctx.step.resume("answer", "ask", input, data=1, resumed_by="ann")

    answering: Workflow[Any, Any] = Workflow(answers, "audit-answers")
    async with running(redis_url, namespace, asks, answering) as at:
        handles = {name: await asks.invoke(at.client, {}) for name in ("cli", "topic", "workflow", "page")}
        for handle in handles.values():
            await at.opened(handle, "ask")
        done = await Command(redis_url, namespace, tmp_path)(
            "resume", handles["cli"].id, "--approve", "--by", "ann"
        )
        assert done.code == 0, done.err
        await events.publish(at.client, f"ask/{handles['topic'].id}", events.EventData("resume", 1))
        await at.result(await answering.invoke(at.client, handles["workflow"].id))
        await at.client.resume(
            suspend_execution_id=handles["page"].id, suspend_step_key="ask", data=1, channel="page"
        )
        for channel, handle in handles.items():
            (entry,) = await at.client.audit(handle.id)
            assert (entry["channel"], entry["status"]) == (channel, "answered")


async def test_a_refused_answer_leaves_no_trace(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, asks) as at:
        handle = await asks.invoke(at.client, {"approvers": ["ann"]})
        await at.opened(handle, "ask")
        with pytest.raises(Exception, match="the answer must name who decides"):
            await at.answer(handle, "ask")
        assert await at.client.audit(handle.id) == []


@pytest.mark.promise("audit")
async def test_the_audit_outlives_its_execution(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, asks, audit_seconds=7200) as at:
        handle = await asks.invoke(at.client, {})
        await at.parked(handle)
        await at.answer(handle, "ask", 5)
        await at.result(handle)
        audit = await at.client.audit(handle.id)
        await forgotten(at.client, handle.id)
        assert await at.client.audit(handle.id) == audit and audit[0]["data"] == 5
        assert 7_000_000 < await ttl(at.client, handle.id) <= 7_200_000
        with pytest.raises(ExecutionNotFoundError):
            await at.client.get_execution(handle.id)
        with pytest.raises(ExecutionNotFoundError):
            await at.client.audit("0" * 32)


async def test_the_audit_is_kept_for_a_year_by_default(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, asks) as at:
        handle = await asks.invoke(at.client, {})
        await at.parked(handle)
        await at.answer(handle, "ask")
        year = 365 * 24 * 3600 * 1000
        assert year - 60_000 < await ttl(at.client, handle.id) <= year


async def test_decisions_of_descendants_are_in_the_roots_audit(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, asks, asks_below) as at:
        handle = await asks_below.invoke(at.client)

        async def open_below() -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = (await at.client.get_execution(handle.id))["open_suspensions_below"]
            return found if len(found) == 2 else []

        below = [one["execution_id"] for one in await until(open_below)]
        for number, child in enumerate(below):
            await at.client.resume(suspend_execution_id=child, suspend_step_key="ask", data=number)
        await at.opened(handle, "own")
        await at.answer(handle, "own", "mine")
        await at.result(handle)
        audit = await at.client.audit(handle.id)
        assert [(one["execution_id"], one["step_key"], one["data"]) for one in audit] == [
            *((below[0], "ask", 0), (below[1], "ask", 1), (handle.id, "own", "mine"))
        ]
        assert {one["workflow_id"] for one in audit} == {"audit-asks", "audit-asks-below"}
        assert await at.client.audit(below[1]) == audit[1:2]
        await forgotten(at.client, below[1])
        assert await at.client.audit(below[1]) == audit[1:2]


async def test_each_opening_has_its_own_entry(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, asks) as at:
        handle = await asks.invoke(at.client, {"timeout": 3600})
        for _ in range(2):
            await at.make_due(handle, "ask", "s")
            await at.reached(handle, "failed")
            await at.client.retry(handle.id)
            await at.opened(handle, "ask")
        await at.answer(handle, "ask", 1)
        await at.result(handle)
        audit = await at.client.audit(handle.id)
        assert [entry["status"] for entry in audit] == ["expired", "expired", "answered"]
        assert len({entry["opened_at"] for entry in audit}) == 3
        assert [entry["at"] for entry in audit] == sorted(entry["at"] for entry in audit)
