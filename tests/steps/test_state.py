"""`ctx.state`: what a workflow stores in code and in steps, across parks, crashes and replays."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from polos_redis import (
    BatchWorkflowInput,
    ConfigurationError,
    ExecutionFailedError,
    InvalidInputError,
    NotStorableError,
    PolosClient,
    StepExecutionError,
    Worker,
    Workflow,
    WorkflowContext,
    WorkflowState,
    workflow,
)
from tests.harness.command import Command
from tests.harness.fleet import Fleet
from tests.harness.fleet_state import Account, account
from tests.harness.running import Running, running, until


class Cart(WorkflowState):
    items: list[str] = Field(default_factory=list)
    total: int = 0
    note: Any = None


_ran: list[str] = []  # what steps did in this process


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    _ran.clear()


async def state_of(at: Running, handle: Any) -> Any:
    return (await at.client.get_execution(handle.id))["state"]


# --- in the code and in steps -----------------------------------------------------------


@workflow(state_schema=Cart)
async def shops(ctx: WorkflowContext) -> Cart:
    """Changes its state in every way a sequential workflow can."""
    state: Cart = ctx.state
    ctx.state.items.append("code")

    async def in_the_loop() -> None:
        _ran.append("loop")
        ctx.state.items.append("loop")

    def in_a_thread() -> str:
        _ran.append("thread")
        ctx.state.items.append("thread")
        return "a value beside"

    def by_reference() -> None:
        _ran.append("reference")
        state.items.append("reference")
        state.total += 10

    await ctx.step.run("loop", in_the_loop)
    await ctx.step.run("thread", in_a_thread)
    state.items.append("between")
    await ctx.step.run("reference", by_reference)
    await ctx.step.run("argument", _add_total, state, 5)
    await ctx.step.run("untouched", len, "abc")
    await ctx.step.suspend("first")
    ctx.state.total += 1
    await ctx.step.suspend("second")
    assert id(ctx.state) == id(state)
    return state


def _add_total(state: Cart, amount: int) -> None:
    _ran.append("argument")
    state.total += amount


async def test_a_replay_sees_the_state_set_by_code_and_steps(redis_url: str, namespace: str) -> None:
    items = ["code", "loop", "thread", "between", "reference"]
    async with running(redis_url, namespace, shops) as at:
        handle = await shops.invoke(at.client)
        await at.parked(handle)
        assert await state_of(at, handle) == {"items": items, "total": 15, "note": None}
        await at.answer(handle, "first")
        await at.opened(handle, "second")
        await at.parked(handle)
        assert await state_of(at, handle) == {"items": items, "total": 16, "note": None}
        await at.answer(handle, "second")
        assert await at.result(handle) == Cart(items=items, total=16)
        assert await state_of(at, handle) == {"items": items, "total": 16, "note": None}
    assert _ran == ["loop", "thread", "reference", "argument"]


async def test_every_execution_has_its_own_state(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, shops) as at:
        handles = [await shops.invoke(at.client, initial_state={"total": n}) for n in (100, 200)]
        for handle in handles:
            await at.parked(handle)
        assert [(await state_of(at, handle))["total"] for handle in handles] == [115, 215]
        for handle in handles:
            await at.client.cancel(handle.id)
        assert [(await state_of(at, handle))["total"] for handle in handles] == [115, 215]


@workflow
async def stateless(ctx: WorkflowContext) -> Any:
    return ctx.state


@workflow(state_schema=Cart)
async def replaces_its_state(ctx: WorkflowContext) -> None:
    ctx.state = Cart()  # type: ignore[misc]


async def test_without_a_schema_there_is_no_state(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, stateless, replaces_its_state) as at:
        handle = await stateless.invoke(at.client)
        assert await at.result(handle) is None
        assert await state_of(at, handle) is None
        with pytest.raises(ExecutionFailedError, match="'state'"):
            await at.result(await replaces_its_state.invoke(at.client))


class Odd(BaseModel):
    """A model with more than fields, which rejects assignment."""

    model_config = ConfigDict(extra="allow", frozen=True)
    items: list[str] = []
    _seen: int = PrivateAttr(0)


@workflow(state_schema=Odd)
async def has_an_odd_state(ctx: WorkflowContext) -> tuple[Any, ...]:
    async def change() -> None:
        ctx.state.items.append("step")
        ctx.state._seen += 1
        ctx.state.__pydantic_extra__["colour"] = "red"

    await asyncio.gather(ctx.step.run("change", change), ctx.step.run("other", len, ""))
    await ctx.step.suspend("ask")
    return ctx.state.items, ctx.state._seen, ctx.state.colour


async def test_extra_fields_and_private_attributes_persist(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, has_an_odd_state) as at:
        handle = await has_an_odd_state.invoke(at.client)
        await at.parked(handle)
        await at.answer(handle, "ask")
        assert await at.result(handle) == (["step"], 1, "red")


# --- failed attempts ----------------------------------------------------------------------


@workflow(state_schema=Cart)
async def stumbles(ctx: WorkflowContext) -> Cart:
    """Changes its state in failed attempts, a cancelled one and a successful one."""
    attempts = 0

    async def at_last() -> None:
        nonlocal attempts
        attempts += 1
        ctx.state.items.append(f"attempt {attempts}")
        ctx.state.total += 1
        if attempts < 3:
            raise ConnectionError("not yet")

    async def never() -> None:
        ctx.state.items.append("never")
        ctx.state.note = object()
        raise ValueError("no")

    async def slow() -> None:
        ctx.state.items.append("slow")
        await asyncio.sleep(60)

    await ctx.step.run("at last", at_last, base_delay=0.01)
    with pytest.raises(StepExecutionError, match="ValueError: no"):
        await ctx.step.run("never", never, max_retries=0)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await ctx.step.run("slow", slow)
    before: Cart = ctx.state.model_copy(deep=True)
    await ctx.step.suspend("ask")
    assert ctx.state == before
    return before


async def test_a_failed_attempt_changes_nothing(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, stumbles) as at:
        handle = await stumbles.invoke(at.client)
        await at.parked(handle)
        shown = await state_of(at, handle)
        assert len(shown["items"]) == shown["total"] == 1
        await at.answer(handle, "ask")
        result = await at.result(handle)
        assert result.model_dump() == shown


_broken = True


@workflow(state_schema=Cart)
async def breaks_once(ctx: WorkflowContext) -> Cart:
    async def fill() -> None:
        _ran.append("fill")
        ctx.state.items.append("filled")

    def check() -> None:
        ctx.state.total += 1
        if _broken:
            raise ValueError("broken")

    await ctx.step.run("fill", fill)
    ctx.state.items.append("between")
    await ctx.step.run("check", check, max_retries=0)
    state: Cart = ctx.state
    return state


async def test_a_retried_execution_keeps_its_state(redis_url: str, namespace: str) -> None:
    global _broken
    _broken = True
    async with running(redis_url, namespace, breaks_once) as at:
        handle = await breaks_once.invoke(at.client, initial_state={"items": ["given"]})
        with pytest.raises(ExecutionFailedError, match="broken"):
            await at.result(handle)
        items = ["given", "filled", "between"]
        assert await state_of(at, handle) == {"items": items, "total": 0, "note": None}
        _broken = False
        await at.client.retry(handle.id)
        assert await at.result(handle) == Cart(items=items, total=1)
    assert _ran == ["fill"]


# --- concurrent steps ---------------------------------------------------------------------


@workflow(state_schema=Cart)
async def counts_side_by_side(ctx: WorkflowContext, input: list[int]) -> Cart:
    """Code that counts after each step; a replay may resume the steps in another order."""
    turns = [asyncio.Event() for _ in input]

    async def one(number: int) -> int:
        _ran.append(f"run {number}")
        if number != input[-1]:
            await turns[number].wait()
        return number

    async def step(number: int) -> None:
        await ctx.step.run(f"step {number}", one, number)
        ctx.state.total += 1
        place = input.index(number)
        if place:
            turns[input[place - 1]].set()

    await asyncio.gather(*(step(number) for number in range(len(input))))
    await ctx.step.suspend("ask")
    state: Cart = ctx.state
    return state


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 2, 0]])
async def test_code_between_concurrent_steps_changes_the_state(
    order: list[int], redis_url: str, namespace: str
) -> None:
    async with running(redis_url, namespace, counts_side_by_side) as at:
        handle = await counts_side_by_side.invoke(at.client, order)
        await at.parked(handle)
        assert (await state_of(at, handle))["total"] == 3
        await at.answer(handle, "ask")
        assert (await at.result(handle)).total == 3
    assert len(_ran) == 3


@workflow(state_schema=Cart)
async def divides_the_work(ctx: WorkflowContext, input: list[str]) -> tuple[Any, Cart]:
    """Two steps change the state concurrently: the fields named by the input."""
    both = asyncio.Barrier(2)

    async def change(field: str, value: Any) -> None:
        state = ctx.state
        await both.wait()
        setattr(state, field, value)
        assert getattr(ctx.state, field) == value

    outcomes = await asyncio.gather(
        ctx.step.run("one", change, input[0], 1, max_retries=0),
        ctx.step.run("two", change, input[1], 2, max_retries=0),
        return_exceptions=True,
    )
    await ctx.step.suspend("ask")
    return [str(outcome) for outcome in outcomes if outcome is not None], ctx.state


async def test_concurrent_steps_may_change_different_fields(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, divides_the_work) as at:
        handle = await divides_the_work.invoke(at.client, ["total", "note"])
        await at.parked(handle)
        await at.answer(handle, "ask")
        assert await at.result(handle) == ([], Cart(total=1, note=2))


async def test_concurrent_steps_may_not_change_the_same_field(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, divides_the_work) as at:
        handle = await divides_the_work.invoke(at.client, ["total", "total"])
        await at.parked(handle)
        total = (await state_of(at, handle))["total"]
        assert total in (1, 2)
        await at.answer(handle, "ask")
        (conflict,), state = await at.result(handle)
        assert "StateConflictError: ctx.state.total changed while this step ran" in conflict
        assert state == Cart(total=total)


@workflow(state_schema=Cart)
async def continues_beside(ctx: WorkflowContext) -> tuple[Cart, set[str]]:
    """Sequential steps next to a longer one that only reads the state."""
    over = asyncio.Event()

    async def read() -> int:
        before: int = ctx.state.total
        await over.wait()
        after: int = ctx.state.total
        return before + after  # its view of the state does not change

    def add() -> None:
        ctx.state.total += 1

    async def change() -> None:
        await ctx.step.run("one", add)
        ctx.state.total += 1
        await ctx.step.run("two", add)
        over.set()

    read_total, _ = await asyncio.gather(ctx.step.run("read", read), change())
    assert read_total == 0
    await ctx.step.suspend("ask")
    return ctx.state, ctx.state.model_fields_set


async def test_sequential_steps_beside_another_change_the_same_field(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, continues_beside) as at:
        handle = await continues_beside.invoke(at.client)
        await at.parked(handle)
        await at.answer(handle, "ask")
        assert await at.result(handle) == (Cart(total=3), {"total"})


# --- what a step leaves behind ------------------------------------------------------------


@workflow(state_schema=Cart)
async def cancels_a_thread(ctx: WorkflowContext, input: list[str]) -> Cart:
    """A step's thread changes the state after its step was cancelled, by one way or another."""
    way, beside, end = input
    loop, over = asyncio.get_running_loop(), asyncio.Event()
    left, written = threading.Event(), threading.Event()

    def cancel() -> None:
        loop.call_soon_threadsafe(lambda: limit.reschedule(loop.time()))

    def by_context() -> None:
        cancel()
        assert left.wait(60)
        ctx.state.total += 100
        ctx.state.items.append("late")
        written.set()

    def by_own_reference() -> None:
        state, items = ctx.state, ctx.state.items
        items.append("early")
        cancel()
        assert left.wait(60)
        items.append("late")
        state.total += 100
        written.set()

    def by_argument(state: Cart) -> None:
        cancel()
        assert left.wait(60)
        state.total += 100
        state.items.append("late")
        written.set()

    calls: dict[str, Any] = {
        "context": (by_context,),
        "own reference": (by_own_reference,),
        "argument": (by_argument, ctx.state),
    }
    other = asyncio.create_task(ctx.step.run("other", over.wait)) if beside == "beside" else None
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(None) as limit:
            await ctx.step.run("late", *calls[way])
    ctx.state.total += 1
    left.set()
    assert await loop.run_in_executor(None, written.wait, 60)
    over.set()
    if other is not None:
        await other
    if end == "parks":
        await ctx.step.suspend("ask")
    state: Cart = ctx.state
    return state


