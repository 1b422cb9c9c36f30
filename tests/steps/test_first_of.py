"""`ctx.step.first_of`: one winner, the same on every replay, and no trace of the losers."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from polos_redis import (
    EventData,
    ExecutionFailedError,
    ExecutionFinishedError,
    ExecutionHandle,
    PolosClient,
    StepExecutionError,
    Workflow,
    WorkflowContext,
    events,
)
from polos_redis.executions.batch import BatchWorkflowInput
from polos_redis.runtime.steps.first_of import Winner
from tests.harness.fleet import Fleet
from tests.harness.fleet_races import interrupted, left_behind, overtaken
from tests.harness.running import Running, journal_of, running, soon, until, working
from tests.invariants.rows import rows

CALLS: defaultdict[str, Counter[str]] = defaultdict(Counter)


def flow(body: Any) -> Workflow[Any, Any]:
    """A workflow that need not be registered."""
    return Workflow(body, body.__name__)


def called(ctx: WorkflowContext, name: str) -> Coroutine[Any, Any, None]:
    """A step that counts its calls."""
    return ctx.step.run(name, lambda: CALLS[ctx.execution_id].update([name]))


async def statuses(client: PolosClient, handle: ExecutionHandle[Any]) -> dict[str, str]:
    """The status of each suspension, wait and step of an execution."""
    found = await client.get_execution(handle.id)
    return {
        one["step_key"]: one["status"] for kind in ("suspensions", "waits", "steps") for one in found[kind]
    }


async def refused(at: Running, handle: ExecutionHandle[Any], step_key: str) -> None:
    """Checks that a late answer is refused."""
    with pytest.raises(ExecutionFinishedError, match="was closed: the workflow continued without an answer"):
        await at.answer(handle, step_key)


async def ends_with(at: Running, handle: ExecutionHandle[Any], result: Any) -> None:
    """Checks that only the suspension "after" is open, answers it, and expects `result` from the replay."""
    await at.opened(handle, "after")
    await at.parked(handle)
    await until(lambda: rows(at.client.url, at.client.namespace) == {"suspension after"}, "nothing else open")
    await at.answer(handle, "after")
    assert await at.result(handle) == result
    assert (await at.client.get_execution(handle.id))["unreached_steps"] == []
    assert rows(at.client.url, at.client.namespace) == set()


# --- an approval against a deadline -----------------------------------------------------


@flow
async def approval(ctx: WorkflowContext, seconds: float) -> Any:
    winner = await ctx.step.first_of(
        "race",
        {
            "approval": ctx.step.suspend("approval"),
            "limit": ctx.step.wait_for("limit", seconds=seconds),
        },
    )
    await called(ctx, "then")
    await ctx.step.suspend("after")
    assert CALLS[ctx.execution_id] == {"then": 1}
    return [winner.name, winner.value and winner.value["data"]]


@pytest.mark.parametrize("partitions", [1, 4])
async def test_an_approval_in_time_wins(partitions: int, redis_url: str, namespace: str) -> None:
    async with (
        PolosClient(redis_url, namespace, partitions=partitions) as client,
        working(client, approval) as w,
    ):
        at = Running(client, w)
        handle = await approval.invoke(client, 2)
        await at.parked(handle)
        await at.answer(handle, "approval", "yes")
        await ends_with(at, handle, ["approval", "yes"])
        assert (await statuses(client, handle))["limit"] == "closed"


@pytest.mark.parametrize("partitions", [1, 4])
async def test_a_late_approval_loses(partitions: int, redis_url: str, namespace: str) -> None:
    async with (
        PolosClient(redis_url, namespace, partitions=partitions) as client,
        working(client, approval) as w,
    ):
        at = Running(client, w)
        handle = await approval.invoke(client, 2)
        await at.opened(handle, "after")
        await refused(at, handle, "approval")
        await ends_with(at, handle, ["limit", None])
        assert (await statuses(client, handle))["approval"] == "closed"


@pytest.mark.failure(23)
async def test_an_answer_and_a_deadline_at_the_same_moment_have_one_winner(
    redis_url: str, namespace: str
) -> None:
    @flow
    async def at_once(ctx: WorkflowContext, when: datetime) -> str:
        branches = {"answer": ctx.step.suspend("ask"), "time": ctx.step.wait_until("until", when)}
        return (await ctx.step.first_of("race", branches)).name

    async with running(redis_url, namespace, at_once) as at:

        async def asked(handle: ExecutionHandle[Any]) -> bool:
            return "ask" in await statuses(at.client, handle)

        outcomes: Counter[str] = Counter()
        for _ in range(10):  # until each side has won once
            when = datetime.now(UTC) + timedelta(seconds=2)
            handles = [await at_once.invoke(at.client, when) for _ in range(20)]
            for handle in handles:  # on a busy machine, the time may have won already
                await until(partial(asked, handle))

            async def answer(handle: ExecutionHandle[Any], late: float, when: datetime = when) -> str:
                await asyncio.sleep((when - datetime.now(UTC)).total_seconds() + late)
                try:
                    await at.answer(handle, "ask")
                except ExecutionFinishedError:
                    return "time"
                return "answer"

            winners = await soon(
                asyncio.gather(*(answer(one, (number - 5) / 100) for number, one in enumerate(handles)))
            )
            assert [await at.result(one) for one in handles] == winners
            outcomes.update(winners)
            if len(outcomes) == 2:
                return
        raise AssertionError(f"the same side won every time: {outcomes}")


async def test_many_races_hold_no_slot_while_they_wait(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, approval, concurrency=2) as at:
        handles = [await approval.invoke(at.client, 3600) for _ in range(10)]
        for handle in handles:
            await at.parked(handle)
        assert not at.worker.active and not at.host.deliveries
        for handle in handles:
            await at.answer(handle, "approval", "yes")
            await at.opened(handle, "after")
            await at.answer(handle, "after")
            assert await at.result(handle) == ["approval", "yes"]


# --- every kind of branch ---------------------------------------------------------------


@flow
async def child(ctx: WorkflowContext, key: str) -> str:
    return (await ctx.step.suspend(key))["data"]  # type: ignore[no-any-return]


async def decide_suspension(at: Running, handle: ExecutionHandle[Any]) -> None:
    await at.answer(handle, "suspend", "said")


async def decide_child(at: Running, handle: ExecutionHandle[Any], key: str = "of the child") -> None:
    await at.client.resume(suspend_execution_id=handle.id, suspend_step_key=key, data="told")


async def decide_children(at: Running, handle: ExecutionHandle[Any]) -> None:
    await decide_child(at, handle, "of the children")


async def decide_event(at: Running, handle: ExecutionHandle[Any]) -> None:
    await events.publish(at.client, "news", EventData("new", 1))


def due(key: str, kind: str = "w") -> Callable[[Running, ExecutionHandle[Any]], Coroutine[Any, Any, None]]:
    async def make_due(at: Running, handle: ExecutionHandle[Any]) -> None:
        await at.make_due(handle, key, kind)

    return make_due


@flow
async def all_kinds(ctx: WorkflowContext) -> Any:
    async def composite() -> str:
        await called(ctx, "first step")
        await ctx.step.wait_for("first wait", hours=1)
        await called(ctx, "second step")
        return "done"

    far = datetime.now(UTC) + timedelta(days=300)
    try:
        winner = await ctx.step.first_of(
            "race",
            {
                "suspension": ctx.step.suspend("suspend"),
                "deadline": ctx.step.suspend("deadline", timeout=3600),
                "delay": ctx.step.wait_for("delay", days=1, hours=2),
                "moment": ctx.step.wait_until("moment", far),
                "event": ctx.step.wait_for_event("event", "news"),
                "patience": ctx.step.wait_for_event("patience", "olds", timeout=3600),
                "child": ctx.step.invoke_and_wait("child", child, "of the child"),
                "children": ctx.step.batch_invoke_and_wait(
                    "children", [BatchWorkflowInput(child, "of the children")]
                ),
                "code": composite(),
                "race": ctx.step.first_of("inner", {"inner": ctx.step.wait_for("inner wait", hours=1)}),
            },
        )
    except StepExecutionError as error:
        winner = Winner("raised", type(error).__name__)
    await called(ctx, "then")
    await ctx.step.suspend("after")
    return winner


def value_of(winner: Winner) -> Any:
    if winner.name == "event":
        return winner.value.data
    if winner.name == "children":
        return [one.result for one in winner.value]
    if winner.name == "suspension":
        return winner.value["data"]
    if winner.name == "race":
        return value_of(winner.value)
    return winner.value


KINDS: dict[str, tuple[Any, str, Any]] = {
    "suspension": (decide_suspension, "suspension", "said"),
    "deadline": (due("deadline", "s"), "raised", "SuspendTimeoutError"),
    "delay": (due("delay"), "delay", None),
    "moment": (due("moment"), "moment", None),
    "event": (decide_event, "event", 1),
    "patience": (due("patience"), "raised", "WaitTimeoutError"),
    "child": (decide_child, "child", "told"),
    "children": (decide_children, "children", ["told"]),
    "code": (due("first wait"), "code", "done"),
    "race": (due("inner wait"), "race", None),
}


@pytest.mark.parametrize("partitions", [1, 4])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.promise("race")
async def test_any_branch_can_win_and_the_others_leave_nothing(
    kind: str, partitions: int, redis_url: str, namespace: str
) -> None:
    decide, name, value = KINDS[kind]
    async with (
        PolosClient(redis_url, namespace, partitions=partitions) as client,
        working(client, all_kinds, child) as worker,
    ):
        at = Running(client, worker)
        handle = await all_kinds.invoke(client)
        await at.parked(handle)
        for key in ("of the child", "of the children"):
            await until(lambda: key in {row.partition(" ")[2] for row in rows(redis_url, namespace)})  # noqa: B023
        await decide(at, handle)
        await at.opened(handle, "after")
        own = {"suspension of the child", "suspension of the children"}  # awaited children continue
        await until(lambda: rows(redis_url, namespace) - own == {"suspension after"}, "nothing else open")
        for key in {"suspend", "deadline"} - {"suspend" if kind == "suspension" else kind}:
            await refused(at, handle, key)
        await at.answer(handle, "after")
        winner = await at.result(handle)
        assert (winner.name, value_of(winner)) == (name, value)
        calls = {"first step": 1, "then": 1, **({"second step": 1} if kind == "code" else {})}
        assert CALLS[handle.id] == calls
        assert (await client.get_execution(handle.id))["unreached_steps"] == []
        for key in {"of the child", "of the children"} - {f"of the {kind}"}:
            await decide_child(at, handle, key)


async def test_the_deciding_script_closes_the_other_branches(redis_url: str, namespace: str) -> None:
    """No worker is running: a suspension left open would accept an answer that no one uses."""

    @flow
    async def nests(ctx: WorkflowContext) -> str:
        async def composite() -> None:
            await called(ctx, "step")
            await asyncio.gather(
                ctx.step.suspend("beside"),
                ctx.step.first_of("inner", {"one": ctx.step.suspend("one"), "two": deeper()}),
            )

        async def deeper() -> None:
            await ctx.step.suspend("two")

        branches = {"direct": ctx.step.suspend("direct"), "composite": composite()}
        winner = await ctx.step.first_of("race", branches)
        await ctx.step.suspend("after")
        return winner.name

    async with running(redis_url, namespace, nests) as at:
        handle = await nests.invoke(at.client)
        await at.parked(handle)
    async with PolosClient(redis_url, namespace) as client:
        resumed = await client.resume(
            suspend_execution_id=handle.id, suspend_step_key="direct", data="yes", resumed_by="ana"
        )
        assert resumed.outcome == "accepted"
        for key in ("beside", "one", "two"):
            with pytest.raises(ExecutionFinishedError, match="the workflow continued without an answer"):
                await client.resume(suspend_execution_id=handle.id, suspend_step_key=key, data="yes")
        assert rows(redis_url, namespace) == set()
    async with running(redis_url, namespace, nests) as at:
        await ends_with(at, at.client.get_handle(handle.id), "direct")


async def test_an_early_answer_wins_when_its_branch_opens(redis_url: str, namespace: str) -> None:
    @flow
    async def three(ctx: WorkflowContext) -> Any:
        winner = await ctx.step.first_of("race", {key: ctx.step.suspend(key) for key in "abc"})
        await ctx.step.suspend("after")
        return [winner.name, winner.value["data"]]

    async with PolosClient(redis_url, namespace) as client:
        handle = await three.invoke(client)
        for key in "bc":
            resumed = await client.resume(
                suspend_execution_id=handle.id, suspend_step_key=key, data=f"early {key}", early=True
            )
            assert resumed.outcome == "early"
        async with working(client, three) as worker:
            at = Running(client, worker)
            await at.opened(handle, "after")
            for key in "ac":
                await refused(at, handle, key)
            await ends_with(at, handle, ["b", "early b"])


# --- branches with side effects ---------------------------------------------------------


async def test_a_branch_that_raises_wins(redis_url: str, namespace: str) -> None:
    def fail() -> None:
        raise LookupError("not there")

    @flow
    async def raises(ctx: WorkflowContext, kind: str) -> str:
        async def plainly() -> None:
            await called(ctx, "before")
            raise LookupError("not there")

        loser = plainly() if kind == "plain" else ctx.step.run("fail", fail, max_retries=0)
        try:
            await ctx.step.first_of("race", {"limit": ctx.step.suspend("ask"), "code": loser})
        except (StepExecutionError, LookupError) as error:
            await ctx.step.suspend("after")
            return f"{type(error).__name__}: {error}"
        raise AssertionError("nobody answers")

    async with running(redis_url, namespace, raises) as at:
        for kind, message in (
            ("plain", "LookupError: not there"),
            ("step", "StepExecutionError: step 'fail' failed (tried once): LookupError: not there"),
        ):
            await ends_with(at, await raises.invoke(at.client, kind), message)


async def test_a_retry_reruns_a_race_won_by_a_failure(redis_url: str, namespace: str) -> None:
    @flow
    async def against(ctx: WorkflowContext) -> str:
        async def fail() -> None:
            if ctx.run == 1:
                raise LookupError("not yet")
            await asyncio.Event().wait()

        branches = {"ask": ctx.step.suspend("ask"), "work": ctx.step.run("work", fail, max_retries=0)}
        winner = await ctx.step.first_of("race", branches)
        await ctx.step.suspend("after")
        return winner.name

    async with running(redis_url, namespace, against) as at:
        handle = await against.invoke(at.client)
        with pytest.raises(ExecutionFailedError, match="not yet"):
            await at.result(handle)
        assert await at.client.retry(handle.id) == 2
        await at.opened(handle, "ask")
        await at.answer(handle, "ask")
        await ends_with(at, handle, "ask")


async def test_a_losing_step_is_cancelled_and_never_runs_again(redis_url: str, namespace: str) -> None:
    stopped = asyncio.Event()

    @flow
    async def slow(ctx: WorkflowContext) -> str:
        async def work() -> None:
            CALLS[ctx.execution_id].update(["work"])
            try:
                await asyncio.Event().wait()
            finally:
                stopped.set()

        winner = await ctx.step.first_of(
            "race", {"work": ctx.step.run("work", work), "ask": ctx.step.suspend("ask")}
        )
        await ctx.step.suspend("after")
        return winner.name

    async with running(redis_url, namespace, slow) as at:
        handle = await slow.invoke(at.client)
        await at.opened(handle, "ask")
        await until(lambda: CALLS[handle.id]["work"])
        await at.answer(handle, "ask")
        await soon(stopped.wait())
        await ends_with(at, handle, "ask")
        assert CALLS[handle.id]["work"] == 1
        assert (await statuses(at.client, handle))["work"] == "abandoned"


async def test_a_step_in_a_thread_does_not_delay_the_race(redis_url: str, namespace: str) -> None:
    go_on = threading.Event()

    @flow
    async def threaded(ctx: WorkflowContext) -> str:
        def work() -> None:
            CALLS[ctx.execution_id].update(["work"])
            go_on.wait(20)

        winner = await ctx.step.first_of(
            "race", {"ask": ctx.step.suspend("ask"), "work": ctx.step.run("work", work)}
        )
        await called(ctx, "then")
        await ctx.step.suspend("after")
        return winner.name

    async with running(redis_url, namespace, threaded) as at:
        handle = await threaded.invoke(at.client)
        try:
            await at.opened(handle, "ask")
            await until(lambda: CALLS[handle.id]["work"])
            await at.answer(handle, "ask")
            await until(lambda: CALLS[handle.id]["then"])  # while the thread still runs
        finally:
            go_on.set()
        await ends_with(at, handle, "ask")
        assert CALLS[handle.id] == {"work": 1, "then": 1}


async def test_a_losing_steps_retry_is_dropped(redis_url: str, namespace: str) -> None:
    @flow
    async def retries(ctx: WorkflowContext) -> str:
        def fail() -> None:
            CALLS[ctx.execution_id].update(["fail"])
            raise LookupError("not yet")

        async def tries() -> None:
            await ctx.step.run("fail", fail, base_delay=3600, max_delay=3600)

        branches = {"ask": ctx.step.suspend("ask"), "tries": tries()}
        winner = await ctx.step.first_of("race", branches)
        await ctx.step.suspend("after")
        return winner.name

    async with running(redis_url, namespace, retries) as at:
        handle = await retries.invoke(at.client)
        await at.parked(handle)
        assert rows(redis_url, namespace) == {"suspension ask", "timer fail"}
        await at.answer(handle, "ask")
        await ends_with(at, handle, "ask")
        assert CALLS[handle.id]["fail"] == 1


async def test_two_races_run_at_once(redis_url: str, namespace: str) -> None:
    @flow
    async def twice(ctx: WorkflowContext) -> list[str]:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(
                    ctx.step.first_of(
                        f"race {number}",
                        {
                            "ask": ctx.step.suspend(f"ask {number}"),
                            "limit": ctx.step.wait_for(f"limit {number}", hours=1),
                        },
                    )
                )
                for number in range(2)
            ]
        await ctx.step.suspend("after")
        return [task.result().name for task in tasks]

    async with running(redis_url, namespace, twice) as at:
        handle = await twice.invoke(at.client)
        await at.parked(handle)
        await at.answer(handle, "ask 1")
        await at.parked(handle)
        assert rows(redis_url, namespace) == {"suspension ask 0", "timer limit 0"}
        await at.make_due(handle, "limit 0", "w")
        await ends_with(at, handle, ["limit", "ask"])


async def test_a_race_cancelled_from_outside_is_closed(redis_url: str, namespace: str) -> None:
    @flow
    async def timed(ctx: WorkflowContext) -> str:
        async def composite() -> None:  # a running step: otherwise it would park and not time out
            await asyncio.gather(ctx.step.suspend("inner"), ctx.step.run("long", asyncio.Event().wait))

        try:
            async with asyncio.timeout(0.2):
                await ctx.step.first_of("race", {"ask": ctx.step.suspend("ask"), "code": composite()})
        except TimeoutError:
            await called(ctx, "fallback")
            await ctx.step.suspend("after")
            return "timed out"
        raise AssertionError("nobody answers")

    async with running(redis_url, namespace, timed) as at:
        handle = await timed.invoke(at.client)
        await at.opened(handle, "after")
        await at.parked(handle)
        for key in ("ask", "inner"):
            await refused(at, handle, key)
        await ends_with(at, handle, "timed out")  # this replay abandons the closed waits again
        assert CALLS[handle.id] == {"fallback": 1}


async def test_a_wait_cancelled_by_asyncio_is_closed_when_the_execution_parks(
    redis_url: str, namespace: str
) -> None:
    @flow
    async def by_hand(ctx: WorkflowContext) -> Any:
        tasks = [asyncio.create_task(ctx.step.suspend(key)) for key in "ab"]
        done, left = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in left:
            task.cancel()
        await ctx.step.suspend("after")
        return done.pop().result()["data"]

    async with running(redis_url, namespace, by_hand) as at:
        handle = await by_hand.invoke(at.client)
        await at.parked(handle)
        await at.answer(handle, "a", "first")
        await at.opened(handle, "after")
        await at.parked(handle)
        await refused(at, handle, "b")
        await ends_with(at, handle, "first")


# --- crashes and deploys ----------------------------------------------------------------


@pytest.mark.failure(1)
@pytest.mark.promise("race")
async def test_a_crash_after_the_decision_changes_nothing(fleet: Fleet, client: PolosClient) -> None:
    """The winner is code, so a replay could pick another branch: by then the loser would be faster."""
    first = await fleet.start(defined_in="tests.harness.fleet_races")
    handle = await interrupted.invoke(client)
    await fleet.seen(handle.id, "then")
    first.kill()
    fleet.open("loser")
    await fleet.start(defined_in="tests.harness.fleet_races")
    await fleet.seen(handle.id, "then", times=2)
    fleet.open("then")
    assert await handle.result(timeout=20) == "winner"
    seen = Counter(name for name, _ in fleet.effects(handle.id))
    assert seen == {"loser": 1, "winner": 1, "then": 2, "then-through": 1}


@pytest.mark.failure(1)
async def test_a_branch_that_loses_while_its_worker_is_dead_does_not_run_again(
    fleet: Fleet, client: PolosClient
) -> None:
    first = await fleet.start(defined_in="tests.harness.fleet_races")
    handle = await overtaken.invoke(client)
    await fleet.seen(handle.id, "work")

    async def asked() -> bool:
        return bool((await client.get_execution(handle.id))["open_suspensions"])

    await until(asked)
    first.kill()
    await client.resume(suspend_execution_id=handle.id, suspend_step_key="ask", data="stop")
    await fleet.start(defined_in="tests.harness.fleet_races")
    assert await handle.result(timeout=20) == "ask"
    assert [name for name, _ in fleet.effects(handle.id)] == ["work"]


@pytest.mark.failure(1)
async def test_what_a_losing_branch_has_done_is_not_missed_after_a_lost_worker(
    fleet: Fleet, client: PolosClient
) -> None:
    """The worker dies before it can tell the race what was started in its branches."""
    first = await fleet.start(defined_in="tests.harness.fleet_races")
    handle = await left_behind.invoke(client)
    await fleet.seen(handle.id, "third")
    first.kill()
    await client.resume(suspend_execution_id=handle.id, suspend_step_key="ask", data="stop")
    heir = await fleet.start(defined_in="tests.harness.fleet_races")
    assert await handle.result(timeout=20) == "ask"
    store = await client.store()
    journaled = {name for name in await journal_of(store, handle.id) if name and name[0] != 0xFF}
    assert journaled >= {b"first", b"inner", b"quick", b"child", b"second", b"ask", b"race"}
    assert (await client.get_execution(handle.id))["unreached_steps"] == []
    assert "not reached" not in heir.log


async def test_removing_the_winning_branch_is_named_in_the_error(redis_url: str, namespace: str) -> None:
    def race(name: str) -> Any:
        async def body(ctx: WorkflowContext) -> str:
            branches = {name: ctx.step.suspend("ask"), "limit": ctx.step.wait_for("limit", hours=1)}
            winner = await ctx.step.first_of("race", branches)
            await ctx.step.suspend("after")
            return winner.name

        return body

    async with running(redis_url, namespace, Workflow(race("approval"), "deployed")) as at:
        handle = await at.client.invoke("deployed")
        await at.parked(handle)
        await at.answer(handle, "ask")
        await at.opened(handle, "after")
        await at.parked(handle)
    async with running(redis_url, namespace, Workflow(race("yes"), "deployed")) as at:
        await at.answer(handle, "after")
        with pytest.raises(ExecutionFailedError, match="won by 'approval', which is not a branch of it now"):
            await at.result(at.client.get_handle(handle.id))


async def test_a_wait_decided_before_it_joined_a_race_wins_it(redis_url: str, namespace: str) -> None:
    async def old(ctx: WorkflowContext) -> str:
        answer = await ctx.step.suspend("ask")
        await ctx.step.suspend("after")
        return str(answer["data"])

    async def new(ctx: WorkflowContext) -> str:
        branches = {"limit": ctx.step.wait_for("limit", hours=1), "ask": ctx.step.suspend("ask")}
        winner = await ctx.step.first_of("race", branches)
        await ctx.step.suspend("after")
        await ctx.step.suspend("again")
        return winner.name

    async with running(redis_url, namespace, Workflow(old, "deployed")) as at:
        handle = await at.client.invoke("deployed")
        await at.parked(handle)
        await at.answer(handle, "ask")
        await at.opened(handle, "after")
        await at.parked(handle)
    async with running(redis_url, namespace, Workflow(new, "deployed")) as at:
        handle = at.client.get_handle(handle.id)
        await at.answer(handle, "after")
        await at.opened(handle, "again")
        await at.parked(handle)
        assert rows(redis_url, namespace) == {"suspension again"}
        await at.answer(handle, "again")
        assert await at.result(handle) == "ask"


# --- wrong use, and coroutines that are never started -----------------------------------


@pytest.mark.parametrize("branches", [{}, [], None, {"a": 1}, {"": "coroutine"}, {3: "coroutine"}])
async def test_anything_but_a_dict_of_coroutines_is_refused(
    branches: Any, redis_url: str, namespace: str
) -> None:
    @flow
    async def wrong(ctx: WorkflowContext) -> Any:
        argument = branches
        if isinstance(branches, dict):
            argument = {
                name: ctx.step.wait_for("wait", seconds=1) if code == "coroutine" else code
                for name, code in branches.items()
            }
        return await ctx.step.first_of("race", argument)

    async with running(redis_url, namespace, wrong) as at:
        with pytest.raises(ExecutionFailedError, match="expected a dict of names and coroutines"):
            await at.result(await wrong.invoke(at.client))
    gc.collect()  # would warn about a coroutine that was never awaited


async def test_coroutines_that_never_start_are_closed(redis_url: str, namespace: str) -> None:
    """Covers nested races, before they start and on the replay that skips them."""

    @flow
    async def skips(ctx: WorkflowContext, input: str) -> str:
        def inner() -> Any:
            return ctx.step.first_of("inner", {"a": ctx.step.suspend("a"), "b": ctx.step.suspend("b")})

        if input == "key used twice":
            await ctx.step.run("race", str)
        winner = await ctx.step.first_of("race", {"inner": inner(), "ask": ctx.step.suspend("ask")})
        await ctx.step.suspend("after")
        return winner.name

    async with running(redis_url, namespace, skips) as at:
        with pytest.raises(ExecutionFailedError, match="step key 'race' is used twice"):
            await at.result(await skips.invoke(at.client, "key used twice"))
        handle = await skips.invoke(at.client, "")
        await at.parked(handle)
        await at.answer(handle, "ask")
        await ends_with(at, handle, "ask")
    gc.collect()


async def test_a_losers_failure_is_not_reported(
    redis_url: str, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    @flow
    async def both_fail(ctx: WorkflowContext) -> None:
        async def fail(name: str) -> None:
            raise LookupError(name)

        await ctx.step.first_of("race", {name: fail(name) for name in "ab"})

    with caplog.at_level(logging.ERROR):
        async with running(redis_url, namespace, both_fail) as at:
            with pytest.raises(ExecutionFailedError, match="LookupError: a"):
                await at.result(await both_fail.invoke(at.client))
        gc.collect()
    assert "never retrieved" not in caplog.text
