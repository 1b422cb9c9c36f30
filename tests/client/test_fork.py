"""Forks: new executions that go on from the journal of another one, up to a step of it."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from polos_redis import (
    ExecutionHandle,
    ExecutionNotFoundError,
    InternalWorkflowError,
    InvalidInputError,
    NotApproverError,
    PolosClient,
    StepExecutionError,
    StepNotForkableError,
    Workflow,
    WorkflowContext,
    queue,
)
from polos_redis.sync import PolosClient as SyncClient
from polos_redis.values.json_value import JsonValue
from tests.harness.running import Running, running, until, working


def flow(body: Any, **options: Any) -> Workflow[Any, Any]:
    """A workflow that need not be registered."""
    return Workflow(body, body.__name__, **options)


class World:
    """The world outside the workflows: counts calls."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()

    def call(self, name: str) -> str:
        self.calls[name] += 1
        return f"{name}{self.calls[name]}"


@pytest.fixture
def world() -> World:
    return World()


@dataclass
class Quote:
    amount: Decimal
    until: datetime


@pytest.mark.parametrize("partitions", [1, 4])
async def test_it_goes_on_from_a_step(partitions: int, world: World, redis_url: str, namespace: str) -> None:
    async def work(ctx: WorkflowContext, name: str) -> list[str]:
        return [await ctx.step.run(key, world.call, key) for key in (f"{name}1-", "b", "c", "d")]

    async with (
        PolosClient(redis_url, namespace, partitions=partitions) as client,
        working(client, flow(work)) as worker,
    ):
        at = Running(client, worker)
        handle = await client.invoke(flow(work), "a", user_id="ann", session_id="s")
        assert await at.result(handle) == ["a1-1", "b1", "c1", "d1"]
        for number in range(2, 6):  # ids in several partitions
            fork = await client.fork(handle.id, from_step="c", by="bob")
            assert await at.result(fork) == ["a1-1", "b1", f"c{number}", f"d{number}"]
        assert world.calls == {"a1-": 1, "b": 1, "c": 5, "d": 5}
        found = await client.get_execution(fork.id)
        assert (found.forked_from, found.forked_by, found.run) == (handle.id, ["bob"], 1)
        assert (found.input, found.user_id, found.session_id) == ("a", "ann", "s")
        assert fork.root_execution_id == found.root_execution_id == fork.id
        first, *_ = await at.events(fork)
        assert first.event_type == "workflow_start"
        assert first.data == {
            "workflow_id": "work",
            "execution_id": fork.id,
            "forked_from": handle.id,
            "from_step": "c",
        }
        assert await at.result(handle) == ["a1-1", "b1", "c1", "d1"]


async def test_the_first_step_and_steps_in_a_hurry(world: World, redis_url: str, namespace: str) -> None:
    async def work(ctx: WorkflowContext) -> list[str]:
        return [await ctx.step.run(f"s{i}", world.call, f"s{i}") for i in range(30)]

    async with running(redis_url, namespace, flow(work)) as at:
        handle = await at.client.invoke(flow(work))
        await at.result(handle)
        for first in (0, 1, 15, 29):
            world.calls.clear()
            await at.result(await at.client.fork(handle.id, from_step=f"s{first}"))
            assert sorted(world.calls) == sorted(f"s{i}" for i in range(first, 30))


async def test_results_keep_their_types(world: World, redis_url: str, namespace: str) -> None:
    now = datetime(2030, 1, 2, tzinfo=UTC)

    def quote() -> Quote:
        return Quote(Decimal("1.50"), now)

    async def work(ctx: WorkflowContext) -> list[Any]:
        found = await ctx.step.run("quote", quote)
        assert isinstance(found, Quote)
        return [str(found.amount), found.until == now, await ctx.step.run("charge", world.call, "charge")]

    async with running(redis_url, namespace, flow(work)) as at:
        handle = await at.client.invoke(flow(work))
        assert await at.result(handle) == ["1.50", True, "charge1"]
        for value in (
            JsonValue({"amount": "2.50", "until": "2030-01-02T00:00:00Z"}),
            Quote(Decimal("2.50"), now),
        ):
            fork = await at.client.fork(handle.id, from_step="charge", results={"quote": value})
            assert (await at.result(fork))[:2] == ["2.50", True]
        fork = await at.client.fork(handle.id, from_step="charge", results={"charge": JsonValue("free")})
        assert await at.result(fork) == ["1.50", True, "free"]
        wrong = JsonValue({"amount": "much", "until": "2030-01-02T00:00:00Z"})
        with pytest.raises(InvalidInputError, match=r"step 'quote': \$\.amount: expected a Decimal"):
            await at.client.fork(handle.id, from_step="charge", results={"quote": wrong})
        with pytest.raises(InvalidInputError, match=r"\$: expected an object with the fields of .*Quote"):
            await at.client.fork(handle.id, from_step="charge", results={"quote": JsonValue(5)})


