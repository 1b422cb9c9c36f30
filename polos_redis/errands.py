"""What concerns two partitions, or needs more than Lua: noted in the store as errands, run by whoever holds
the pump.

An errand is noted by the script that makes it necessary and removed when it was run, so a crash in between
only
runs it again: each can be repeated. They are looked at about every 100 ms.

`l<id>`                    settle what an execution wants of a lane that lives in another partition
`a<id> <version> <lane>`   an execution of another partition has got a place in a lane of this one
`u<id> <key>\\0<topic>`     an execution no longer waits for an event of a topic in another partition
`e<topic>`                 a topic has events for those who subscribed to it
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from polos_redis import keys, tasks
from polos_redis.errors import PolosError
from polos_redis.store import Errand, Store, raw, text

if TYPE_CHECKING:
    from polos_redis.client import PolosClient

logger = logging.getLogger("polos.worker")

AGAIN_MS = 1000  # after one that failed
BATCH = 100  # events of a topic looked at in one go


class Errands:
    """The errands of one partition, on one worker: a batch at a time, beside the timers."""

    def __init__(self, client: PolosClient, store: Store, prefix: bytes) -> None:
        self.client = client
        self.store = store
        self.prefix = prefix
        self._task: asyncio.Task[None] | None = None
        self._kinds: dict[str, Callable[[str], Coroutine[Any, Any, int | None]]] = {
            "l": self._settle_lane,
            "a": self._admit,
            "u": self._unsubscribe,
            "e": self._hand_out,
        }

    def run(self, errands: Sequence[Errand]) -> None:
        """Run what is due, unless an earlier batch is still at work: then it is due again at the next
        look."""
        if errands and (self._task is None or self._task.done()):
            self._task = tasks.spawn(self._run(errands), "polos-errands")

    async def stop(self) -> None:
        """End what is under way."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self, errands: Sequence[Errand]) -> None:
        for errand in errands:
            kind = self._kinds.get(errand.name[:1])
            try:
                if kind is None:  # of a newer release
                    await self.store.put_off(self.prefix, errand, AGAIN_MS)
                    continue
                again = await kind(errand.name[1:])
                if again is None:
                    await self.store.errand_done(self.prefix, errand)
                else:
                    await self.store.put_off(self.prefix, errand, again)
            except PolosError as error:
                logger.error("an errand failed", extra={"errand": errand.name, "error": str(error)})
                try:
                    await self.store.put_off(self.prefix, errand, AGAIN_MS)
                except PolosError:
                    return  # Redis is away: it is still due when it is back
            except Exception:
                logger.exception("an errand failed", extra={"errand": errand.name})
                await self.store.put_off(self.prefix, errand, AGAIN_MS)

    # --- lanes --------------------------------------------------------------------------

    async def _settle_lane(self, execution_id: str) -> None:
        wanted = await self.store.lane_of(self.prefix, execution_id)
        if wanted is None:
            return
        lane, limit, version, wants = wanted
        held = await self.store.ask_place(lane, limit, execution_id, version, wants=wants)
        if held:
            await self._let_in(execution_id, version, lane, limit)

    async def _admit(self, rest: str) -> None:
        execution_id, version, lane = rest.split(" ", 2)
        await self._let_in(execution_id, int(version), lane, 0)

    async def _let_in(self, execution_id: str, version: int, lane: str, limit: int) -> None:
        runnable, now = await self.store.admit(execution_id)
        if not runnable:  # it has changed its mind: its place is for the next
            wanted = await self.store.lane_of(self.store.prefix(execution_id), execution_id)
            limit = wanted[1] if wanted else limit or 1
            await self.store.ask_place(lane, limit, execution_id, max(version, now), wants=False)

    # --- topics -------------------------------------------------------------------------

    async def _unsubscribe(self, rest: str) -> None:
        member, _, topic = rest.partition("\0")
        key = self.store.topic_prefix(topic) + keys.SUBS.encode() + raw(topic)
        await self.store.wire.call("HDEL", key, raw("w" + member), patience=None)

    async def _hand_out(self, topic: str) -> int | None:
        """Give a topic's events to those who subscribed; ms until it is to be done again, None when all is
        given."""
        store = self.store
        key = self.prefix + keys.SUBS.encode() + raw(topic)
        flat = await store.wire.call("HGETALL", key, patience=None)
        again: int | None = None
        for member, place in zip(flat[::2], flat[1::2], strict=True):
            if member.startswith(b"w"):
                await self._give_one(topic, text(member), place)
        return again

    async def _give_one(self, topic: str, member: str, place: bytes) -> None:
        """An execution waits for one event."""
        events = await self._after(topic, place, 1)
        if events:
            execution_id, _, step_key = member[1:].partition(" ")
            event, (kind, data) = events[0][0], events[0][1][:2]
            await self.store.deliver(execution_id, step_key, event, kind, data)
            await self.store.advance(topic, member, place, b"")

    async def _after(self, topic: str, place: bytes, count: int) -> list[Any]:
        key = self.prefix + keys.TOPIC.encode() + raw(topic)
        found: list[Any] = await self.store.wire.call(
            "XRANGE", key, b"(" + place, "+", "COUNT", count, patience=None
        )
        return found
