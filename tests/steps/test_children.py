"""Children: executions started by an execution, awaited or not, and how the parent handles their ends."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from pydantic import BaseModel

from polos_redis import (
    AlreadyResumedError,
    AmbiguousSuspensionError,
    BatchStepResult,
    BatchWorkflowInput,
    ExecutionFailedError,
    ExecutionHandle,
    ExecutionNotFoundError,
    InsideWorkflowError,
    InvalidInputError,
    PolosClient,
    StepExecutionError,
    ValueTooLargeError,
    Workflow,
    WorkflowContext,
)
from polos_redis.definitions.published import PublishedDefinition, definition_of
from polos_redis.errors import ConnectionLostError
from polos_redis.runtime.idleness import IDLE_SECONDS
from polos_redis.runtime.steps import children
from polos_redis.state.store import Store
from tests.harness.running import Running, running, soon, until, working


class Order(BaseModel):
    number: int


class Receipt(BaseModel):
    number: int
    ids: dict[str, str | None] = {}


def flow(body: Any) -> Workflow[Any, Any]:
    """A workflow that need not be registered."""
    return Workflow(body, body.__name__)


@flow
async def sell(ctx: WorkflowContext, order: Order) -> Receipt:
    number = await ctx.step.run("double", lambda: order.number * 2)
    ids = {
        "execution": ctx.execution_id,
        "parent": ctx.parent_execution_id,
        "root": ctx.root_execution_id,
        "root workflow": ctx.root_workflow_id,
        "session": ctx.session_id,
    }
    return Receipt(number=number, ids=ids)


@flow
async def refuse(ctx: WorkflowContext, input: Any) -> None:
    raise LookupError(f"no {input}")


@flow
async def asks(ctx: WorkflowContext, input: Any) -> Any:
    resume = await ctx.step.suspend("ok", data={"for": input}, timeout=3600)
    return resume["data"]


async def children_of(client: PolosClient, handle: ExecutionHandle[Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await client.get_execution(handle.id))["children"]
    return found


# --- one child --------------------------------------------------------------------------


async def test_a_childs_typed_result(redis_url: str, namespace: str) -> None:
    passes = []

    @flow
    async def parent(ctx: WorkflowContext, input: int) -> Receipt:
        passes.append(ctx.execution_id)
        receipt = await ctx.step.invoke_and_wait("sell", sell, Order(number=input))
        assert isinstance(receipt, Receipt)
        return receipt

    async with running(redis_url, namespace, parent, sell) as at:
        handle = await parent.invoke(at.client, 4, session_id="s")
        receipt = await at.result(handle)
        (child,) = await children_of(at.client, handle)
        assert receipt == Receipt(
            number=8,
            ids={
                "execution": child["id"],
                "parent": handle.id,
                "root": handle.id,
                "root workflow": "parent",
                "session": "s",
            },
        )
        assert passes == [handle.id] * 2, "parked while the child ran, woken once"
        assert child["id"].startswith(handle.id + ".")
        expected = {"step_key": "sell", "workflow_id": "sell", "status": "completed", "waited_for": True}
        assert child == {**expected, "id": child["id"]}
        assert {row["id"] for row in await at.client.list_executions()} == {handle.id, child["id"]}
        seen = await at.client.get_execution(child["id"])
        assert (seen["parent_execution_id"], seen["root_workflow_id"]) == (handle.id, "parent")


async def test_a_failed_child_is_named_on_the_first_run_and_on_replay(redis_url: str, namespace: str) -> None:
    caught = []

    @flow
    async def parent(ctx: WorkflowContext) -> str:
        try:
            await ctx.step.invoke_and_wait("bad", refuse, "paper")
        except StepExecutionError as error:
            caught.append((str(error), error.step_key, error.error_type))
        await ctx.step.suspend("ok")
        return "went on"

    async with running(redis_url, namespace, parent, refuse) as at:
        handle = await parent.invoke(at.client)
        await at.parked(handle)
        await at.answer(handle, "ok")
        assert await at.result(handle) == "went on"
        (child,) = await children_of(at.client, handle)
        first, *others = caught
        assert others and set(others) == {first}
        assert first[1:] == ("bad", "LookupError")
        assert f"child {child['id']} of workflow 'refuse' failed: no paper" in first[0]


async def test_a_child_cancelled_alone_raises_in_the_parent(redis_url: str, namespace: str) -> None:
    @flow
    async def parent(ctx: WorkflowContext) -> list[Any]:
        ended = asyncio.gather(
            *(ctx.step.invoke_and_wait(key, asks, key) for key in ("one", "two")), return_exceptions=True
        )
        return [str(one) if isinstance(one, Exception) else one for one in await ended]

    async with running(redis_url, namespace, parent, asks) as at:
        handle = await parent.invoke(at.client)
        await at.parked(handle)
        one, two = [at.client.get_handle(child["id"]) for child in await children_of(at.client, handle)]
        await at.parked(one)
        await at.parked(two)
        await one.cancel(cancelled_by="bob")
        await at.answer(two, "ok", "fine")
        message, other = await at.result(handle)
        assert f"ExecutionCancelledError: child {one.id} of workflow 'asks' was cancelled by bob" in message
        assert other == "fine"


async def test_a_child_not_waited_for_outlives_its_parent(redis_url: str, namespace: str) -> None:
    @flow
    async def parent(ctx: WorkflowContext) -> list[str]:
        one = await ctx.step.invoke("one", asks, 1)
        many = await ctx.step.batch_invoke(
            "many", [BatchWorkflowInput("sell", {"number": n}) for n in (1, 2)]
        )
        assert (one.workflow_id, one.root_workflow_id) == ("asks", "parent")
        return [handle.id for handle in (one, *many)]

    async with running(redis_url, namespace, parent, asks, sell) as at:
        handle = await parent.invoke(at.client)
        asking, *sold = await at.result(handle)
        seen = await at.client.get_handle(asking)
        assert (seen.workflow_id, seen.root_workflow_id) == ("asks", "parent")
        assert seen.root_execution_id == handle.id
        await at.parked(seen)
        await at.answer(seen, "ok", "late")
        assert await at.result(seen) == "late"
        numbers = [(await at.result(at.client.get_handle(one))).number for one in sold]
        assert numbers == [2, 4], "results are in order"
        assert [child["waited_for"] for child in await children_of(at.client, handle)] == [False] * 3


# --- several children -------------------------------------------------------------------


async def test_a_batch_returns_every_outcome_in_order(redis_url: str, namespace: str) -> None:
    passes = []

    @flow
    async def parent(ctx: WorkflowContext) -> list[BatchStepResult]:
        passes.append(1)
        return await ctx.step.batch_invoke_and_wait(
            "all",
            [
                BatchWorkflowInput(id=sell, payload=Order(number=1)),
                BatchWorkflowInput(id="refuse", payload="ink"),
                BatchWorkflowInput(id="sell", payload={"number": 3}),
            ],
        )

    async with running(redis_url, namespace, parent, sell, refuse) as at:
        one, two, three = await at.result(await parent.invoke(at.client))
        assert (one.workflow_id, one.success, one.result.number, one.error) == ("sell", True, 2, None)
        assert two == BatchStepResult(
            workflow_id="refuse", success=False, result=None, error="LookupError: no ink"
        )
        assert isinstance(three.result, Receipt) and three.result.number == 6
        assert len(passes) == 2, "woken once"


async def test_an_empty_batch_returns_at_once(redis_url: str, namespace: str) -> None:
    @flow
    async def parent(ctx: WorkflowContext) -> list[Any]:
        found = [await ctx.step.batch_invoke_and_wait("none", []), await ctx.step.batch_invoke("no", [])]
        await ctx.step.suspend("ok")
        return found

    async with running(redis_url, namespace, parent) as at:
        handle = await parent.invoke(at.client)
        await at.parked(handle)
        await at.answer(handle, "ok")
        assert await at.result(handle) == [[], []]


async def test_large_inputs_are_sent_in_several_calls(redis_url: str, namespace: str) -> None:
    @flow
    async def length(ctx: WorkflowContext, input: str) -> int:
        return len(input)

    @flow
    async def parent(ctx: WorkflowContext) -> list[int]:
        sizes = range(100_000, 100_030)
        found = await ctx.step.batch_invoke_and_wait(
            "all", [BatchWorkflowInput(length, "x" * size) for size in sizes]
        )
        return [one.result for one in found]

    async with running(redis_url, namespace, parent, length) as at:
        assert await at.result(await parent.invoke(at.client)) == list(range(100_000, 100_030))


@pytest.mark.failure(1, 16)
@pytest.mark.parametrize("fault", ["reply lost", "activation lost"])
@pytest.mark.promise("child")
async def test_a_fault_while_starting_children_starts_none_twice(
    fault: str, redis_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third of five calls fails, when the first children may already have ended."""
    monkeypatch.setattr(children, "CHUNK", 2)
    ran: Counter[int] = Counter()

    @flow
    async def count(ctx: WorkflowContext, input: int) -> int:
        ran[input] += 1
        return input

    @flow
    async def parent(ctx: WorkflowContext) -> list[int]:
        found = await ctx.step.batch_invoke_and_wait("all", [BatchWorkflowInput(count, n) for n in range(9)])
        return [one.result for one in found]

    async with running(redis_url, namespace, parent, count) as at:
        store, calls = at.host.store, 0
        spawn = store.fenced.spawn

        def fail_once(*args: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls != 3:
                return spawn(*args, **options)
            lost: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            lost.set_exception(ConnectionLostError("by the test"))
            if fault == "reply lost":
                spawn(*args, **options)
            else:
                (activation,) = [one for one in at.worker.active if one.workflow is parent]
                activation.dropped("by the test")
            return lost

        store.fenced.spawn = fail_once  # type: ignore[method-assign]
        assert await at.result(await parent.invoke(at.client)) == list(range(9))
        assert ran == Counter(range(9))


@pytest.mark.parametrize("partitions", [1, 4])
async def test_children_nest_three_levels_deep(partitions: int, redis_url: str, namespace: str) -> None:
    @flow
    async def leaf(ctx: WorkflowContext, input: list[int]) -> list[Any]:
        await ctx.step.wait_for("while", seconds=0.01)
        return [input, ctx.root_workflow_id]

    @flow
    async def branch(ctx: WorkflowContext, input: int) -> list[Any]:
        return list(
            await asyncio.gather(*(ctx.step.invoke_and_wait(f"{n}", leaf, [input, n]) for n in range(3)))
        )

    @flow
    async def tree(ctx: WorkflowContext) -> list[Any]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(ctx.step.invoke_and_wait(f"{n}", branch, n)) for n in range(3)]
        return [task.result() for task in tasks]

    async with (
        PolosClient(redis_url, namespace, partitions=partitions) as client,
        working(client, tree, branch, leaf),
    ):
        handles = [await tree.invoke(client) for _ in range(5)]
        for handle in handles:
            expected = [[[[m, n], "tree"] for n in range(3)] for m in range(3)]
            assert await handle.result(timeout=20) == expected


