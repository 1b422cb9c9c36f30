"""Errands: one that fails, or takes its worker with it, is set aside, and none delays another."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from polos_redis import ExecutionHandle, PolosClient, Workflow, WorkflowContext, errands
from polos_redis.errors import ErrandNotFoundError
from polos_redis.metrics.namespace_stats import read_namespace_stats
from polos_redis.state import keys
from polos_redis.state.errands import Errand
from polos_redis.worker import errands as runner
from tests.harness.fleet import Fleet
from tests.harness.hostile_workflows import Verdict, asks, trivial
from tests.harness.running import running, until


async def _asks_named(ctx: WorkflowContext) -> Any:
    await ctx.step.wait_for("before", seconds=0.2)
    verdict = await ctx.step.suspend("ask", schema=Verdict, approvers=["ann"])
    return getattr(verdict, "note", "rejected")


asks_named: Workflow[Any, Any] = Workflow(_asks_named, "asks-named")


async def answer(
    client: PolosClient, handle: ExecutionHandle[Any], note: str, *, early: bool = False, by: str = "ann"
) -> str:
    data = {"approved": True, "note": note}
    resumed = await client.resume(
        suspend_execution_id=handle.id, suspend_step_key="ask", data=data, resumed_by=by, early=early
    )
    return resumed.outcome


async def damage(client: PolosClient, handle: ExecutionHandle[Any]) -> None:
    """Damage an early answer, so that the errand that checks it fails."""
    store = await client.store()
    key = store.partitions.prefix(handle.id) + keys.EARLY.encode() + handle.id.encode()
    assert await store.wire.call("HSET", key, "ask", b"\xc1") == 0


async def aside(client: PolosClient) -> dict[str, Any] | None:
    """The only failed errand, once it is set aside."""
    found = await errands.list_failed(client)
    return found[0] if found and found[0]["status"] == "set aside" else None


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Failed errands are tried again soon."""
    monkeypatch.setattr(runner, "FIRST_RETRY_MS", 5)


