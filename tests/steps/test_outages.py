"""Redis goes away while a workflow's code calls `ctx`: the call waits, and the code never notices.

The worker's client has a patience that every outage here exceeds.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import BaseModel

from polos_redis import (
    Agent,
    BatchWorkflowInput,
    EventData,
    ExecutionFailedError,
    ExecutionHandle,
    HookContext,
    HookResult,
    Polos,
    PolosClient,
    Worker,
    WorkflowContext,
    events,
    queue,
    workflow,
)
from polos_redis.errors import RedisRefusedError
from polos_redis.runtime.steps import run
from polos_redis.state import keys
from polos_redis.testing.model import Say, ScriptedModel
from polos_redis.worker.host import WorkerHost
from tests.harness.proxy import Proxy
from tests.harness.running import host_of, until, working
from tests.harness.servers import ChaosServer

PATIENCE = 0.2  # seconds
PARTITIONS = 2
SHORT, LONG = 0.5, 10.0  # outages, in seconds
LEASE = 2.0


class Stage:
    """Where the workflows of this file wait, and what they have done. Made again for each test."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.waiting: set[str] = set()
        self.effects: Counter[str] = Counter()


_stage: Stage


async def at_the_gate(ctx: WorkflowContext) -> None:
    """Stop until the test opens the gate. What follows is called while Redis is away."""
    _stage.waiting.add(ctx.execution_id)
    await _stage.open.wait()


# --- workflows that the cases use -------------------------------------------------------


@workflow
async def outage_echo(ctx: WorkflowContext, input: Any) -> Any:
    return input


@workflow(queue=queue("outage-limited", concurrency_limit=1))
async def outage_limited(ctx: WorkflowContext, input: Any) -> Any:
    return input


@workflow
async def outage_asks(ctx: WorkflowContext) -> Any:
    return (await ctx.step.suspend("ok"))["data"]


outage_agent = Agent(id="outage-agent", model="gpt-4o")


def far_from(execution_id: str) -> str:
    """A topic that lives in another partition."""
    home = keys.partition_of(keys.root_of(execution_id), PARTITIONS)
    return next(t for t in map("news-{}".format, range(99)) if keys.partition_of(t, PARTITIONS) != home)


# --- the cases --------------------------------------------------------------------------

Code = Callable[[WorkflowContext, str], Awaitable[Any]]
Help = Callable[[PolosClient, ExecutionHandle[Any]], Awaitable[Any]]


@dataclass(frozen=True)
class Case:
    """What code does in an outage, what the execution returns in spite of it, and what somebody else does
    afterwards. `attempts` is that of its steps."""

    code: Code
    result: Any
    help: Help | None = None
    attempts: int = 1


CASES: dict[str, Case] = {}


def case(result: Any, help: Help | None = None, attempts: int = 1) -> Callable[[Code], Code]:
    def add(code: Code) -> Code:
        CASES[code.__name__] = Case(code, result, help, attempts)
        return code

    return add


async def answer(client: PolosClient, handle: ExecutionHandle[Any]) -> None:
    async def accepted() -> bool:
        open_ones = (await client.get_execution(handle.id))["open_suspensions"]
        for one in open_ones:
            await client.resume(
                suspend_execution_id=handle.id, suspend_step_key=one["step_key"], data={"approved": True}
            )
        return bool(open_ones)

    await until(accepted, "an open suspension")


async def publish(client: PolosClient, handle: ExecutionHandle[Any]) -> None:
    async def waits() -> Any:
        return (await client.get_execution(handle.id))["waits"]

    await until(waits, "an open wait")
    for topic in ("news/" + handle.id, far_from(handle.id)):
        await events.publish(client, topic, EventData("news", 5))


def effect(name: str) -> str:
    _stage.effects[name] += 1
    return name


@case("began in time")
async def a_step_in_flight(ctx: WorkflowContext, other: str) -> Any:
    async def step() -> str:
        await at_the_gate(ctx)
        return effect("began in time")

    return await ctx.step.run("step", step)


