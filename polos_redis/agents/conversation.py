"""The conversation of an agent run: messages, model turns, tool calls and their results, all journaled."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens paid for, and the number of requests."""

    input_tokens: int = 0
    output_tokens: int = 0
    requests: int = 0

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.requests + other.requests,
        )


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool call the model requests; `arguments` is the JSON text it wrote."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Turn:
    """One complete answer of the model. `items` is the answer in the provider's own format, to send back."""

    text: str = ""
    refusal: str = ""
    tool_calls: list[ToolCall] = field(default_factory=list)
    usage: Usage = Usage()
    finish_reason: str = "stop"
    items: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ToolAnswer:
    """The message that gives the model the result of a tool call."""

    call_id: str
    content: str


# A dict is {"role": "system" | "user" | "assistant", "content": ...}.
Message = dict[str, Any] | Turn | ToolAnswer


@dataclass(frozen=True, slots=True)
class AgentInput:
    """The input of an agent: messages as {"role": ..., "content": ...}."""

    messages: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class ToolResult:
    """The outcome of a tool call.

    `arguments` are those of the call itself, after any edit. `status` is "ok", "failed", "rejected" (by a
    person, or for lack of an answer) or "invalid" (bad arguments, or no such tool). `result` is the return
    value as plain JSON, or the message the model got instead; `note` is a remark the model got with it.
    `spent` is the usage of an agent called as a tool.
    """

    tool: str
    call_id: str
    arguments: Any
    status: str
    result: Any
    note: str = ""
    spent: Usage = Usage()


@dataclass(frozen=True, slots=True)
class AgentResult(Generic[T]):
    """The result of an agent run.

    `result` is an instance of the output_schema, or text without one. `stopped_by` names the limit or stop
    condition that ended the run early; None if the model finished.
    """

    agent_id: str
    result: T
    usage: Usage
    tool_results: list[ToolResult]
    total_steps: int
    stopped_by: str | None = None


@dataclass(frozen=True, slots=True)
class RunSoFar:
    """The argument of a stop condition, called after each turn: the number of turns, the usage, the last turn
    and all tool results."""

    steps: int
    usage: Usage
    turn: Turn
    tool_results: list[ToolResult]