@pytest.mark.parametrize("end", ["parks", "ends"])
@pytest.mark.parametrize("beside", ["alone", "beside"])
@pytest.mark.parametrize("way", ["context", "own reference", "argument"])
async def test_a_thread_whose_step_was_cancelled_changes_nothing(
    way: str, beside: str, end: str, redis_url: str, namespace: str
) -> None:
    async with running(redis_url, namespace, cancels_a_thread) as at:
        handle = await cancels_a_thread.invoke(at.client, [way, beside, end])
        if end == "parks":
            await at.parked(handle)
            assert await state_of(at, handle) == {"items": [], "total": 1, "note": None}
            await handle.cancel()
            return
        assert await at.result(handle) == Cart(total=1)
        assert await state_of(at, handle) == {"items": [], "total": 1, "note": None}


@workflow(state_schema=Cart)
async def leaves_a_writing_task(ctx: WorkflowContext) -> Cart:
    ends = asyncio.Event()
    left: list[asyncio.Task[None]] = []

    async def late(state: Cart, items: list[str]) -> None:
        await ends.wait()
        state.total += 100
        ctx.state.total += 100
        items.append("late")

    async def step() -> None:
        ctx.state.items.append("in time")
        left.append(asyncio.create_task(late(ctx.state, ctx.state.items)))

    await ctx.step.run("step", step)
    ends.set()
    await asyncio.wait(left)
    state: Cart = ctx.state
    return state