@case("async")
async def run_async(ctx: WorkflowContext, other: str) -> Any:
    async def step() -> str:
        return effect("async")

    await at_the_gate(ctx)
    return await ctx.step.run("step", step)


@case("sync")
async def run_sync(ctx: WorkflowContext, other: str) -> Any:
    await at_the_gate(ctx)
    return await ctx.step.run("step", effect, "sync")


@case("flaky", attempts=2)
async def run_retry(ctx: WorkflowContext, other: str) -> Any:
    await at_the_gate(ctx)
    return await ctx.step.run("step", flaky, "flaky", base_delay=0.01)


@case("slow", attempts=2)
async def run_back_off(ctx: WorkflowContext, other: str) -> Any:
    await at_the_gate(ctx)
    return await ctx.step.run("step", flaky, "slow", base_delay=0.2)


FAIL_ONCE = {"flaky", "slow"}


def flaky(name: str) -> str:
    effect(name)
    if _stage.effects[name] == 1:
        raise ValueError("not yet")
    return name


@case(True)
async def abandoned_step(ctx: WorkflowContext, other: str) -> Any:
    await at_the_gate(ctx)
    try:
        async with asyncio.timeout(0.01):
            await ctx.step.run("step", asyncio.Event().wait)
    except TimeoutError:
        return await ctx.step.run("after", lambda: True)


@case(["str", "int", "float"])
async def values(ctx: WorkflowContext, other: str) -> Any:
    await at_the_gate(ctx)
    found = [await ctx.step.uuid("uuid"), await ctx.step.now("now"), await ctx.step.random("random")]
    return [type(one).__name__ for one in found]


@case({"approved": True}, answer)
async def suspend(ctx: WorkflowContext, other: str) -> Any:
    await at_the_gate(ctx)
    return (await ctx.step.suspend("ask", {"amount": 5}))["data"]


class Decision(BaseModel):
    approved: bool


@case(Decision(approved=True), answer)
async def suspend_typed(ctx: WorkflowContext, other: str) -> Any:
    await at_the_gate(ctx)
    return await ctx.step.suspend("ask", {"amount": 5}, timeout=3600, schema=Decision)


@case("default")
async def suspend_timeout(ctx: WorkflowContext, other: str) -> Any:
    await at_the_gate(ctx)
    return (await ctx.step.suspend("ask", timeout=0.1, on_timeout="default"))["data"]


@case("accepted")
async def resume(ctx: WorkflowContext, other: str) -> Any:
    await at_the_gate(ctx)
    await ctx.step.resume("answer", "ok", other, data="accepted")
    return await ctx.step.invoke_and_wait("result", outage_echo, "accepted")


@case("#.")
async def publish_event(ctx: WorkflowContext, other: str) -> Any:
    await at_the_gate(ctx)
    found = await ctx.step.publish_event("publish", far_from(ctx.execution_id), 5)
    return "#." if "." in found else found


@case("#.")
async def publish_workflow_event(ctx: WorkflowContext, other: str) -> Any:
    await at_the_gate(ctx)
    found = await ctx.step.publish_workflow_event("publish", 5)
    return "#." if "." in found else found


@case("waited")
async def wait_for(ctx: WorkflowContext, other: str) -> Any:
    await at_the_gate(ctx)
    await ctx.step.wait_for("wait", seconds=0.1)
    return "waited"


@case("waited")
async def wait_until(ctx: WorkflowContext, other: str) -> Any:
    await at_the_gate(ctx)
    await ctx.step.wait_until("wait", datetime.now(UTC))
    return "waited"


@case(5, publish)
async def wait_for_event(ctx: WorkflowContext, other: str) -> Any:
    await at_the_gate(ctx)
    return (await ctx.step.wait_for_event("wait", "news/" + ctx.execution_id)).data


@case(5, publish)
async def wait_for_far_event(ctx: WorkflowContext, other: str) -> Any:
    await at_the_gate(ctx)
    return (await ctx.step.wait_for_event("wait", far_from(ctx.execution_id))).data


