"""The gate of an activation: where the calls of ctx wait until they may start.

It is closed while the park script runs, while the worker's lease is not fresh, once the worker drains, once
the activation is over, and once it is held back by a stored value that can't be read here.
"""

from __future__ import annotations

import asyncio
import logging
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from polos_redis.errors import PolosError
from polos_redis.runtime.code_tasks import CodeTasks
from polos_redis.runtime.fenced_journal import FencedJournal
from polos_redis.runtime.host import Host
from polos_redis.state.fencing import Fence

if TYPE_CHECKING:
    from polos_redis.definitions.definition import WorkflowDefinition

logger = logging.getLogger("polos.execution")


class State(Enum):
    """The state of an activation."""

    RUNNING = auto()
    PARKING = auto()  # the park script is running: new ctx calls wait for its reply
    FINISHING = auto()  # the code has returned; its outcome is being written
    ENDED = auto()


class Gated(Protocol):
    """An activation as its gate sees it."""

    id: str
    workflow: WorkflowDefinition[Any, Any]
    host: Host[Any]
    fence: Fence
    code: CodeTasks
    journal: FencedJournal
    state: State
    in_flight: int
    touches: int

    def dropped(self, why: str, *, pause: bool = False) -> None: ...
    def end(self, how: str) -> None: ...


class Gate:
    """The gate of one activation. `held_back`: why it can't go on, once it has met a stored value that can't
    be read."""

    __slots__ = ("_code", "_gated", "_opened", "held_back")

    def __init__(self, gated: Gated) -> None:
        self._gated: Gated | None = gated
        self._code = gated.code
        self._opened: asyncio.Event | None = None
        self.held_back = ""

    def is_open(self) -> bool:
        """Whether a ctx call may start right now; if not, it has to pass first."""
        gated = self._gated
        return (
            gated is not None
            and gated.state is State.RUNNING
            and not self.held_back
            and not gated.host.draining
            and gated.host.lease_is_held(gated.fence.prefix, gated.journal.lapses)
        )

    async def passed(self, *, in_flight: bool = False) -> None:
        """Wait until a call may start: for the park's reply or a fresh lease; `in_flight`: the call counts as
        such. Leaves if the activation is over."""
        while not self.is_open():
            gated = self._gated
            if gated is None or gated.state is State.FINISHING:
                await self._code.leave()
            gated.touches += 1
            if gated.state is State.PARKING:
                if self._opened is None:
                    self._opened = asyncio.Event()
                await self._opened.wait()
            elif self.held_back:
                gated.in_flight -= in_flight
                await self.stay_back()
            elif gated.host.draining:
                gated.host.hand_back(gated)
                gated.end("handed back")
            else:
                await self._renewed(gated)

    async def _renewed(self, gated: Gated) -> None:
        """Wait for a fresh lease. As others may have run the execution meanwhile, its journal is compared."""
        await gated.host.wait_for_lease(gated.fence.prefix)
        try:
            await gated.journal.verify()
        except PolosError as error:
            gated.dropped(f"it can't be loaded: {error}", pause=True)

    def open(self) -> None:
        """Let the calls go on that wait for the park's reply."""
        if self._opened is not None:
            self._opened.set()
            self._opened = None

    def close(self) -> None:
        """Let no call start any more: the activation has ended."""
        self._gated = None  # without this reference cycle the activation is freed at once
        self.open()

    # --- held back ----------------------------------------------------------------------

    def hold_back(self, what: str, error: PolosError) -> None:
        """Stop at a stored value that can't be read here, and offer the execution again later: a deployment
        may read it. Nothing is failed or counted. Steps in flight may finish; nothing else starts."""
        gated = self._gated
        if self.held_back or gated is None:
            return
        self.held_back = f"{what}: {error}"
        logger.error("held back", extra={**gated.code.facts, "why": self.held_back})
        self.leave_if_held_back()

    async def stay_back(self) -> NoReturn:
        """Wait for the end of an activation that is held back."""
        self.leave_if_held_back()
        await asyncio.get_running_loop().create_future()
        raise AssertionError("nobody resolves this future")

    def leave_if_held_back(self) -> None:
        """End an activation that is held back, once no call is in flight."""
        gated = self._gated
        if self.held_back and gated is not None and gated.in_flight == 0:
            gated.host.stats.dropped[gated.workflow.id] += 1
            gated.host.hand_back(gated, pause=True, reason=self.held_back)
            gated.end("held back")
