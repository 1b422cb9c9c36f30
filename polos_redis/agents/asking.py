"""`ask_user`: a tool by which a model asks a person, with a form."""

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
    """What the model asks: a question, and the fields of the form; none for a text."""

    question: str
    fields: list[FormField] = field(default_factory=list)


def ask_user(
    *,
    description: str = "Ask the user a question, when you need a fact or a decision that only they can give.",
    approvers: Iterable[str] | None = None,
    timeout: float | None = None,
) -> Tool:
    """A tool by which the model asks a person: a suspension `ask_user_<turn>.<n>` with a form, in the inbox
    like any other. `approvers` are those who may answer; after `timeout` seconds the model is told that
    nobody did."""

    async def answer(ctx: WorkflowContext, place: str, asked: AskUser) -> tuple[str, Any]:
        names = [one.name for one in asked.fields]
        if "" in names or len(set(names)) < len(names):
            return "invalid", "every field of the form needs a name of its own"
        fields = [codec.plain(one) for one in asked.fields] or [
            {"name": "answer", "label": "Answer", "type": "textarea", "required": True}
        ]
        shown = {"question": asked.question, "agent_id": ctx.workflow_id}
        form = {"title": asked.question, "fields": fields}
        try:
            given = await ctx.step.suspend(
                f"{NAME}_{place}", data={**shown, "_form": form}, timeout=timeout, approvers=approvers
            )
        except SuspendTimeoutError:
            return "rejected", "nobody answered in time"
        return "ok", codec.plain(given["data"])

    return Tool(NAME, description, _never, AskUser, answer=answer)


def _never(asked: AskUser) -> None:
    raise AssertionError("it is the agent's run that asks")
