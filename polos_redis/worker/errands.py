"""Errands: work that spans two partitions or needs more than Lua.

The script that makes an errand necessary stores it; the worker that holds the partition's pump runs it and
then removes it. A crash in between runs it again, so every errand is idempotent. The holder looks for due
errands when a script notifies it, and about every 100 ms.

`l<id>`                    settle what an execution wants of a lane that lives in another partition
`a<id> <version> <limit> <semaphore>`  an execution of another partition has got a place in a lane of this one
`h<limit> <semaphore>`         look whether those who hold places in a lane of this partition still need them
`w<event id> <topic>`      give an event to those who wait for one: they are very many, or in other partitions
`u<bytes of the topic> <topic><subscriber>`  end the subscription of a wait to a topic in another partition
`e<topic>`                 a topic has events for the workflows that it triggers
`k<schedule>`              a schedule's tick is due
`y<id> <step key>`         an answer that came before its suspension has to be checked against its terms
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from polos_redis import schedules, tasks
from polos_redis.decisions import answers
from polos_redis.errors import ExecutionNotFoundError, PolosError, ResumeError, StoredValueError
from polos_redis.state.store import Errand, Store, raw, text
from polos_redis.triggers.subscriptions import trigger

if TYPE_CHECKING:
    from polos_redis.client import PolosClient

logger = logging.getLogger("polos.worker")

RETRY_MS = 1000  # after one that failed
RECHECK_MS = 30_000  # at what two partitions should agree on
OPENING_MS = 50  # a wait opens within about that after it has subscribed
GIVING = "g"  # among the subscribers of a topic: the last event that is given to very many by errands
BATCH = 100  # waits that are given an event side by side


class Errands:
    """The errands of one partition, on one worker: a batch at a time, beside the timers."""

    def __init__(self, client: PolosClient, store: Store, prefix: bytes) -> None:
        self.client = client
        self.store = store
        self.prefix = prefix
        self._task: asyncio.Task[bool] | None = None
        self._kinds: dict[str, Callable[[str], Coroutine[Any, Any, int | None]]] = {
            "l": self._request_slot,
            "a": self._grant,
            "h": self._check_slot_holders,
            "w": self._give,
            "u": self._unsubscribe,
            "e": self._hand_out,
            "k": self._fire,
            "y": self._take_early,
        }

    @property
    def busy(self) -> bool:
        """Whether a batch is at work."""
        return self._task is not None and not self._task.done()

    def run(self, errands: Sequence[Errand], done: Callable[[], None]) -> None:
        """Run what is due, and call `done` when all of it has been; unless an earlier batch is still at work:
        then it is due again at the next look."""
        if errands and not self.busy:
            self._task = tasks.spawn(self._run(errands), "polos-errands")
            self._task.add_done_callback(
                lambda task: done() if not task.cancelled() and task.result() else None
            )

    async def stop(self) -> None:
        """End what is under way."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self, errands: Sequence[Errand]) -> bool:
        for errand in errands:
            kind = self._kinds.get(errand.name[:1])
            try:
                if kind is None:  # of a newer release
                    await self.store.put_off(self.prefix, errand, RETRY_MS)
                    continue
                again = await kind(errand.name[1:])
                if again is None:
                    await self.store.errand_done(self.prefix, errand)
                else:
                    await self.store.put_off(self.prefix, errand, again)
            except Exception as error:
                known = isinstance(error, PolosError)
                what = {"errand": errand.name, "error": str(error)}
                logger.error("an errand failed", extra=what, exc_info=None if known else error)
                try:
                    await self.store.put_off(self.prefix, errand, RETRY_MS)
                except PolosError:
                    return False  # Redis is away: it is still due when it is back
        return True

    # --- lanes --------------------------------------------------------------------------

    async def _request_slot(self, execution_id: str) -> int | None:
        wanted = await self.store.slot_request(self.prefix, execution_id)
        if wanted is None:
            return None
        semaphore, limit, version = wanted.semaphore, wanted.limit, wanted.version
        if not wanted.wants_slot:
            await self.store.release_slot(semaphore, limit, execution_id, version)
        elif await self.store.request_slot(semaphore, limit, execution_id, version, RECHECK_MS):
            await self._grant_slot(execution_id, version, semaphore, limit)
        else:  # it stands in line, unless that partition forgets it
            return RECHECK_MS
        return None

    async def _grant(self, rest: str) -> None:
        execution_id, version, limit, semaphore = rest.split(" ", 3)
        await self._grant_slot(execution_id, int(version), semaphore, int(limit))

    async def _grant_slot(self, execution_id: str, version: int, semaphore: str, limit: int) -> None:
        if not await self.store.grant_slot(execution_id, version):
            await self.store.release_slot(semaphore, limit, execution_id, version)

    async def _check_slot_holders(self, rest: str) -> int | None:
        """Free the places of executions that don't know of them: their partition, or this one, has lost what
        was done last."""
        limit, semaphore = rest.split(" ", 1)
        cursor = b"0"
        while True:
            page = await self.store.slot_holders(semaphore, cursor)
            if page is None:
                return None
            cursor, held = page
            for execution_id, version in held:
                wanted = await self.store.slot_request(self.store.prefix(execution_id), execution_id)
                if wanted is None or not wanted.wants_slot:
                    latest = version if wanted is None else max(version, wanted.version)
                    await self.store.release_slot(semaphore, int(limit), execution_id, latest)
            if cursor == b"0":
                return RECHECK_MS

    # --- topics -------------------------------------------------------------------------

    async def _unsubscribe(self, rest: str) -> None:
        size, _, both = raw(rest).partition(b" ")
        topic, subscriber = both[: int(size)], both[int(size) :]
        await self.store.unsubscribe(text(topic), text(subscriber))

    async def _give(self, rest: str) -> int | None:
        """Give an event to those who waited for one when it was published; ms until it is to be done again
        as a wait is about to open, None when all have it."""
        event, _, topic = rest.partition(" ")
        found = await self.store.event(topic, event)
        if found is not None and not await self._give_all(topic, event, found):
            return OPENING_MS
        await self.store.advance(topic, GIVING, raw(event), b"")
        return None

    async def _give_all(self, topic: str, event: str, found: list[bytes]) -> bool:
        """Give those who are due an event; whether all have it."""
        waiters = [
            subscriber
            for subscriber, position in (await self.store.subscribers(topic)).items()
            if subscriber[0] in "wf" and _is_due(text(position), event)
        ]
        given = [
            await self._give_some(topic, waiters[i : i + BATCH], event, found)
            for i in range(0, len(waiters), BATCH)
        ]
        return all(given)

    async def _give_some(self, topic: str, waiters: list[str], event: str, found: list[bytes]) -> bool:
        """Give some of them the event, side by side; whether all have it, or have stopped waiting."""
        kind, data = found[:2]
        given = await asyncio.gather(*(self.store.deliver(one, event, kind, data) for one in waiters))
        over = [one for one, decided in zip(waiters, given, strict=True) if decided >= 0]
        await asyncio.gather(*(self.store.unsubscribe(topic, one) for one in over))
        return len(over) == len(waiters)

    async def _hand_out(self, topic: str) -> int | None:
        """Give a topic's events to the workflows it triggers; ms until it is to be done again, None when all
        is given."""
        again: int | None = None
        client = self.client
        for member, position in (await self.store.subscribers(topic)).items():
            if not member.startswith("t"):
                continue
            try:
                wait = await trigger(
                    self.store, topic, member[1:], position, client.retention_ms, client.max_value_bytes
                )
            except PolosError as error:  # the others are given theirs
                told = {"topic": topic, "to": member, "error": str(error)}
                logger.error("events can't be given", extra=told)
                wait = RETRY_MS
            if wait is not None:
                again = wait if again is None else min(again, wait)
        return again

    # --- suspensions --------------------------------------------------------------------

    async def _take_early(self, rest: str) -> None:
        """Give a suspension the answer that came before it, if it fits its terms."""
        execution_id, _, step_key = rest.partition(" ")
        answer = await self.store.early_answer(execution_id, step_key)
        if answer is None:
            return
        try:
            await answers.take(self.store, execution_id, step_key, answer)
        except (ResumeError, StoredValueError, ExecutionNotFoundError) as error:
            told = {"execution": execution_id, "step": step_key, "why": str(error)}
            logger.warning("an early answer is dropped", extra=told)
        await self.store.drop_early_answer(execution_id, step_key)

    # --- schedules ----------------------------------------------------------------------

    async def _fire(self, schedule_id: str) -> int | None:
        return await schedules.fire(self.store, schedule_id, self.client.retention_ms)


def _is_due(position: str, event: str) -> bool:
    """Whether a waiter is to be given an event: one after its place, and no later one than is its own
    already (`position=event`)."""
    after, _, own = position.partition("=")
    return _order(after) < _order(event) and (not own or _order(event) <= _order(own))


def _order(event: str) -> tuple[int, int]:
    """Stream ids by time."""
    ms, _, sequence = event.partition("-")
    return int(ms), int(sequence)
