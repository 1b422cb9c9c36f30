"""`ctx.step.run`: call a function once and journal its result.

Each attempt writes one record, with the events that were not emitted yet: one script call for a step that
succeeds. `retry` is journaled so that a crash does not restart the count; `backoff` waits for a timer in
Redis; `abandoned` means the workflow's code has cancelled the call, which a replay has to repeat.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import sys
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any, NoReturn, TypeVar, overload

from polos_redis import failures, tasks
from polos_redis.definitions.parameters import is_async
from polos_redis.errors import StepExecutionError, StoredValueError, UnreadableValueError
from polos_redis.runtime.branches import branches_around, race_membership
from polos_redis.runtime.call_sites import CallSite
from polos_redis.runtime.durable_state import DurableState, StateDraft
from polos_redis.runtime.lifecycle_events import StepAttempt
from polos_redis.runtime.steps.calls import Calls
from polos_redis.runtime.steps.retries import check_retries, retry_delay
from polos_redis.runtime.steps.thread_calls import NOT_STARTED, awaited, leave
from polos_redis.runtime.steps.time_limits import TimeLimit, in_loop_within, in_thread_within, time_limit
from polos_redis.state import journal, stored_errors
from polos_redis.state.journal import StepRecord
from polos_redis.values import codec
from polos_redis.values.text import raw

T = TypeVar("T")

MOST_BYTES_UNTOLD = 1 << 18  # of a journal whose history is not in a stream, see scripts/lib/stream.lua
PARK_FROM_SECONDS = 5.0  # a retry with a longer delay parks and frees its slot

logger = logging.getLogger("polos.execution")


class Runs(Calls):
    """Steps that call a user's function."""

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
        timeout: float | timedelta | None = ...,
        retry_abandoned: bool = ...,
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
        timeout: float | timedelta | None = ...,
        retry_abandoned: bool = ...,
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
        timeout: float | timedelta | None = None,
        retry_abandoned: bool = False,
        **kwargs: Any,
    ) -> Coroutine[Any, Any, Any]:
        """Call a function once and journal its result; a replay returns the journaled value.

        An async function runs in the loop, a sync one in a thread, each in a copy of the caller's context:
        it sees the caller's context variables, and what it sets ends with it. A failed call is retried up to
        `max_retries` times, after `base_delay * 2 ** n` seconds, at most `max_delay`; a delay over a few
        seconds parks the execution. An exception with an attribute `retry_after` (seconds, at most a day)
        delays the retry by at least that; `NoRetryError` prevents it. Both also count inside exception
        groups. A call runs at least once: one that was
        running when its worker died runs again (see `idempotency_key`); a journaled one never does.

        `timeout` (seconds) limits each attempt, which then fails with `TimeoutError`. It cancels an async
        function. The thread of a sync one can't be stopped: it is abandoned and its result dropped, and the
        retry waits until it has ended, unless `retry_abandoned` lets them run side by side.

        Raises `StepExecutionError` when the last attempt has failed, in this run and at every replay; a
        result that can't be stored fails the step without a retry.
        """
        if not callable(function):
            raise TypeError(f"step {key!r}: expected a function and its arguments, got {function!r}")
        check_retries(key, max_retries, base_delay, max_delay)
        call = functools.partial(function, *args, **kwargs) if args or kwargs else function
        limit = None
        if timeout is not None or retry_abandoned is not False:
            limit = time_limit(key, timeout, retry_abandoned)
        frame = sys._getframe(1)
        call_site = frame.f_code, frame.f_lineno
        return self._run(key, is_async(function), call, max_retries, base_delay, max_delay, call_site, limit)

    async def _run(
        self,
        key: str,
        in_loop: bool,
        call: Callable[[], Any],
        max_retries: int,
        base_delay: float,
        max_delay: float,
        call_site: CallSite,
        limit: TimeLimit | None = None,
    ) -> Any:
        activation = self._activation
        if activation.may_start():  # the usual case, without another coroutine
            stored = activation.register(key, call_site)
        else:
            stored = await self._start_call(key, call_site)
        attempt = 0
        if stored is not None:
            record = await self._journaled(key, stored, call_site)
            if record.status == "ok":
                return await self._decode(key, record.value)
            attempt = record.attempt
            if record.state:
                activation.progress_of_steps().restore(key, attempt, record.state)
            if activation.unreached:
                await activation.reach_decisions(call_site)

        clock, running, branches = activation.loop.time, activation.events.running, branches_around()
        parked, failure = False, None
        activation.in_flight += 1
        try:
            while True:
                attempt += 1
                since = clock()
                running[key] = step = StepAttempt(activation.code, key, attempt, since)
                if activation.code.span is not None:
                    step.start_span(activation.code.span)
                draft = None if activation.durable_state is None else self._draft(activation.durable_state)
                try:
                    try:
                        bound = call if draft is None else draft.bound(call)
                        if limit is not None:
                            result = await self._within(limit, step, in_loop, bound, attempt > max_retries)
                        elif in_loop:
                            result = await tasks.in_context(tasks.step_context(step), bound)
                        else:
                            result = await self._in_thread(step, bound)
                        value = codec.encode(result, limit=activation.host.value_limit)
                        state = b"" if draft is None else draft.changes()
                    except BaseException as raised:
                        failure = self._own_failure(raised)
                    else:
                        took = (clock() - since) * 1000
                        await self._succeed(key, attempt, took, value, branches, state)
                        if draft is not None:
                            draft.take_over()
                        return result
                finally:
                    if draft is not None:
                        draft.close()
                delay = retry_delay(failure, attempt, max_retries, base_delay, max_delay)
                parks_from = 0.0 if activation.host.store.clock.skips else PARK_FROM_SECONDS
                status = "failed" if delay is None else "backoff" if delay > parks_from else "retry"
                took, error = (clock() - since) * 1000, stored_errors.error_record(failure)
                await self._commit(key, status, attempt, took, error, branches, failure, delay or 0.0)
                del running[key]
                if step.span is not None:
                    step.end_span(status, failure)
                _log_attempt(step, failure, delay)
                if delay is None:
                    name, message = failures.name_of(failure), failures.text_of(failure)
                    raise StepExecutionError(key, name, message, attempt) from failure
                if status == "retry":
                    await asyncio.sleep(delay)
                else:
                    parked = True
                    await self._back_off(key, call_site)
                    parked = False
                await activation.gate.passed(in_flight=True)
                if activation.unreached:
                    await activation.reach_decisions(call_site, in_flight=True)
        except asyncio.CancelledError:
            if not activation.over and not parked:
                if key in running:
                    running[key].end_span("abandoned")
                activation.in_flight += 1
                activation.host.spawn(self._abandon(key, attempt, branches, running.get(key)))
            raise
        finally:
            failure = None  # its traceback has this frame: a cycle
            ended = running.pop(key, None)
            if ended is not None and ended.span is not None:
                ended.end_span()
            activation.landed()

    async def _journaled(self, key: str, stored: bytes, call_site: CallSite) -> StepRecord:
        """Returns the record of a step on replay, "ok" or "retry" with attempts left. A failed one raises, an
        abandoned one waits to be cancelled."""
        activation = self._activation
        record = await self._read(key, stored, StepRecord, call_site)
        if record.status == "backoff":
            record = await self._read(key, await activation.parking.wait(key), StepRecord, call_site)
            await activation.gate.passed()
        if record.status == "ok" and record.state and activation.durable_state is not None:
            try:
                activation.durable_state.put(record.state)
            except UnreadableValueError as unreadable:
                await self._hold_back(key, unreadable)
        elif record.status == "abandoned":
            await self._stay_abandoned(key)
        elif record.status == "failed":
            error = stored_errors.parse_error(record.value)
            raise StepExecutionError(key, error.type, error.message, record.attempt)
        return record

    async def _back_off(self, key: str, call_site: CallSite) -> None:
        """Wait for the timer of a retry; meanwhile the execution may park."""
        activation = self._activation
        activation.in_flight -= 1
        try:
            record = await self._read(key, await activation.parking.wait(key), StepRecord, call_site)
        finally:
            activation.in_flight += 1
        if record.status == "abandoned":
            await self._stay_abandoned(key)

    def _draft(self, durable_state: DurableState) -> StateDraft:
        """Returns an open draft of the workflow's state for one attempt."""
        activation = self._activation
        try:
            draft = durable_state.draft(alone=activation.in_flight == 1 and not activation.code.spawned)
        except StoredValueError as error:
            raise activation.stop_with(error) from error.__cause__
        draft.open()
        return draft

    async def _abandon(self, key: str, attempt: int, branches: list[bytes], step: StepAttempt | None) -> None:
        """Journal that the workflow's code has cancelled the call, as a timeout around it does.

        Otherwise a replay, where the call may be faster, would take another path. A closing event loop also
        cancels everything, but by then the worker has ended its activations. The record has the number of the
        next attempt, because it replaces that of this one, which may be on its way.
        """
        running = self._activation.events.running
        if step is not None:
            running[key] = step
        try:
            if not self._activation.over:
                await self._commit(key, "abandoned", attempt + 1, 0.0, b"", branches)
        finally:
            running.pop(key, None)
            self._activation.landed()

    async def _stay_abandoned(self, key: str) -> NoReturn:
        """On replay, wait for the same code to cancel this call again; nothing parks meanwhile."""
        self._activation.in_flight += 1
        try:
            await self._stay(key, "a step abandoned before is not cancelled again: has its timeout gone?")
        finally:
            self._activation.landed()

    def _own_failure(self, raised: BaseException) -> BaseException:
        """Returns what the step's function raised; re-raises a cancellation of this call itself."""
        if failures.is_a(raised, GeneratorExit) or self._activation.over:
            raise raised
        if failures.is_a(raised, asyncio.CancelledError) and tasks.is_cancelled():
            raise raised
        return raised

    async def _within(
        self, limit: TimeLimit, step: StepAttempt, in_loop: bool, call: Callable[[], Any], is_last: bool
    ) -> Any:
        """Call the function of an attempt that has a time limit."""
        activation = self._activation
        if in_loop:
            return await in_loop_within(limit, step, call)
        while (
            result := await in_thread_within(limit, activation, step, call, is_last=is_last)
        ) is NOT_STARTED:
            await activation.gate.passed(in_flight=True)
        return result

    async def _in_thread(self, step: StepAttempt, call: Callable[[], Any]) -> Any:
        """Run a sync function in a thread. A thread can't be cancelled: if the caller is, the step stays in
        flight until the thread ends, and its result is dropped."""
        activation = self._activation

        def start() -> Any:
            # It may have waited for a free thread, and may no longer start.
            return call() if activation.gate.is_open() else NOT_STARTED

        while True:
            thread = activation.host.in_thread(step, start)
            thread.add_done_callback(tasks.mark_retrieved)
            try:
                result = await asyncio.shield(thread)
            except asyncio.CancelledError:
                leave(activation, thread)
                raise
            finally:
                del thread  # its error's traceback has this frame: a cycle
            if result is not NOT_STARTED:
                return await awaited(activation, step, result)
            await activation.gate.passed(in_flight=True)

    def _succeed(
        self, key: str, attempt: int, took: float, value: bytes, branches: list[bytes], state: bytes
    ) -> Coroutine[Any, Any, int]:
        """Journal the success of an attempt, with the starts not emitted yet."""
        activation = self._activation
        activation.host.stats.steps[activation.workflow.id, "ok"].add(took / 1000)
        record = journal.step_record("ok", attempt, took, value, state, branches)
        starts = activation.events.starts(key)
        if activation.journal.size > MOST_BYTES_UNTOLD:
            starts += b"l"
        name, fence, write = raw(key), activation.fence, activation.host.store.fenced.write
        return activation.journal.commit(
            name, record, lambda known: write(fence, known, name, record, starts)
        )

    def _commit(
        self,
        key: str,
        status: str,
        attempt: int,
        took: float,
        value: bytes,
        branches: list[bytes],
        failure: BaseException | None = None,
        delay: float = 0.0,
    ) -> Coroutine[Any, Any, int]:
        """Journal the end of an attempt that did not succeed, with the events not emitted yet."""
        activation = self._activation
        activation.host.stats.steps[activation.workflow.id, status].add(took / 1000)
        progress = b""  # for the next attempt
        if activation.progress is not None and status in ("retry", "backoff"):
            progress = activation.progress.latest(key)
        record = journal.step_record(status, attempt, took, value, progress, branches)
        error = None if failure is None else failures.line_of(failure)
        events = activation.events.step_finish(key, attempt - (status == "abandoned"), status, error)
        store, name = activation.host.store.fenced, raw(key)
        races = race_membership().races if status == "backoff" else b""

        def send(known: int) -> asyncio.Future[int]:
            if status == "backoff":
                delay_ms = int(delay * 1000)
                return store.backoff(
                    activation.fence, known, name, record, delay_ms=delay_ms, races=races, events=events
                )
            return store.write(activation.fence, known, name, record, b"", events)

        return activation.journal.commit(name, record, send)


def _log_attempt(step: StepAttempt, failure: BaseException, delay: float | None) -> None:
    """Log a failed attempt, with the seconds until the next one if there is one."""
    facts = {**step.facts, "error": failures.line_of(failure)}
    if delay is None:
        logger.warning("step failed", extra=facts)
    else:
        logger.warning("step failed, is retried", extra={**facts, "retry_in_seconds": round(delay, 3)})
