"""Holding: what is new waits until the code has reached every accepted decision.

Code may change while a person decides. If it no longer calls `suspend` with the key of an accepted decision,
it must not go on as if nobody had decided. So whatever the journal does not have yet (steps, waits, children,
the winner of a race), the park and the successful end are held back while a decision is unreached. On replay,
unchanged code gets there by its journaled calls alone, so a call is held only until the other tasks have
started. If something is held and the code does not use ctx for `stuck_seconds`, the execution is stuck.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from polos_redis import tasks
from polos_redis.errors import PolosError
from polos_redis.runtime.code_tasks import CodeTasks
from polos_redis.runtime.fenced_journal import FencedJournal, refusal
from polos_redis.runtime.gate import State
from polos_redis.runtime.host import Host
from polos_redis.runtime.parking import Parking
from polos_redis.state import journal
from polos_redis.state.fencing import Fence
from polos_redis.state.stuck import UNREACHED, StuckReason
from polos_redis.values.text import raw

if TYPE_CHECKING:
    from polos_redis.definitions.definition import WorkflowDefinition

logger = logging.getLogger("polos.execution")

CHECKS = 8  # of idle code, until it is stuck


class Holding(Protocol):
    """An activation that holds something back.

    `unreached`: the step keys of the accepted decisions its code has not reached. `is_busy`: something other
    than an accepted decision may let the code go on; `holds`: something is held back, other than calls.
    `saved_state` returns None if it can't be saved, when the execution fails instead.
    """

    id: str
    workflow: WorkflowDefinition[Any, Any]
    host: Host[Any]
    fence: Fence
    loop: asyncio.AbstractEventLoop
    code: CodeTasks
    journal: FencedJournal
    parking: Parking
    state: State
    touches: int
    unreached: set[str]

    @property
    def is_busy(self) -> bool: ...
    @property
    def holds(self) -> bool: ...
    def note_span(self) -> None: ...
    async def give_up(self) -> None: ...
    def saved_state(self) -> bytes | None: ...
    def continued(self) -> None: ...
    def dropped(self, why: str, *, pause: bool = False) -> None: ...
    def end(self, how: str) -> None: ...


class Hold:
    """What one activation holds back, from the first thing that has to wait until every decision is reached
    or the execution is stuck. `at` is the file:line of that first thing."""

    __slots__ = ("_calls", "_holder", "_idle", "_interval", "_opened", "_timer", "_touches", "at")

    def __init__(self, holder: Holding, at: str) -> None:
        self.at = at
        self._holder: Holding | None = holder
        self._opened = asyncio.Event()
        self._calls = 0
        self._idle = 0
        self._touches = holder.touches
        self._interval = holder.host.stuck_seconds / CHECKS
        self._timer = holder.loop.call_later(self._interval, self._check, context=tasks.OUTSIDE)

    async def wait(self) -> None:
        """Hold a call back."""
        self._calls += 1
        try:
            await self._opened.wait()
        finally:
            self._calls -= 1

    def release(self) -> None:
        """Let everything go on: all decisions are reached, or the activation has ended."""
        self._holder = None  # without this reference cycle the activation is freed at once
        self._timer.cancel()
        self._opened.set()

    def _check(self) -> None:
        holder = self._holder
        if holder is None:
            return
        self._timer = holder.loop.call_later(self._interval, self._check, context=tasks.OUTSIDE)
        if holder.state is not State.RUNNING or holder.is_busy:
            self._idle = 0
        elif holder.touches != self._touches or not (self._calls or holder.holds):
            self._idle, self._touches = 0, holder.touches
        else:
            self._idle += 1
            if self._idle >= CHECKS or holder.code.is_done or holder.host.draining:
                self._idle = 0
                self.stick()

    def stick(self) -> None:
        """End the activation and leave its execution stuck, unless a decision has come meanwhile."""
        holder = self._holder
        if holder is None:
            return
        if holder.host.draining:
            holder.host.hand_back(holder)
            holder.end("handed back")
        else:
            holder.state = State.PARKING
            holder.host.spawn(self._sticking(holder))

    async def _sticking(self, holder: Holding) -> None:
        try:
            await self._send(holder)
        except Exception as error:
            logger.exception("could not stop", extra=holder.code.facts)
            holder.dropped(f"could not stop: {type(error).__name__}", pause=True)

    async def _send(self, holder: Holding) -> None:
        if holder.parking.given_up:
            await holder.give_up()
        state = holder.saved_state()
        if state is None:
            return
        keys = sorted(holder.unreached)
        message = f"the code passes over {named(keys, holder.journal.records)} at {self.at}"
        reason = StuckReason(UNREACHED, tuple(keys), self.at, message)
        packed, stick = reason.pack(), holder.host.store.fenced.stick
        holder.note_span()
        try:
            reply = await holder.journal.leave(
                lambda known, answers: stick(holder.fence, known, answers, state, packed)
            )
        except PolosError as error:
            holder.dropped(f"stop refused: {error}", pause=True)
            return
        if holder.state is State.ENDED:
            return
        if reply == 0:
            logger.warning("stuck", extra={**holder.code.facts, "steps": keys, "at": self.at})
            holder.host.stats.stuck[holder.workflow.id] += 1
            holder.end("stuck")
        elif reply > 0:
            self._idle = CHECKS - 1  # if the decision that has come lets nothing go on
            holder.continued()
        else:
            holder.dropped(refusal(reply))


def named(keys: Collection[str], records: Mapping[bytes, bytes]) -> str:
    """Returns unreached decisions and steps as messages name them; `records` is the journal."""
    decisions: list[str] = []
    steps: list[str] = []
    for key in sorted(keys):
        is_decision = journal.is_accepted(records.get(raw(key), b""))
        (decisions if is_decision else steps).append(repr(key))
    parts = []
    if decisions:
        parts.append(f"the decision{'s' * (len(decisions) > 1)} on {', '.join(decisions)}")
    if steps:
        parts.append(f"the step{'s' * (len(steps) > 1)} {', '.join(steps)}")
    return " and ".join(parts)
