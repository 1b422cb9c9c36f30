"""What an agent tells on the workflow's stream while a model answers: text as it is written, tool calls."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from polos_redis.agents.conversation import Turn

if TYPE_CHECKING:
    from polos_redis.runtime.context import WorkflowContext

TOGETHER_SECONDS = 0.05  # text is told this often at the most, so that a fast model costs few calls


class TurnEvents:
    """Tells of one attempt at one turn. Every event has the agent's id, the turn (from 1) and the attempt
    (random: one that is made again has another).

    `turn_start` comes first: what earlier attempts at this turn have told counts no longer. `text_delta` has
    an index (0, 1, ...) and text, `tool_call` a call_id, the tool and its arguments. An event is told at
    least once, and by nobody who has lost the execution.
    """

    def __init__(self, ctx: WorkflowContext, turn: int) -> None:
        self._activation = ctx._activation
        self._about = {"agent_id": ctx.workflow_id, "turn": turn, "attempt": os.urandom(6).hex()}
        self._text: list[str] = []
        self._index = 0
        self._last = 0.0

    async def start(self) -> None:
        await self._emit("turn_start")

    async def text(self, text: str) -> None:
        """Some more text."""
        self._text.append(text)
        if time.monotonic() - self._last >= TOGETHER_SECONDS:
            await self._flush()

    async def end(self, turn: Turn) -> None:
        """The rest."""
        await self._flush()
        for call in turn.tool_calls:
            await self._emit("tool_call", call_id=call.id, tool=call.name, arguments=call.arguments)

    async def _flush(self) -> None:
        if self._text:
            text, index = "".join(self._text), self._index
            self._text.clear()
            self._index += 1
            await self._emit("text_delta", index=index, text=text)
            self._last = time.monotonic()

    async def _emit(self, event_type: str, **data: Any) -> None:
        await self._activation.emit(event_type, {**self._about, **data})
