"""Exceptions that fail themselves: whatever one of them does, it is journaled as the step's failure, and the
step runs no more often than its retries say."""

from __future__ import annotations

import asyncio
import traceback
from collections import Counter
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, model_validator

from polos_redis import (
    ExecutionFailedError,
    HookContext,
    NoRetryError,
    StepExecutionError,
    Workflow,
    WorkflowContext,
    failures,
    tasks,
)
from polos_redis.runtime.code_tasks import CodeTasks
from polos_redis.runtime.lifecycle_events import StepAttempt
from polos_redis.runtime.steps.retries import LONGEST_RETRY_AFTER, retry_delay
from polos_redis.state.stored_errors import error_record, parse_error
from tests.harness.running import running

Flow = Workflow[Any, Any]

CALLS: Counter[tuple[str, str]] = Counter()


class Odd(BaseException):
    """An exception of a class that nobody expects."""


RAISED: list[Callable[[], BaseException]] = [
    lambda: ValueError("no"),
    lambda: SystemExit(3),
    KeyboardInterrupt,
    GeneratorExit,
    StopIteration,
    asyncio.CancelledError,
    lambda: Odd("odd"),
    lambda: ValueError("x" * 1_000_000),
    lambda: ValueError("\ud800"),
]

ATTRIBUTES = (
    *("__str__", "__repr__", "__class__", "__cause__", "__context__", "__traceback__", "__notes__", "args"),
    *("retry_after", "exceptions", "__suppress_context__", "__eq__", "__hash__", "__len__", "__bool__"),
)


class Text(str):
    """A message of a class of its own, which can't be read by its methods."""

    def _fail(self, *args: Any) -> Any:
        raise RuntimeError("not this way")

    __len__ = __iter__ = __getitem__ = __str__ = __format__ = __eq__ = __hash__ = _fail


def hostile(base: type[BaseException], attribute: str, raised: Callable[[], BaseException]) -> BaseException:
    """An exception one of whose attributes raises, whether it is called or read."""

    def fail(self: Any, *args: Any) -> Any:
        raise raised()

    special = attribute.startswith("__") and attribute not in (
        *("__class__", "__cause__", "__context__", "__traceback__", "__notes__", "__suppress_context__"),
    )
    members = {attribute: fail if special else property(fail), "__module__": __name__}
    made = type("Hostile", (base,), members)
    found: BaseException
    found = made("group", [ValueError("a")]) if issubclass(base, BaseExceptionGroup) else made("text")
    return found


hostiles = st.builds(
    hostile,
    st.sampled_from([Exception, BaseException, ExceptionGroup, BaseExceptionGroup, ValueError, OSError]),
    st.sampled_from(ATTRIBUTES),
    st.sampled_from(RAISED),
)


def _plain(raised: Callable[[], BaseException]) -> BaseException:
    return raised()


def _group(inside: list[BaseException]) -> BaseException:
    fitting = [one for one in inside if "__class__" not in vars(type(one))]  # a group asks them for it
    return BaseExceptionGroup("several", fitting or [ValueError("alone")])


exceptions = st.recursive(
    hostiles | st.sampled_from(RAISED).map(_plain) | st.builds(ValueError, st.text().map(Text)),
    lambda inner: st.lists(inner, min_size=1, max_size=5).map(_group),
    max_leaves=12,
)


@given(exceptions)
def test_every_exception_can_be_read(error: BaseException) -> None:
    record = parse_error(error_record(error))
    assert record.type
    assert (
        type(failures.text_of(error)) is type(failures.line_of(error)) is type(failures.repr_of(error)) is str
    )
    assert len(failures.line_of(error)) < 2 * failures.TEXT_LIMIT
    assert len(record.traceback) < 3 * failures.TEXT_LIMIT
    assert len(record.own_traceback) < 3 * failures.TEXT_LIMIT
    assert 0 < len(failures.traceback_of(error, of_user=True)) < 3 * failures.TEXT_LIMIT
    assert next(failures.chain(error)) is error
    assert retry_delay(error, 1, 0, 1.0, 10.0) is None
    delay = retry_delay(error, 1, 2, 1.0, 10.0)
    assert delay is not None
    assert 1.0 <= delay <= LONGEST_RETRY_AFTER


def test_causes_that_form_a_circle_are_formatted_once() -> None:
    one, two = ValueError("one"), ValueError("two")
    one.__cause__, two.__cause__ = two, one
    record = parse_error(error_record(one))
    assert record.traceback.count("ValueError: two") == 1


# --- exception groups -------------------------------------------------------------------


class Busy(Exception):
    def __init__(self, retry_after: Any) -> None:
        super().__init__("busy")
        self.retry_after = retry_after


@st.composite
def nested(draw: st.DrawFn, leaf: BaseException) -> BaseException:
    """A group with an exception somewhere in it."""
    error = leaf
    for level in range(draw(st.integers(1, 4))):
        beside: list[BaseException] = [ValueError("other")] * draw(st.integers(0, 3))
        error = BaseExceptionGroup(f"level {level}", draw(st.permutations([*beside, error])))
    return error


