"""Tools: what a model may call. A function, a workflow, or another agent."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, overload

from polos_redis.agents.output import Schema, check_fields, plain_name, schema_of
from polos_redis.decisions.answer_policy import ANYTHING, AnswerPolicy
from polos_redis.errors import ConfigurationError
from polos_redis.values import schemas
from polos_redis.values.times import milliseconds
from polos_redis.workflow import Workflow, workflow

if TYPE_CHECKING:
    from polos_redis.runtime.context import WorkflowContext

Approval = Literal["never", "always"] | Callable[[Any], Any]

_NOTHING = {"type": "object", "properties": {}, "required": [], "additionalProperties": False}


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool: its name and schema for the model, how it is called, and when a person has to approve.

    `function` takes `(input)` or nothing, with `ctx` before it where it is a `workflow`, begun as a child.
    `answer` is for tools that are part of the agent's own run: it is given the context, a place for step
    keys, and the input, and returns the status and the result of a `ToolResult`.
    """

    name: str
    description: str
    function: Callable[..., Any]
    input_type: Any
    workflow: Workflow[Any, Any] | None = None
    approval: Approval = "never"
    approvers: tuple[str, ...] = ()
    required: int = 1
    approval_timeout: float | None = None
    max_retries: int = 2
    answer: Callable[[WorkflowContext, str, Any], Awaitable[tuple[str, Any]]] | None = None

    def schema(self) -> Schema:
        """What the model is told of it."""
        if self.input_type is None:
            return Schema(self.name, _NOTHING, True, self.description)
        return schema_of(self.input_type, self.name, f"the input of tool {self.name!r}", self.description)

    def parse(self, arguments: str) -> Any:
        """The arguments as the input's type. Raises pydantic's ValidationError, or ValueError."""
        return None if self.input_type is None else schemas.parse_json(self.input_type, arguments or "{}")

    def __call__(self, *args: Any) -> Any:
        """Call the function itself, as a test might."""
        return self.function(*args)


@overload
def tool(function: Callable[..., Any], /) -> Tool: ...
@overload
def tool(
    *,
    id: str | None = None,
    description: str | None = None,
    approval: Approval = "never",
    approvers: Iterable[str] | None = None,
    required: int = 1,
    approval_timeout: float | None = None,
    max_retries: int = 2,
) -> Callable[[Callable[..., Any]], Tool]: ...
def tool(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Make a function a tool for agents; or a workflow, or another agent, that needs approval, say.

    It takes an input (a pydantic model or a dataclass, from which the model is told what to give) or nothing.
    It may be sync or async; a call is one journaled step, tried again `max_retries` times when it raises,
    after which the model is told. What it returns is shown to the model as JSON. An async one whose first
    parameter is `ctx`, a `WorkflowContext`, is a workflow of its own and may use `ctx.step`; agents' workers
    serve it.

    `approval`: "never", "always", or a function of the input that says whether a person has to approve this
    call: it needs it unless that returns False. `approvers`, `required` as for `ctx.step.suspend`; when
    nobody has decided after `approval_timeout` seconds, it is a no. `id` is the function's name,
    `description` its docstring unless given.
    """

    def decorate(function: Callable[..., Any]) -> Tool:
        return _made(function, **options)

    return decorate if function is None else decorate(function)


def _made(
    function: Callable[..., Any],
    id: str | None = None,
    description: str | None = None,
    approval: Approval = "never",
    approvers: Iterable[str] | None = None,
    required: int = 1,
    approval_timeout: float | None = None,
    max_retries: int = 2,
) -> Tool:
    if isinstance(function, Workflow):
        made = _of_workflow(function, id)
    else:
        made = _of_function(function, str(id or getattr(function, "__name__", "")))
    what = f"tool {made.name!r}"
    if approval not in ("never", "always") and not callable(approval):
        raise ConfigurationError(
            f"{what}: approval is 'never', 'always' or a function of the input, not {approval!r}"
        )
    policy = AnswerPolicy.of(what, None, approvers, required, 1, True, frozenset())
    timeout_ms = milliseconds(f"the approval of {what}", approval_timeout)
    if approval == "never" and (policy != ANYTHING or timeout_ms):
        raise ConfigurationError(f"{what} says how it is approved, but not when: give approval=")
    if not isinstance(max_retries, int) or isinstance(max_retries, bool) or max_retries < 0:
        raise ConfigurationError(f"{what}: max_retries is a whole number from 0, not {max_retries!r}")
    return replace(
        made,
        description=description or made.description,
        approval=approval,
        approvers=policy.approvers,
        required=required,
        approval_timeout=approval_timeout,
        max_retries=max_retries,
    )


def _of_function(function: Callable[..., Any], name: str) -> Tool:
    from polos_redis.runtime.context import WorkflowContext

    what = f"tool {name!r}"
    if plain_name(name) != name:
        raise ConfigurationError(f"{what}: a tool's id has 1 to 64 letters, digits, _ and -: give it id=")
    parameters = [p for p in inspect.signature(function).parameters.values() if p.default is p.empty]
    try:
        hints = typing.get_type_hints(function)
    except NameError as error:
        raise ConfigurationError(f"{what}: an annotation: {error}") from None
    first = parameters[0].name if parameters else ""
    with_context = first == "ctx" or hints.get(first) is WorkflowContext
    rest = parameters[with_context:]
    if len(rest) > 1:
        raise ConfigurationError(
            f"{what} takes (input), (ctx, input), (ctx) or nothing: put its arguments in a model"
        )
    input_type = hints.get(rest[0].name) if rest else None
    if rest and input_type is None:
        raise ConfigurationError(f"{what}: annotate {rest[0].name} with a pydantic model or dataclass")
    if input_type is not None:
        check_fields(f"the input of {what}", input_type)
    child = workflow(id=name)(function) if with_context else None
    return Tool(name, inspect.getdoc(function) or "", function, input_type, child)


def as_tool(given: Any) -> Tool:
    """What is given to an agent as a tool. Raises `ConfigurationError`."""
    if isinstance(given, Tool):
        return given
    if callable(given):
        return _made(given)
    raise ConfigurationError(f"a tool is a function, a workflow or an agent, not {given!r}")


def _of_workflow(workflow: Workflow[Any, Any], id: str | None) -> Tool:
    name = plain_name(id or workflow.id)
    input_type = None
    if workflow.takes_input:
        input_type = getattr(workflow, "tool_input", None) or workflow.input_type
        check_fields(f"the input of workflow {workflow.id!r}, to be a tool,", input_type)
    text = inspect.cleandoc(workflow.__doc__ or "")
    return Tool(name, text, workflow.function, input_type, workflow)
