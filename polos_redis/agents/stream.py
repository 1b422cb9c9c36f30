"""Agent streams: the events and text of an agent while it runs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Generic, TypeVar

from polos_redis import events
from polos_redis.agents.conversation import AgentResult
from polos_redis.events import Event

if TYPE_CHECKING:
    from polos_redis.client import PolosClient
    from polos_redis.executions.handle import ExecutionHandle

Out = TypeVar("Out")


class Restarted(str):
    """An empty chunk: the turn's text starts over, so discard what was shown of it. It appears only when a
    retry of the model call produced different text."""

    __slots__ = ()


class AgentStream(Generic[Out]):
    """The stream of one agent run. Each iteration of `events` or `text_chunks` starts at the beginning, and
    survives reconnects and worker crashes."""

    def __init__(self, client: PolosClient, handle: ExecutionHandle[AgentResult[Out]]) -> None:
        self._client = client
        self.handle = handle
        self.execution_id = handle.id

    @property
    def events(self) -> AsyncIterator[Event]:
        """All events of the run: `turn_start`, `text_delta`, `tool_call`, `tool_result` and those of any
        execution; ends after the finish event."""
        return events.stream_workflow(
            self._client, self.handle.root_workflow_id, self.execution_id, plain=True
        )

    @property
    def text_chunks(self) -> AsyncIterator[str]:
        """The agent's text as the model writes it, turn by turn. Text that a retry repeats is left out; a
        `Restarted` precedes text that differs."""
        return self._text_chunks()

    async def _text_chunks(self) -> AsyncIterator[str]:
        text = TurnText()
        async for event in self.events:
            if event.metadata.get("execution_id") != self.execution_id:
                continue
            data = event.data
            if event.event_type == "turn_start":
                chunks = text.start(data["turn"], data["attempt"])
            elif event.event_type == "text_delta":
                chunks = text.add(data["attempt"], data["index"], data["text"])
            elif event.event_type == "step_finish" and data["status"] == "ok":
                chunks = text.finish()
            else:
                continue
            for chunk in chunks:
                yield chunk

    async def result(self, timeout: float | None = None) -> AgentResult[Out]:
        """Wait for the result, as `ExecutionHandle.result` does. `timeout` is in seconds."""
        return await self.handle.result(timeout=timeout)


class TurnText:
    """The text shown to a reader, turn by turn. Each method returns the chunks to show now.

    A retry is compared with the text already shown: there is nothing to show while it repeats that text. Once
    it differs, or ends early, its whole text follows a `Restarted`.
    """

    def __init__(self) -> None:
        self._turn = 0
        self._attempt = ""
        self._index = 0  # of the next text; duplicates are skipped
        self._shown = ""
        self._written = ""  # by this attempt

    def start(self, turn: int, attempt: str) -> list[str]:
        """Start an attempt at a turn."""
        chunks: list[str] = []
        if turn != self._turn:
            chunks = self.finish()
            self._turn, self._shown = turn, ""
        if attempt != self._attempt:
            self._attempt, self._index, self._written = attempt, 0, ""
        return chunks

    def add(self, attempt: str, index: int, text: str) -> list[str]:
        """Add text that an attempt wrote."""
        if attempt != self._attempt or index < self._index:
            return []
        self._index = index + 1
        self._written += text
        if self._shown.startswith(self._written):
            return []
        if not self._written.startswith(self._shown):
            return self.finish()
        more, self._shown = self._written[len(self._shown) :], self._written
        return [more]

    def finish(self) -> list[str]:
        """Finish the attempt: its text is complete."""
        if self._shown == self._written:
            return []
        self._shown = self._written
        return [Restarted(), *filter(None, [self._written])]
