"""`ctx.patched`: whether an execution takes a changed part of its workflow's code."""

from __future__ import annotations

import asyncio

from polos_redis import tasks
from polos_redis.errors import StepKeyError
from polos_redis.runtime.activation import Activation
from polos_redis.runtime.branches import branches_around
from polos_redis.runtime.call_sites import CallSite, described
from polos_redis.runtime.lifecycle_events import StepAttempt
from polos_redis.runtime.steps.run import Runs
from polos_redis.state import journal, keys
from polos_redis.state.journal import StepRecord
from polos_redis.values import codec
from polos_redis.values.text import raw

TAKEN, NOT_TAKEN = codec.encode(True), codec.encode(False)


class Patches(Runs):
    """The patches that one activation has asked for, and what was decided of them."""

    __slots__ = ("_decided", "_deciding")

    def __init__(self, activation: Activation) -> None:
        super().__init__(activation)
        self._decided: dict[str, bool] = {}
        self._deciding: dict[str, asyncio.Lock] = {}

    async def patched(self, id: str, call_site: CallSite) -> bool:
        """See `WorkflowContext.patched`. Other calls of the same patch wait for the first one's record."""
        activation = self._activation
        at = described(call_site)
        try:
            keys.check_text("a patch's id", id, error=StepKeyError)
        except StepKeyError as error:
            raise activation.stop_with(StepKeyError(f"{error} (at {at})")) from None
        if tasks.in_step():
            raise StepKeyError(
                f"ctx.patched({id!r}) was called inside a step's function, at {at}: call it in the "
                "workflow's own code, and pass the step what it decides"
            )
        key = journal.PATCH + id
        async with self._deciding.setdefault(key, asyncio.Lock()):
            if not activation.gate.is_open():
                await activation.gate.passed()
            if key not in self._decided:
                behind = activation.journal.is_behind(activation.call_sites, activation.passed_over)
                activation.register(key, call_site)
                self._decided[key] = not behind
            activation.touches += 1
            stored = activation.journal.records.get(raw(key))
            if stored is not None:
                record = await self._read(key, stored, StepRecord, call_site)
                return bool(await self._decode(key, record.value))
            return await self._journal(key, self._decided[key])

    async def _journal(self, key: str, taken: bool) -> bool:
        """Journal what was decided. Unlike other new calls, this one is not held back until the code has
        reached every accepted decision: it does nothing, and leads the code there."""
        activation, running = self._activation, self._activation.events.running
        while activation.parking.given_up:
            await activation.give_up()
        running[key] = StepAttempt(activation.code, key, 1, activation.loop.time())
        replay = activation.code.replay
        repeats = replay is not None and replay.repeats()
        activation.in_flight += 1
        try:
            value = TAKEN if taken else NOT_TAKEN
            await self._commit(key, "ok", 1, 0.0, value, branches_around())
            if replay is not None and repeats:
                replay.goes_on()
        finally:
            running.pop(key, None)
            activation.landed()
        return taken
