"""The crash of a worker in a test: from one of its writes on, nothing it sends arrives and no reply comes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from polos_redis.client import PolosClient
from polos_redis.connection.connection import PatientConnection
from polos_redis.state import keys, scripts
from polos_redis.state.clock import SkippingWire
from polos_redis.state.store import Store
from polos_redis.values.text import text
from polos_redis.wire.replies import CallLostError
from polos_redis.wire.transport import Arg, Script

_STEP_KEY = 4  # which argument it is, after the fence and the number of known changes
_JOURNALING = {
    one.name
    for one in (
        scripts.WRITE_STEP,
        scripts.BACK_OFF,
        scripts.SUSPEND,
        scripts.OPEN_WAIT,
        scripts.START_CHILDREN,
        scripts.CHOOSE_WINNER,
        scripts.GIVE_UP,
    )
}
_ENDING_A_STEP = {scripts.WRITE_STEP.name, scripts.BACK_OFF.name}
_ENDING = {scripts.FINISH.name, scripts.AUTO_RETRY.name, scripts.CONTINUE_AS_NEW.name}


@dataclass(frozen=True, slots=True)
class CrashPoint:
    """Where a worker can crash: right after it journaled a step, or before it ends an execution or, if that
    `continues` as new, its run (no key)."""

    execution_id: str
    step_key: str | None
    continues: bool = False

    def __str__(self) -> str:
        of = (
            f" of its child {self.execution_id}"
            if keys.root_of(self.execution_id) != self.execution_id
            else ""
        )
        if self.step_key is None:
            return f"right before {'continuing as new' if self.continues else 'the end'}{of}"
        return f"right after step {self.step_key!r}{of} was journaled"


class CrashingWire(SkippingWire):
    """A wire that notes each crash point of a root execution and its descendants in `points`, and crashes at
    the one with the number `crash_at` (from 1; 0: none).

    Then `on_crash` is called, `crashed` is set, and all calls hang. Until `is_cut` is set, the steps that run
    are journaled all the same, without a reply. After `release`, the calls that hang are lost, and others
    work. `unanswered` has the execution and step key of each step whose journaling has no reply.
    """

    def __init__(self, wire: Any, root_id: str, crash_at: int) -> None:
        super().__init__(wire)
        self.points: list[CrashPoint] = []
        self.unanswered: set[tuple[Any, Any]] = set()
        self.crashed = asyncio.Event()
        self.is_cut = False
        self.on_crash: Callable[[], object] = lambda: None
        self._root_id, self._crash_at = root_id, crash_at
        self._released = asyncio.Event()
        self._hanging: list[asyncio.Future[Any]] = []

    @property
    def _hangs(self) -> bool:
        return self.crashed.is_set() and not self._released.is_set()

    def release(self) -> None:
        """Let the calls that hang fail, and further ones pass."""
        self._released.set()
        for future in self._hanging:
            if not future.done():
                future.set_exception(CallLostError("the worker has crashed", sent=True))
        self._hanging.clear()

    def run(self, script: Script, key: bytes, *args: Arg) -> asyncio.Future[Any]:
        """Like `Wire.run`."""
        outer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        crashes = not self.crashed.is_set() and self._is_reached(script, args)
        if crashes and script.name in _ENDING:
            self._crash()
        step = (args[0], args[_STEP_KEY]) if script.name in _ENDING_A_STEP and args[_STEP_KEY] else None
        if self._hangs and (self.is_cut or step is None):
            self._hanging.append(outer)
            return outer
        if step is not None:
            self.unanswered.add(step)

        def replied(inner: asyncio.Future[Any]) -> None:
            error = inner.exception()
            if crashes:
                self._crash()
            if self._hangs:
                self._hanging.append(outer)
                return
            if step is not None:
                self.unanswered.discard(step)
            if outer.done():
                pass
            elif error is not None:
                outer.set_exception(error)
            else:
                outer.set_result(inner.result())

        super().run(script, key, *args).add_done_callback(replied)
        return outer

    async def call_script(self, script: Script, key: bytes, *args: Arg, patience: float | None = 30.0) -> Any:
        """Like `Wire.call_script`."""
        await self._passed()
        reply = await super().call_script(script, key, *args, patience=patience)
        await self._passed()
        return reply

    async def call(self, *args: Arg, patience: float | None = 30.0) -> Any:
        """Like `Wire.call`."""
        await self._passed()
        reply = await self._wire.call(*args, patience=patience)
        await self._passed()
        return reply

    def _crash(self) -> None:
        self.on_crash()
        self.crashed.set()

    async def _passed(self) -> None:
        if self._hangs:
            await self._released.wait()

    def _is_reached(self, script: Script, args: tuple[Any, ...]) -> bool:
        """Note a crash point; returns whether it is the one to crash at."""
        ends = script.name in _ENDING
        if not ends and (script.name not in _JOURNALING or not args[_STEP_KEY]):
            return False  # without a step key, events only
        execution_id = text(args[0])
        if keys.root_of(execution_id) != self._root_id:
            return False
        step_key = None if ends else text(args[_STEP_KEY])
        continues = script.name == scripts.CONTINUE_AS_NEW.name
        self.points.append(CrashPoint(execution_id, step_key, continues))
        return len(self.points) == self._crash_at


async def crashing_wire(client: PolosClient, root_id: str, crash_at: int) -> CrashingWire:
    """Give the workers of a client, which has not got any yet, a wire that crashes."""
    await client.session()
    session = await PatientConnection(client).session()
    partitions = session.store.partitions
    wire = CrashingWire(session.wire, root_id, crash_at)
    found: Any = wire
    session.store = Store(found, partitions.namespace, partitions.number, patience=None)
    return wire
