"""`client.delete` leaves nothing personal in Redis, only an audit stub."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import BaseModel

from polos_redis import (
    ExecutionFailedError,
    ExecutionHandle,
    ExecutionNotFoundError,
    InvalidInputError,
    NotFinishedError,
    PolosClient,
    Workflow,
    WorkflowContext,
    WorkflowState,
    events,
)
from polos_redis.state import keys
from polos_redis.state.store import Store
from tests.harness.running import Running, running, soon

pytestmark = pytest.mark.also_on_cluster

MARK = "Jane-Roe-1984"


class Kept(WorkflowState):
    name: str = ""


class Answer(BaseModel):
    approved: bool
    reason: str = ""


async def _below(ctx: WorkflowContext, input: str) -> str:
    await ctx.step.suspend("ask below", {"who": input})
    return f"{input} of a child"


below: Workflow[Any, Any] = Workflow(_below, "delete-below")


async def _personal(ctx: WorkflowContext, input: dict[str, Any]) -> Any:
    ctx.state.name = MARK
    await ctx.step.run("step", lambda: f"{MARK} of a step")
    await ctx.step.publish_workflow_event("told", {"who": MARK})
    children = [ctx.step.invoke_and_wait(f"child {n}", below, MARK) for n in range(input["children"])]
    await asyncio.gather(*children)
    await ctx.step.suspend(
        "ask",
        {"who": MARK},
        timeout=3600,
        schema=Answer,
        required=2,
        on_timeout=Answer(approved=False, reason=MARK),
    )
    if input.get("fails"):
        raise LookupError(f"no {MARK}")
    return f"{MARK} as a result"


personal: Workflow[Any, Any] = Workflow(_personal, "delete-personal", state_schema=Kept)


async def _announces(ctx: WorkflowContext, input: str) -> list[str]:
    return [
        await ctx.step.publish_event("free", "delete-news", input),
        await ctx.step.publish_workflow_event("own", input),
    ]


announces: Workflow[Any, Any] = Workflow(_announces, "delete-announces")


@pytest.fixture
async def at(redis_url: str, namespace: str) -> AsyncIterator[Running]:
    async with running(redis_url, namespace, personal, below, announces) as at:
        yield at


async def start(at: Running, **input: Any) -> ExecutionHandle[Any]:
    return await personal.invoke(
        at.client,
        {"children": 2, "who": MARK, **input},
        session_id=MARK,
        user_id="user",
        initial_state=Kept(name=MARK),
    )


async def answered(at: Running, handle: ExecutionHandle[Any]) -> None:
    """Answers every suspension of an execution and its descendants."""
    answer = {"approved": True, "reason": MARK}
    async for event in events.stream_workflow(at.client, handle.workflow_id, handle.id):
        if event.event_type == "suspend_ask below":
            for one in (await at.client.get_execution(handle.id))["open_suspensions_below"]:
                await at.client.resume(
                    suspend_execution_id=one["execution_id"], suspend_step_key="ask below", data=MARK
                )
        elif event.event_type == "suspend_ask":
            break
    for by in ("ann", "bob"):
        await at.client.resume(
            suspend_execution_id=handle.id, suspend_step_key="ask", data=answer, resumed_by=by
        )


async def finished(at: Running, **input: Any) -> ExecutionHandle[Any]:
    handle = await start(at, **input)
    await soon(answered(at, handle))
    if input.get("fails"):
        with pytest.raises(ExecutionFailedError):
            await at.result(handle)
    else:
        await at.result(handle)
    return handle


async def names(store: Store, namespace: str) -> list[tuple[Any, bytes]]:
    """Every key of the namespace, with the server that holds it."""
    found = []
    for node in await store.wire.nodes():
        cursor = b"0"
        while True:
            cursor, some = await node.call("SCAN", cursor, "MATCH", f"polos:{{{namespace}:*", "COUNT", 1000)
            found += [(node, name) for name in some]
            if cursor == b"0":
                break
    return found


_READ = {
    b"string": ("GET",),
    b"hash": ("HGETALL",),
    b"set": ("SMEMBERS",),
    b"zset": ("ZRANGE", "0", "-1"),
    b"list": ("LRANGE", "0", "-1"),
    b"stream": ("XRANGE", "-", "+"),
}


async def holders(client: PolosClient, namespace: str, mark: str) -> list[str]:
    """The keys whose name or content contains the mark."""
    store, found = await client.store(), []
    for node, name in await names(store, namespace):
        kind = await node.call("TYPE", name)
        if kind == b"none":
            continue
        command, *args = _READ[kind]
        content = await node.call(command, name, *args)
        if mark in repr(name) + repr(content):
            found.append(name.decode().partition("}:")[2])
    return sorted(found)


async def test_only_an_audit_stub_is_left(at: Running, namespace: str) -> None:
    handle = await finished(at)
    audit = await at.client.audit(handle.id)
    assert {one.partition(":")[0] for one in await holders(at.client, namespace, MARK)} >= {
        *("exec", "journal", "topic", "audit")
    }, "the mark is in the data to begin with"
    assert await at.client.delete(handle.id) == 3
    assert await holders(at.client, namespace, MARK) == []
    assert await holders(at.client, namespace, handle.id) == [f"audit:{handle.id}"]
    stub = await at.client.audit(handle.id)
    assert stub == [{**entry, "data": None} for entry in audit]
    assert [(one["step_key"], one["by"]) for one in stub][2:] == [("ask", "ann"), ("ask", "bob")]
    with pytest.raises(ExecutionNotFoundError):
        await at.client.get_execution(handle.id)
    assert list(await at.client.list_executions()) == []
    assert await at.client.delete(handle.id) == 0, "deleting again does nothing"


@pytest.mark.parametrize("end", ["failed", "cancelled", "retried", "timed out"])
async def test_any_ended_execution_can_be_deleted(end: str, at: Running, namespace: str) -> None:
    if end in ("failed", "retried"):
        handle = await finished(at, fails=True)
        if end == "retried":
            await at.client.retry(handle.id)
            with pytest.raises(ExecutionFailedError):
                await at.result(handle)
    else:
        handle = await start(at, children=0 if end == "timed out" else 2)
        if end == "timed out":
            await at.make_due(handle, "ask", "s")
            await at.result(handle)
        else:
            await at.parked(handle)
            await at.client.cancel(handle.id, cancelled_by=MARK)
            for one in (await at.client.get_execution(handle.id))["children"]:
                await at.reached(at.client.get_handle(one["id"]), "cancelled")
    await at.client.delete(handle.id)
    assert await holders(at.client, namespace, MARK) == []


async def test_early_answers_and_executions_that_never_ran_are_deleted_too(
    at: Running, namespace: str
) -> None:
    handle = await personal.invoke(at.client, {"children": 0, "who": MARK}, start_delay=3600)
    await at.client.resume(
        suspend_execution_id=handle.id, suspend_step_key="ask", data=MARK, resumed_by="ann", early=True
    )
    await at.client.cancel(handle.id)
    assert await at.client.delete(handle.id) == 1
    assert await holders(at.client, namespace, MARK) == []
    ((entry),) = await at.client.audit(handle.id)
    assert (entry["status"], entry["data"]) == ("unused", None)
    assert await at.client.delete(handle.id) == 0


async def test_other_executions_stay(at: Running) -> None:
    one, other = await finished(at), await finished(at)
    await at.client.delete(one.id)
    found = await at.client.get_execution(other.id)
    assert found["result"] == f"{MARK} as a result" and len(found["children"]) == 2
    assert (await at.client.audit(other.id))[-1]["data"] == {"approved": True, "reason": MARK}
    assert {one["id"] for one in await at.client.list_executions()} == {
        *(other.id, *(child["id"] for child in found["children"]))
    }


async def test_an_unfinished_execution_is_not_deleted(at: Running) -> None:
    handle = await start(at, children=1)
    await at.parked(handle)
    with pytest.raises(NotFinishedError, match="deleted while it is waiting: cancel it"):
        await at.client.delete(handle.id)
    (child,) = (await at.client.get_execution(handle.id))["children"]
    with pytest.raises(InvalidInputError, match=f"is a child.*: delete {handle.id}"):
        await at.client.delete(child["id"])
    await soon(answered(at, handle))
    assert await at.result(handle)


async def test_an_execution_with_an_unfinished_descendant_is_kept_whole(
    redis_url: str, namespace: str
) -> None:
    async def starts(ctx: WorkflowContext) -> str:
        await ctx.step.invoke_and_wait("ended", short, None)
        await ctx.step.invoke("goes on", below, MARK)
        return MARK

    async def nothing(ctx: WorkflowContext) -> str:
        return MARK

    short: Workflow[Any, Any] = Workflow(nothing, "delete-short")
    parent: Workflow[Any, Any] = Workflow(starts, "delete-starts")
    async with running(redis_url, namespace, parent, short, below) as at:
        handle = await parent.invoke(at.client)
        await at.result(handle)
        before = await at.client.get_execution(handle.id)
        unfinished = next(one["id"] for one in before["children"] if one["step_key"] == "goes on")
        await at.reached(at.client.get_handle(unfinished), "waiting")
        before = await at.client.get_execution(handle.id)
        with pytest.raises(NotFinishedError, match="waiting for descendants"):
            await at.client.delete(handle.id)
        assert await at.client.get_execution(handle.id) == before, "nothing was deleted"
        await at.client.resume(suspend_execution_id=unfinished, suspend_step_key="ask below", data=1)
        await at.result(at.client.get_handle(unfinished))
        assert await at.client.delete(handle.id) == 3
        assert await holders(at.client, namespace, MARK) == []


async def test_an_interrupted_delete_can_be_repeated(
    at: Running, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = await finished(at)
    store = await at.client.store()
    delete = store.executions.delete
    calls: list[str] = []

    async def dies(execution_id: str) -> list[Any]:
        if calls:
            raise ConnectionError("the process is gone")
        calls.append(execution_id)
        return await delete(execution_id)

    with monkeypatch.context() as patch:
        patch.setattr(store.executions, "delete", dies)
        with pytest.raises(ConnectionError):
            await at.client.delete(handle.id)
    assert len(await holders(at.client, namespace, MARK)) > 0
    assert await at.client.delete(handle.id) == 2
    assert await holders(at.client, namespace, MARK) == []


async def test_concurrent_deletes_count_each_execution_once(at: Running, namespace: str) -> None:
    handle = await finished(at)
    outcomes = await asyncio.gather(*(at.client.delete(handle.id) for _ in range(4)), return_exceptions=True)
    assert sum(one for one in outcomes if isinstance(one, int)) == 3
    assert await holders(at.client, namespace, MARK) == []


async def test_an_idempotency_key_is_free_after_a_delete(at: Running) -> None:
    asks: Workflow[Any, Any] = below
    handle = await asks.invoke(at.client, MARK, idempotency_key="order 7")
    await at.parked(handle)
    await at.client.cancel(handle.id)
    await at.client.delete(handle.id)
    new = await asks.invoke(at.client, "other", idempotency_key="order 7")
    await at.parked(new)
    assert new.id == handle.id and keys.root_of(new.id) == new.id
    await at.answer(new, "ask below")
    assert await at.result(new) == "other of a child"


async def test_an_execution_that_is_started_again_publishes_again(at: Running) -> None:
    """An event is published once per execution, not once per id."""
    published = []
    for text in ("first", "second"):
        handle = await at.client.invoke(announces, text, idempotency_key="order 8")
        published.append(await at.result(handle))
        assert [event.data for event in await at.events(handle) if event.event_type == "event"] == [text]
        assert await at.client.delete(handle.id) == 1
    first, second = published
    assert not set(first) & set(second)
    stream = events.stream_topic(at.client, "delete-news")
    assert [(await soon(anext(stream))).data for _ in range(2)] == ["first", "second"]


class _Recording:
    """A connection that notes the commands sent besides scripts."""

    def __init__(self, wire: Any) -> None:
        self.call_script = wire.call_script
        self.commands: list[str] = []
        self._wire = wire

    async def call(self, command: str, *args: Any, **options: Any) -> Any:
        self.commands.append(command)
        return await self._wire.call(command, *args, **options)


async def test_the_cost_of_deleting_does_not_depend_on_others(
    at: Running, redis_url: str, namespace: str
) -> None:
    """It reads the root's own descendants, among however many that have finished."""
    one, other = await finished(at), await finished(at)
    async with PolosClient(redis_url, namespace) as client:
        store = await client.store()
        recording = _Recording(store.wire)
        store.executions._wire = recording  # type: ignore[assignment]
        assert await client.delete(one.id) == 3
        ended = f"{keys.INDEX}ended:{other.workflow_id}".encode()
        expiry = store.partitions.prefix(other.id) + ended
        ids = [f"{number:032x}" for number in range(20_000)]
        for first in range(0, len(ids), 1000):
            rows = [part for one_id in ids[first : first + 1000] for part in (4_000_000_000_000, one_id)]
            await store.wire.call("ZADD", expiry, *rows)
        assert await client.delete(other.id) == 3
        assert recording.commands == ["SSCAN", "SSCAN"]
        for first in range(0, len(ids), 1000):
            await store.wire.call("ZREM", expiry, *ids[first : first + 1000])


async def test_an_interrupted_deletion_is_repeated(at: Running, namespace: str) -> None:
    handle = await finished(at)
    await (await at.client.store()).executions.delete(handle.id)  # and no more of it
    assert await holders(at.client, namespace, MARK) != []
    assert await at.client.delete(handle.id) == 2
    assert await holders(at.client, namespace, MARK) == []
    assert await holders(at.client, namespace, handle.id) == [f"audit:{handle.id}"]