@case(None)
async def invoke(ctx: WorkflowContext, other: str) -> Any:
    await at_the_gate(ctx)
    child = await ctx.step.invoke("child", outage_echo, 1)
    assert child.id.startswith(ctx.execution_id)


@case(2)
async def invoke_by_id(ctx: WorkflowContext, other: str) -> Any:
    await at_the_gate(ctx)
    return await ctx.step.invoke_and_wait("child", "outage_echo", 2)


@case(3)
async def invoke_with_concurrency_key(ctx: WorkflowContext, other: str) -> Any:
    await at_the_gate(ctx)
    return await ctx.step.invoke_and_wait("child", "outage_limited", 3, concurrency_key="tenant")


@case(4)
async def invoke_in_a_queue(ctx: WorkflowContext, other: str) -> Any:
    await at_the_gate(ctx)
    queue, key = "outage-limited", "tenant"
    return await ctx.step.invoke_and_wait("child", outage_echo, 4, queue=queue, concurrency_key=key)


@case(2)
async def batch_invoke(ctx: WorkflowContext, other: str) -> Any:
    await at_the_gate(ctx)
    some = [BatchWorkflowInput(id="outage_echo", payload=n) for n in (1, 2)]
    return len(await ctx.step.batch_invoke("children", some))


@case([1, 2])
async def batch_invoke_and_wait(ctx: WorkflowContext, other: str) -> Any:
    await at_the_gate(ctx)
    some = [BatchWorkflowInput(id="outage_echo", payload=n) for n in (1, 2)]
    return [one.result for one in await ctx.step.batch_invoke_and_wait("children", some)]


@case("hello")
async def agent_invoke_and_wait(ctx: WorkflowContext, other: str) -> Any:
    await at_the_gate(ctx)
    return (await ctx.step.agent_invoke_and_wait("ask", outage_agent.with_input("hi"))).result


@case("limit")
async def first_of(ctx: WorkflowContext, other: str) -> Any:
    await at_the_gate(ctx)
    branches = {"ask": ctx.step.suspend("ask"), "limit": ctx.step.wait_for("limit", seconds=0.1)}
    return (await ctx.step.first_of("race", branches)).name


@case("work")
async def first_of_code(ctx: WorkflowContext, other: str) -> Any:
    async def work() -> str:
        return await ctx.step.run("work", effect, "raced")

    await at_the_gate(ctx)
    return (await ctx.step.first_of("race", {"ask": ctx.step.suspend("ask"), "work": work()})).name


@case(["outage_asks", "cancelled"])
async def handle_of_a_child(ctx: WorkflowContext, other: str) -> Any:
    child = await ctx.step.invoke("child", "outage_asks")
    await at_the_gate(ctx)
    await child.cancel(cancelled_by="its parent")
    return [(await child).workflow_id, await child.status()]


@case(["child", "beside"])
async def result_beside_a_task(ctx: WorkflowContext, other: str) -> Any:
    async def beside() -> str:
        await at_the_gate(ctx)
        return await ctx.step.run("beside", effect, "beside")

    child = ctx.step.invoke_and_wait("child", outage_echo, "child")
    return await asyncio.gather(child, beside())


@case("child")
async def result_in_a_step(ctx: WorkflowContext, other: str) -> Any:
    child = await ctx.step.invoke("child", outage_echo, "child")
    await at_the_gate(ctx)
    return await ctx.step.run("result", child.result)


@case(5)
async def finish(ctx: WorkflowContext, other: str) -> Any:
    await at_the_gate(ctx)
    return 5


# Workflows whose surroundings call Redis, too.


@case(2)
async def auto_retry(ctx: WorkflowContext, other: str) -> Any:
    await at_the_gate(ctx)
    if ctx.run == 1:
        raise ValueError("not yet")
    return ctx.run


@case(["start", 0, "end"])
async def surroundings(ctx: WorkflowContext, other: str) -> Any:
    return [other, ctx.state.count]


