"""`ctx.step.run`: call a function once and journal its result; and values that a replay sees again."""

from __future__ import annotations

import asyncio
import functools
import inspect
import math
import random
import sys
import time
import uuid
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager, nullcontext
from hashlib import blake2b
from typing import Any, TypeVar, overload

from polos_redis import tasks
from polos_redis.errors import HookFailedError, NoRetryError, StepExecutionError, StoredValueError
from polos_redis.runtime.activation import CallSite
from polos_redis.runtime.durable_state import Draft
from polos_redis.runtime.steps.calls import Calls, race_membership
from polos_redis.state import journal
from polos_redis.state.journal import StepRecord
from polos_redis.state.store import raw
from polos_redis.values import codec

T = TypeVar("T")

PARK_FROM_SECONDS = 5.0  # a retry that waits longer does not hold its slot

LONGEST_RETRY_AFTER = 86_400.0

_FINAL = (StoredValueError, HookFailedError, NoRetryError)  # to try again would not help
_STATELESS: AbstractContextManager[None] = nullcontext()


class Runs(Calls):
    """Steps that call a function."""

    __slots__ = ()

    @overload
    def run(
        self,
        key: str,
        function: Callable[..., Coroutine[Any, Any, T]],
        /,
        *args: Any,
        max_retries: int = ...,
        base_delay: float = ...,
        max_delay: float = ...,
        **kwargs: Any,
    ) -> Coroutine[Any, Any, T]: ...
    @overload
    def run(
        self,
        key: str,
        function: Callable[..., T],
        /,
        *args: Any,
        max_retries: int = ...,
        base_delay: float = ...,
        max_delay: float = ...,
        **kwargs: Any,
    ) -> Coroutine[Any, Any, T]: ...
    def run(
        self,
        key: str,
        function: Callable[..., Any],
        /,
        *args: Any,
        max_retries: int = 2,
        base_delay: float = 1.0,
        max_delay: float = 10.0,
        **kwargs: Any,
    ) -> Coroutine[Any, Any, Any]:
        """Call a function once and journal its result; a replay returns the journaled value.

        An async function runs in the loop, a sync one in a thread. A failed call is tried again up to
        `max_retries` times, after `base_delay * 2 ** n` seconds, at most `max_delay`; a delay over a few
        seconds parks the execution. An exception with an attribute `retry_after` (seconds, a day at most) is
        not tried again before, and `NoRetryError` not at all. At least once: a call that was under way when
        its worker died runs again (see `idempotency_key`); a journaled one never does.

        Raises `StepExecutionError` when the last try has failed, on this run and on every replay; a result
        that can't be stored fails the step without another try.
        """
        if not callable(function):
            raise TypeError(f"step {key!r}: expected a function and its arguments, got {function!r}")
        if not _are_delays(max_retries, base_delay, max_delay):
            raise ValueError(
                f"step {key!r}: max_retries is a whole number, base_delay and max_delay are seconds, all 0 "
                f"or more; not {max_retries!r}, {base_delay!r}, {max_delay!r}"
            )
        call = functools.partial(function, *args, **kwargs) if args or kwargs else function
        frame = sys._getframe(1)
        return self._run(
            key, _is_async(function), call, max_retries, base_delay, max_delay, (frame.f_code, frame.f_lineno)
        )

    async def _run(
        self,
        key: str,
        in_loop: bool,
        call: Callable[[], Any],
        max_retries: int,
        base_delay: float,
        max_delay: float,
        call_site: CallSite,
    ) -> Any:
        activation = self._activation
        stored = await self._start_call(key, call_site)
        attempt = 0
        if stored is not None:
            record = self._read(key, stored, StepRecord, call_site)
            if record.status == "backoff":
                record = self._read(key, await activation.wait(key), StepRecord, call_site)
                await activation.pass_gate()
            if record.status == "ok":
                if record.state and activation.durable_state is not None:
                    activation.durable_state.put(record.state)
                return codec.decode(record.value)
            if record.status == "abandoned":
                return await self._stay_abandoned(key)
            if record.status == "failed":
                error = journal.parse_error(record.value)
                raise StepExecutionError(key, error.type, error.message, record.attempt)
            attempt = record.attempt

        clock = activation.loop.time
        parked = False
        activation.in_flight += 1
        try:
            while True:
                attempt += 1
                since = clock()
                activation.running[key] = (since, attempt)
                with self._draft() as draft:
                    try:
                        if in_loop:  # the tasks it starts are not the activation's
                            owner = tasks.OWNER.set(tasks.INSIDE_STEP)
                            try:
                                result = await call()
                            finally:
                                tasks.OWNER.reset(owner)
                        else:
                            result = await self._in_thread(call)
                        value = codec.encode(result, limit=activation.host.value_limit)
                        state = b"" if draft is None else draft.changes()
                    except BaseException as raised:
                        failure = self._own_failure(raised)
                    else:
                        took = (clock() - since) * 1000
                        await self._commit(key, "ok", attempt, took, value, state=state)
                        if draft is not None:
                            draft.take_over()
                        return result
                final = attempt > max_retries or isinstance(failure, _FINAL)
                delay = 0.0 if final else min(max_delay, base_delay * 2.0 ** min(attempt - 1, 60))
                delay = max(delay, _retry_after(failure))
                status = "failed" if final else "backoff" if delay > PARK_FROM_SECONDS else "retry"
                took = (clock() - since) * 1000
                await self._commit(key, status, attempt, took, journal.error_record(failure), failure, delay)
                del activation.running[key]
                if final:
                    raise StepExecutionError(
                        key, type(failure).__name__, journal.text_of(failure), attempt
                    ) from failure
                if status == "retry":
                    await asyncio.sleep(delay)
                else:
                    activation.in_flight -= 1
                    parked = True
                    try:
                        record = self._read(key, await activation.wait(key), StepRecord, call_site)
                    finally:
                        activation.in_flight += 1
                    if record.status == "abandoned":
                        return await self._stay_abandoned(key)
                    parked = False
                await activation.pass_gate()
        except asyncio.CancelledError:
            if not activation.over and not parked:
                activation.in_flight += 1
                activation.host.spawn(self._abandon(key, attempt + 1))
            raise
        finally:
            activation.running.pop(key, None)
            activation.landed()

    def _draft(self) -> AbstractContextManager[Draft | None]:
        """What an attempt changes in the workflow's state, where it has one."""
        activation = self._activation
        if activation.durable_state is None:
            return _STATELESS
        try:
            return activation.durable_state.draft(alone=activation.in_flight == 1 and not activation.children)
        except StoredValueError as error:
            raise activation.stop_with(error) from error.__cause__

    async def _abandon(self, key: str, attempt: int) -> None:
        """The workflow's code has cancelled the call (a timeout around it, say): journal that.

        Otherwise a replay, where the call may be quicker or its late result known, would take another path.
        A loop that ends cancels everything, too: by now the worker has ended its activations then.
        """
        try:
            if not self._activation.over:
                await self._commit(key, "abandoned", attempt, 0.0, b"")
        finally:
            self._activation.landed()

    async def _stay_abandoned(self, key: str) -> None:
        """On replay, wait to be cancelled again by the same code; nothing parks meanwhile."""
        self._activation.in_flight += 1
        try:
            await self._stay(key, "a step abandoned before is not cancelled again: has its timeout gone?")
        finally:
            self._activation.landed()

    def _own_failure(self, raised: BaseException) -> BaseException:
        """What the step's function raised; a cancellation that was meant for us goes on."""
        task = asyncio.current_task()
        if isinstance(raised, GeneratorExit) or self._activation.over:
            raise raised
        if isinstance(raised, asyncio.CancelledError) and task is not None and task.cancelling():
            raise raised
        return raised

    async def _in_thread(self, call: Callable[[], Any]) -> Any:
        """Run a sync function in a thread. A thread can't be cancelled: should the caller be, the step stays
        in flight until the thread ends; what it returns then is dropped."""
        activation = self._activation

        def begin() -> Any:
            # It may have waited for a thread: what has been cancelled meanwhile must not begin.
            if activation.over:
                raise RuntimeError("this activation has ended")
            return call()

        thread = activation.host.in_thread(begin)
        thread.add_done_callback(tasks.look_away)
        try:
            result = await asyncio.shield(thread)
        except asyncio.CancelledError:
            if not thread.done() and not activation.over:
                activation.in_flight += 1
                thread.add_done_callback(self._thread_ended, context=tasks.OUTSIDE)
            raise
        if inspect.isawaitable(result):  # a lambda around an async call
            owner = tasks.OWNER.set(tasks.INSIDE_STEP)
            try:
                return await result
            finally:
                tasks.OWNER.reset(owner)
        return result

    def _thread_ended(self, thread: asyncio.Future[Any]) -> None:
        self._activation.landed()
        if not thread.cancelled() and thread.exception() is None and inspect.iscoroutine(thread.result()):
            thread.result().close()  # nobody is there to await it

    def _commit(
        self,
        key: str,
        status: str,
        attempt: int,
        took: float,
        value: bytes,
        failure: BaseException | None = None,
        delay: float = 0.0,
        state: bytes = b"",
    ) -> Coroutine[Any, Any, int]:
        """Journal the end of an attempt, with the events it has not told yet."""
        activation = self._activation
        activation.host.stats.steps[activation.workflow.id, status].add(took / 1000)
        record = journal.step_record(status, attempt, took, value, state)
        events = activation.first_events()
        if activation.running.get(key, (1.0, 0))[0]:  # its start has not been told
            events += activation.step_start(key, attempt)
            if key in activation.running:
                activation.running[key] = (0.0, attempt)  # nor is it to be told while this is on its way
        error = None if failure is None else f"{type(failure).__name__}: {journal.text_of(failure)}"
        events += activation.step_finish(key, attempt, status, error)
        store, name = activation.host.store, raw(key)
        races = race_membership().races if status == "backoff" else b""

        def send(known: int) -> asyncio.Future[int]:
            if status == "backoff":
                delay_ms = int(delay * 1000)
                return store.backoff(activation.fence, known, name, record, delay_ms, races, events)
            return store.write(activation.fence, known, name, record, events)

        return activation.commit(name, record, send)

    # --- values -------------------------------------------------------------------------

    def uuid(self, key: str) -> Coroutine[Any, Any, str]:
        """A random UUID (version 4) as text, the same at every replay."""
        return self._value(key, lambda: str(uuid.uuid4()))

    def now(self, key: str) -> Coroutine[Any, Any, int]:
        """The time in ms since 1970 by the worker's clock when this was first reached."""
        return self._value(key, lambda: time.time_ns() // 1_000_000)

    def random(self, key: str) -> Coroutine[Any, Any, float]:
        """A random number from 0 to 1 (1 excluded), the same at every replay. Not for secrets."""
        return self._value(key, random.random)

    def _value(self, key: str, make: Callable[[], T]) -> Coroutine[Any, Any, T]:
        async def made() -> T:
            return make()

        frame = sys._getframe(2)
        return self._run(key, True, made, 0, 0.0, 0.0, (frame.f_code, frame.f_lineno))

    def idempotency_key(self, key: str) -> str:
        """A stable key (32 hex digits) for the far side of a step: the same at every attempt and replay."""
        name = f"{self._activation.id}\0{key}".encode("utf-8", "surrogatepass")
        return blake2b(name, digest_size=16).hexdigest()


def _retry_after(failure: BaseException) -> float:
    """How long a failure asks to be left alone, in seconds."""
    seconds = getattr(failure, "retry_after", None)
    if isinstance(seconds, int | float) and 0 < seconds < math.inf:
        return min(float(seconds), LONGEST_RETRY_AFTER)
    return 0.0


def _are_delays(max_retries: Any, base_delay: Any, max_delay: Any) -> bool:
    numbers = (int, float)
    return (
        type(max_retries) is int
        and max_retries >= 0
        and type(base_delay) in numbers
        and type(max_delay) in numbers
        and 0 <= base_delay < 1e10
        and 0 <= max_delay < 1e10
    )


def _is_async(function: Any) -> bool:
    while isinstance(function, functools.partial):
        function = function.func
    code = getattr(function, "__code__", None)
    if code is not None and code.co_flags & inspect.CO_COROUTINE:
        return True
    called = getattr(type(function), "__call__", None)  # noqa: B004 - its kind, not whether it has one
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(called)