async def test_no_decision_is_copied_that_may_be_about_another_result(
    world: World, redis_url: str, namespace: str
) -> None:
    async def below(ctx: WorkflowContext, amount: int) -> bool:
        return bool((await ctx.step.suspend("sign", data={"amount": amount}))["data"])

    child = flow(below)

    async def work(ctx: WorkflowContext) -> list[Any]:
        amount = await ctx.step.run("quote", lambda: 10)
        approved = (await ctx.step.suspend("approval", data={"amount": amount}))["data"]
        fee = await ctx.step.run("fee", lambda: 1)
        signed = await ctx.step.invoke_and_wait("signature", child, amount)
        return [approved, signed, await ctx.step.run("transfer", lambda: amount + fee)]

    async with running(redis_url, namespace, flow(work), child) as at:

        async def decide(handle: ExecutionHandle[Any], *, below: bool = False) -> Any:
            """Answer the open suspension; returns what it showed."""

            async def opened() -> list[Any]:
                found = await at.client.get_execution(handle.id)
                return found.open_suspensions_below if below else found.open_suspensions

            (one,) = await until(opened, "a suspension")
            await at.client.resume(
                suspend_execution_id=one.execution_id if below else handle.id,
                suspend_step_key=one.step_key,
                data=True,
            )
            return one.data

        handle = await at.client.invoke(flow(work))
        await decide(handle)
        await decide(handle, below=True)
        assert await at.result(handle) == [True, True, 11]

        async def refused(why: str, **options: Any) -> None:
            with pytest.raises(StepNotForkableError, match=why):
                await at.client.fork(handle.id, **options)

        high = {"quote": JsonValue(1_000_000)}
        await refused(
            "step 'quote': its result can't be set: the decision 'approval' may be about it",
            from_step="signature",
            results=high,
            keep_decisions=True,
        )
        for keep in (True, False):
            await refused(
                "people may have decided about it in the child 'signature'",
                from_step="transfer",
                results={"fee": JsonValue(5)},
                keep_decisions=keep,
            )
        fork = await at.client.fork(handle.id, from_step="signature", results=high)
        assert await decide(fork) == {"amount": 1_000_000}
        assert await decide(fork, below=True) == {"amount": 1_000_000}
        assert await at.result(fork) == [True, True, 1_000_001]
        assert (await at.client.get_execution(fork.id)).results_set == ["quote"]
        later = await at.client.fork(
            handle.id, from_step="signature", results={"fee": JsonValue(2)}, keep_decisions=True
        )
        assert await decide(later, below=True) == {"amount": 10}
        assert await at.result(later) == [True, True, 12], "the decision came before the fee"


