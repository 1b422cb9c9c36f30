"""Following an agent while it works."""

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
    """A chunk without text: the turn's text begins anew, what was shown of it counts no longer. It comes only
    where an attempt that was made again says something else than the one before."""

    __slots__ = ()


class AgentStream(Generic[Out]):
    """One run of an agent, followed. Each iteration of `events` or `text_chunks` reads from the beginning,
    and survives reconnects and the death of workers."""

    def __init__(self, client: PolosClient, handle: ExecutionHandle[AgentResult[Out]]) -> None:
        self._client = client
        self.handle = handle
        self.execution_id = handle.id

    @property
    def events(self) -> AsyncIterator[Event]:
        """All events of the run: `turn_start`, `text_delta`, `tool_call`, `tool_result`, those of any
        execution, and the last one."""
        return events.stream_workflow(
            self._client, self.handle.root_workflow_id, self.execution_id, plain=True
        )

    @property
    def text_chunks(self) -> AsyncIterator[str]:
        """The agent's text as the model writes it, turn by turn. What an attempt that was made again says
        once more is left out; where it says something else, a `Restarted` comes before its text."""
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
                chunks = text.settle()
            else:
                continue
            for chunk in chunks:
                yield chunk

    async def result(self, timeout: float | None = None) -> AgentResult[Out]:
        """Wait for the end; as `ExecutionHandle.result`."""
        return await self.handle.result(timeout=timeout)


class TurnText:
    """The text of one turn after the other, as it is shown: each method gives the chunks to show now.

    An attempt that is made again is held against what is shown already: as long as it says the same there is
    nothing to show. Once it differs, or has ended before, all of it is shown after a `Restarted`.
    """

    def __init__(self) -> None:
        self._turn = 0
        self._attempt = ""
        self._index = 0  # of the next text: one that was told twice is passed over
        self._shown = ""
        self._said = ""  # by this attempt

    def start(self, turn: int, attempt: str) -> list[str]:
        """An attempt begins."""
        chunks: list[str] = []
        if turn != self._turn:
            chunks = self.settle()
            self._turn, self._shown = turn, ""
        if attempt != self._attempt:
            self._attempt, self._index, self._said = attempt, 0, ""
        return chunks

    def add(self, attempt: str, index: int, text: str) -> list[str]:
        """An attempt says some more."""
        if attempt != self._attempt or index < self._index:
            return []
        self._index = index + 1
        self._said += text
        if self._shown.startswith(self._said):
            return []
        if not self._said.startswith(self._shown):
            return self.settle()
        more, self._shown = self._said[len(self._shown) :], self._said
        return [more]

    def settle(self) -> list[str]:
        """The attempt has said all it says."""
        if self._shown == self._said:
            return []
        self._shown = self._said
        return [Restarted(), *filter(None, [self._said])]