@pytest.mark.threat(27)
@pytest.mark.usefixtures("quick")
async def test_a_failing_errand_is_set_aside_and_can_be_retried(
    redis_url: str, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(redis_url, namespace, asks_named) as at:
        client = at.client
        handle, other = await asks_named.invoke(client), await asks_named.invoke(client)
        assert await answer(client, handle, "damaged", early=True) == "early"
        assert await answer(client, other, "sound", early=True) == "early"
        store = await client.store()
        early = store.partitions.prefix(handle.id) + keys.EARLY.encode() + handle.id.encode()
        sound = await store.wire.call("HGET", early, "ask")
        await damage(client, handle)
        assert await at.result(other) == "sound"
        found = await until(lambda: aside(client), "the errand to be set aside")
        assert found["errand"] == f"y{handle.id} ask"
        assert (found["kind"], found["execution_id"], found["step_key"]) == ("early answer", handle.id, "ask")
        assert found["attempts"] == runner.MOST_ATTEMPTS
        assert found["error"] == "FormatError: "
        (shown,) = (await client.get_execution(handle.id))["early_answers"]
        assert shown == {"step_key": "ask", "resumed_by": None, "channel": None, "errand": found}
        assert (await read_namespace_stats(store)).errands_set_aside == 1
        (record,) = [one for one in caplog.records if "was set aside" in one.message]
        assert (record.execution, record.step) == (handle.id, "ask")  # type: ignore[attr-defined]
        assert record.levelno == logging.ERROR
        failures = [one for one in caplog.records if one.message == "an errand failed"]
        assert len(failures) == runner.MOST_ATTEMPTS
        assert not [one for one in caplog.records if "could not be stored" in one.message]

        await store.wire.call("HSET", early, "ask", sound)
        (shown,) = (await client.get_execution(handle.id))["early_answers"]
        assert (shown["step_key"], shown["resumed_by"], shown["errand"]) == ("ask", "ann", found)
        assert [one["status"] for one in await client.audit(handle.id)] == ["set aside"]

        await errands.retry(client, found["errand"])
        assert await at.result(handle) == "damaged"
        assert await errands.list_failed(client) == []
        with pytest.raises(ErrandNotFoundError, match=r"no errand .* has failed: polos errands list shows"):
            await errands.retry(client, found["errand"])


@pytest.mark.usefixtures("quick")
async def test_a_suspension_whose_early_answer_was_set_aside_can_be_answered(
    redis_url: str, namespace: str
) -> None:
    async with running(redis_url, namespace, asks_named) as at:
        handle = await asks_named.invoke(at.client)
        await answer(at.client, handle, "damaged", early=True)
        await damage(at.client, handle)
        await until(lambda: aside(at.client), "the errand to be set aside")
        assert await answer(at.client, handle, "by hand") == "accepted"
        assert await at.result(handle) == "by hand"
        assert await errands.list_failed(at.client) == [], "it ended with its execution"


@pytest.mark.parametrize("after", [1, 2, 3])
async def test_an_errand_set_aside_while_it_is_read_shows_its_last_failure(
    client: PolosClient, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """Its last attempt fails after so many of the reader's commands."""
    store = await client.store()
    prefix = store.prefixes[0]
    due = Errand("enews", b"1")
    await store.wire.call("ZADD", prefix + keys.ERRANDS.encode(), due.due, due.name)
    _, started = await store.errands.start(prefix, due, "a", most=1, alone=False, longest_ms=60_000)
    wire, call, calls = type(store.wire), type(store.wire).call, 0

    async def calling(wire: Any, *words: Any, **options: Any) -> Any:
        nonlocal calls
        reply = await call(wire, *words, **options)
        calls += 1
        if calls == after:
            errand = Errand(due.name, started)
            what = await store.errands.failed(
                prefix, errand, "a", "the reason", most=1, first_ms=1, longest_ms=1
            )
            assert what == ("set aside", 0, 1)
        return reply

    monkeypatch.setattr(wire, "call", calling)
    (found,) = await errands.list_failed(client)
    assert found["status"] == "running" or found["error"] == "the reason"
    monkeypatch.undo()
    (found,) = await errands.list_failed(client)
    assert (found["status"], found["error"]) == ("set aside", "the reason")
    await store.wire.call("ZREM", prefix + keys.ERRANDS.encode(), due.name)
    await store.wire.call("HDEL", prefix + keys.ERRAND_FAILURES.encode(), due.name)


async def test_an_attempt_that_is_being_made_is_running(client: PolosClient) -> None:
    store = await client.store()
    prefix, due = store.prefixes[0], Errand("enews", b"1")

    async def start(due: bytes, attempt: str, longest_ms: int) -> bytes:
        errand = Errand("enews", due)
        _, started = await store.errands.start(
            prefix, errand, attempt, most=3, alone=True, longest_ms=longest_ms
        )
        return started

    async def listed() -> tuple[str, int, str | None]:
        (found,) = await errands.list_failed(client)
        return found["status"], found["attempts"], found["error"]

    await store.wire.call("ZADD", prefix + keys.ERRANDS.encode(), due.due, due.name)
    started = await start(due.due, "a", 60_000)
    assert await listed() == ("running", 1, None)
    failing = Errand(due.name, started)
    await store.errands.failed(prefix, failing, "a", "no", most=3, first_ms=60_000, longest_ms=60_000)
    assert await listed() == ("failing", 1, "no")
    await store.wire.call("ZADD", prefix + keys.ERRANDS.encode(), 1, due.name)
    started = await start(b"1", "b", 0)  # its time is over at once, as if its worker had died
    assert await listed() == ("failing", 2, "the worker that ran it died, was stopped or was blocked")
    started = await start(started, "c", 60_000)
    assert await listed() == ("running", 3, None)
    await store.errands.done(prefix, Errand(due.name, started))
    assert await errands.list_failed(client) == []


@pytest.mark.failure(47)
@pytest.mark.threat(27)
async def test_an_errand_takes_no_more_workers_than_it_has_attempts(
    fleet: Fleet, client: PolosClient
) -> None:
    """Each of its attempts kills the worker. Others that were under way at the time are not blamed for it."""
    for _ in range(runner.MOST_ATTEMPTS + 1):
        await fleet.start(defined_in="tests.harness.hostile_workflows")
    deadly = await asks.invoke(client, 0.5)
    others = [await asks.invoke(client, 0.5) for _ in range(10)]
    await answer(client, deadly, "die", early=True)
    for other in others:
        await answer(client, other, "live", early=True)
    found = await until(lambda: aside(client), "the errand to be set aside")
    assert (found["execution_id"], found["attempts"]) == (deadly.id, runner.MOST_ATTEMPTS)
    assert found["error"] == "the worker that ran it died, was stopped or was blocked"
    assert len(fleet.effects("validator")) == runner.MOST_ATTEMPTS
    assert sum(worker.running for worker in fleet.workers) == 1
    for other in others:
        assert await other.result(timeout=60) == "live"
    (living,) = [worker for worker in fleet.workers if worker.running]
    assert await (await trivial.invoke(client)).result(timeout=60) == living.pid
    audit = [one["status"] for one in await client.audit(deadly.id)]
    assert audit == ["set aside"]
    await client.cancel(deadly.id)


async def test_a_stopping_worker_does_not_count_as_a_failed_attempt(
    fleet: Fleet, client: PolosClient
) -> None:
    worker = await fleet.start(defined_in="tests.harness.hostile_workflows")
    handle = await asks.invoke(client, 0.3)
    await answer(client, handle, "block 2", early=True)
    await fleet.seen("validator", "blocks")
    worker.terminate()
    assert await worker.ended() == 0
    assert await errands.list_failed(client) == []
    await fleet.start(defined_in="tests.harness.hostile_workflows")
    assert await handle.result(timeout=60) == "block 2"
