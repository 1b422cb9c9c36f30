"""What an agent tells on the workflow's stream while it works: text as the model writes it, tool calls."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from polos_redis import events
from polos_redis.events import EventData

if TYPE_CHECKING:
    from polos_redis.context import WorkflowContext

TOGETHER_SECONDS = 0.05  # text is told this often at the most, so that a fast model costs few calls


class TextTeller:
    """Tells the text of one attempt at one turn, as `text_delta` events: agent, turn, attempt (random: an
    attempt that is made again has another one), index (0, 1, ..) and text."""

    def __init__(self, ctx: WorkflowContext, turn: int) -> None:
        self._ctx = ctx
        self._about = {"agent_id": ctx.workflow_id, "turn": turn, "attempt": os.urandom(6).hex()}
        self._text: list[str] = []
        self._index = 0
        self._last = 0.0

    async def tell(self, text: str) -> None:
        """Some more text."""
        self._text.append(text)
        if time.monotonic() - self._last >= TOGETHER_SECONDS:
            await self.flush()

    async def flush(self) -> None:
        """Tell what has not been told."""
        if not self._text:
            return
        data = {**self._about, "index": self._index, "text": "".join(self._text)}
        self._text.clear()
        self._index += 1
        await tell(self._ctx, "text_delta", data)
        self._last = time.monotonic()


async def tell(ctx: WorkflowContext, event_type: str, data: dict[str, Any]) -> None:
    """An event on the root's stream, marked as this execution's. From inside a step: at least once."""
    client = ctx._activation.host.client
    await events.tell(client, ctx.root_execution_id, ctx.execution_id, EventData(event_type, data))
