"""Following an agent while it works."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Generic, TypeVar

from polos_redis import events
from polos_redis.agents.conversation import AgentResult
from polos_redis.events import Event

if TYPE_CHECKING:
    from polos_redis.client import PolosClient
    from polos_redis.handle import ExecutionHandle

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
        """All events of the run: `text_delta`, `tool_call`, `tool_result`, the steps', and the last one."""
        return events.stream_workflow(
            self._client, self.handle.root_workflow_id, self.execution_id, plain=True
        )

    @property
    def text_chunks(self) -> AsyncIterator[str]:
        """The agent's text as the model writes it, turn by turn. What an attempt that was made again says
        once more is left out; where it says something else, a `Restarted` comes before its text."""
        return self._text_chunks()

    async def _text_chunks(self) -> AsyncIterator[str]:
        turn, attempt, past, shown, again = -1, "", set[str](), "", ""
        async for event in self.events:
            if event.event_type != "text_delta" or event.metadata.get("execution_id") != self.execution_id:
                continue
            data = event.data
            if data["attempt"] in past:
                continue  # of a worker that was held for dead, and is not
            if data["turn"] != turn:
                if again:
                    for chunk in (Restarted(), shown[: len(shown) - len(again)]):
                        yield chunk
                turn, shown, again = data["turn"], "", ""
            elif data["attempt"] != attempt:
                again = shown
            if data["attempt"] != attempt:
                past.add(attempt)
                attempt = data["attempt"]
            text = data["text"]
            if again:  # what was shown of the attempt before, and has not come again yet
                if again.startswith(text):
                    again = again[len(text) :]
                    continue
                if text.startswith(again):
                    text, again = text[len(again) :], ""
                else:
                    text, shown, again = shown[: len(shown) - len(again)] + text, "", ""
                    yield Restarted()
            shown += text
            yield text
        if again:
            for chunk in (Restarted(), shown[: len(shown) - len(again)]):
                yield chunk

    async def result(self, timeout: float | None = None) -> AgentResult[Out]:
        """Wait for the end; as `ExecutionHandle.result`."""
        return await self.handle.result(timeout=timeout)
