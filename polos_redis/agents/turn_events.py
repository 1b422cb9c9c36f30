"""Turn events: a model's text and tool calls, emitted on the workflow's stream while the model answers."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from polos_redis.agents.conversation import Turn

if TYPE_CHECKING:
    from polos_redis.runtime.context import WorkflowContext

FLUSH_SECONDS = 0.05  # the shortest time between text events, so that a fast model costs few writes


class TurnEvents:
    """Emits the events of one attempt at one turn.

    Every event contains the agent's id, the turn (from 1) and the attempt (a random id, new for each retry).
    `turn_start` comes first and invalidates the events of earlier attempts at the turn. `text_delta` adds an
    index (0, 1, ...) and text; `tool_call` adds a call_id, the tool and its arguments. Each event is emitted
    at least once, and only by the worker that owns the execution.
    """

    def __init__(self, ctx: WorkflowContext, turn: int) -> None:
        self._activation = ctx._activation
        self._common = {"agent_id": ctx.workflow_id, "turn": turn, "attempt": os.urandom(6).hex()}
        self._text: list[str] = []
        self._index = 0
        self._flushed_at = 0.0

    async def start(self) -> None:
        """Emit `turn_start`."""
        await self._emit("turn_start")

    async def text(self, text: str) -> None:
        """Buffer more text, and emit the buffer if the last flush is `FLUSH_SECONDS` ago."""
        self._text.append(text)
        if time.monotonic() - self._flushed_at >= FLUSH_SECONDS:
            await self._flush()

    async def end(self, turn: Turn) -> None:
        """Emit the rest of the text, and the tool calls."""
        await self._flush()
        for call in turn.tool_calls:
            await self._emit("tool_call", call_id=call.id, tool=call.name, arguments=call.arguments)

    async def _flush(self) -> None:
        if self._text:
            text, index = "".join(self._text), self._index
            self._text.clear()
            self._index += 1
            await self._emit("text_delta", index=index, text=text)
            self._flushed_at = time.monotonic()

    async def _emit(self, event_type: str, **data: Any) -> None:
        await self._activation.emit(event_type, {**self._common, **data})