class Count(BaseModel):
    count: int = 0


async def on_start(ctx: WorkflowContext, hook: HookContext) -> HookResult:
    await at_the_gate(ctx)
    return HookResult.continue_with(modified_payload=["surroundings", "start"])


def on_end(ctx: WorkflowContext, hook: HookContext) -> HookResult:
    return HookResult.continue_with(modified_output=[*hook.current_output, "end"])


async def run_case(ctx: WorkflowContext, input: list[str]) -> Any:
    name, other = input
    return await CASES[name].code(ctx, other)


outage_calls = workflow(id="outage_calls")(run_case)
outage_retried = workflow(id="outage_retried", retries=1, retry_delay=0.01)(run_case)
outage_hooked = workflow(id="outage_hooked", state_schema=Count, on_start=on_start, on_end=on_end)(run_case)
OTHERS = {"auto_retry": outage_retried, "surroundings": outage_hooked}
WORKFLOWS = (
    *(outage_calls, outage_retried, outage_hooked, outage_echo, outage_limited, outage_asks),
    outage_agent,
)


# --- the play ---------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    global _stage
    _stage = Stage()
    monkeypatch.setattr(run, "PARK_FROM_SECONDS", 0.1)
    monkeypatch.setenv("POLOS_PARTITIONS", str(PARTITIONS))
    # so that a suspension reads its execution's creation time
    monkeypatch.setenv("POLOS_PUBLIC_URL", "https://approvals.example")
    monkeypatch.setenv("POLOS_SECRET", "s" * 32)
    return _stage


@dataclass(frozen=True)
class Play:
    """A worker whose client is impatient, and a client of the test that is not."""

    client: PolosClient
    worker: Worker
    started: dict[str, tuple[ExecutionHandle[Any], ExecutionHandle[Any]]]

    @property
    def host(self) -> WorkerHost:
        return host_of(self.worker)

    async def start(self, *names: str) -> None:
        """Start these cases and wait until each is at the gate."""
        for name in names:
            other = await outage_asks.invoke(self.client)
            flow = OTHERS.get(name, outage_calls)
            self.started[name] = await self.client.invoke(flow, [name, other.id]), other
        ids = {handle.id for handle, _ in self.started.values()}
        await until(lambda: ids <= _stage.waiting, "all cases to be at the gate")

        async def asked() -> bool:
            return len(await self.client.list_suspensions(workflow=outage_asks, limit=100)) >= len(ids)

        await until(asked, "the others' suspensions")

    async def finish(self) -> None:
        """Check that each case ends as if nothing had happened."""
        for name, (handle, other) in self.started.items():
            expected = CASES[name]
            if expected.help is not None:
                await expected.help(self.client, handle)
            assert await handle.result(timeout=60) == expected.result, name
            execution = await self.client.get_execution(handle.id)
            assert execution["lost_deliveries"] == 0
            for step in execution["steps"]:
                if (name, step["step_key"]) != ("abandoned_step", "step"):
                    assert (step["status"], step["attempts"]) == ("ok", expected.attempts), name
            if name == "resume":
                assert await other.result(timeout=60) == "accepted"
            else:
                await other.cancel()
        assert all(count == (2 if name in FAIL_ONCE else 1) for name, count in _stage.effects.items())


@contextlib.asynccontextmanager
async def playing(server: ChaosServer, namespace: str, url: str = "", **options: Any) -> AsyncIterator[Play]:
    async with (
        ScriptedModel(lambda request: Say("hello", chunks=5, pause_seconds=0.02)),
        PolosClient(server.url, namespace, patience_seconds=60) as client,
        PolosClient(url or server.url, namespace, patience_seconds=PATIENCE) as impatient,
        working(impatient, *WORKFLOWS, lease_seconds=LEASE, **options) as worker,
    ):
        yield Play(client, worker, {})


