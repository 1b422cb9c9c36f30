"""`ctx.step.run`: where functions run, retries, failures, and what is journaled."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections import Counter, defaultdict
from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgpack
import pytest

from polos_redis import ExecutionFailedError, StepExecutionError, Workflow, WorkflowContext
from tests.harness.running import Running, journal_of, running, until

pytestmark = pytest.mark.also_on_cluster

CALLS: defaultdict[str, Counter[str]] = defaultdict(Counter)


def called(ctx: WorkflowContext, name: str) -> int:
    CALLS[ctx.execution_id][name] += 1
    return CALLS[ctx.execution_id][name]


Body = Callable[..., Any]


def flow(body: Body) -> Workflow[Any, Any]:
    """A workflow that need not be registered."""
    return Workflow(body, body.__name__)


# --- where functions run ----------------------------------------------------------------


def _thread_name(*parts: str) -> str:
    return "-".join((threading.current_thread().name[:10], *parts))


async def _loop_thread(*parts: str, last: str = "") -> str:
    asyncio.get_running_loop()
    return "-".join(filter(None, (*parts, last)))


class Callables:
    def method(self) -> str:
        return _thread_name("method")

    async def amethod(self) -> str:
        return await _loop_thread("amethod")

    def __call__(self) -> str:
        return _thread_name("object")


class AsyncCallable:
    async def __call__(self, word: str) -> str:
        return await _loop_thread(word)


@functools.wraps(_loop_thread)
def _wrapped(*args: str) -> Any:
    return _loop_thread(*args)


@flow
async def runs_all_kinds(ctx: WorkflowContext) -> list[str]:
    run = ctx.step.run
    return [
        await run("sync", _thread_name, "a", "b"),
        await run("async", _loop_thread, "a", last="z"),
        await run("lambda", lambda: _thread_name("lambda")),
        await run("lambda of a coroutine", lambda: _loop_thread("made in a thread")),
        await run("wrapped coroutine", _wrapped, "wrapped"),
        await run("partial", functools.partial(_thread_name, "p"), "q"),
        await run("async partial", functools.partial(functools.partial(_loop_thread, "p"), last="z")),
        await run("method", Callables().method),
        await run("async method", Callables().amethod),
        await run("object", Callables()),
        await run("async object", AsyncCallable(), "aobject"),
        await run("builtin", str, 5),
    ]


async def test_all_kinds_of_functions_run(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, runs_all_kinds) as at:
        assert await at.result(await runs_all_kinds.invoke(at.client)) == [
            "polos-step-a-b",
            "a-z",
            "polos-step-lambda",
            "made in a thread",
            "wrapped",
            "polos-step-p-q",
            "p-z",
            "polos-step-method",
            "amethod",
            "polos-step-object",
            "aobject",
            "5",
        ]


@flow
async def meets_at_a_barrier(ctx: WorkflowContext) -> list[int]:
    barrier = threading.Barrier(3, timeout=20)
    waits = [ctx.step.run(f"wait-{n}", barrier.wait, max_retries=0) for n in range(2)]
    me = asyncio.get_running_loop().run_in_executor(None, barrier.wait)
    return sorted([*(await asyncio.gather(*waits)), await me])


async def test_sync_steps_run_in_parallel(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, meets_at_a_barrier) as at:
        assert await at.result(await meets_at_a_barrier.invoke(at.client)) == [0, 1, 2]


@pytest.mark.parametrize("function", [None, 5, "name"])
async def test_a_non_callable_is_refused(function: Any, redis_url: str, namespace: str) -> None:
    @flow
    async def calls_nothing(ctx: WorkflowContext) -> None:
        await ctx.step.run("key", function)

    async with running(redis_url, namespace, calls_nothing) as at:
        with pytest.raises(ExecutionFailedError, match="step 'key': expected a function") as caught:
            await at.result(await calls_nothing.invoke(at.client))
        assert caught.value.error_type == "TypeError"


async def test_a_coroutine_instead_of_a_function_is_refused(redis_url: str, namespace: str) -> None:
    @flow
    async def calls_too_early(ctx: WorkflowContext) -> None:
        coroutine = _loop_thread()
        try:
            await ctx.step.run("key", coroutine)  # type: ignore[call-overload]
        finally:
            coroutine.close()

    async with running(redis_url, namespace, calls_too_early) as at:
        with pytest.raises(ExecutionFailedError, match="expected a function and its arguments"):
            await at.result(await calls_too_early.invoke(at.client))


# --- retries ----------------------------------------------------------------------------


@flow
async def succeeds_the_third_time(ctx: WorkflowContext) -> list[Any]:
    keys = []

    def flaky() -> int:
        keys.append(ctx.step.idempotency_key("flaky"))
        if called(ctx, "flaky") < 3:
            raise ConnectionError("try again")
        return CALLS[ctx.execution_id]["flaky"]

    times = await ctx.step.run("flaky", flaky, base_delay=0.001)
    await ctx.step.suspend("ask")
    return [times, *sorted({*keys, ctx.step.idempotency_key("flaky")})]


async def test_a_step_is_retried_and_each_attempt_is_journaled(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, succeeds_the_third_time) as at:
        handle = await succeeds_the_third_time.invoke(at.client)
        await at.parked(handle)
        (step,) = (await at.client.get_execution(handle.id))["steps"]
        assert (step["status"], step["attempts"], step["value"]) == ("ok", 3, 3)
        await at.answer(handle, "ask")
        times, *keys = await at.result(handle)
        assert times == 3
        assert len(keys) == 1, "the idempotency key is the same for every attempt and replay"
        assert CALLS[handle.id]["flaky"] == 3
        events = [
            (event.event_type, event.data["attempt"], event.data.get("status"))
            for event in await at.events(handle)
            if event.event_type.startswith("step_")
        ]
        assert events == [
            ("step_start", 1, None),
            ("step_finish", 1, "retry"),
            ("step_start", 2, None),
            ("step_finish", 2, "retry"),
            ("step_start", 3, None),
            ("step_finish", 3, "ok"),
        ]


async def test_delays_double_up_to_the_maximum(
    redis_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    sleep = asyncio.sleep

    async def note(delay: float, result: Any = None) -> Any:
        if 0.01 <= delay <= 0.05:
            slept.append(delay)
        return await sleep(delay, result)

    @flow
    async def always_fails(ctx: WorkflowContext) -> None:
        def fail() -> None:
            raise ValueError("never")

        monkeypatch.setattr("polos_redis.runtime.steps.run.asyncio.sleep", note)
        await ctx.step.run("fail", fail, max_retries=4, base_delay=0.011, max_delay=0.03)

    async with running(redis_url, namespace, always_fails) as at:
        with pytest.raises(ExecutionFailedError, match="tried 5 times"):
            await at.result(await always_fails.invoke(at.client))
        assert [delay for delay in slept if delay != 0.02] == [0.011, 0.022, 0.03, 0.03]
        monkeypatch.undo()


@flow
async def waits_long_for_a_retry(ctx: WorkflowContext) -> str:
    def flaky() -> str:
        if called(ctx, "flaky") < 3:
            raise ConnectionError("the far side is down")
        return "done"

    other = ctx.step.run("other", called, ctx, "other")
    done, _ = await asyncio.gather(ctx.step.run("flaky", flaky, base_delay=600, max_delay=3600), other)
    return str(done)


@pytest.mark.failure(25)
async def test_a_long_retry_parks(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, waits_long_for_a_retry) as at:
        handle = await waits_long_for_a_retry.invoke(at.client)
        for attempt in (1, 2):
            await at.parked(handle)
            steps = {step["step_key"]: step for step in (await at.client.get_execution(handle.id))["steps"]}
            assert (steps["flaky"]["status"], steps["flaky"]["attempts"]) == ("backoff", attempt)
            assert steps["flaky"]["error"]["message"] == "the far side is down"
            await at.make_due(handle, "flaky", "b")
            await until(lambda: CALLS[handle.id]["flaky"] == attempt + 1)  # noqa: B023
        assert await at.result(handle) == "done"
        assert CALLS[handle.id] == Counter(flaky=3, other=1)


_fail_now = asyncio.Event()


@flow
async def fails_on_signal(ctx: WorkflowContext) -> None:
    async def fail() -> None:
        if called(ctx, "fail") == 2:
            await _fail_now.wait()
        raise ConnectionError("down")

    await ctx.step.run("fail", fail, base_delay=600, max_delay=3600)


async def test_a_late_notice_does_not_shorten_the_next_delay(redis_url: str, namespace: str) -> None:
    global _fail_now
    _fail_now = asyncio.Event()
    async with running(redis_url, namespace, fails_on_signal) as at:
        handle = await fails_on_signal.invoke(at.client)
        await at.parked(handle)
        await at.make_due(handle, "fail", "b")
        await until(lambda: CALLS[handle.id]["fail"] == 2)
        store = await at.client.store()
        record = (await journal_of(store, handle.id))[b"fail"]
        channel = store.partitions.prefix(handle.id) + f"reply:{at.worker.worker_id}".encode()
        notice = msgpack.packb(("wake", handle.id, "fail", record))
        assert await store.wire.call("SPUBLISH", channel, notice) == 1
        await store.wire.call("PING")
        _fail_now.set()
        await until(lambda: _has_attempt(at, handle.id, 2))
        await at.parked(handle)
        assert CALLS[handle.id]["fail"] == 2


async def test_a_cancel_ends_a_long_retry(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, waits_long_for_a_retry) as at:
        handle = await waits_long_for_a_retry.invoke(at.client)
        await at.parked(handle)
        await at.client.cancel(handle.id)
        store = await at.client.store()
        assert await store.wire.call("ZCARD", store.partitions.prefix(handle.id) + b"timers") == 0
        assert await handle.status() == "cancelled"


# --- failures ---------------------------------------------------------------------------


class Signal(BaseException):
    """A user-defined BaseException."""


class Unprintable(Exception):
    def __str__(self) -> str:
        return str(1 / 0)


def _recurse() -> Any:
    return _recurse()


def _raise(error: BaseException) -> Any:
    raise error


async def _araise(error: BaseException) -> Any:
    raise error


async def _cancel_a_task() -> None:
    task = asyncio.ensure_future(asyncio.sleep(3600))
    task.cancel()
    await task


FAILURES: list[tuple[str, Callable[..., Any], tuple[Any, ...], str, str]] = [
    ("value", _raise, (ValueError("no"),), "ValueError", "no"),
    ("async value", _araise, (ValueError("no"),), "ValueError", "no"),
    ("stop iteration", _raise, (StopIteration(7),), "RuntimeError", "StopIteration(7)"),
    ("async stop iteration", _araise, (StopIteration(7),), "RuntimeError", "StopIteration"),
    ("exit", _raise, (SystemExit(3),), "SystemExit", "3"),
    ("async exit", _araise, (SystemExit(3),), "SystemExit", "3"),
    ("interrupt", _raise, (KeyboardInterrupt(),), "KeyboardInterrupt", ""),
    ("async interrupt", _araise, (KeyboardInterrupt(),), "KeyboardInterrupt", ""),
    ("own", _raise, (Signal("x"),), "Signal", "x"),
    ("async own", _araise, (Signal("x"),), "Signal", "x"),
    ("cancelled", _raise, (asyncio.CancelledError("by hand"),), "CancelledError", "by hand"),
    ("async cancelled", _araise, (asyncio.CancelledError("by hand"),), "CancelledError", "by hand"),
    ("a task in it cancelled", _cancel_a_task, (), "CancelledError", ""),
    ("recursion", _recurse, (), "RecursionError", "recursion"),
    ("group", _raise, (ExceptionGroup("two", [ValueError("a"), KeyError("b")]),), "ExceptionGroup", "two"),
    ("unprintable", _raise, (Unprintable(),), "Unprintable", "ZeroDivision"),
]  # fmt: skip


@flow
async def collects_failures(ctx: WorkflowContext) -> list[Any]:
    found = []
    for key, function, args, _, _ in FAILURES:
        try:
            await ctx.step.run(key, _counted, ctx, key, function, *args, max_retries=1, base_delay=0.001)
        except StepExecutionError as error:
            found.append([error.step_key, error.error_type, error.error_message, error.attempts])
    await ctx.step.suspend("ask")
    return found


def _counted(ctx: WorkflowContext, key: str, function: Callable[..., Any], *args: Any) -> Any:
    called(ctx, key)
    return function(*args)


@pytest.mark.failure(12)
@pytest.mark.promise("step")
async def test_failures_are_journaled_and_raised_again_on_replay(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, collects_failures) as at:
        handle = await collects_failures.invoke(at.client)
        await at.parked(handle)
        await at.answer(handle, "ask")
        found = await at.result(handle)  # from the journal: this was a replay
        assert [one[:2] for one in found] == [[key, kind] for key, _, _, kind, _ in FAILURES]
        for (_, _, message, attempts), (*_, expected) in zip(found, FAILURES, strict=True):
            assert expected in message
            assert attempts == 2
        assert CALLS[handle.id] == Counter({key: 2 for key, *_ in FAILURES})


@flow
async def does_not_catch(ctx: WorkflowContext) -> None:
    await ctx.step.run("charge", _raise, ValueError("card refused"), max_retries=0)


async def test_an_uncaught_failure_fails_the_execution(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, does_not_catch) as at:
        handle = await does_not_catch.invoke(at.client)
        with pytest.raises(ExecutionFailedError) as caught:
            await at.result(handle)
        assert caught.value.error_type == "StepExecutionError"
        assert caught.value.error_message == "step 'charge' failed (tried once): ValueError: card refused"
        assert "_raise" in caught.value.traceback
        (step,) = (await at.client.get_execution(handle.id))["steps"]
        assert (step["error"]["type"], step["error"]["message"]) == ("ValueError", "card refused")


@flow
async def returns_something_unstorable(ctx: WorkflowContext) -> list[str]:
    def build() -> Any:
        called(ctx, "build")
        return {"orders": [1, {"file": threading.Lock()}]}

    try:
        await ctx.step.run("build", build)
    except StepExecutionError as error:
        found = [error.error_type, error.error_message]
    await ctx.step.suspend("ask")
    return found


@pytest.mark.failure(29)
async def test_an_unstorable_result_names_the_path_and_is_not_retried(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, returns_something_unstorable) as at:
        handle = await returns_something_unstorable.invoke(at.client)
        await at.parked(handle)
        await at.answer(handle, "ask")
        kind, message = await at.result(handle)
        assert kind == "NotStorableError"
        assert "$.orders[1].file" in message
        assert CALLS[handle.id] == Counter(build=1)


_late = threading.Event()


@flow
async def asks_when_a_step_is_slow(ctx: WorkflowContext, kind: str) -> str:
    """Only the first call is slow; a second call, or using its late result, would skip the suspension."""

    async def in_loop() -> str:
        called(ctx, "charge")
        await asyncio.sleep(3600 if CALLS[ctx.execution_id]["charge"] == 1 else 0)
        return "charged without asking"

    def in_thread() -> str:
        called(ctx, "charge")
        _late.wait(20)
        return "charged without asking"

    try:
        async with asyncio.timeout(0.05):
            return await ctx.step.run("charge", in_loop if kind == "async" else in_thread)
    except TimeoutError:
        _late.set()
        return f"asked: {(await ctx.step.suspend('ask'))['data']}"


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_an_abandoned_step_stays_abandoned_on_replay(redis_url: str, namespace: str, kind: str) -> None:
    _late.clear()
    async with running(redis_url, namespace, asks_when_a_step_is_slow) as at:
        handle = await asks_when_a_step_is_slow.invoke(at.client, kind)
        await at.parked(handle)
        (step,) = (await at.client.get_execution(handle.id))["steps"]
        assert (step["step_key"], step["status"], step["attempts"]) == ("charge", "abandoned", 1)
        await at.answer(handle, "ask", "no")
        assert await at.result(handle) == "asked: no"
        assert CALLS[handle.id] == Counter(charge=1)
        found = [
            (event.event_type, event.data["attempt"])
            for event in await at.events(handle)
            if event.event_type.startswith("step_")
        ]
        assert found == [("step_start", 1), ("step_finish", 1)], "no attempt that never ran"


@pytest.mark.parametrize(
    "options", [{"max_retries": None}, {"max_retries": -1}, {"base_delay": "1"}, {"max_delay": float("inf")}]
)
async def test_invalid_retry_options_are_refused_before_anything_runs(
    redis_url: str, namespace: str, options: dict[str, Any]
) -> None:
    @flow
    async def wrong(ctx: WorkflowContext) -> None:
        await ctx.step.run("fine", called, ctx, "fine", **options)

    async with running(redis_url, namespace, wrong) as at:
        handle = await wrong.invoke(at.client)
        with pytest.raises(ExecutionFailedError, match="step 'fine': max_retries must be a whole number"):
            await at.result(handle)
        assert CALLS[handle.id] == Counter()


_pool: list[asyncio.Task[Any]] = []


@flow
async def opens_a_pool_in_a_step(ctx: WorkflowContext) -> str:
    async def open_pool() -> str:
        _pool.append(asyncio.create_task(asyncio.sleep(3600)))
        return "open"

    opened = await ctx.step.run("open", open_pool)
    await ctx.step.suspend("ask")
    return opened


async def test_tasks_started_by_a_step_outlive_the_activation(redis_url: str, namespace: str) -> None:
    _pool.clear()
    async with running(redis_url, namespace, opens_a_pool_in_a_step) as at:
        handle = await opens_a_pool_in_a_step.invoke(at.client)
        await at.parked(handle)
        await at.answer(handle, "ask")
        assert await at.result(handle) == "open"
        (task,) = _pool
        assert not task.done()
        task.cancel()


@flow
async def opens_a_pool_in_a_thread(ctx: WorkflowContext) -> str:
    loop = asyncio.get_running_loop()

    async def open_pool() -> str:
        _pool.append(asyncio.create_task(asyncio.sleep(3600)))
        return "open"

    opened = await ctx.step.run("open", lambda: asyncio.run_coroutine_threadsafe(open_pool(), loop).result())
    await ctx.step.suspend("ask")
    return opened


async def test_tasks_a_sync_step_starts_in_the_loop_outlive_the_activation(
    redis_url: str, namespace: str
) -> None:
    _pool.clear()
    async with running(redis_url, namespace, opens_a_pool_in_a_thread) as at:
        handle = await opens_a_pool_in_a_thread.invoke(at.client)
        await at.parked(handle)
        await at.answer(handle, "ask")
        assert await at.result(handle) == "open"
        (task,) = _pool
        assert not task.done()
        task.cancel()


_release = threading.Event()
_in_thread: list[str] = []


@flow
async def needs_a_thread(ctx: WorkflowContext, name: str) -> None:
    def work() -> None:
        _in_thread.append(name)
        assert _release.wait(20)

    await ctx.step.run("work", work)


async def test_a_step_waiting_for_a_thread_does_not_start_after_a_cancel(
    redis_url: str, namespace: str
) -> None:
    _release.clear()
    _in_thread.clear()
    async with running(redis_url, namespace, needs_a_thread, concurrency=1) as at:
        try:
            for name in ("runs", "waits"):  # a thread can't be stopped, so the second one waits for it
                handle = await needs_a_thread.invoke(at.client, name)
                await until(lambda: _in_thread and any(a.in_flight for a in at.worker.active))
                await at.client.cancel(handle.id)
                await until(lambda: not at.worker.active)
        finally:
            _release.set()
        await at.result(await needs_a_thread.invoke(at.client, "comes later"))
        assert _in_thread == ["runs", "comes later"]


@flow
async def has_defaults(ctx: WorkflowContext) -> None:
    await ctx.step.run("fail", _raise, ValueError("no"), base_delay=600)


async def test_the_default_maximum_delay_is_ten_seconds(redis_url: str, namespace: str) -> None:
    async with running(redis_url, namespace, has_defaults) as at:
        handle = await has_defaults.invoke(at.client)
        await at.parked(handle)
        (step,) = (await at.client.get_execution(handle.id))["steps"]
        store = await at.client.store()
        due = await store.wire.call(
            "ZSCORE", store.partitions.prefix(handle.id) + b"timers", f"b{handle.id} fail"
        )
        finished = await _finished_ms(at, handle.id)
        assert int(due) - finished == 10_000
        await at.make_due(handle, "fail", "b")
        await until(lambda: _has_attempt(at, handle.id, 2))
        await at.make_due(handle, "fail", "b")
        await at.reached(handle, "failed")
        (step,) = (await at.client.get_execution(handle.id))["steps"]
        assert (step["status"], step["attempts"]) == ("failed", 3)


async def _has_attempt(at: Running, execution_id: str, attempt: int) -> bool:
    (step,) = (await at.client.get_execution(execution_id))["steps"]
    return bool(step["attempts"] == attempt)


async def _finished_ms(at: Running, execution_id: str) -> int:
    (step,) = (await at.client.get_execution(execution_id))["steps"]
    return round(datetime.fromisoformat(step["finished_at"]).timestamp() * 1000)
