"""`ask_user`: a tool with which the model asks a person, through a form."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from polos_redis.agents.tools import Tool
from polos_redis.errors import SuspendTimeoutError
from polos_redis.values import codec

if TYPE_CHECKING:
    from polos_redis.runtime.context import WorkflowContext

NAME = "ask_user"


@dataclass(frozen=True, slots=True)
class FormField:
    """One field of the form. `options` are for a select."""

    name: str
    label: str
    type: Literal["text", "textarea", "number", "checkbox", "select", "date"] = "text"
    required: bool = True
    options: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class AskUser:
    """The model's question and the form's fields; without fields, the answer is one text."""

    question: str
    fields: list[FormField] = field(default_factory=list)


def ask_user(
    *,
    description: str = "Ask the user a question, when you need a fact or a decision that only they can give.",
    approvers: Iterable[str] | None = None,
    timeout: float | None = None,
) -> Tool:
    """A tool with which the model asks a person.

    The question is a suspension `ask_user_<turn>.<n>` with a form, and appears in the inbox like any other.
    Only `approvers` may answer, if given. After `timeout` seconds the model learns that nobody answered.
    """

    async def answer(ctx: WorkflowContext, position: str, input: AskUser) -> tuple[str, Any]:
        names = [one.name for one in input.fields]
        if "" in names or len(set(names)) < len(names):
            return "invalid", "every field of the form needs a unique name"
        fields = [codec.plain(one) for one in input.fields] or [
            {"name": "answer", "label": "Answer", "type": "textarea", "required": True}
        ]
        shown = {"question": input.question, "agent_id": ctx.workflow_id}
        form = {"title": input.question, "fields": fields}
        try:
            decision = await ctx.step.suspend(
                f"{NAME}_{position}", data={**shown, "_form": form}, timeout=timeout, approvers=approvers
            )
        except SuspendTimeoutError:
            return "rejected", "nobody answered in time"
        return "ok", codec.plain(decision["data"])

    return Tool(NAME, description, _no_function, AskUser, answer=answer)


def _no_function(input: AskUser) -> None:
    raise AssertionError("ask_user runs inside an agent's run")