@pytest.mark.failure(42)
@pytest.mark.promise("outage")
@pytest.mark.parametrize("name", CASES)
async def test_a_call_made_while_redis_is_away_waits(
    chaos_server: ChaosServer, namespace: str, stage: Stage, name: str
) -> None:
    async with playing(chaos_server, namespace) as play:
        await play.start(name)
        chaos_server.kill()
        stage.open.set()
        await asyncio.sleep(SHORT)  # the outage itself
        await asyncio.to_thread(chaos_server.start)
        await play.finish()


# --- outages of other kinds and lengths -------------------------------------------------

Outage = Callable[[PolosClient, ChaosServer, Proxy, float], Awaitable[None]]


async def killed(client: PolosClient, server: ChaosServer, proxy: Proxy, seconds: float) -> None:
    server.kill()
    _stage.open.set()
    await asyncio.sleep(seconds)
    await asyncio.to_thread(server.start)


async def stalled(client: PolosClient, server: ChaosServer, proxy: Proxy, seconds: float) -> None:
    proxy.stall()
    _stage.open.set()
    await asyncio.sleep(seconds)
    proxy.flow()


async def cut(client: PolosClient, server: ChaosServer, proxy: Proxy, seconds: float) -> None:
    """What was sent is lost, new connections are silent, and then cut as well."""
    proxy.stall()
    _stage.open.set()
    await asyncio.sleep(seconds / 2)
    proxy.reset()
    await asyncio.sleep(seconds / 2)
    proxy.reset()
    proxy.flow()


async def paused(client: PolosClient, server: ChaosServer, proxy: Proxy, seconds: float) -> None:
    store = await client.store()
    await store.wire.call("CLIENT", "PAUSE", int(seconds * 1000), "ALL")
    _stage.open.set()
    await asyncio.sleep(seconds)


async def read_only(client: PolosClient, server: ChaosServer, proxy: Proxy, seconds: float) -> None:
    store = await client.store()
    await store.wire.call("REPLICAOF", "127.0.0.1", "1")
    _stage.open.set()
    await asyncio.sleep(seconds)
    await store.wire.call("REPLICAOF", "NO", "ONE")


async def without_replicas(client: PolosClient, server: ChaosServer, proxy: Proxy, seconds: float) -> None:
    store = await client.store()
    await store.wire.call("CONFIG", "SET", "min-replicas-to-write", "1")
    before = await commands(client)
    _stage.open.set()
    await asyncio.sleep(seconds)
    sent = await commands(client) - before
    await store.wire.call("CONFIG", "SET", "min-replicas-to-write", "0")
    assert sent < 40 * seconds * len(CASES), "no call is repeated without a pause"


async def commands(client: PolosClient) -> int:
    stats = (await (await client.store()).wire.call("INFO", "stats")).decode()
    return int(stats.partition("total_commands_processed:")[2].split()[0])


async def disk_full(client: PolosClient, server: ChaosServer, proxy: Proxy, seconds: float) -> None:
    """A snapshot fails, and the server refuses all writes (MISCONF)."""
    store = await client.store()
    await store.wire.call("CONFIG", "SET", "save", "3600 1000000")
    blocked = server.data_dir / "dump.rdb"
    blocked.unlink(missing_ok=True)
    (blocked / "not-empty").mkdir(parents=True)
    await store.wire.call("BGSAVE")
    await until(lambda: _persisted(client, b"err"), "the snapshot to fail")
    _stage.open.set()
    await asyncio.sleep(seconds)
    (blocked / "not-empty").rmdir()
    blocked.rmdir()
    await store.wire.call("BGSAVE")
    await until(lambda: _persisted(client, b"ok"), "the snapshot to succeed")


async def _persisted(client: PolosClient, status: bytes) -> bool:
    info = await (await client.store()).wire.call("INFO", "persistence")
    return b"rdb_last_bgsave_status:" + status in info


