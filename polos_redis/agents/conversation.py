"""What is said in an agent's run: turns of the model, calls of tools, their answers. All of it is
journaled."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that were paid for, and how many requests it took."""

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
    """A tool that the model wants called: `arguments` is the JSON as it was written."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Turn:
    """One answer of the model, complete. `items` is what its provider has to see again, in its own words."""

    text: str = ""
    refusal: str = ""
    tool_calls: list[ToolCall] = field(default_factory=list)
    usage: Usage = Usage()
    finish_reason: str = "stop"
    items: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ToolAnswer:
    """What the model is told of a tool call."""

    call_id: str
    content: str


# A dict is {"role": "system" | "user" | "assistant", "content": ...}.
Message = dict[str, Any] | Turn | ToolAnswer


@dataclass(frozen=True, slots=True)
class AgentInput:
    """What an agent is asked: messages as {"role": ..., "content": ...}."""

    messages: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class ToolResult:
    """How a tool call went. `arguments` are those it was called with. `status`: "ok", "failed", "rejected"
    (by a person, or nobody in time), "invalid" (the arguments, or no such tool). `result` is what the tool
    returned as plain JSON, else what the model was told; `note` what it was told beside it; `spent` what an
    agent that was called has used."""

    tool: str
    call_id: str
    arguments: Any
    status: str
    result: Any
    note: str = ""
    spent: Usage = Usage()


@dataclass(frozen=True, slots=True)
class AgentResult(Generic[T]):
    """What an agent's run has come to.

    `result` is an instance of its output_schema, else text. `stopped_by` says which stop condition ended the
    run before the model was done, None when it was.
    """

    agent_id: str
    result: T
    usage: Usage
    tool_results: list[ToolResult]
    total_steps: int
    stopped_by: str | None = None


@dataclass(frozen=True, slots=True)
class RunSoFar:
    """What a stop condition is shown after each turn of the model: turns and tokens so far, the last turn,
    and the results of all tool calls."""

    steps: int
    usage: Usage
    turn: Turn
    tool_results: list[ToolResult]
