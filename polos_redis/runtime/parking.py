"""Parking: the open waits that a workflow's code awaits, and the end of its activation at them.

An activation parks

- at once, if the main task awaits every open wait and the code has started no other task;
- otherwise when the code is idle (see `idleness`).

The park script runs first. If a decision has come meanwhile, it returns that, and the code continues in
place. Otherwise the execution is parked, the code is cancelled, and anything it still does is discarded.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from polos_redis.errors import PolosError
from polos_redis.runtime.code_tasks import CodeTasks
from polos_redis.runtime.fenced_journal import FencedJournal, refusal
from polos_redis.runtime.gate import State
from polos_redis.runtime.host import Host
from polos_redis.runtime.idleness import IdleWatch
from polos_redis.state import journal
from polos_redis.state.fencing import NO_SUCH_WAIT, Fence
from polos_redis.values.text import raw, text

if TYPE_CHECKING:
    from polos_redis.definitions.definition import WorkflowDefinition

logger = logging.getLogger("polos.execution")


@dataclass(slots=True)
class Wait:
    """An open wait that the workflow's code awaits now."""

    future: asyncio.Future[bytes]
    by_main: bool


class Parked(Protocol):
    """An activation as its parking sees it.

    `unreached`: the accepted decisions that its code has not reached; `hold_park` is called at a wait that it
    can't park at before. `must_reach`: whether a journaled step key is one that its code has yet to reach.
    `continued` is called when the park was refused. `saved_state` returns None if the state can't be saved,
    when the execution fails instead. `note_span` stores the activation's place in its trace.
    """

    id: str
    workflow: WorkflowDefinition[Any, Any]
    host: Host[Any]
    fence: Fence
    loop: asyncio.AbstractEventLoop
    code: CodeTasks
    journal: FencedJournal
    state: State
    in_flight: int
    touches: int
    unreached: set[str]

    @property
    def over(self) -> bool: ...
    def must_reach(self, key: str) -> bool: ...
    def hold_park(self, key: str) -> None: ...
    def saved_state(self) -> bytes | None: ...
    def continued(self) -> None: ...
    def note_span(self) -> None: ...
    def dropped(self, why: str, *, pause: bool = False) -> None: ...
    def end(self, how: str) -> None: ...