async def busy(client: PolosClient, server: ChaosServer, proxy: Proxy, seconds: float) -> None:
    """Somebody's endless script: after a moment, all other calls get BUSY."""
    store = await client.store()
    await store.wire.call("CONFIG", "SET", "busy-reply-threshold", "50")
    async with PolosClient(client.url, client.namespace) as other:
        endless = (await other.store()).wire.send("EVAL", "while true do end", 0)
        _stage.open.set()
        await asyncio.sleep(seconds)
        await store.wire.send("SCRIPT", "KILL")
        await asyncio.wait([endless])
        with pytest.raises(RedisRefusedError, match="killed"):
            endless.result()


async def locked_out(client: PolosClient, server: ChaosServer, proxy: Proxy, seconds: float) -> None:
    """The password is changed, and all connections are closed."""
    store = await client.store()
    await store.wire.call("CONFIG", "SET", "requirepass", "another")
    await store.wire.call("CLIENT", "KILL", "SKIPME", "yes", "USER", "default")
    _stage.open.set()
    await asyncio.sleep(seconds)
    await store.wire.call("CONFIG", "SET", "requirepass", "")


@pytest.mark.failure(42)
@pytest.mark.promise("outage")
@pytest.mark.parametrize(
    ("outage", "seconds"),
    [
        *((killed, seconds) for seconds in (2 * LEASE, LONG)),
        *((stalled, seconds) for seconds in (SHORT, 2 * LEASE, LONG)),
        *((cut, seconds) for seconds in (SHORT, 2 * LEASE)),
        *((paused, seconds) for seconds in (SHORT, 2 * LEASE, LONG)),
        *((read_only, seconds) for seconds in (SHORT, 2 * LEASE)),
        *((one, SHORT) for one in (without_replicas, disk_full, busy, locked_out)),
    ],
    ids=lambda one: one.__name__ if callable(one) else f"{one:g} s",
)
async def test_no_call_of_any_kind_notices_an_outage(
    chaos_server: ChaosServer, namespace: str, stage: Stage, outage: Outage, seconds: float
) -> None:
    names = set(CASES)
    if outage is locked_out:
        names -= {"handle_of_a_child", "result_in_a_step"}  # whose calls report a refusal
    async with Proxy(chaos_server.url) as proxy, playing(chaos_server, namespace, proxy.url) as play:
        await play.start(*names)
        await outage(play.client, chaos_server, proxy, seconds)
        await play.finish()


async def test_a_model_that_speaks_during_an_outage_is_asked_once(
    chaos_server: ChaosServer, namespace: str
) -> None:
    text = "one two three four five six seven eight nine ten"
    async with (
        ScriptedModel([Say(text, chunks=10, pause_seconds=0.1)]) as model,
        PolosClient(chaos_server.url, namespace) as client,
        PolosClient(chaos_server.url, namespace, patience_seconds=PATIENCE) as impatient,
        working(impatient, outage_agent),
    ):
        stream = await outage_agent.stream(client, "count")
        async for _ in stream.text_chunks:
            break
        chaos_server.kill()
        await asyncio.sleep(SHORT)  # the outage itself
        await asyncio.to_thread(chaos_server.start)
        assert (await client.get_handle(stream.execution_id).result(timeout=60)).result == text
        assert len(model.log) == 1


# --- refusals ---------------------------------------------------------------------------


@pytest.mark.failure(42)
@pytest.mark.promise("outage")
@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("invoke_by_id", "hget"),
        ("invoke_with_concurrency_key", "hget"),
        ("suspend", "hmget"),
        ("batch_invoke_and_wait", "hmget"),
        ("publish_event", "hmget"),
    ],
)
async def test_a_refused_call_hands_the_execution_back(
    chaos_server: ChaosServer, namespace: str, stage: Stage, name: str, command: str
) -> None:
    """A right that is missing for a while fails nothing: the code runs again when it is there."""
    async with playing(chaos_server, namespace, put_back_seconds=0.1) as play:
        await play.start(name)
        store = await play.client.store()
        await store.wire.call("ACL", "SETUSER", "default", "-" + command)
        stage.open.set()
        await until(lambda: sum(play.worker.stats.dropped.values()))
        await store.wire.call("ACL", "SETUSER", "default", "+" + command)
        await play.finish()


