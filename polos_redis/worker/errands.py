"""Errands: work that spans two partitions or needs more than Lua.

The script that makes an errand necessary stores it; the worker that leads the timers of the partition runs it
and then removes it. A crash in between runs it again, so every errand is idempotent. The leader looks for due
errands when a script notifies it, and about every 100 ms.

An errand's name is a letter and what it concerns:

`l<id>`                                      acquire or release an execution's slot in another partition
`a<id> <version> <limit> <semaphore>`        an execution of another partition was granted a slot
`h<limit> <semaphore>`                       check that the holders of a semaphore's slots still need them
`w<topic>`                                   deliver a topic's events to many waits, or in other partitions
`u<bytes of the topic> <topic><subscriber>`  end a wait's subscription to a topic of another partition
`s<bytes of the topic> <topic><subscriber>`  check that a wait subscribed in another partition has opened
`e<topic>`                                   a topic has events for the workflows it triggers
`k<schedule>`                                a schedule's tick is due
`y<id> <step key>`                           check an answer that came before its suspension

Errands run concurrently, so a slow one delays no other. One that fails is tried again after a while, and its
failures are stored (`polos errands`).

Three kinds read what users and callers have stored: answers against schemas, schedules, events. Such a value
may be too much for a worker. Their attempts are counted in Redis before they are made, so that an attempt
that its worker does not survive counts too; those that failed before are tried one at a time; and after
`MOST_ATTEMPTS` the errand is set aside until somebody retries it. The suspension stays open, the schedule's
tick and the topic's events stay stored. The other kinds move ids between partitions and read nothing of
users'. An execution's slot, its wait or a subscription depends on them and nobody could do their work
by hand, so they are tried again without end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from polos_redis import failures, tasks
from polos_redis.decisions import answers
from polos_redis.errors import (
    ConnectionLostError,
    ExecutionNotFoundError,
    NotApproverError,
    PolosError,
    RedisRefusedError,
    RedisUnavailableError,
    ResumeError,
    StoredValueError,
)
from polos_redis.state.errands import Errand
from polos_redis.state.store import Store
from polos_redis.triggers import subscriptions, ticks
from polos_redis.worker import semaphores, topic_waits

logger = logging.getLogger("polos.worker")

CONCURRENCY = 256  # errands that run at once, in one partition: most of them wait for Redis
MOST_ATTEMPTS = 3
LEASES, LEAST_SECONDS = 2, 5.0  # an attempt may take this long, counted while the event loop turns
PATIENCE_SECONDS = 2.0  # for a partition that does not answer: the errand waits in Redis, not here
FIRST_RETRY_MS, LONGEST_RETRY_MS = 1_000, 60_000
AWAY_RETRY_MS = 2_000  # until an errand is tried again that Redis did not answer
UNKNOWN_RETRY_MS = 1_000  # until an errand of a newer release is offered again
STOP_SECONDS = 1.0

COUNTED = "eky"  # kinds whose attempts are counted, and which may be set aside
AWAY = (RedisUnavailableError, RedisRefusedError, ConnectionLostError)  # Redis' failure, not the errand's

Run = Callable[[str], Coroutine[Any, Any, int | None]]  # returns the ms until it runs again, None for never


class OverdueError(PolosError):
    """An errand took too long."""


class _Lane:
    """The errands of one name: the one that runs, and the one that was stored meanwhile."""

    __slots__ = ("attempting", "current", "following", "overdue", "seconds", "task")

    def __init__(self) -> None:
        self.following: Errand | None = None
        self.current: Errand | None = None
        self.attempting = False
        self.seconds = 0
        self.overdue = False
        self.task: asyncio.Task[None] | None = None


class ErrandRunner:
    """The errands of one partition, on one worker, beside the timers."""

    def __init__(
        self, store: Store, prefix: bytes, *, lease_seconds: float, retention_ms: int, largest_input: int
    ) -> None:
        self.prefix = prefix
        self._seconds = max(LEAST_SECONDS, LEASES * lease_seconds)
        self._longest_ms = int((self._seconds + lease_seconds) * 1000)
        self._errands = store.errands
        self._lanes: dict[str, _Lane] = {}
        self._alone = asyncio.Lock()  # held by the one errand that has failed before
        self._timer: asyncio.TimerHandle | None = None
        self._more: Callable[[], None] | None = None
        partitions = store.partitions
        hasty = Store(partitions.wire, partitions.namespace, partitions.number, PATIENCE_SECONDS)
        self._wire = hasty.wire
        self._used = {
            prefix,
            hasty.prefixes[0],
        }  # by the counted kinds: definitions are in the first partition
        self._kinds: dict[str, Run] = {
            "l": partial(semaphores.sync, hasty, prefix),
            "a": partial(semaphores.grant, hasty),
            "h": partial(semaphores.check_holders, hasty),
            "w": partial(topic_waits.deliver, hasty),
            "u": partial(topic_waits.unsubscribe, hasty),
            "s": partial(topic_waits.check, hasty),
            "e": partial(subscriptions.trigger_all, hasty, retention_ms, largest_input),
            "k": partial(ticks.fire, hasty, retention_ms),
            "y": partial(_decide_early, hasty),
        }

    @property
    def has_room(self) -> bool:
        """Whether another errand could run."""
        return len(self._lanes) < CONCURRENCY

    @property
    def running(self) -> int:
        """The number of errands that run here, or are about to."""
        return len(self._lanes)

    def run(self, errands: Sequence[Errand], more: Callable[[], None]) -> None:
        """Run due errands, except those that run already. `more` is called when there is room for others that
        may be due."""
        for errand in errands:
            lane = self._lanes.get(errand.name)
            if lane is None:
                if not self.has_room:
                    self._more = more
                    break
                lane = self._lanes[errand.name] = _Lane()
                lane.task = tasks.spawn(self._work(errand.name, lane), "polos-errand")
            if errand != lane.current:  # or it was stored again, and runs again
                lane.following = errand
        if self._timer is None and self._lanes:
            self._timer = asyncio.get_running_loop().call_later(1.0, self._tick)

    async def stop(self) -> None:
        """Cancel what runs. Its attempts don't count."""
        if self._timer is not None:
            self._timer.cancel()
        running = [lane.task for lane in self._lanes.values() if lane.task is not None]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _tick(self) -> None:
        """Count a second for each attempt, and cancel those that take too long. A loop that one of them has
        blocked has turned once, so the others are not blamed for its time."""
        self._timer = None
        for lane in self._lanes.values():
            lane.seconds += lane.attempting
            if (
                lane.attempting
                and lane.seconds > self._seconds
                and not lane.overdue
                and lane.task is not None
            ):
                lane.overdue = True
                lane.task.cancel()
        if self._lanes:
            self._timer = asyncio.get_running_loop().call_later(1.0, self._tick)

    async def _work(self, name: str, lane: _Lane) -> None:
        """Run the errands of a lane until none is left."""
        try:
            while lane.following is not None:
                lane.current, lane.following = lane.following, None
                try:
                    await self._run_one(lane, lane.current)
                except PolosError as error:
                    facts = {"errand": lane.current.name, "error": str(error)}
                    logger.error("an errand's end could not be stored", extra=facts)
                lane.current = None
        finally:
            del self._lanes[name]
            if self._more is not None:
                more, self._more = self._more, None
                more()

    async def _run_one(self, lane: _Lane, errand: Errand) -> None:
        kind = errand.name[:1]
        run = self._kinds.get(kind)
        if run is None:
            await self._errands.put_off(self.prefix, errand, UNKNOWN_RETRY_MS)
        elif kind in COUNTED:
            await self._run_counted(lane, errand, run)
        else:
            await self._attempt(lane, errand, run, "")

    async def _run_counted(self, lane: _Lane, errand: Errand, run: Run) -> None:
        """Run an errand whose attempt is counted first. One that has failed before waits until no other such
        errand runs: if a worker dies, it is known by which."""
        attempt = os.urandom(8).hex()
        started = await self._start(errand, attempt, alone=False)
        if started[0] == b"failed before":
            async with self._alone:
                started = await self._start(errand, attempt, alone=True)
                await self._run_started(lane, errand, run, attempt, started)
        else:
            await self._run_started(lane, errand, run, attempt, started)

    async def _start(self, errand: Errand, attempt: str, *, alone: bool) -> list[bytes]:
        return await self._errands.start(
            self.prefix, errand, attempt, most=MOST_ATTEMPTS, alone=alone, longest_ms=self._longest_ms
        )

    async def _run_started(
        self, lane: _Lane, errand: Errand, run: Run, attempt: str, started: list[Any]
    ) -> None:
        if started[0] == b"set aside":
            _log_set_aside(errand, int(started[1]), started[2].decode("utf-8", "replace"))
        elif started[0] == b"started":
            lane.current = Errand(errand.name, started[1])
            await self._attempt(lane, lane.current, run, attempt)

    async def _attempt(self, lane: _Lane, errand: Errand, run: Run, attempt: str) -> None:
        """Run an errand once."""
        lane.attempting, lane.seconds, lane.overdue = True, 0, False
        epoch = self._wire.epoch
        try:
            repeat_ms = await self._within(lane, run(errand.name[1:]))
        except asyncio.CancelledError:
            if not lane.overdue:
                await self._take_back(errand, attempt)
                raise
            asyncio.current_task().uncancel()  # type: ignore[union-attr] # it runs in one
            error: BaseException = OverdueError(f"it took longer than {self._seconds:g} seconds")
        except Exception as raised:
            error = raised
        else:
            if repeat_ms is None:
                await self._errands.done(self.prefix, errand)
            else:
                await self._errands.put_off(self.prefix, errand, repeat_ms)
            return
        await self._failed(errand, attempt, error, epoch)

    async def _within(self, lane: _Lane, code: Coroutine[Any, Any, int | None]) -> int | None:
        """Await an attempt, whose time counts."""
        try:
            repeat_ms: int | None = await tasks.guard(code)
            return repeat_ms
        finally:
            lane.attempting = False

    async def _failed(self, errand: Errand, attempt: str, error: BaseException, epoch: int) -> None:
        """Note a failed attempt, and put the errand off."""
        facts: dict[str, Any] = {"errand": errand.name, "error": failures.text_of(error)}
        overdue = failures.is_a(error, OverdueError)
        if failures.is_a(error, *AWAY) or (overdue and not await self._answers(epoch)):
            logger.warning("an errand has to wait for Redis", extra=facts)
            await self._errands.put_off(self.prefix, errand, AWAY_RETRY_MS, uncounted=attempt)
            return
        what, ms, attempts = await self._errands.failed(
            self.prefix,
            errand,
            attempt,
            failures.line_of(error),
            most=MOST_ATTEMPTS if attempt else 0,
            first_ms=FIRST_RETRY_MS,
            longest_ms=LONGEST_RETRY_MS,
        )
        known = failures.is_a(error, PolosError)
        more = {"attempts": attempts, "retry_ms": ms}
        logger.error("an errand failed", extra=facts | more, exc_info=None if known else error)
        if what == "set aside":
            _log_set_aside(errand, attempts, failures.line_of(error))

    async def _answers(self, epoch: int) -> bool:
        """Whether Redis answers, and has since the attempt began."""
        with contextlib.suppress(PolosError, TimeoutError):
            async with asyncio.timeout(PATIENCE_SECONDS):
                await asyncio.gather(*(self._wire.ready(prefix) for prefix in self._used))
                return self._wire.epoch == epoch
        return False

    async def _take_back(self, errand: Errand, attempt: str) -> None:
        """The worker stops: another one makes this attempt."""
        if attempt:
            with contextlib.suppress(PolosError, TimeoutError):
                async with asyncio.timeout(STOP_SECONDS):
                    await self._errands.put_off(self.prefix, errand, 0, uncounted=attempt)


def _log_set_aside(errand: Errand, attempts: int, reason: str) -> None:
    facts: dict[str, Any] = {"errand": errand.name, "attempts": attempts, "error": reason}
    if errand.name.startswith("y"):
        facts["execution"], _, facts["step"] = errand.name[1:].partition(" ")
    logger.error("an errand was set aside: see polos errands", extra=facts)


async def _decide_early(store: Store, rest: str) -> None:
    """Give a suspension the answer that came before it, if the answer fits and its API key is still valid."""
    execution_id, _, step_key = rest.partition(" ")
    answer = await store.suspensions.early_answer(execution_id, step_key)
    if answer is None:
        return
    try:
        if answer.key_id and not await store.api_keys.may(answer.key_id, "approve"):
            reason = "the API key it was given with is no longer valid"
            raise NotApproverError(execution_id, step_key, answer.by, reason)
        await answers.decide_early(store, execution_id, step_key, answer)
    except (ResumeError, StoredValueError, ExecutionNotFoundError) as error:
        facts = {"execution": execution_id, "step": step_key, "why": str(error)}
        logger.warning("an early answer is dropped", extra=facts)
    await store.suspensions.drop_early_answer(execution_id, step_key, answer)