async def test_a_task_that_a_step_left_changes_nothing(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, leaves_a_writing_task) as at:
        assert await leaves_a_writing_task.run(at.client, timeout=60) == Cart(items=["in time"])


@workflow(state_schema=Cart)
async def passes_its_state(ctx: WorkflowContext) -> Cart:
    """Steps side by side that get the state as an argument."""
    both = asyncio.Barrier(2)

    async def note(state: Cart) -> None:
        await both.wait()
        state.note = "seen"

    async def add(amount: int, *, to: Cart) -> None:
        await both.wait()
        to.total += amount

    await asyncio.gather(ctx.step.run("note", note, ctx.state), ctx.step.run("add", add, 5, to=ctx.state))
    if ctx.run == 1:
        raise ValueError("again")
    state: Cart = ctx.state
    return state


async def test_a_state_passed_as_an_argument_is_the_steps_own(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, passes_its_state) as at:
        handle = await passes_its_state.invoke(at.client)
        with pytest.raises(ExecutionFailedError, match="again"):
            await at.result(handle)
        await at.client.retry(handle.id)
        assert await at.result(handle) == Cart(total=5, note="seen"), "replayed from the journal"


# --- the initial state --------------------------------------------------------------------


class Strict(BaseModel):
    amount: int
    name: str = "none"