@pytest.mark.failure(17)
async def test_an_answer_that_redis_has_no_memory_for_fails_its_step(
    chaos_server: ChaosServer, namespace: str, stage: Stage
) -> None:
    async with playing(chaos_server, namespace) as play:
        await play.start("resume")
        store = await play.client.store()
        await store.wire.call("CONFIG", "SET", "maxmemory", "1")
        stage.open.set()
        handle, other = play.started["resume"]
        with pytest.raises(ExecutionFailedError, match="maxmemory"):
            await handle.result(timeout=60)
        await store.wire.call("CONFIG", "SET", "maxmemory", "0")
        await other.cancel()


@pytest.mark.failure(37, 42)
async def test_a_result_that_the_store_has_lost_is_not_missing_in_the_code(
    chaos_server: ChaosServer, namespace: str, stage: Stage
) -> None:
    """The notice said that the child has ended; when its result is read, the store has gone back."""
    async with playing(chaos_server, namespace, put_back_seconds=0.1) as play:
        executions = play.host.store.executions
        store, read = await play.client.store(), executions.read_records
        lost: list[Any] = []

        async def read_after_the_loss(execution_id: str, names: Any) -> list[bytes | None]:
            if not lost:
                key = store.partitions.prefix(execution_id) + keys.JOURNAL.encode() + execution_id.encode()
                (stored,) = await store.wire.call("HMGET", key, *names)
                lost.extend((key, names[0], stored))
                await store.wire.call("HDEL", key, *names)
            return await read(execution_id, names)

        executions.read_records = read_after_the_loss  # type: ignore[method-assign]
        await play.start("result_beside_a_task")
        await until(lambda: sum(play.worker.stats.dropped.values()))
        stage.open.set()  # only now: a step that runs when its activation is dropped runs again
        await store.wire.call("HSET", *lost)
        await play.finish()


# --- the user's own client --------------------------------------------------------------

_client: PolosClient


@workflow
async def outage_own_client(ctx: WorkflowContext, max_retries: int) -> str:
    async def start() -> str:
        return (await _client.invoke("outage_echo", "own")).id

    await at_the_gate(ctx)
    found = await ctx.step.run("start", start, max_retries=max_retries, base_delay=0.05, max_delay=0.1)
    await ctx.step.invoke_and_wait("wait", "outage_echo", "by id")
    return found


@pytest.mark.parametrize("whose", ["its own", "the worker's"])
async def test_a_client_that_a_step_uses_has_its_own_patience(
    chaos_server: ChaosServer, namespace: str, stage: Stage, whose: str
) -> None:
    """The step fails, and its retries wait; also where the client is the worker's, as with `Polos`."""
    global _client
    workflows = (outage_own_client, outage_echo)
    async with (
        PolosClient(chaos_server.url, namespace, patience_seconds=60) as client,
        Polos(
            url=chaos_server.url,
            namespace=namespace,
            patience_seconds=PATIENCE,
            workflows=workflows,
            worker_options={"lease_seconds": LEASE},
        ) as polos,
        PolosClient(chaos_server.url, namespace, patience_seconds=PATIENCE) as own,
    ):
        _client = polos if whose == "the worker's" else own
        retried = await client.invoke(outage_own_client, 1000)
        failing = await client.invoke(outage_own_client, 0)
        await until(lambda: {retried.id, failing.id} <= stage.waiting)
        chaos_server.kill()
        stage.open.set()
        await asyncio.sleep(6 * PATIENCE)  # the outage itself
        await asyncio.to_thread(chaos_server.start)
        with pytest.raises(ExecutionFailedError, match="RedisUnavailableError"):
            await failing.result(timeout=60)
        assert await client.get_handle(await retried.result(timeout=60)).result(timeout=60) == "own"
        (step,) = (await client.get_execution(retried.id))["steps"]
        assert step["attempts"] > 1