class Parking:
    """The waits of one activation.

    `waits`: the open waits its code awaits; `given_up`: those whose tasks the code has cancelled, which the
    journal does not know yet.
    """

    __slots__ = ("_activation", "_code", "_notices", "_watch", "given_up", "waits")

    def __init__(self, activation: Parked) -> None:
        self._activation: Parked | None = activation
        self._code = activation.code
        self._notices: dict[str, bytes] = {}
        self._watch: IdleWatch | None = None
        self.waits: dict[str, Wait] = {}
        self.given_up: set[str] = set()

    def close(self) -> None:
        """The activation has ended: nothing parks any more."""
        self._activation = None  # without this reference cycle the activation is freed at once
        self._watch = None

    def cancel_waits(self) -> None:
        """Cancel what awaits a wait in spite of the end."""
        for wait in self.waits.values():
            wait.future.cancel("the activation has ended")

    # --- waits --------------------------------------------------------------------------

    async def wait(self, key: str) -> bytes:
        """Wait for the decision of an open wait; returns its record."""
        activation = self._activation
        if activation is None:
            await self._code.leave()
        wait = Wait(activation.loop.create_future(), asyncio.current_task() is self._code.main)
        self.waits[key] = wait
        notice = self._notices.pop(key, None)
        if notice is not None:
            self.notify(key, notice)
        elif (
            activation.in_flight == 0
            and not self._code.spawned
            and all(w.by_main for w in self.waits.values())
        ):
            self.park()
        else:
            self.arm()
        try:
            return await wait.future
        except asyncio.CancelledError:
            if not activation.over:
                self.given_up.add(key)
            raise
        finally:
            if self.waits.get(key) is wait:
                del self.waits[key]
            activation.touches += 1

    def caller_done(self, key: str, task: asyncio.Task[Any]) -> None:
        """Note that the task that called a wait has ended. If it was cancelled, the code has given the wait
        up, even if the task had got the decision: on replay, it may be cancelled before it gets there."""
        if task.cancelled() and self._activation is not None and not self._activation.over:
            self.given_up.add(key)

    def notify(self, key: str, record: bytes) -> None:
        """Receive the decision of a wait: from a notice, a park, or the journal when it is read again."""
        activation = self._activation
        if activation is None or journal.is_open(record):
            return
        records = activation.journal.records
        wait = self.waits.get(key)
        if wait is None:
            before = records.get(raw(key))
            if before is None or journal.is_open(before):  # otherwise the decision is known already
                self._notices[key] = record  # the code may be about to wait for it
            return
        if wait.future.done():
            return
        records[raw(key)] = record
        activation.touches += 1
        wait.future.set_result(record)

    def reread(self, records: Mapping[bytes, bytes]) -> None:
        """Receive the decisions in a journal that was read again."""
        for key in list(self.waits):
            self.notify(key, records[raw(key)])

    # --- parking ------------------------------------------------------------------------

    @property
    def touches(self) -> int:
        """As the idle watch compares them."""
        return 0 if self._activation is None else self._activation.touches

    def arm(self) -> None:
        """Watch for idleness if there is a wait to park at."""
        activation = self._activation
        if self.waits and activation is not None and activation.state is State.RUNNING:
            if self._watch is None:
                self._watch = IdleWatch(self, activation.loop)
            self._watch.arm()

    def may_park(self) -> bool:
        """Whether the code runs, has an open wait and no ctx call in flight."""
        activation = self._activation
        return (
            activation is not None
            and activation.state is State.RUNNING
            and bool(self.waits)
            and not activation.in_flight
        )

    def park(self) -> None:
        """Park, unless all waits have been decided meanwhile and their tasks are about to continue. Once the
        code has reached what it has to, `arm` is called."""
        activation = self._activation
        if activation is None or all(wait.future.done() for wait in self.waits.values()):
            return
        if activation.unreached:
            activation.hold_park(next(reversed(self.waits)))
        else:
            activation.state = State.PARKING
            activation.host.spawn(self._parking(activation))

    async def _parking(self, activation: Parked) -> None:
        try:
            await self._send(activation)
        except Exception as error:
            logger.exception("could not park", extra=self._code.facts)
            activation.dropped(f"could not park: {type(error).__name__}", pause=True)

    async def _send(self, activation: Parked) -> None:
        fence, state = activation.fence, activation.saved_state()
        if state is None:
            return
        waits = [raw(key) for key in self.waits]
        given_up = [raw(key) for key in self.given_up]
        unreached = [
            raw(key) for key in journal.asked(activation.journal.records) if activation.must_reach(key)
        ]
        park = activation.host.store.fenced.park
        activation.note_span()
        try:
            reply = await activation.journal.leave(
                lambda known, answers: park(fence, known, answers, state, given_up, waits, unreached)
            )
        except PolosError as error:
            activation.dropped(f"park refused: {error}", pause=True)
            return
        if activation.state is State.ENDED:
            return
        if type(reply) is not int:  # the decisions that came before the park: [.., step key, record, ...]
            for key, record in zip(reply[1::2], reply[2::2], strict=True):
                self.notify(text(key), record)
            activation.continued()
        elif reply == 0:
            logger.info("park", extra={**self._code.facts, "waits": [*self.waits]})
            if self._code.span is not None:
                self._code.span.note({"polos.waits": [*self.waits]})
            activation.host.stats.parks[activation.workflow.id] += 1
            activation.end("parked")
        elif reply > 0:
            activation.continued()
        else:
            activation.dropped(refusal(reply), pause=reply == NO_SUCH_WAIT)