@workflow(state_schema=Strict)
async def needs_a_state(ctx: WorkflowContext) -> Strict:
    ctx.state.amount += 1
    state: Strict = ctx.state
    return state


@pytest.mark.parametrize("initial", [Strict(amount=5), {"amount": "5"}])
async def test_an_initial_state_is_a_model_or_a_dict(initial: Any, redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, needs_a_state) as at:
        handle = await needs_a_state.invoke(at.client, initial_state=initial)
        assert await at.result(handle) == Strict(amount=6)
        handle = await at.client.invoke("needs_a_state", initial_state=initial)
        assert await at.result(handle) == Strict(amount=6)
        execution = await at.client.get_execution(handle.id)
        assert execution["state"] == {"amount": 6, "name": "none"}
        assert execution["steps"] == []


@pytest.mark.parametrize(
    ("which", "initial", "named"),
    [
        (needs_a_state, {"amount": "many"}, r"'needs_a_state': initial_state\.amount: "),
        (needs_a_state, None, r"initial_state\.amount: Field required"),
        (needs_a_state, 5, "initial_state: "),
        (stateless, {"amount": 1}, "'stateless' has no state_schema"),
    ],
)
async def test_an_invalid_initial_state_is_refused(
    which: Workflow[Any, Any], initial: Any, named: str, redis_url: str, namespace: str
) -> None:
    async with running(redis_url, namespace, which) as at:
        with pytest.raises(InvalidInputError, match=named):
            await which.invoke(at.client, initial_state=initial)
        assert not await at.client.list_executions()
        with pytest.raises(ExecutionFailedError, match=named):  # started by id alone, the worker refuses it
            await at.result(await at.client.invoke(which.id, initial_state=initial))