@given(st.data(), st.floats(0.1, 1e6))
def test_a_group_is_as_patient_and_as_final_as_what_is_in_it(data: st.DataObject, seconds: float) -> None:
    patient = data.draw(nested(Busy(seconds)))
    assert retry_delay(patient, 1, 2, 0.05, 10.0) == min(seconds, LONGEST_RETRY_AFTER)
    assert retry_delay(data.draw(nested(NoRetryError("never"))), 1, 2, 0.05, 10.0) is None
    assert retry_delay(data.draw(nested(ValueError("later"))), 1, 2, 0.05, 10.0) == 0.05


@pytest.mark.parametrize("odd", ["soon", -1, float("nan"), float("inf"), None, True, 10**400, [1]])
def test_a_delay_that_makes_no_sense_is_ignored(odd: Any) -> None:
    assert retry_delay(Busy(odd), 1, 2, 2.0, 10.0) == 2.0


def test_the_text_of_a_group_names_its_first_causes() -> None:
    group = ExceptionGroup(
        "unhandled errors in a TaskGroup",
        [KeyError("a"), ExceptionGroup("inner", [ValueError("b"), OSError("c"), OSError("d")]), Busy(1)],
    )
    assert failures.text_of(group) == (
        "unhandled errors in a TaskGroup (3 sub-exceptions): "
        "KeyError: 'a'; Busy: busy; ValueError: b; and 2 more"
    )


def test_a_very_large_group_is_read_in_part() -> None:
    group: ExceptionGroup[Exception]
    group = ExceptionGroup("many", [ValueError(str(number)) for number in range(100_000)])
    for _ in range(5_000):
        group = ExceptionGroup("deep", [group])
    assert len(failures.members(group)) == failures.LOOKED_AT
    assert len(list(failures.chain(group))) <= failures.LOOKED_AT
    assert parse_error(error_record(group)).type == "ExceptionGroup"


# --- in steps ---------------------------------------------------------------------------


async def _hostile_steps(ctx: WorkflowContext) -> list[Any]:
    found = []
    for attribute in ATTRIBUTES:
        for raised in RAISED:
            for is_async in (False, True):
                key = f"{attribute} {RAISED.index(raised)} {is_async}"
                try:
                    await ctx.step.run(key, _step(ctx, key, attribute, raised, is_async), max_retries=0)
                except StepExecutionError as error:
                    found.append((key, error.error_type, error.attempts))
    await ctx.step.suspend("ask")
    return found


def _step(
    ctx: WorkflowContext, key: str, attribute: str, raised: Callable[[], BaseException], is_async: bool
) -> Callable[[], Any]:
    def call() -> None:
        CALLS[ctx.execution_id, key] += 1
        raise hostile(Exception, attribute, raised)

    async def call_here() -> None:
        call()

    return call_here if is_async else call


hostile_steps: Flow = Workflow(_hostile_steps, "hostile-steps")


@pytest.mark.failure(53)
@pytest.mark.threat(29)
async def test_a_step_whose_exception_fails_itself_runs_once(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, hostile_steps) as at:
        handle = await hostile_steps.invoke(at.client)
        await at.parked(handle)
        await at.answer(handle, "ask")
        found = await at.result(handle)  # by a replay
        assert len(found) == len(ATTRIBUTES) * len(RAISED) * 2
        assert {tuple(one[1:]) for one in found} == {("Hostile", 1)}
        assert {count for (of, _), count in CALLS.items() if of == handle.id} == {1}


@pytest.mark.threat(29)
@pytest.mark.parametrize("raised", RAISED)
@pytest.mark.parametrize("is_async", [False, True])
async def test_whatever_a_step_raises_is_its_failure(
    redis_url: str, namespace: str, raised: Callable[[], BaseException], is_async: bool
) -> None:
    async def fails(ctx: WorkflowContext) -> Any:
        def call() -> None:
            CALLS[ctx.execution_id, "x"] += 1
            raise raised()

        async def call_here() -> None:
            call()

        try:
            await ctx.step.run("x", call_here if is_async else call, max_retries=0)
        except StepExecutionError as error:
            return error.attempts

    flow: Flow = Workflow(fails, "fails")
    async with running(redis_url, namespace, flow) as at:
        handle = await flow.invoke(at.client)
        assert await at.result(handle) == 1
        assert CALLS[handle.id, "x"] == 1


@pytest.mark.parametrize("attribute", ATTRIBUTES)
async def test_a_workflow_whose_exception_fails_itself_fails(
    redis_url: str, namespace: str, attribute: str
) -> None:
    async def fails(ctx: WorkflowContext) -> None:
        raise hostile(BaseException, attribute, RAISED[1])

    flow: Flow = Workflow(fails, "fails")
    async with running(redis_url, namespace, flow) as at:
        with pytest.raises(ExecutionFailedError):
            await at.result(await flow.invoke(at.client))


# --- other code of the user's -----------------------------------------------------------


def _raise(raised: Callable[[], BaseException]) -> None:
    raise raised()


