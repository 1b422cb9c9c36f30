"""Tools: the functions, workflows and agents a model may call."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal, overload

from polos_redis.agents.output import Schema, api_name, check_fields, has_fields, schema_of
from polos_redis.decisions.answer_policy import ANYTHING, AnswerPolicy
from polos_redis.decisions.answer_types import UNTYPED
from polos_redis.definitions.parameters import NOTHING, parameters
from polos_redis.errors import ConfigurationError, InvalidInputError, ValueTooLargeError
from polos_redis.runtime.context import WorkflowContext
from polos_redis.values import bounds, schemas
from polos_redis.values.bounded_type import MismatchError
from polos_redis.values.complete_form import accept, check_type
from polos_redis.values.times import milliseconds
from polos_redis.workflow import Workflow, workflow

ApprovalPolicy = Literal["never", "always"] | Callable[[Any], Any]

_NO_ARGUMENTS = {"", "{}", "null"}  # as models write them


def _no_default() -> Any:
    return NOTHING


_NOTHING = {"type": "object", "properties": {}, "required": [], "additionalProperties": False}


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool: its name and schema for the model, the code to call, and when a person must approve.

    `function` takes `(input)` or nothing, preceded by `ctx` if the tool is a `workflow`, which runs as a
    child. A tool with `answer` is part of the agent's own run: `answer` takes the context, the call's
    position (for step keys) and the input, and returns the status and result of a `ToolResult`. `default`
    returns the input of a call without arguments, or NOTHING.
    """

    name: str
    description: str
    function: Callable[..., Any]
    input_type: Any
    workflow: Workflow[Any, Any] | None = None
    approval: ApprovalPolicy = "never"
    approvers: tuple[str, ...] = ()
    required: int = 1
    approval_timeout: float | None = None
    max_retries: int = 2
    answer: Callable[[WorkflowContext, str, Any], Awaitable[tuple[str, Any]]] | None = None
    default: Callable[[], Any] = _no_default

    def schema(self) -> Schema:
        """The tool's name, description and input schema, for the model."""
        if self.input_type is None:
            return Schema(self.name, _NOTHING, True, self.description)
        return schema_of(self.input_type, self.name, f"the input of tool {self.name!r}", self.description)

    def parse(self, arguments: str) -> bounds.Work[Any]:
        """Parse JSON arguments to the input type. Raises as `schemas.parse_json`."""
        if self.input_type is None:
            return None
        if arguments.strip() in _NO_ARGUMENTS and (default := self.default()) is not NOTHING:
            return None if default is None else (yield from accept(self.input_type, default))
        return (yield from schemas.parse_json(self.input_type, arguments or "{}"))

    def __call__(self, *args: Any) -> Any:
        """Call the function directly, for example in a test."""
        return self.function(*args)