async def test_an_unstorable_initial_state_is_refused(redis_url: str, namespace: str) -> None:
    async with PolosClient(redis_url, namespace) as client:
        with pytest.raises(NotStorableError, match=r"\$\.note"):
            await shops.invoke(client, initial_state=Cart(note=object()))


class Lucky(BaseModel):
    number: float = Field(default_factory=lambda: _draw())


_draws = iter(range(1000))


def _draw() -> float:
    return float(next(_draws))


@workflow(state_schema=Lucky)
async def plays(ctx: WorkflowContext) -> list[float]:
    first = await ctx.step.run("first", lambda: ctx.state.number)
    await ctx.step.suspend("ask")
    return [first, ctx.state.number]


@pytest.mark.parametrize("by_id", [False, True])
async def test_defaults_are_computed_once(by_id: bool, redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, plays) as at:
        handle = await at.client.invoke("plays" if by_id else plays)
        await at.parked(handle)
        await at.answer(handle, "ask")
        first, second = await at.result(handle)
        assert first == second


@workflow(state_schema=Cart)
async def has_children(ctx: WorkflowContext) -> list[Any]:
    ctx.state.total = 1
    alone = await ctx.step.invoke_and_wait("one", needs_a_state, initial_state={"amount": 10})
    inputs = [BatchWorkflowInput(needs_a_state, initial_state=Strict(amount=n)) for n in (20, 30)]
    several = await ctx.step.batch_invoke_and_wait("several", inputs)
    return [ctx.state.total, alone.amount, *(one.result.amount for one in several)]


async def test_children_have_their_own_states(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, has_children, needs_a_state) as at:
        assert await at.result(await has_children.invoke(at.client)) == [1, 11, 21, 31]


# --- what can't be stored -----------------------------------------------------------------


@workflow(state_schema=Cart)
async def keeps_what_it_cannot(ctx: WorkflowContext, input: str) -> Any:
    def spoil() -> None:
        ctx.state.note = {"values": [1, object()]} if input != "large" else "x" * 2_000_000

    if input == "in a step":
        await ctx.step.run("spoil", spoil)
    spoil()
    if input == "park":
        await ctx.step.suspend("ask")
    elif input == "before a step":
        await ctx.step.run("next", _ran.append, "next")
    elif input == "with an error":
        raise LookupError("the workflow's own")


