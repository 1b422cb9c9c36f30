"""The replies of a scripted model in order, from Python or a JSON file."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from polos_redis.testing.model.replies import Call, Fail, Hang, Json, Reply, Say
from polos_redis.testing.model.requests import ModelRequest


@dataclass(frozen=True)
class When:
    """A reply for requests of this round, or with a prompt that contains this text."""

    reply: Reply
    prompt: str | None = None
    round: int | None = None

    def fits(self, request: ModelRequest) -> bool:
        return self.round in {None, request.round} and (self.prompt is None or self.prompt in request.prompt)


class ScriptedReplies:
    """Replies that are used once each: a request gets the first unused one that fits it. `left` has those
    that no request has got."""

    def __init__(self, replies: Iterable[Reply | When]) -> None:
        self.left = [reply if isinstance(reply, When) else When(reply) for reply in replies]

    def __call__(self, request: ModelRequest) -> Reply:
        for when in self.left:
            if when.fits(request):
                self.left.remove(when)
                return when.reply
        raise AssertionError(
            f"no reply is left in the script for request {request.number}: round {request.round}, "
            f"prompt {request.prompt!r}"
        )

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a JSON file: a list of `{"say": text}`, `{"fail": {"status": 429}}` and `{"hang": true}`, with
        `Say`'s other fields beside `say`, and `"when": {"prompt": ..., "round": ...}` beside any."""
        return cls(_when(**entry) for entry in json.loads(path.read_text()))


def _when(*, when: Json | None = None, **entry: Any) -> When:
    match entry:
        case {"say": text, **more}:
            calls = tuple(Call(**call) for call in more.pop("tool_calls", ()))
            read, written = more.pop("usage", Say.usage)
            reply: Reply = Say(text, tool_calls=calls, usage=(read, written), **more)
        case {"fail": fail} if len(entry) == 1:
            reply = Fail(**fail)
        case {"hang": True} if len(entry) == 1:
            reply = Hang()
        case _:
            raise ValueError(f"not a reply: {entry}")
    return When(reply, **(when or {}))
