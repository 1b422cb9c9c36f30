"""Code that has changed while a person decided never gets past the decision."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from polos_redis import (
    BatchWorkflowInput,
    ConfigurationError,
    ExecutionFailedError,
    ExecutionHandle,
    WorkflowContext,
    workflow,
)
from tests.harness.command import Command
from tests.harness.deployments import Code, Deployed, crash, journaled, stuck
from tests.harness.running import Running, running, until
from tests.steps.test_leaving import answering_before

pytestmark = [pytest.mark.failure(45), pytest.mark.promise("changed code")]

NEVER = 3600.0


@workflow(id="unreached-child")
async def child(ctx: WorkflowContext) -> str:
    return "child"


@asynccontextmanager
async def deployed(
    url: str, namespace: str, code: Code, *, stuck_seconds: float = 0.4, **options: Any
) -> AsyncIterator[tuple[Running, Deployed, ExecutionHandle[Any]]]:
    """A worker, and an execution of `code`."""
    flow = Deployed(code, **options)
    async with running(url, namespace, flow.workflow, child) as at:
        at.host.stuck_seconds = stuck_seconds
        yield at, flow, await flow.workflow.invoke(at.client)


async def reviewed(flow: Deployed, ctx: WorkflowContext) -> str:
    await flow.step(ctx, "charge")
    answer = await ctx.step.suspend("review", timeout=3600, on_timeout={"approved": True})
    await flow.step(ctx, "after")
    return "approved" if answer["data"]["approved"] else f"rejected: {answer['data']['reason']}"


async def renamed(flow: Deployed, ctx: WorkflowContext) -> str:
    await flow.step(ctx, "charge")
    answer = await ctx.step.suspend("approval", timeout=0.01, on_timeout={"approved": True})
    await flow.step(ctx, "after")
    return "approved" if answer["data"]["approved"] else "rejected"


async def dropped(flow: Deployed, ctx: WorkflowContext) -> str:
    await flow.step(ctx, "charge")
    return "approved"


# --- the code has changed ---------------------------------------------------------------------------


async def test_a_renamed_suspension(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, redis_url: str, namespace: str
) -> None:
    """As people do it: the answer is given by the command, and so is the retry."""
    polos = Command(redis_url, namespace, tmp_path)
    async with deployed(redis_url, namespace, reviewed) as (at, flow, handle):
        await at.parked(handle)
        flow.deploy(renamed)
        done = await polos("resume", handle.id, "review", "--reject", "--reason", "fraud")
        assert "accepted" in done.out
        reason = await stuck(at, handle)
        line = renamed.__code__.co_firstlineno + 2
        assert (reason.kind, reason.keys, reason.at) == (
            "unreached",
            ("review",),
            f"test_unreached.py:{line}",
        )
        assert reason.message == f"the code passes over the decision on 'review' at {reason.at}"
        assert flow.effects == [] and await journaled(at, handle) == {"charge", "review"}
        (logged,) = [one for one in caplog.records if one.getMessage() == "stuck"]
        assert logged.levelno == logging.WARNING
        assert (logged.__dict__["steps"], logged.__dict__["at"]) == (["review"], reason.at)
        assert at.worker.stats.stuck == {"deployed": 1}
        with pytest.raises(TimeoutError):
            await handle.result(timeout=0.05)

        flow.deploy(reviewed)
        done = await polos("retry", handle.id)
        assert done.code == 0, done.err
        assert await at.result(handle) == "rejected: fraud"
        assert flow.effects == ["after"]
        kinds = [event.event_type for event in await at.events(handle)]
        assert [kind for kind in kinds if kind != "step_start" and kind != "step_finish"] == [
            "workflow_start",
            "suspend_review",
            "resume_review",
            "workflow_stuck",
            "workflow_retry",
            "workflow_finish",
        ]


async def test_a_dropped_suspension(redis_url: str, namespace: str) -> None:
    """Nothing of the code is left, so there is nothing to wait for."""
    async with deployed(redis_url, namespace, reviewed, stuck_seconds=NEVER) as (at, flow, handle):
        await at.parked(handle)
        flow.deploy(dropped)
        await at.answer(handle, "review", {"approved": False, "reason": "fraud"})
        reason = await stuck(at, handle)
        line = Deployed.step.__code__.co_firstlineno + 2
        assert reason.keys == ("review",) and reason.at == f"deployments.py:{line}"
        assert flow.effects == []
        flow.deploy(reviewed)
        await at.client.retry(handle.id)
        assert await at.result(handle) == "rejected: fraud"


async def test_no_call_at_all(redis_url: str, namespace: str) -> None:
    async def nothing(flow: Deployed, ctx: WorkflowContext) -> None: ...

    async with deployed(redis_url, namespace, reviewed, stuck_seconds=NEVER) as (at, flow, handle):
        await at.parked(handle)
        flow.deploy(nothing)
        await at.answer(handle, "review")
        assert (await stuck(at, handle)).at.startswith("deployments.py:")


Call = Callable[[WorkflowContext], Awaitable[Any]]


def _batch(*_: Any) -> list[BatchWorkflowInput]:
    return [BatchWorkflowInput(id=child.id, payload=None)]


NEW: dict[str, Call] = {
    "step": lambda ctx: ctx.step.run("new", lambda: None),
    "now": lambda ctx: ctx.step.now("new"),
    "random": lambda ctx: ctx.step.random("new"),
    "uuid": lambda ctx: ctx.step.uuid("new"),
    "event": lambda ctx: ctx.step.publish_event("new", "unreached-topic", 1),
    "workflow event": lambda ctx: ctx.step.publish_workflow_event("new", 1),
    "suspend": lambda ctx: ctx.step.suspend("new"),
    "wait": lambda ctx: ctx.step.wait_for("new", seconds=0.01),
    "no wait": lambda ctx: ctx.step.wait_for("new", seconds=0),
    "wait for an event": lambda ctx: ctx.step.wait_for_event("new", "unreached-topic", timeout=0.01),
    "child": lambda ctx: ctx.step.invoke("new", child),
    "child's end": lambda ctx: ctx.step.invoke_and_wait("new", child),
    "children": lambda ctx: ctx.step.batch_invoke("new", _batch()),
    "children's ends": lambda ctx: ctx.step.batch_invoke_and_wait("new", _batch()),
    "resume": lambda ctx: ctx.step.resume("new", "other", ctx.execution_id, data=1),
    "race": lambda ctx: ctx.step.first_of("new", {"a": ctx.step.wait_for("new-a", seconds=0.01)}),
}


@pytest.mark.parametrize("kind", NEW)
async def test_nothing_new_runs(kind: str, redis_url: str, namespace: str) -> None:
    async def changed(flow: Deployed, ctx: WorkflowContext) -> None:
        await flow.step(ctx, "charge")
        await NEW[kind](ctx)
        await flow.step(ctx, "after")

    async with deployed(redis_url, namespace, reviewed) as (at, flow, handle):
        await at.parked(handle)
        flow.deploy(changed)
        await at.answer(handle, "review")
        reason = await stuck(at, handle)
        assert reason.keys == ("review",)
        assert reason.at == f"test_unreached.py:{NEW[kind].__code__.co_firstlineno}"
        assert flow.effects == [] and await journaled(at, handle) == {"charge", "review"}
        assert [one["id"] for one in await at.client.list_executions()] == [handle.id]
        assert not await at.client.list_suspensions()


async def test_a_race_closes_no_wait_before_the_decision_is_reached(redis_url: str, namespace: str) -> None:
    async def beside(flow: Deployed, ctx: WorkflowContext) -> Any:
        await flow.step(ctx, "quick")
        await asyncio.gather(ctx.step.suspend("review"), ctx.step.suspend("other"))

    async def races(flow: Deployed, ctx: WorkflowContext) -> Any:
        async def quick() -> None:
            await flow.step(ctx, "quick")
            await asyncio.sleep(0.05)

        return await ctx.step.first_of("race", {"quick": quick(), "other": ctx.step.suspend("other")})

    async with deployed(redis_url, namespace, beside) as (at, flow, handle):
        await at.parked(handle)
        flow.deploy(races)
        await at.answer(handle, "review")
        reason = await stuck(at, handle)
        assert reason.at == f"test_unreached.py:{races.__code__.co_firstlineno + 5}"
        assert await journaled(at, handle) == {"quick", "review", "other"}
        assert [one["step_key"] for one in await at.client.list_suspensions()] == ["other"]


async def test_a_park_is_held_back(redis_url: str, namespace: str) -> None:
    """What the code still waits for may let it go on; otherwise it must not wait as if nobody had decided."""

    async def both(flow: Deployed, ctx: WorkflowContext) -> Any:
        first, second = await asyncio.gather(ctx.step.suspend("first"), ctx.step.suspend("second"))
        return [first["data"], second["data"]]

    async def one(flow: Deployed, ctx: WorkflowContext) -> Any:
        return (await ctx.step.suspend("second"))["data"]

    async with deployed(redis_url, namespace, both) as (at, flow, handle):
        await at.parked(handle)
        flow.deploy(one)
        await at.answer(handle, "first", 1)
        reason = await stuck(at, handle)
        line = one.__code__.co_firstlineno + 1
        assert reason.keys == ("first",) and reason.at == f"test_unreached.py:{line}"
        await at.answer(handle, "second", 2)
        assert await handle.status() == "stuck"
        flow.deploy(both)
        await at.client.retry(handle.id)
        assert await at.result(handle) == [1, 2]


async def test_waits_that_go_on_lead_to_the_decision(redis_url: str, namespace: str) -> None:
    async def both(flow: Deployed, ctx: WorkflowContext) -> Any:
        first, second = await asyncio.gather(ctx.step.suspend("first"), ctx.step.suspend("second"))
        return [first["data"], second["data"]]

    async def in_turn(flow: Deployed, ctx: WorkflowContext) -> Any:
        second = await ctx.step.suspend("second")
        first = await ctx.step.suspend("first")
        return [first["data"], second["data"]]

    async with deployed(redis_url, namespace, both, stuck_seconds=NEVER) as (at, flow, handle):
        await at.parked(handle)
        flow.deploy(in_turn)
        await at.answer(handle, "first", 1)
        await until(lambda: [one for one in at.worker.active if one.is_waiting and one.unreached])
        await at.answer(handle, "second", 2)
        assert await at.result(handle) == [1, 2]


async def test_a_failure_names_what_was_not_reached(redis_url: str, namespace: str) -> None:
    """It is not retried automatically, as it would not get any further."""

    async def fails(flow: Deployed, ctx: WorkflowContext) -> None:
        raise ValueError("no")

    async with deployed(redis_url, namespace, reviewed, retries=2, retry_delay=0.0) as (at, flow, handle):
        await at.parked(handle)
        flow.deploy(fails)
        await at.answer(handle, "review", {"approved": True})
        with pytest.raises(ExecutionFailedError, match=r"no \(the decision on 'review' not reached\)"):
            await at.result(handle)
        execution = await at.client.get_execution(handle.id)
        assert execution["run"] == 1 and execution["unreached_steps"] == ["charge", "review"]
        finish = (await at.events(handle))[-1]
        assert finish.data["error"] == "ValueError: no (the decision on 'review' not reached)"
        flow.deploy(reviewed)
        await at.client.retry(handle.id)
        assert await at.result(handle) == "approved"


async def test_an_answer_while_changed_code_runs(redis_url: str, namespace: str) -> None:
    """The step in flight is journaled; nothing starts after it."""

    async def changed(flow: Deployed, ctx: WorkflowContext) -> None:
        await ctx.step.run("busy", flow.new.wait)
        await flow.step(ctx, "after")

    async with deployed(redis_url, namespace, reviewed_beside_a_nap) as (at, flow, handle):
        await at.parked(handle)
        flow.deploy(changed)
        await at.make_due(handle, "nap", "w")
        await until(lambda: owned(at, handle))  # from then on it is notified
        await at.answer(handle, "review", {"approved": True})
        await until(lambda: [one for one in at.worker.active if one.unreached])
        flow.new.set()
        assert (await stuck(at, handle)).keys == ("review",)
        assert flow.effects == [] and await journaled(at, handle) == {"nap", "review", "busy"}


async def owned(at: Running, handle: ExecutionHandle[Any]) -> bool:
    """Whether an activation owns the execution: it has written, or loaded the journal."""
    (owner,) = await at.host.store.executions.read_fields(handle.id, "owner")
    return owner is not None


async def reviewed_beside_a_nap(flow: Deployed, ctx: WorkflowContext) -> Any:
    return await asyncio.gather(ctx.step.suspend("review"), ctx.step.wait_for("nap", seconds=60))


@pytest.mark.parametrize("script", ["finish", "park"])
async def test_an_answer_just_before_the_activation_leaves(
    script: str, redis_url: str, namespace: str
) -> None:
    """It has not been seen when the script runs, which changes nothing then."""

    async def changed(flow: Deployed, ctx: WorkflowContext) -> None:
        if script == "park":
            await ctx.step.suspend("other")

    replies: list[Any] = []
    async with deployed(redis_url, namespace, reviewed_beside_a_nap) as (at, flow, handle):
        await at.parked(handle)
        flow.deploy(changed)
        with answering_before(at, script, "review", replies):
            await at.make_due(handle, "nap", "w")
            assert (await stuck(at, handle)).keys == ("review",)
        assert replies[0] > 0


async def test_an_answer_while_it_becomes_stuck(redis_url: str, namespace: str) -> None:
    """It may be what lets the code go on."""

    async def in_turn(flow: Deployed, ctx: WorkflowContext) -> None:
        await ctx.step.suspend("second")
        await ctx.step.suspend("first")

    async def both(flow: Deployed, ctx: WorkflowContext) -> None:
        await asyncio.gather(ctx.step.suspend("first"), ctx.step.suspend("second"))

    replies: list[Any] = []
    async with deployed(redis_url, namespace, both) as (at, flow, handle):
        await at.parked(handle)
        flow.deploy(in_turn)
        with answering_before(at, "stick", "second", replies):
            await at.answer(handle, "first")
            assert await at.result(handle) is None
        assert replies[0] > 0


async def test_further_attempts_are_new(redis_url: str, namespace: str) -> None:
    """A record alone does not make a call a repeated one."""
    attempts: list[int] = []

    async def fails() -> None:
        attempts.append(1)
        raise ValueError("no")

    async def retried(flow: Deployed, ctx: WorkflowContext) -> None:
        asks = asyncio.ensure_future(ctx.step.suspend("review"))
        await ctx.step.run("tried", fails, max_retries=5, base_delay=NEVER, max_delay=NEVER)
        await asks

    async def changed(flow: Deployed, ctx: WorkflowContext) -> None:
        await ctx.step.run("tried", fails, max_retries=5, base_delay=NEVER, max_delay=NEVER)

    async with deployed(redis_url, namespace, retried, stuck_seconds=NEVER) as (at, flow, handle):
        await at.parked(handle)
        flow.deploy(changed)
        await at.answer(handle, "review")
        await until(lambda: [one for one in at.worker.active if one.is_waiting and one.unreached])
        await at.make_due(handle, "tried", "b")
        await until(lambda: [one for one in at.worker.active if not one.parking.waits])
        at.host.stuck_seconds = 0.4
        assert len(attempts) == crash(at, handle) == 1
        assert (await stuck(at, handle)).keys == ("review",)
        assert len(attempts) == 1


async def test_another_attempt_in_place_is_new(redis_url: str, namespace: str) -> None:
    attempts: list[int] = []

    async def changed(flow: Deployed, ctx: WorkflowContext) -> None:
        async def fails() -> None:
            attempts.append(1)
            await flow.new.wait()
            raise ValueError("no")

        await ctx.step.run("tried", fails, max_retries=5, base_delay=0.01)

    async with deployed(redis_url, namespace, reviewed_beside_a_nap) as (at, flow, handle):
        await at.parked(handle)
        flow.deploy(changed)
        await at.make_due(handle, "nap", "w")
        await until(lambda: attempts)
        await at.answer(handle, "review")
        await until(lambda: [one for one in at.worker.active if one.unreached])
        flow.new.set()
        assert (await stuck(at, handle)).keys == ("review",)
        assert len(attempts) == 1


async def test_the_rest_of_a_batch_is_new(redis_url: str, namespace: str) -> None:
    """Its children are started by several calls; a crash comes after the first."""
    many = [BatchWorkflowInput(id=child.id, payload=None)] * 150

    async def batch(flow: Deployed, ctx: WorkflowContext) -> None:
        await asyncio.gather(ctx.step.suspend("review"), ctx.step.batch_invoke("many", many))

    async def changed(flow: Deployed, ctx: WorkflowContext) -> None:
        await ctx.step.batch_invoke("many", many)

    def crash_after_the_first(at: Running, crashed: Callable[[], None]) -> None:
        fenced = at.host.store.fenced
        spawn = fenced.spawn

        def once(*args: Any, **options: Any) -> asyncio.Future[Any]:
            fenced.spawn = spawn  # type: ignore[method-assign]
            started = spawn(*args, **options)
            started.add_done_callback(lambda _: drop())
            return started

        def drop() -> None:
            crashed()
            for activation in list(at.worker.active):
                if activation.workflow.id == "deployed":
                    activation.dropped("a test crashes it")

        fenced.spawn = once  # type: ignore[method-assign]

    flow = Deployed(batch)
    async with running(redis_url, namespace, flow.workflow, child, put_back_seconds=0.02) as at:
        at.host.stuck_seconds = 0.4
        crash_after_the_first(at, lambda: flow.deploy(changed))
        handle = await flow.workflow.invoke(at.client)
        await until(lambda: at.worker.stats.dropped)
        await at.answer(handle, "review")
        assert (await stuck(at, handle)).keys == ("review",)
        assert len(await at.client.list_executions(limit=200)) == 101


async def test_a_worker_that_drains_hands_it_back(redis_url: str, namespace: str) -> None:
    """Another worker may run the code that reaches it."""
    flow = Deployed(reviewed)
    async with running(redis_url, namespace, flow.workflow) as at:
        at.host.stuck_seconds = NEVER
        handle = await flow.workflow.invoke(at.client)
        await at.parked(handle)
        flow.deploy(renamed)
        await at.answer(handle, "review", {"approved": False, "reason": "fraud"})
        await until(lambda: [one for one in at.worker.active if one.is_waiting and one.unreached])
        at.worker.stop()
        await until(lambda: not at.worker.active)
        assert await handle.status() == "queued"
        flow.deploy(reviewed)
        async with running(redis_url, namespace, flow.workflow) as other:
            assert await other.result(handle) == "rejected: fraud"


# --- the code has not changed -----------------------------------------------------------------------


async def all_there(at: Running, handle: ExecutionHandle[Any]) -> Any:
    """The result of an execution that never became stuck."""
    result = await at.result(handle)
    assert "workflow_stuck" not in [event.event_type for event in await at.events(handle)]
    assert not at.worker.stats.stuck
    return result


async def test_siblings_that_start_first(redis_url: str, namespace: str) -> None:
    """Of two chains, the first opens its next wait before the second has reached its decision."""

    async def chain(ctx: WorkflowContext, name: str) -> None:
        for number in range(3):
            await ctx.step.suspend(f"{name}{number}")

    async def chains(flow: Deployed, ctx: WorkflowContext) -> str:
        await asyncio.gather(chain(ctx, "b"), chain(ctx, "a"))
        return "done"

    async with deployed(redis_url, namespace, chains, stuck_seconds=NEVER) as (at, _, handle):
        for number in range(3):
            await at.opened(handle, f"a{number}")
            await at.parked(handle)
            await at.answer(handle, f"a{number}")
        for number in range(3):
            await at.opened(handle, f"b{number}")
            await at.parked(handle)
            await at.answer(handle, f"b{number}")
        assert await all_there(at, handle) == "done"


async def test_steps_in_flight_at_a_crash(redis_url: str, namespace: str) -> None:
    async def beside(flow: Deployed, ctx: WorkflowContext) -> str:
        async def asks() -> None:
            await ctx.step.suspend("review")
            await flow.step(ctx, "after")

        await asyncio.gather(ctx.step.run("busy", flow.new.wait), asks())
        return "done"

    async with deployed(redis_url, namespace, beside, stuck_seconds=NEVER) as (at, flow, handle):
        await at.opened(handle, "review")
        await at.answer(handle, "review")
        await until(lambda: flow.effects == ["after"])
        await until(lambda: crash(at, handle))
        flow.new.set()
        assert await all_there(at, handle) == "done"
        assert flow.effects == ["after"]


async def test_a_caught_timeout(redis_url: str, namespace: str) -> None:
    async def asks_late(flow: Deployed, ctx: WorkflowContext) -> Any:
        try:
            async with asyncio.timeout(0.05):
                await ctx.step.run("slow", asyncio.sleep, NEVER)
        except TimeoutError:
            return (await ctx.step.suspend("review"))["data"]

    async with deployed(redis_url, namespace, asks_late, stuck_seconds=0.2) as (at, _, handle):
        await at.parked(handle)
        await at.answer(handle, "review", "go on")
        assert await all_there(at, handle) == "go on"


async def test_a_timeout_that_comes_again_while_something_new_is_held(redis_url: str, namespace: str) -> None:
    """The closed wait is given up by the same timeout, which takes longer than code may be silent."""

    async def asks_late(flow: Deployed, ctx: WorkflowContext) -> Any:
        async def late() -> Any:
            try:
                async with asyncio.timeout(0.5):
                    await ctx.step.suspend("first")
            except TimeoutError:
                return (await ctx.step.suspend("review"))["data"]

        async def beside() -> None:
            await ctx.step.run("busy", flow.new.wait)

        return (await asyncio.gather(beside(), late()))[1]

    async with deployed(redis_url, namespace, asks_late, stuck_seconds=0.1) as (at, flow, handle):
        await at.opened(handle, "review")
        await at.answer(handle, "review", "go on")
        assert crash(at, handle) == 1
        flow.new.set()
        assert await all_there(at, handle) == "go on"


async def test_a_cancelled_group(redis_url: str, namespace: str) -> None:
    """The answer comes when its task has been cancelled, but not yet been closed."""

    async def groups(flow: Deployed, ctx: WorkflowContext) -> str:
        async def fails() -> None:
            await ctx.step.run("wait", flow.new.wait)
            raise ValueError("no")

        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(fails())
                group.create_task(ctx.step.suspend("review"))
        except* ValueError:
            await ctx.step.suspend("instead")
        return "done"

    replies: list[Any] = []
    async with deployed(redis_url, namespace, groups) as (at, flow, handle):
        await at.opened(handle, "review")
        with answering_before(at, "park", "review", replies):
            flow.new.set()
            await at.opened(handle, "instead")
            await at.parked(handle)
        assert replies
        await at.answer(handle, "instead")
        assert await all_there(at, handle) == "done"


async def test_keys_that_depend_on_answers(redis_url: str, namespace: str) -> None:
    async def loops(flow: Deployed, ctx: WorkflowContext) -> list[str]:
        key, found = "start", []
        while key != "end":
            key = (await ctx.step.suspend(f"ask-{key}"))["data"]
            found.append(await flow.step(ctx, f"got-{key}"))
        return found

    async with deployed(redis_url, namespace, loops, stuck_seconds=NEVER) as (at, flow, handle):
        for key, data in (("start", "b"), ("b", "a"), ("a", "end")):
            await at.opened(handle, f"ask-{key}")
            await at.parked(handle)
            await at.answer(handle, f"ask-{key}", data)
        assert await all_there(at, handle) == ["got-b", "got-a", "got-end"]
        assert flow.effects == ["got-b", "got-a", "got-end"]


@pytest.mark.parametrize("late", [False, True], ids=["on replay", "decided by the replay"])
async def test_the_losing_branch_of_a_race(late: bool, redis_url: str, namespace: str) -> None:
    """It was asked and answered, but lost; a replay never reaches it."""

    async def races(flow: Deployed, ctx: WorkflowContext) -> str:
        async def slow() -> None:
            if flow.new.is_set():
                await asyncio.sleep(NEVER)
            await ctx.step.suspend("review")
            await ctx.step.suspend("more")

        async def quick() -> None:
            await ctx.step.suspend("quick")
            await flow.step(ctx, "won")

        winner = await ctx.step.first_of("race", {"slow": slow(), "quick": quick()})
        await ctx.step.suspend("last")
        return winner.name

    async with deployed(redis_url, namespace, races, stuck_seconds=NEVER) as (at, flow, handle):
        await at.opened(handle, "quick")
        await at.parked(handle)
        await at.answer(handle, "review")
        await at.opened(handle, "more")
        await at.parked(handle)
        if late:
            flow.new.set()
        await at.answer(handle, "quick")
        if late:  # nothing new may start before the race is decided, which needs that step
            await until(lambda: [one for one in at.worker.active if one.is_waiting and one.unreached])
            flow.new.clear()
            await until(lambda: crash(at, handle))
        await at.opened(handle, "last")
        await at.parked(handle)
        await at.answer(handle, "last")
        assert await all_there(at, handle) == "quick"
        assert flow.effects == ["won"]


async def test_a_branch_that_loses_before_it_gets_to_its_decision(redis_url: str, namespace: str) -> None:
    """The decision is in the branch whose open wait the winner closes."""

    async def races(flow: Deployed, ctx: WorkflowContext) -> str:
        async def late() -> None:
            if flow.new.is_set():
                await asyncio.sleep(NEVER)
            await ctx.step.suspend("review")

        async def slow() -> None:
            await asyncio.gather(ctx.step.suspend("more"), late())

        async def quick() -> None:
            await ctx.step.wait_for("nap", seconds=60)
            await asyncio.sleep(0.05)

        return (await ctx.step.first_of("race", {"slow": slow(), "quick": quick()})).name

    async with deployed(redis_url, namespace, races, stuck_seconds=NEVER) as (at, flow, handle):
        await at.opened(handle, "review")
        await at.parked(handle)
        await at.answer(handle, "review")
        await until(lambda: at.worker.stats.parks["deployed"] == 2)
        flow.new.set()
        await at.make_due(handle, "nap", "w")
        assert await all_there(at, handle) == "quick"


async def test_a_race_around_what_was_asked_before(redis_url: str, namespace: str) -> None:
    """Starting a race is nothing new: it leads to the decision."""

    async def asks(flow: Deployed, ctx: WorkflowContext) -> Any:
        return (await ctx.step.suspend("review"))["data"]

    async def races(flow: Deployed, ctx: WorkflowContext) -> Any:
        branches = {"review": ctx.step.suspend("review"), "limit": ctx.step.wait_for("limit", hours=1)}
        return (await ctx.step.first_of("race", branches)).value["data"]

    async with deployed(redis_url, namespace, asks, stuck_seconds=NEVER) as (at, flow, handle):
        await at.parked(handle)
        flow.deploy(races)
        await at.answer(handle, "review", "go on")
        assert await all_there(at, handle) == "go on"


async def test_tasks_that_outlive_the_function(redis_url: str, namespace: str) -> None:
    """The end waits for what is left of the code to reach the decision."""

    async def leaves(flow: Deployed, ctx: WorkflowContext) -> str:
        async def asks() -> None:
            await asyncio.sleep(0.2)
            await ctx.step.suspend("review")

        flow.kept = asyncio.ensure_future(asks())
        await flow.step(ctx, "charge")
        await flow.new.wait()
        return "done"

    async with deployed(redis_url, namespace, leaves, stuck_seconds=NEVER) as (at, flow, handle):
        await at.opened(handle, "review")
        await at.answer(handle, "review")
        await until(lambda: flow.effects == ["charge"])
        assert crash(at, handle) == 1
        flow.new.set()
        assert await all_there(at, handle) == "done"
        assert flow.effects == ["charge"]


# --- completed steps, children and events ------------------------------------------------------------


async def skipped(flow: Deployed, ctx: WorkflowContext) -> str:
    await ctx.step.suspend("review")
    await flow.step(ctx, "new")
    return "done"


async def charged(flow: Deployed, ctx: WorkflowContext) -> str:
    await flow.step(ctx, "charge")
    await ctx.step.invoke_and_wait("child", child)
    return await skipped(flow, ctx)


@pytest.mark.parametrize("unreached", ["warn", "ignore", None])
async def test_skipped_steps_are_named(
    unreached: str | None, caplog: pytest.LogCaptureFixture, redis_url: str, namespace: str
) -> None:
    options: dict[str, Any] = {} if unreached is None else {"unreached": unreached}
    async with deployed(redis_url, namespace, charged, **options) as (at, flow, handle):
        await at.opened(handle, "review")
        await at.parked(handle)
        flow.deploy(skipped)
        await at.answer(handle, "review")
        assert await at.result(handle) == "done"
        logged = [one.__dict__["steps"] for one in caplog.records if "not reached" in one.getMessage()]
        named = [] if unreached == "ignore" else ["charge", "child"]
        assert logged == ([named] if named else [])
        assert (await at.client.get_execution(handle.id))["unreached_steps"] == named
        await until(lambda: not at.worker.active)
        assert sum(at.worker.stats.unreached.values()) == len(named)


async def test_skipped_steps_stop_it(redis_url: str, namespace: str) -> None:
    async with deployed(redis_url, namespace, charged, unreached="stop") as (at, flow, handle):
        await at.opened(handle, "review")
        await at.parked(handle)
        flow.deploy(skipped)
        await at.answer(handle, "review")
        reason = await stuck(at, handle)
        assert reason.keys == ("charge", "child")
        assert reason.message == f"the code passes over the steps 'charge', 'child' at {reason.at}"
        assert flow.effects == ["new"]
        flow.deploy(charged)
        await at.client.retry(handle.id)
        assert await at.result(handle) == "done"
        assert flow.effects == []


async def test_a_skipped_answer_does_not_stop_it(redis_url: str, namespace: str) -> None:
    """Somebody has said that it need not be reached, nor is it named as a step that was not."""
    async with deployed(redis_url, namespace, reviewed, unreached="stop") as (at, flow, handle):
        await at.parked(handle)
        flow.deploy(dropped)
        await at.answer(handle, "review", {"approved": False, "reason": "fraud"})
        await stuck(at, handle)
        await at.client.retry(handle.id, skip="review", reason="reviewed elsewhere", by="ann")
        assert await at.result(handle) == "approved"
        assert (await at.client.get_execution(handle.id))["unreached_steps"] == []


def test_an_option_that_does_not_exist() -> None:
    with pytest.raises(ConfigurationError) as refused:
        Deployed(reviewed, unreached="raise")
    assert str(refused.value) == (
        'workflow \'deployed\': unreached must be "stop", "warn" or "ignore", not \'raise\''
    )