@pytest.mark.parametrize(
    ("kind", "type", "named"),
    [
        ("park", "NotStorableError", r"ctx\.state can't be saved: \$\.note\.values\[1\]"),
        ("finish", "NotStorableError", r"ctx\.state can't be saved: \$\.note\.values\[1\]"),
        ("before a step", "NotStorableError", r"ctx\.state can't be saved: \$\.note\.values\[1\]"),
        ("in a step", "StepExecutionError", r"step 'spoil' .* ctx\.state can't be saved: \$\.note\.values"),
        ("large", "ValueTooLargeError", r"ctx\.state can't be saved: .* the limit is 1,048,576"),
        ("with an error", "LookupError", "the workflow's own"),
    ],
)
async def test_a_state_that_cannot_be_saved_fails_its_execution(
    kind: str, type: str, named: str, redis_url: str, namespace: str
) -> None:
    async with running(redis_url, namespace, keeps_what_it_cannot) as at:
        handle = await keeps_what_it_cannot.invoke(at.client, kind)
        with pytest.raises(ExecutionFailedError, match=named) as caught:
            await at.result(handle)
        assert caught.value.error_type == type
        await until(lambda: not at.worker.active)
    assert not _ran


@pytest.mark.parametrize("schema", [int, dict, "Cart", Cart()])
def test_a_schema_must_be_a_model(schema: Any) -> None:
    with pytest.raises(ConfigurationError, match="state_schema must be a pydantic model class"):
        Workflow(_nothing, "bad-schema", state_schema=schema)


async def _nothing(ctx: WorkflowContext) -> None: ...


async def test_a_worker_refuses_an_unstorable_schema(client: PolosClient) -> None:
    class Local(BaseModel):
        number: int = 0

    made: Workflow[None, None] = Workflow(_nothing, "local-schema", state_schema=Local)
    with pytest.raises(ConfigurationError, match=r"'local-schema': .* move it to module level"):
        await Worker(client, [made], handle_signals=False).run()


# --- crashes ------------------------------------------------------------------------------


@pytest.mark.parametrize("by_id", [False, True])
async def test_a_killed_worker_leaves_the_journaled_state(
    by_id: bool, fleet: Fleet, client: PolosClient
) -> None:
    """Killed before the first park, so only the journal is left to resume from."""
    first = await fleet.start(defined_in="tests.harness.fleet_state")
    handle = await client.invoke("account" if by_id else account)
    await fleet.seen(handle.id, "two")
    first.kill()
    assert (await client.get_execution(handle.id))["state"] is None
    fleet.open("gate")
    await fleet.start(defined_in="tests.harness.fleet_state")
    journaled, number, log = await handle.result(timeout=20)
    assert journaled == number
    assert log == ["kept", "one", "between", "two"]
    names = [name for name, _ in fleet.effects(handle.id)]
    assert names == ["keep", "one", "two", "two"]
    assert Account(**(await client.get_execution(handle.id))["state"]) == Account(number=number, log=log)


# --- display ------------------------------------------------------------------------------


async def test_polos_show_prints_the_state(redis_url: str, namespace: str, tmp_path: Path) -> None:
    async with running(redis_url, namespace, needs_a_state) as at:
        handle = await needs_a_state.invoke(at.client, initial_state={"amount": 1})
        await at.result(handle)
        command = Command(redis_url, namespace, tmp_path)
        assert '{"amount": 2, "name": "none"}' in (await command("show", handle.id)).out
        found = (await command("show", handle.id, "--json")).json
        assert found["state"] == {"amount": 2, "name": "none"}
        assert found["workflow_id"] == found["root_workflow_id"] == "needs_a_state"