class Refuses(BaseModel):
    """An input whose validator exits the process in a worker."""

    raised: int = -1

    @model_validator(mode="after")
    def check(self) -> Refuses:
        if self.raised >= 0 and CALLS["validator", "armed"]:
            _raise(RAISED[self.raised])
        return self


async def _takes(ctx: WorkflowContext, input: Refuses) -> None:
    raise AssertionError("it ran")


takes: Flow = Workflow(_takes, "takes")


@pytest.mark.parametrize("number", range(len(RAISED)))
async def test_a_validator_that_raises_anything_fails_the_execution(
    redis_url: str, namespace: str, number: int
) -> None:
    async with running(redis_url, namespace, takes) as at:
        handle = await at.client.invoke("takes", {"raised": number})
        CALLS["validator", "armed"] += 1
        try:
            handle = await at.client.invoke("takes", {"raised": number})
            with pytest.raises(ExecutionFailedError):
                await at.result(handle)
        finally:
            CALLS["validator", "armed"] -= 1


@pytest.mark.parametrize("raised", RAISED)
@pytest.mark.parametrize("kind", ["on_start", "on_end"])
async def test_a_hook_that_raises_anything_fails_the_execution(
    redis_url: str, namespace: str, raised: Callable[[], BaseException], kind: str
) -> None:
    def hook(ctx: WorkflowContext, hook_context: HookContext) -> None:
        CALLS[ctx.execution_id, kind] += 1
        raise hostile(Exception, "__str__", raised)

    async def body(ctx: WorkflowContext) -> None:
        pass

    options: dict[str, Any] = {kind: hook}
    flow: Flow = Workflow(body, "hooked", **options)
    async with running(redis_url, namespace, flow) as at:
        handle = await flow.invoke(at.client)
        with pytest.raises(ExecutionFailedError, match="Hostile"):
            await at.result(handle)


# --- context variables ------------------------------------------------------------------

WHERE: ContextVar[str] = ContextVar("where", default="nowhere")


async def _sets_a_variable(ctx: WorkflowContext) -> list[str]:
    seen = []

    def sync() -> str:
        before = WHERE.get()
        WHERE.set("sync step")
        return before

    async def here() -> str:
        before = WHERE.get()
        WHERE.set("async step")
        await asyncio.sleep(0)
        inside = await asyncio.create_task(_read())
        return f"{before}, then {inside}, then {WHERE.get()}"

    WHERE.set("workflow")
    seen.append(await ctx.step.run("async", here))
    seen.append(WHERE.get())
    seen.append(await ctx.step.run("sync", sync))
    seen.append(WHERE.get())
    seen.append(await ctx.step.run("lambda", lambda: here()))
    seen.append(WHERE.get())
    await ctx.step.suspend("ask")
    return [*seen, WHERE.get()]


async def _read() -> str:
    return WHERE.get()


sets_a_variable: Flow = Workflow(_sets_a_variable, "sets-a-variable")


async def test_a_variable_set_in_a_step_ends_with_it_and_those_outside_are_seen(
    redis_url: str, namespace: str
) -> None:
    async with running(redis_url, namespace, sets_a_variable) as at:
        handle = await sets_a_variable.invoke(at.client)
        await at.parked(handle)
        await at.answer(handle, "ask")
        inside = "workflow, then async step, then async step"
        assert await at.result(handle) == [
            *(inside, "workflow"),
            *("workflow", "workflow"),
            *(inside, "workflow"),
            "workflow",
        ]


async def _fails_with_a_variable_set(ctx: WorkflowContext) -> str:
    async def fails() -> None:
        WHERE.set("failed step")
        await asyncio.sleep(0)
        raise ValueError("no")

    async def too_slow() -> None:
        WHERE.set("slow step")
        try:
            await asyncio.sleep(3600)
        finally:
            WHERE.set("its end")

    for key, step in (("fails", fails), ("slow", too_slow)):
        try:
            async with asyncio.timeout(0.05):
                await ctx.step.run(key, step, max_retries=0)
        except (StepExecutionError, TimeoutError):
            pass
    return WHERE.get()


fails_with_a_variable_set: Flow = Workflow(_fails_with_a_variable_set, "fails-with-a-variable-set")


async def test_a_step_that_fails_or_is_cancelled_leaves_no_variable(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, fails_with_a_variable_set) as at:
        assert await at.result(await fails_with_a_variable_set.invoke(at.client)) == "nowhere"


async def test_no_frame_of_ours_holds_the_exception_that_passed_through_it() -> None:
    """Otherwise it would be freed by the garbage collector only, with all that its frames hold."""

    async def fails() -> None:
        try:
            await asyncio.wait_for(asyncio.sleep(3600), 0.01)
        except TimeoutError:
            raise ValueError("no") from None

    code = CodeTasks("execution", "workflow", asyncio.get_running_loop())
    context = tasks.step_context(StepAttempt(code, "step", 1, 0.0))
    with pytest.raises(ValueError, match="no") as raised:
        await tasks.in_context(context, fails)
    (frame,) = [f for f, _ in traceback.walk_tb(raised.tb) if f.f_code.co_name == "in_context"]
    assert not [held for held in frame.f_locals.values() if isinstance(held, BaseException)]
