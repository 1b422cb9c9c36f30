"""How an execution is started: once per key, later, and for whom."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from polos_redis import ExecutionFailedError, PolosClient, WorkflowContext, WorkflowState, queue
from polos_redis.errors import IdempotencyConflictError, InvalidInputError
from polos_redis.values import codec
from polos_redis.workflow import Workflow
from tests.harness.running import Running, running, until, working
from tests.invariants.rows import rows


def flow(body: Any) -> Workflow[Any, Any]:
    """A workflow that need not be registered."""
    return Workflow(body, body.__name__)


@flow
async def echo(ctx: WorkflowContext, input: Any) -> Any:
    return input


@flow
async def fails(ctx: WorkflowContext) -> None:
    raise LookupError("not there")


@dataclass(frozen=True)
class Order:
    number: int
    lines: tuple[str, ...] = ()


@flow
async def typed(ctx: WorkflowContext, input: Order) -> Order:
    return input


# --- once per key -----------------------------------------------------------------------


@pytest.mark.parametrize("partitions", [1, 4])
@pytest.mark.promise("invoke")
async def test_a_key_starts_one_execution(partitions: int, redis_url: str, namespace: str) -> None:
    async with (
        PolosClient(redis_url, namespace, partitions=partitions) as client,
        working(client, echo) as worker,
    ):
        at = Running(client, worker)
        clients = [PolosClient(redis_url, namespace, partitions=partitions) for _ in range(8)]
        handles = await asyncio.gather(
            *(echo.invoke(one, {"a": 1, "b": [2]}, idempotency_key="k") for one in clients * 4)
        )
        assert len({handle.id for handle in handles}) == 1
        assert await at.result(handles[0]) == {"a": 1, "b": [2]}
        after = await client.invoke("echo", {"b": [2], "a": 1}, idempotency_key="k")
        assert after.id == handles[0].id, (
            "also after it has finished, by the workflow's id alone, in any order"
        )
        other = await echo.invoke(client, {"a": 1, "b": [2]}, idempotency_key="another k")
        assert other.id != after.id
        await at.result(other)
        assert len(await client.list_executions()) == 2
        for one in clients:
            await one.aclose()


async def test_another_input_for_the_same_key_is_a_conflict(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, echo) as at:
        for number, (value, other) in enumerate(
            [({"a": 1}, {"a": 2}), (1, 1.0), (1, True), (None, 0), ([1], (1,)), (0.1 + 0.2, 0.3), ({1}, {2})]
        ):
            key = f"key {number}"
            first = await echo.invoke(at.client, value, idempotency_key=key)
            with pytest.raises(
                IdempotencyConflictError, match="was already used for workflow 'echo'"
            ) as caught:
                await echo.invoke(at.client, other, idempotency_key=key)
            assert (caught.value.key, caught.value.execution_id) == (key, first.id)
            assert await at.result(first) == value
        assert len(await at.client.list_executions()) == 7


class Basket(WorkflowState):
    items: tuple[str, ...] = ()


async def _shops(ctx: WorkflowContext, input: Any) -> Any:
    return ctx.state.items


shops: Workflow[Any, Any] = Workflow(_shops, "shops", state_schema=Basket)

REQUEST: dict[str, Any] = {
    "user_id": "alice",
    "session_id": "s-1",
    "started_by": "shop",
    "initial_state": {"items": ["lamp"]},
    "queue": queue("tills", concurrency_limit=2),
    "concurrency_key": "north",
}
OTHERS: dict[str, Any] = {
    "user_id": "mallory",
    "session_id": "s-2",
    "started_by": "mallory",
    "initial_state": {"items": ["yacht"]},
    "queue": queue("backdoor", concurrency_limit=2),
    "concurrency_key": "south",
}


@pytest.mark.threat(10)
@pytest.mark.parametrize("changed", ["given", "left out"])
@pytest.mark.parametrize("name", sorted(REQUEST))
async def test_a_key_covers_the_whole_request(name: str, changed: str, client: PolosClient) -> None:
    """Otherwise the first caller chooses the user, the state and the starter for the second."""
    first = await client.invoke(shops, 1, idempotency_key="k", **REQUEST)
    if changed == "given":
        other = {**REQUEST, name: OTHERS[name]}
    else:
        left_out = {name, "concurrency_key"} if name == "queue" else {name}
        other = {one: value for one, value in REQUEST.items() if one not in left_out}
    with pytest.raises(IdempotencyConflictError) as caught:
        await client.invoke(shops, 1, idempotency_key="k", **other)
    assert caught.value.execution_id == first.id
    said = "queue or concurrency_key" if name in ("queue", "concurrency_key") else name
    assert caught.value.differing == (said,)
    assert f"with a different {said} (execution {first.id})" in str(caught.value)

    late: dict[str, Any] = {"start_delay": 60.0, "run_timeout_seconds": 5.0}
    same = await client.invoke(shops, 1, idempotency_key="k", **REQUEST, **late)  # times are the first's
    assert same.id == first.id


async def test_a_conflict_names_everything_that_differs(client: PolosClient) -> None:
    await client.invoke(echo, 1, idempotency_key="k", user_id="alice")
    with pytest.raises(IdempotencyConflictError, match="a different input and user_id and started_by "):
        await client.invoke(echo, 2, idempotency_key="k", user_id="bob", started_by="bob")


async def test_a_workflows_new_queue_is_no_other_request(client: PolosClient) -> None:
    async def body(ctx: WorkflowContext) -> None: ...

    before: Workflow[Any, Any] = Workflow(body, "moves")
    after: Workflow[Any, Any] = Workflow(body, "moves", queue="elsewhere", run_timeout_seconds=60)
    first = await before.invoke(client, idempotency_key="k")
    assert (await after.invoke(client, idempotency_key="k")).id == first.id


@pytest.mark.parametrize(
    "input",
    [
        {"list": [1, [2]], "set": {3, 4}, "keys": {(1, 2): b"x", None: 1.5}},
        float("nan"),
        float("-inf"),
        -0.0,
        10**40,
        {"deep": {str(n): {"x": [n]} for n in range(50)}},
        None,
        Order(1, ("a", "b")),
    ],
)
async def test_any_input_equals_itself(input: Any, redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, echo) as at:
        first = await echo.invoke(at.client, input, idempotency_key="k")
        second = await echo.invoke(at.client, codec.decode(codec.encode(input)), idempotency_key="k")
        assert first.id == second.id
        await at.result(first)


async def test_a_key_belongs_to_its_workflow(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, echo, typed) as at:
        one = await echo.invoke(at.client, Order(1), idempotency_key="k")
        two = await typed.invoke(at.client, Order(1), idempotency_key="k")
        assert one.id != two.id
        assert (await at.result(one), await at.result(two)) == (Order(1), Order(1))


async def test_a_key_of_a_failed_execution_starts_nothing(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, fails) as at:
        first = await fails.invoke(at.client, idempotency_key="k")
        with pytest.raises(ExecutionFailedError):
            await at.result(first)
        second = await fails.invoke(at.client, idempotency_key="k")
        assert second.id == first.id
        with pytest.raises(ExecutionFailedError, match="not there"):
            await at.result(second)
        assert (await at.client.get_execution(first.id))["run"] == 1


async def test_a_key_is_kept_as_long_as_its_execution(redis_url: str, namespace: str) -> None:
    async with (
        PolosClient(redis_url, namespace, retention_seconds=0.05) as client,
        working(client, echo) as worker,
    ):
        at = Running(client, worker)
        first = await echo.invoke(client, 1, idempotency_key="k")
        store = await client.store()
        key = store.partitions.prefix(first.id) + b"exec:" + first.id.encode()

        async def forgotten() -> bool:
            return not await store.wire.call("EXISTS", key)

        await until(forgotten)
        second = await echo.invoke(client, 2, idempotency_key="k")
        assert second.id == first.id
        await until(forgotten)
        assert not await client.list_executions()
        assert rows(redis_url, namespace) == set()
        del at


async def test_an_unknown_option_is_refused(client: PolosClient) -> None:
    with pytest.raises(
        TypeError,
        match=r"unexpected option 'retires'; expected one of concurrency_key, durability, idempotency_key",
    ):
        await client.invoke("echo", 1, retires=3)  # type: ignore[call-overload]


@pytest.mark.parametrize("key", ["", 5, b"k"])
async def test_an_invalid_key_is_refused(key: Any, client: PolosClient) -> None:
    with pytest.raises(InvalidInputError, match="idempotency_key must be a non-empty string"):
        await echo.invoke(client, 1, idempotency_key=key)
    assert not await client.list_executions()


@pytest.mark.failure(21)
@pytest.mark.parametrize("key", ["two words", "a\nb", "nul\0nul", "é✓", "{brace}", " ", "x" * 255, "\ud800"])
async def test_a_key_may_be_any_text(key: str, client: PolosClient) -> None:
    one = await echo.invoke(client, 1, idempotency_key=key)
    assert (await echo.invoke(client, 1, idempotency_key=key)).id == one.id
    assert (await echo.invoke(client, 1, idempotency_key=key + "'")).id != one.id


# --- later ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["seconds", "timedelta", "datetime"])
async def test_a_start_can_be_delayed(kind: str, redis_url: str, namespace: str) -> None:
    hour = timedelta(hours=1)
    start_at = datetime.now(UTC) + hour
    options: Any = {
        "seconds": {"start_delay": 3600},
        "timedelta": {"start_delay": hour},
        "datetime": {"start_at": start_at},
    }[kind]
    async with running(redis_url, namespace, echo) as at:
        handle = await echo.invoke(at.client, 1, **options)
        found = await at.client.get_execution(handle.id)
        created, starts = (datetime.fromisoformat(found[name]) for name in ("created_at", "starts_at"))
        store = await at.client.store()
        timers, start = store.partitions.prefix(handle.id) + b"timers", f"p{handle.id}"
        due = datetime.fromtimestamp(float(await store.wire.call("ZSCORE", timers, start)) / 1000, UTC)
        expected = start_at if kind == "datetime" else created + hour
        assert abs(due - expected) < timedelta(milliseconds=2), "timers count in whole ms"
        assert starts == due
        (listed,) = await at.client.list_executions()
        assert (listed["status"], listed["starts_at"]) == ("queued", found["starts_at"])
        await store.wire.call("ZADD", timers, "XX", 1, start)
        assert await at.result(handle) == 1
        (listed,) = await at.client.list_executions()
        assert listed["starts_at"] is None
        assert (await at.client.get_execution(handle.id))["starts_at"] is None


@pytest.mark.parametrize(
    "options",
    [
        {"start_delay": 0},
        {"start_delay": timedelta()},
        {"start_at": datetime(2020, 1, 1, tzinfo=UTC)},
        {"start_at": datetime(1, 1, 1, tzinfo=UTC)},
        {"start_delay": None, "start_at": None},
    ],
)
async def test_a_start_in_the_past_happens_at_once(options: Any, redis_url: str, namespace: str) -> None:
    async with PolosClient(redis_url, namespace) as client:
        handle = await echo.invoke(client, 1, **options)
        assert rows(redis_url, namespace) == set()
        async with working(client, echo) as worker:
            assert await Running(client, worker).result(handle) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"start_delay": -1}, "start_delay must be a positive number of seconds"),
        ({"start_delay": float("nan")}, "start_delay must be a positive number of seconds"),
        ({"start_delay": float("inf")}, "start_delay must be a positive number of seconds"),
        ({"start_delay": "1"}, "start_delay must be a positive number of seconds"),
        ({"start_delay": True}, "start_delay must be a positive number of seconds"),
        ({"start_at": datetime(2030, 1, 1)}, "expected a datetime with a time zone"),
        ({"start_at": 1_900_000_000}, "expected a datetime with a time zone"),
        (
            {"start_delay": 1, "start_at": datetime(2030, 1, 1, tzinfo=UTC)},
            "give start_delay or start_at, not both",
        ),
        ({"run_timeout_seconds": 0}, "run_timeout_seconds must be a positive number"),
        ({"session_id": 5}, "session_id must be a string, not 5"),
        ({"user_id": ["ana"]}, "user_id must be a name of 1 to 200 characters"),
    ],
)
async def test_invalid_options_are_refused(options: Any, said: str, client: PolosClient) -> None:
    with pytest.raises(InvalidInputError, match=said):
        await echo.invoke(client, 1, **options)
    assert not await client.list_executions()


async def test_a_delayed_start_can_be_cancelled(redis_url: str, namespace: str) -> None:
    async with PolosClient(redis_url, namespace) as client:
        handle = await echo.invoke(client, 1, start_delay=3600, run_timeout_seconds=60)
        assert {row.partition(" ")[0] for row in rows(redis_url, namespace)} == {"timer"}
        await handle.cancel()
        assert rows(redis_url, namespace) == set()
        assert await handle.status() == "cancelled"


async def test_the_run_timeout_counts_from_the_start(redis_url: str, namespace: str) -> None:
    @flow
    async def asks(ctx: WorkflowContext) -> None:
        await ctx.step.suspend("ask")

    async with running(redis_url, namespace, asks) as at:
        handle = await asks.invoke(at.client, start_delay=0.3, run_timeout_seconds=0.2)
        with pytest.raises(ExecutionFailedError, match=r"WorkflowTimeoutError.*within its 0\.2 seconds"):
            await at.result(handle)
        found = await at.client.get_execution(handle.id)
        assert found["suspensions"][0]["status"] == "closed", "it had started"
        lasted = datetime.fromisoformat(found["finished_at"]) - datetime.fromisoformat(found["created_at"])
        assert lasted >= timedelta(milliseconds=450)


async def test_a_key_keeps_the_first_delay(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, echo) as at:
        later = await echo.invoke(at.client, 1, idempotency_key="k", start_delay=3600)
        second = await echo.invoke(at.client, 1, idempotency_key="k")
        assert second.id == later.id
        assert await second.status() == "queued", "the delay of the first start stands"
        await second.cancel()


# --- for whom ---------------------------------------------------------------------------


@flow
async def whom(ctx: WorkflowContext) -> list[Any]:
    return [ctx.session_id, ctx.user_id]


@flow
async def whom_below(ctx: WorkflowContext) -> list[Any]:
    await ctx.step.suspend("ask")
    return [*(await ctx.step.invoke_and_wait("child", whom)), ctx.session_id, ctx.user_id]


async def test_code_and_children_see_the_session_and_user(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, whom, whom_below) as at:
        assert await at.result(await whom.invoke(at.client)) == [None, None]
        handle = await whom_below.invoke(at.client, session_id="s 1", user_id="ana")
        await at.parked(handle)
        found = await at.client.get_execution(handle.id)
        assert (found["session_id"], found["user_id"]) == ("s 1", "ana")
        await at.answer(handle, "ask")
        assert await at.result(handle) == ["s 1", "ana", "s 1", "ana"]