@overload
def tool(function: Callable[..., Any], /) -> Tool: ...
@overload
def tool(
    *,
    id: str | None = None,
    description: str | None = None,
    approval: ApprovalPolicy = "never",
    approvers: Iterable[str] | None = None,
    required: int = 1,
    approval_timeout: float | None = None,
    max_retries: int = 2,
) -> Callable[[Callable[..., Any]], Tool]: ...
def tool(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Make a function a tool for agents. Also wraps a workflow or an agent, for example to require approval.

    The function takes one input (a pydantic model or a dataclass, whose schema the model sees) or nothing,
    sync or async. Each call is one journaled step, retried `max_retries` times if it raises; then the model
    gets the error. The model sees the return value as JSON. An async function whose first parameter is `ctx`,
    a `WorkflowContext`, becomes an internal workflow of its own and may use `ctx.step`; the agent's workers
    serve it. A workflow wrapped with an `approval` becomes internal, too, unless it has `internal=False`, so
    that nobody starts it past its approval.

    `approval`: "never", "always", or a function of the input; a call then needs a person's approval unless
    the function returns False. Its input type may hide nothing from that person: no secrets, no serializers.
    `approvers` and `required` work as for `ctx.step.suspend`. No decision within
    `approval_timeout` seconds is a rejection. `id` defaults to the function's name, `description` to its
    docstring.

    Raises `ConfigurationError` for options or functions that can't be a tool.
    """

    def decorate(function: Callable[..., Any]) -> Tool:
        return _tool(function, **options)

    return decorate if function is None else decorate(function)


def _tool(
    function: Callable[..., Any],
    id: str | None = None,
    description: str | None = None,
    approval: ApprovalPolicy = "never",
    approvers: Iterable[str] | None = None,
    required: int = 1,
    approval_timeout: float | None = None,
    max_retries: int = 2,
) -> Tool:
    if isinstance(function, Workflow):
        base = _of_workflow(function, id)
    else:
        base = _of_function(function, str(id or getattr(function, "__name__", "")))
    what = f"tool {base.name!r}"
    if approval not in ("never", "always") and not callable(approval):
        raise ConfigurationError(
            f"{what}: approval must be 'never', 'always' or a function of the input, not {approval!r}"
        )
    policy = AnswerPolicy.of(what, UNTYPED, approvers, required, 1, True, frozenset())
    timeout_ms = milliseconds(f"the approval of {what}", approval_timeout, error=ConfigurationError)
    if approval == "never" and (policy != ANYTHING or timeout_ms):
        raise ConfigurationError(
            f"{what} has approval options but no approval=: set it to 'always' or a function of the input"
        )
    if approval != "never" and base.workflow is not None:
        base.workflow.require_approval()
    if approval != "never" and base.input_type is not None:
        check_type(f"the input of {what}, which needs approval", base.input_type)
    if not isinstance(max_retries, int) or isinstance(max_retries, bool) or max_retries < 0:
        raise ConfigurationError(f"{what}: max_retries must be an integer of at least 0, not {max_retries!r}")
    return replace(
        base,
        description=description or base.description,
        approval=approval,
        approvers=policy.approvers,
        required=required,
        approval_timeout=approval_timeout,
        max_retries=max_retries,
    )


def _of_function(function: Callable[..., Any], name: str) -> Tool:
    what = f"tool {name!r}"
    if api_name(name) != name:
        raise ConfigurationError(
            f"{what}: a tool's id has 1 to 64 letters, digits, _ and -: pass a valid id="
        )
    declared = parameters(function)
    taken = [one for one in declared if one.is_positional]
    with_context = bool(taken) and (taken[0].name == "ctx" or taken[0].is_annotated_as(WorkflowContext))
    rest = taken[with_context:]
    required = [one for one in rest if not one.has_default]
    keyword = next(
        (one for one in declared if one.kind is one.kind.KEYWORD_ONLY and not one.has_default), None
    )
    if keyword is not None:
        raise ConfigurationError(
            f"{what} must take its input by position: remove the * before {keyword.name!r}, or give that "
            "a default"
        )
    if len(required) > 1:
        raise ConfigurationError(
            f"{what} must take (input), (ctx, input), (ctx) or nothing: put its arguments in a model"
        )
    child = workflow(id=name, internal=True)(function) if with_context else None
    text = inspect.getdoc(function) or ""
    for one in required or rest[:1]:
        if one.written is NOTHING and required:
            raise ConfigurationError(f"{what}: annotate {one.name} with a pydantic model or dataclass")
        input_type = one.annotation(what)
        if required or has_fields(input_type):  # other defaults are not for the model to choose
            check_fields(f"the input of {what}", input_type)
            made = Tool(name, text, function, input_type, child, default=one.default)
            if one.has_default:
                _check_default(what, one.name, made)
            return made
    return Tool(name, text, function, None, child)


def _check_default(what: str, name: str, made: Tool) -> None:
    try:
        bounds.at_once(made.parse(""))
    except (MismatchError, InvalidInputError, ValueTooLargeError) as error:
        raise ConfigurationError(
            f"{what}: the default of {name!r} must fit its annotation: {error}"
        ) from None


def _of_workflow(workflow: Workflow[Any, Any], id: str | None) -> Tool:
    name = api_name(id or workflow.id)
    input_type = None
    if workflow.takes_input:
        input_type = getattr(workflow, "tool_input", None) or workflow.input_type
        check_fields(f"the input of workflow {workflow.id!r}, used as a tool,", input_type)
    text = inspect.cleandoc(workflow.__doc__ or "")
    return Tool(name, text, workflow.function, input_type, workflow, default=workflow.input_default)


def as_tool(value: Any) -> Tool:
    """Convert an item of an agent's `tools` to a `Tool`. Raises `ConfigurationError`."""
    if isinstance(value, Tool):
        return value
    if callable(value):
        return _tool(value)
    raise ConfigurationError(f"a tool must be a function, a workflow or an agent, not {value!r}")