async def test_a_child_of_an_unknown_workflow_waits_for_a_worker(redis_url: str, namespace: str) -> None:
    @flow
    async def parent(ctx: WorkflowContext) -> Any:
        return (await ctx.step.invoke_and_wait("later", "sell", {"number": 1})).number

    async with running(redis_url, namespace, parent, put_back_seconds=0.05) as at:
        handle = await parent.invoke(at.client)
        await at.parked(handle)
        async with working(at.client, sell):
            assert await at.result(handle) == 2


async def test_nothing_parks_while_a_child_is_being_prepared(
    redis_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looking up the workflow takes so long that sibling tasks are idle well before it ends."""

    async def look_up_slowly(store: Store, workflow: Workflow[Any, Any] | str) -> PublishedDefinition:
        idle = asyncio.Event()
        asyncio.get_running_loop().call_later(4 * IDLE_SECONDS, idle.set)
        await idle.wait()
        return await definition_of(store, workflow)

    @flow
    async def parent(ctx: WorkflowContext) -> list[Any]:
        asked = ctx.step.suspend("ok")
        return list(await asyncio.gather(asked, ctx.step.invoke_and_wait("by id", "asks", 1)))

    monkeypatch.setattr("polos_redis.executions.starting.definition_of", look_up_slowly)
    async with running(redis_url, namespace, parent, asks) as at:
        handle = await parent.invoke(at.client)
        (child,) = await until(lambda: children_of(at.client, handle), "its child to begin")
        await at.opened(at.client.get_handle(child["id"]), "ok")
        await at.answer(at.client.get_handle(child["id"]), "ok", "child")
        await at.answer(handle, "ok", "parent")
        asked, below = await at.result(handle)
        assert (asked["data"], below) == ("parent", "child")


@pytest.mark.promise("child")
async def test_results_outlive_the_children(redis_url: str, namespace: str, client: PolosClient) -> None:
    @flow
    async def parent(ctx: WorkflowContext) -> list[int]:
        found = await ctx.step.batch_invoke_and_wait(
            "all", [BatchWorkflowInput(sell, Order(number=n)) for n in range(3)]
        )
        await ctx.step.suspend("ok")
        return [one.result.number for one in found]

    async with (
        PolosClient(redis_url, namespace, retention_seconds=0.1) as short,  # starts the children
        working(short, parent, sell) as worker,
    ):
        at = Running(client, worker)
        handle = await parent.invoke(client)
        await at.opened(handle, "ok")
        ids = [child["id"] for child in await children_of(client, handle)]

        async def forgotten() -> bool:
            return [row["id"] for row in await client.list_executions()] == [handle.id]

        await until(forgotten, "the children to be forgotten")
        with pytest.raises(ExecutionNotFoundError):
            await client.get_execution(ids[0])
        await at.answer(handle, "ok")
        assert await at.result(handle) == [0, 2, 4]
        children = await children_of(client, handle)
        assert [(one["id"], one["workflow_id"], one["status"]) for one in children] == [
            (child_id, None, "completed") for child_id in ids
        ]


@pytest.mark.parametrize("waits", [False, True])
async def test_a_child_of_an_earlier_execution_with_the_same_key_is_not_joined(
    waits: bool, redis_url: str, namespace: str
) -> None:
    @flow
    async def parent(ctx: WorkflowContext, input: int) -> Any:
        if waits and ctx.run > 1:
            return await ctx.step.invoke_and_wait("child", "asks", input)
        if waits and input == 2:
            return await ctx.step.batch_invoke_and_wait("child", [BatchWorkflowInput("asks", input)])
        return (await ctx.step.invoke("child", "asks", input)).id

    async with (
        PolosClient(redis_url, namespace, retention_seconds=0.1) as short,
        working(short, parent, asks) as worker,
    ):
        at = Running(short, worker)
        first = await short.invoke(parent, 1, idempotency_key="the same")
        child = short.get_handle(await at.result(first))
        await at.opened(child, "ok")

        async def forgotten() -> bool:
            return [row["id"] for row in await short.list_executions()] == [child.id]

        await until(forgotten, "the parent to be forgotten")
        async with PolosClient(redis_url, namespace) as client:
            second = await client.invoke(parent, 2, idempotency_key="the same")
            assert second.id == first.id
            with pytest.raises(
                ExecutionFailedError, match=f"OlderChildError: .*can't start child {child.id}"
            ):
                await at.result(second)
            assert await child.status() == "waiting", "nobody has ended it"
            await at.answer(child, "ok", "old")
            await at.result(child)
            await client.retry(second.id)
            if waits:
                await at.opened(child, "ok")
                await at.answer(child, "ok", "new")
                assert await at.result(second) == "new"
            else:
                assert await at.result(second) == child.id
                await at.opened(child, "ok")
                await at.answer(child, "ok", "new")
            assert await at.result(child) == "new"


# --- what can't be started --------------------------------------------------------------


async def test_an_invalid_child_is_refused_and_none_are_started(redis_url: str, namespace: str) -> None:
    refused = []

    @flow
    async def parent(ctx: WorkflowContext) -> int:
        batch = [BatchWorkflowInput(sell, {"number": n}) for n in range(2)]
        calls: list[Any] = [
            lambda: ctx.step.batch_invoke_and_wait("a", [*batch, BatchWorkflowInput(sell, {"number": "x"})]),
            lambda: ctx.step.batch_invoke("b", [*batch, BatchWorkflowInput("sell", "x" * 2_000_000)]),
            lambda: ctx.step.invoke_and_wait("c", "sell", object()),
            lambda: ctx.step.invoke("d", sell, {"number": 1}, start_delay=3),  # type: ignore[call-overload]
            lambda: ctx.step.invoke("e", sell, {"number": 1}, run_timeout_seconds=-1),
            lambda: ctx.step.batch_invoke("f", [("sell", 1)]),  # type: ignore[list-item]
        ]
        for call in calls:
            try:
                await call()
            except Exception as error:
                refused.append(error)
        return int((await ctx.step.invoke_and_wait("right", sell, {"number": 1})).number)

    async with running(redis_url, namespace, parent, sell) as at:
        handle = await parent.invoke(at.client)
        assert await at.result(handle) == 2
        assert [child["step_key"] for child in await children_of(at.client, handle)] == ["right"]
        assert len(await at.client.list_executions()) == 2
    first, second, third, option, timeout, kind = map(str, refused[:6])
    assert isinstance(refused[0], InvalidInputError)
    assert first.startswith("child 2 of step 'a': workflow 'sell'") and "number" in first
    assert isinstance(refused[1], ValueTooLargeError) and second.startswith("child 2 of step 'b': ")
    assert third.startswith("child 0 of step 'c': ")
    assert option == (
        "step 'd': unexpected option 'start_delay'; expected one of "
        "queue, concurrency_key, run_timeout_seconds, initial_state"
    )
    assert "run_timeout_seconds must be a positive number" in timeout
    assert kind == "child 0 of step 'f' must be a BatchWorkflowInput, not ('sell', 1)"


async def test_a_different_number_of_children_on_replay_stops_the_execution(
    redis_url: str, namespace: str
) -> None:
    sizes = [2]

    @flow
    async def parent(ctx: WorkflowContext) -> None:
        await ctx.step.batch_invoke_and_wait(
            "all", [BatchWorkflowInput(sell, Order(number=n)) for n in range(sizes[0])]
        )
        await ctx.step.suspend("ok")

    async with running(redis_url, namespace, parent, sell) as at:
        handle = await parent.invoke(at.client)
        await at.opened(handle, "ok")
        sizes[0] = 3
        await at.answer(handle, "ok")
        with pytest.raises(ExecutionFailedError) as failed:
            await at.result(handle)
        assert failed.value.error_type == "StepKeyError"
        assert "'all'" in failed.value.error_message
        assert "has 3 children now, but started 2 before" in failed.value.error_message


# --- inside and outside -----------------------------------------------------------------


async def test_run_is_invoke_and_result(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, sell, asks, refuse) as at:
        assert (await sell.run(at.client, Order(number=3), timeout=20)).number == 6
        with pytest.raises(ExecutionFailedError, match="no ink"):
            await refuse.run(at.client, "ink", timeout=20)
        with pytest.raises(TimeoutError):
            await asks.run(at.client, 1, timeout=0.01)
        (waiting,) = await at.client.list_executions(workflow=asks)
        await at.client.cancel(waiting["id"])


async def test_client_calls_are_refused_inside_a_workflow(redis_url: str, namespace: str) -> None:
    @flow
    async def parent(ctx: WorkflowContext) -> list[str]:
        child = await ctx.step.invoke("child", sell, Order(number=1))
        calls: list[Any] = [
            lambda: sell.run(at.client, Order(number=1)),
            lambda: sell.invoke(at.client, Order(number=1)),
            lambda: at.client.invoke("sell", {"number": 1}),
            child.result,
        ]
        said = []
        for call in calls:
            with pytest.raises(InsideWorkflowError) as refused:
                await call()
            said.append(str(refused.value))

        async def start() -> str:
            return (await sell.invoke(at.client, Order(number=7))).id

        said.append(await ctx.step.run("inside a step", start))
        return said

    async with running(redis_url, namespace, parent, sell) as at:
        run, invoke, by_id, result, started = await at.result(await parent.invoke(at.client))
        assert "use ctx.step.invoke_and_wait" in run
        assert "use ctx.step.invoke or ctx.step.invoke_and_wait" in invoke
        assert "another execution" in by_id
        assert "use ctx.step.invoke_and_wait" in result
        assert (await at.result(at.client.get_handle(started))).number == 14


# --- people and readers -----------------------------------------------------------------


@flow
async def middle(ctx: WorkflowContext, input: Any) -> Any:
    await ctx.step.publish_workflow_event("tell", {"of": input}, event_type="news")
    return await ctx.step.invoke_and_wait("asks", asks, input)


@flow
async def top(ctx: WorkflowContext, input: list[int]) -> list[Any]:
    found = await ctx.step.batch_invoke_and_wait("all", [BatchWorkflowInput(middle, n) for n in input])
    return [one.result for one in found]


async def waiting_below(at: Running, handle: ExecutionHandle[Any], count: int) -> list[dict[str, Any]]:
    async def there() -> Any:
        found = (await at.client.get_execution(handle.id))["open_suspensions_below"]
        return found if len(found) == count else None

    found: list[dict[str, Any]] = await until(there, f"{count} suspensions below")
    return found


@pytest.mark.parametrize("partitions", [1, 4])
async def test_a_descendants_suspension_is_answered_through_the_root(
    partitions: int, redis_url: str, namespace: str
) -> None:
    async with (
        PolosClient(redis_url, namespace, partitions=partitions) as client,
        working(client, top, middle, asks) as worker,
    ):
        at = Running(client, worker)
        handle = await top.invoke(client, [5])
        (one,) = await waiting_below(at, handle, 1)
        assert (one["step_key"], one["data"]) == ("ok", {"for": 5})
        (row,) = await client.list_suspensions()
        assert row["execution_id"] == one["execution_id"]

        resumed = await at.answer(handle, "ok", "yes")
        assert (resumed.outcome, resumed.execution_id) == ("accepted", one["execution_id"])
        assert (await at.answer(handle, "ok", "yes")).outcome == "same"
        with pytest.raises(AlreadyResumedError):
            await at.answer(handle, "ok", "no")
        assert await at.result(handle) == ["yes"]

        events = await at.events(handle)
        child, grandchild = "", one["execution_id"]
        whose: dict[str, list[str]] = {}
        for event in events:
            assert event.topic == handle.id
            whose.setdefault(event.metadata["execution_id"], []).append(event.event_type)
            if event.event_type == "news":
                assert event.data == {"of": 5}
                child = event.metadata["execution_id"]
        assert list(whose) == [handle.id, child, grandchild]
        assert whose[grandchild] == ["workflow_start", "suspend_ok", "resume_ok", "workflow_finish"]
        assert whose[handle.id][-1] == events[-1].event_type == "workflow_finish"
        of_child = await at.events(await client.get_handle(child))
        assert of_child[-1].metadata == {"execution_id": child}, "a child's stream ends with the child"


async def test_several_suspensions_below_need_an_execution_id(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, top, middle, asks) as at:
        handle = await top.invoke(at.client, list(range(12)))
        found = await waiting_below(at, handle, 12)
        with pytest.raises(AmbiguousSuspensionError) as ambiguous:
            await at.answer(handle, "ok")
        assert sorted(ambiguous.value.candidates) == sorted(f"ok of {one['execution_id']}" for one in found)
        assert "12 open suspensions" in str(ambiguous.value) and str(ambiguous.value).count("ok of ") == 10
        for number, one in enumerate(found):
            await at.answer(at.client.get_handle(one["execution_id"]), "ok", number)
        assert sorted(await at.result(handle)) == list(range(12))


async def test_a_repeated_answer_through_the_root_decides_nothing_else(
    redis_url: str, namespace: str
) -> None:
    @flow
    async def one_by_one(ctx: WorkflowContext) -> list[Any]:
        return [await ctx.step.invoke_and_wait(f"page {number}", asks, number) for number in range(2)]

    async with running(redis_url, namespace, one_by_one, asks) as at:
        handle = await one_by_one.invoke(at.client)
        (first,) = await waiting_below(at, handle, 1)
        assert (await at.answer(handle, "ok", "yes")).outcome == "accepted"
        await until(lambda: _next_below(at, handle, first["execution_id"]))
        with pytest.raises(AmbiguousSuspensionError) as refused:
            await at.answer(handle, "ok", "yes")
        (second,) = await waiting_below(at, handle, 1)
        assert refused.value.candidates == [f"ok of {second['execution_id']}"]
        assert "use the id of the execution that asked" in str(refused.value)
        await at.answer(at.client.get_handle(second["execution_id"]), "ok", "no")
        assert await at.result(handle) == ["yes", "no"]
        assert (await at.answer(handle, "ok", "no")).outcome == "same"


async def _next_below(at: Running, handle: ExecutionHandle[Any], before: str) -> bool:
    found = (await at.client.get_execution(handle.id))["open_suspensions_below"]
    return any(one["execution_id"] != before for one in found)


async def test_an_early_answer_goes_to_a_matching_suspension_below(redis_url: str, namespace: str) -> None:
    @flow
    async def asks_too(ctx: WorkflowContext) -> list[Any]:
        below = await ctx.step.invoke_and_wait("below", asks)
        return [below, (await ctx.step.suspend("mine"))["data"]]

    async with running(redis_url, namespace, asks_too, asks) as at:
        handle = await asks_too.invoke(at.client)
        await waiting_below(at, handle, 1)

        async def early(step_key: str, data: Any) -> str:
            resumed = await at.client.resume(
                suspend_execution_id=handle.id, suspend_step_key=step_key, data=data, early=True
            )
            return resumed.outcome

        assert await early("mine", 2) == "early"
        assert await early("ok", 1) == "accepted"
        assert await soon(at.result(handle)) == [1, 2]