async def test_decisions_are_asked_for_again_or_copied(world: World, redis_url: str, namespace: str) -> None:
    async def work(ctx: WorkflowContext) -> list[Any]:
        answer = await ctx.step.suspend("review", data={"n": 1}, allow_self=False)
        return [answer["data"], answer["resumed_by"], await ctx.step.run("ship", world.call, "ship")]

    async with running(redis_url, namespace, flow(work)) as at:
        handle = await at.client.invoke(flow(work), user_id="ann")
        await at.opened(handle, "review")
        review: dict[str, Any] = {"suspend_step_key": "review", "data": "go"}
        await at.client.resume(suspend_execution_id=handle.id, resumed_by="cat", **review)
        assert await at.result(handle) == ["go", "cat", "ship1"]

        fork = await at.client.fork(handle.id, from_step="ship", by="bob")
        await at.opened(fork, "review")
        for starter in ("ann", "bob"):
            with pytest.raises(NotApproverError):
                await at.client.resume(suspend_execution_id=fork.id, resumed_by=starter, **review)
        await at.client.resume(suspend_execution_id=fork.id, resumed_by="cat", **review)
        assert await at.result(fork) == ["go", "cat", "ship2"]

        again = await at.client.fork(fork.id, from_step="ship", by="dan")
        await at.opened(again, "review")
        with pytest.raises(NotApproverError):  # he forked the one that this goes back to
            await at.client.resume(suspend_execution_id=again.id, resumed_by="bob", **review)
        await at.client.cancel(again.id)

        copy = await at.client.fork(handle.id, from_step="ship", by="bob", keep_decisions=True)
        assert await at.result(copy) == ["go", "cat", "ship3"]
        (entry,) = await at.client.audit(copy.id)
        assert (entry.status, entry.by, entry.step_key, entry.data) == ("copied", "bob", "review", "go")
        decided = (await at.client.get_execution(handle.id)).suspensions[0].decided_at
        assert entry.reason == f"decided by cat at {decided}, copied from execution {handle.id}"
        with pytest.raises(
            StepNotForkableError, match="its answer can't be set: a decision is made by a person"
        ):
            await at.client.fork(handle.id, from_step="ship", results={"review": "no"}, keep_decisions=True)


async def test_children_are_not_started_again(world: World, redis_url: str, namespace: str) -> None:
    async def kid(ctx: WorkflowContext, name: str) -> str:
        if name == "bad":
            raise ValueError("bad")
        return await ctx.step.run("work", world.call, name)

    children = flow(kid)

    async def work(ctx: WorkflowContext) -> list[Any]:
        waited = await ctx.step.invoke_and_wait("one", children, "one")
        started = await ctx.step.invoke("two", children, "two")
        with pytest.raises(StepExecutionError):
            await ctx.step.invoke_and_wait("bad", children, "bad")
        await ctx.step.run("last", world.call, "last")
        return [waited, started.id, await ctx.step.invoke_and_wait("three", children, "three")]

    async with running(redis_url, namespace, flow(work), children) as at:
        handle = await at.client.invoke(flow(work))
        first = await at.result(handle)
        fork = await at.client.fork(handle.id, from_step="last")
        second = await at.result(fork)
        assert second == [*first[:2], "three2"]
        assert await at.result(at.client.get_handle(first[1])) == "two1"
        assert world.calls == {"one": 1, "two": 1, "three": 2, "last": 2}
        ids = {one.step_key: one.id for one in (await at.client.get_execution(fork.id)).children}
        theirs = {one.step_key: one.id for one in (await at.client.get_execution(handle.id)).children}
        for key in ("one", "two", "bad"):
            assert ids[key] == theirs[key]
        assert ids["three"].startswith(fork.id) and theirs["three"].startswith(handle.id)

        again = await at.client.fork(fork.id, from_step="three")  # of a fork
        assert await at.result(again) == [*first[:2], "three3"]
        root = await at.client.fork(ids["three"], from_step="work")  # of a child
        assert await at.result(root) == "three4"
        found = await at.client.get_execution(root.id)
        assert (found.parent_execution_id, found.root_workflow_id) == (None, "kid")


async def test_races(world: World, redis_url: str, namespace: str) -> None:
    async def work(ctx: WorkflowContext) -> list[Any]:
        first = await ctx.step.first_of(
            "race",
            {"ask": ctx.step.suspend("ask", data={}), "late": ctx.step.wait_for("late", seconds=3600)},
        )
        return [first.name, first.value["data"], await ctx.step.run("after", world.call, "after")]

    async with running(redis_url, namespace, flow(work)) as at:
        handle = await at.client.invoke(flow(work))
        await at.opened(handle, "ask")
        await at.answer(handle, "ask", "yes")
        assert await at.result(handle) == ["ask", "yes", "after1"]
        copy = await at.client.fork(handle.id, from_step="after", keep_decisions=True)
        assert await at.result(copy) == ["ask", "yes", "after2"]
        fork = await at.client.fork(handle.id, from_step="after")
        await at.opened(fork, "ask")
        assert [one.status for one in (await at.client.get_execution(fork.id)).waits] == ["open"]
        await at.answer(fork, "ask", "no")
        assert await at.result(fork) == ["ask", "no", "after3"]


