"""Errands: work that spans two partitions or needs more than Lua.

The script that makes an errand necessary stores it; the worker that leads the timers of the partition runs it
and then removes it. A crash in between runs it again, so every errand is idempotent. The leader looks for due
errands when a script notifies it, and about every 100 ms.

An errand's name is a letter and what it concerns:

`l<id>`                                      acquire or release an execution's slot in another partition
`a<id> <version> <limit> <semaphore>`        an execution of another partition was granted a slot
`h<limit> <semaphore>`                       check that the holders of a semaphore's slots still need them
`w<event id> <topic>`                        deliver an event to many waits, or in other partitions
`u<bytes of the topic> <topic><subscriber>`  end a wait's subscription to a topic of another partition
`e<topic>`                                   a topic has events for the workflows it triggers
`k<schedule>`                                a schedule's tick is due
`y<id> <step key>`                           check an answer that came before its suspension
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from polos_redis import apikeys, tasks
from polos_redis.decisions import answers
from polos_redis.errors import (
    ExecutionNotFoundError,
    NotApproverError,
    PolosError,
    ResumeError,
    StoredValueError,
)
from polos_redis.state.errands import Errand
from polos_redis.state.store import Store
from polos_redis.triggers import subscriptions, ticks
from polos_redis.worker import semaphores, topic_waits

logger = logging.getLogger("polos.worker")

RETRY_MS = 1000  # until an errand that failed runs again

Run = Callable[[str], Coroutine[Any, Any, int | None]]  # returns the ms until it runs again, None for never


class ErrandRunner:
    """The errands of one partition, on one worker: a batch at a time, beside the timers."""

    def __init__(self, store: Store, prefix: bytes, *, retention_ms: int, largest_input: int) -> None:
        self.store = store
        self.prefix = prefix
        self._task: asyncio.Task[bool] | None = None
        self._kinds: dict[str, Run] = {
            "l": partial(semaphores.sync, store, prefix),
            "a": partial(semaphores.grant, store),
            "h": partial(semaphores.check_holders, store),
            "w": partial(topic_waits.deliver, store),
            "u": partial(topic_waits.unsubscribe, store),
            "e": partial(subscriptions.trigger_all, store, retention_ms, largest_input),
            "k": partial(ticks.fire, store, retention_ms),
            "y": partial(_decide_early, store),
        }

    @property
    def busy(self) -> bool:
        """Whether a batch is running."""
        return self._task is not None and not self._task.done()

    def run(self, errands: Sequence[Errand], done: Callable[[], None]) -> None:
        """Run due errands and call `done` when all of them have run. While an earlier batch is still running
        they are left alone: they stay due."""
        if errands and not self.busy:
            self._task = tasks.spawn(self._run(errands), "polos-errands")
            self._task.add_done_callback(
                lambda task: done() if not task.cancelled() and task.result() else None
            )

    async def stop(self) -> None:
        """Cancel the running batch."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self, errands: Sequence[Errand]) -> bool:
        for errand in errands:
            try:
                await self._run_one(errand)
            except Exception as error:
                known = isinstance(error, PolosError)
                facts = {"errand": errand.name, "error": str(error)}
                logger.error("an errand failed", extra=facts, exc_info=None if known else error)
                try:
                    await self.store.errands.put_off(self.prefix, errand, RETRY_MS)
                except PolosError:
                    return False  # Redis is away: the errand is still due when it is back
        return True

    async def _run_one(self, errand: Errand) -> None:
        run = self._kinds.get(errand.name[:1])  # None for a kind of a newer release
        repeat_ms = RETRY_MS if run is None else await run(errand.name[1:])
        if repeat_ms is None:
            await self.store.errands.done(self.prefix, errand)
        else:
            await self.store.errands.put_off(self.prefix, errand, repeat_ms)


async def _decide_early(store: Store, rest: str) -> None:
    """Give a suspension the answer that came before it, if the answer fits and its API key is still valid."""
    execution_id, _, step_key = rest.partition(" ")
    answer = await store.suspensions.early_answer(execution_id, step_key)
    if answer is None:
        return
    try:
        key = await apikeys.read(store, answer.key_id) if answer.key_id else None
        if answer.key_id and (key is None or not key.holds or not key.may("approve")):
            reason = "the API key it was given with is no longer valid"
            raise NotApproverError(execution_id, step_key, answer.by, reason)
        await answers.decide_early(store, execution_id, step_key, answer)
    except (ResumeError, StoredValueError, ExecutionNotFoundError) as error:
        facts = {"execution": execution_id, "step": step_key, "why": str(error)}
        logger.warning("an early answer is dropped", extra=facts)
    await store.suspensions.drop_early_answer(execution_id, step_key)
