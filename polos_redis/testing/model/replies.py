"""What a scripted model replies: answers, errors, silence."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Json = dict[str, Any]
FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]


@dataclass(frozen=True)
class Call:
    """A tool call. Arguments given as a string are sent unchanged, JSON or not. `id=None` makes a new one."""

    name: str
    arguments: Mapping[str, Any] | str = field(default_factory=dict)
    id: str | None = None

    @property
    def json(self) -> str:
        return self.arguments if isinstance(self.arguments, str) else json.dumps(self.arguments)


@dataclass(frozen=True)
class Say:
    """An answer of the model; a `text` that is not a string is sent as JSON.

    Streamed: the text (or refusal) and each call's arguments come in up to `chunks` pieces, `pause_seconds`
    apart. After `cut_after` pieces the connection is dropped, after `hang_after` nothing more is sent, after
    `fail_after` the stream ends with the provider's error. 0 means right after the answer has started.

    Not streamed: `pause_seconds` delays the answer, `cut_after` drops the connection in the middle of it,
    `hang_after` acts like `Hang`, and `fail_after` like `Fail(500)`.
    """

    text: Any = ""
    refusal: str | None = None
    tool_calls: Sequence[Call] = ()
    usage: tuple[int, int] = (10, 5)  # tokens: in, out
    chunks: int = 3
    pause_seconds: float = 0.0
    cut_after: int | None = None
    hang_after: int | None = None
    fail_after: int | None = None
    finish_reason: FinishReason | None = None

    @property
    def content(self) -> str:
        return self.text if isinstance(self.text, str) else json.dumps(self.text)

    @property
    def finish(self) -> FinishReason:
        return self.finish_reason or ("tool_calls" if self.tool_calls else "stop")


@dataclass(frozen=True)
class Fail:
    """An HTTP error with OpenAI's body; `retry_after`, in seconds, is sent as the header of that name."""

    status: int
    message: str = "the model is not to be had"
    retry_after: float | None = None
    code: str | None = None


@dataclass(frozen=True)
class Hang:
    """Send nothing until the client leaves or the server stops."""


Reply = Say | Fail | Hang


def with_ids(say: Say) -> Say:
    """Returns the answer with an id for every tool call."""
    calls = [
        call if call.id else replace(call, id=f"call_{uuid.uuid4().hex[:24]}") for call in say.tool_calls
    ]
    return replace(say, tool_calls=calls)