async def test_queue_version_and_time_limit(world: World, redis_url: str, namespace: str) -> None:
    async def work(ctx: WorkflowContext) -> str:
        await ctx.step.run("a", world.call, "a")
        return await ctx.step.run("b", world.call, "b")

    limited = flow(work, queue=queue("narrow", concurrency_limit=1), version="2", version_policy="pin")
    async with running(redis_url, namespace, limited) as at:
        handle = await at.client.invoke(limited, concurrency_key="k", run_timeout_seconds=60)
        await at.result(handle)
        fork = await at.client.fork(handle.id, from_step="b")
        assert await at.result(fork) == "b2"
        found = await at.client.get_execution(fork.id)
        assert (found.queue, found.version, found.pinned) == ("narrow", "2", True)
        assert world.calls == {"a": 1, "b": 2}


async def test_one_that_runs_or_waits(world: World, redis_url: str, namespace: str) -> None:
    async def work(ctx: WorkflowContext) -> str:
        await ctx.step.run("a", world.call, "a")
        await ctx.step.suspend("ask", data={})
        return "done"

    async with running(redis_url, namespace, flow(work)) as at:
        handle = await at.client.invoke(flow(work))
        await at.opened(handle, "ask")
        forks = [await at.client.fork(handle.id, from_step=key) for key in ("ask", "a")]
        for one in (*forks, handle):
            await at.opened(one, "ask")
            await at.answer(one, "ask")
            assert await at.result(one) == "done"
        assert world.calls == {"a": 2}


async def test_refusals(world: World, redis_url: str, namespace: str) -> None:
    async def work(ctx: WorkflowContext) -> None:
        await ctx.step.run("a", world.call, "a")
        await ctx.step.wait_for("nap", seconds=0.001)
        await ctx.step.run("b", world.call, "b")
        await ctx.step.run("c", world.call, "c")

    async def secret(ctx: WorkflowContext) -> None:
        await ctx.step.run("a", world.call, "a")

    inner = flow(secret, internal=True)

    async def outer(ctx: WorkflowContext) -> str:
        return (await ctx.step.invoke("kid", inner)).id

    async with running(redis_url, namespace, flow(work), inner, flow(outer)) as at:
        handle = await at.client.invoke(flow(work))
        await at.result(handle)

        async def refused(why: str, **options: Any) -> None:
            with pytest.raises(StepNotForkableError, match=why):
                await at.client.fork(handle.id, **options)

        await refused("step 'x': its journal has no such step; 'polos show", from_step="x")
        await refused(
            "step 'x': its result can't be set: the journal has no", from_step="b", results={"x": 1}
        )
        await refused("it is a wait, and only results of steps", from_step="b", results={"nap": 1})
        await refused("it had not ended when 'b' began", from_step="b", results={"c": 1})
        with pytest.raises(ExecutionNotFoundError):
            await at.client.fork("0" * 32, from_step="a")
        kid = await at.result(await at.client.invoke(flow(outer)))
        await at.result(at.client.get_handle(kid))
        with pytest.raises(InternalWorkflowError, match="fork the workflow or agent that calls it"):
            await at.client.fork(kid, from_step="a")
        assert len(await at.client.list_executions(workflow="work")) == 1


async def test_a_journal_that_is_too_large(redis_url: str, namespace: str) -> None:
    async def work(ctx: WorkflowContext) -> None:
        for i in range(36):
            await ctx.step.run(f"s{i}", lambda: "x" * 1_000_000)

    async with running(redis_url, namespace, flow(work)) as at:
        handle = await at.client.invoke(flow(work))
        await at.result(handle)
        with pytest.raises(StepNotForkableError, match=r"at most 32 MiB: fork from an earlier step"):
            await at.client.fork(handle.id, from_step="s35")
        await at.result(await at.client.fork(handle.id, from_step="s31"))


async def test_without_asyncio(world: World, redis_url: str, namespace: str) -> None:
    async def work(ctx: WorkflowContext) -> str:
        return await ctx.step.run("a", world.call, "a")

    async with running(redis_url, namespace, flow(work)) as at:
        handle = await at.client.invoke(flow(work))
        await at.result(handle)
        found: list[Any] = []

        def fork() -> None:
            with SyncClient(redis_url, namespace) as client:
                found.append(client.fork(handle.id, from_step="a").result(timeout=60))

        await asyncio.to_thread(fork)
        assert found == ["a2"]
        await until(lambda: world.calls["a"] == 2)
